//! `statehouse compile-module`: the child process in which other commands of this program compile modules. Nobody types
//! it.
//!
//! In: a module on stdin. Out: machine code on stdout, in frames that only this program reads. It does not know how it
//! is limited and confined.

use std::process::ExitCode;

use clap::Args;

use crate::guest::{Allowance, Pace, compile_module};

#[derive(Debug, Args)]
pub(super) struct CompileArgs {
    /// The module is recorded in a journal, so it may take ten times the limits
    #[arg(long)]
    recorded: bool,
    /// Compile for the fast engine
    #[arg(long)]
    fast: bool,
    /// Compile for the metered engine, which finds the command that uses up the budget
    #[arg(long)]
    metered: bool,
}

pub(super) fn run(args: &CompileArgs) -> anyhow::Result<ExitCode> {
    let allowance = if args.recorded { Allowance::Recorded } else { Allowance::Foreign };
    let paces = [(Pace::Fast, args.fast), (Pace::Metered, args.metered)];
    let paces: Vec<Pace> = paces.into_iter().filter_map(|(pace, is_asked)| is_asked.then_some(pace)).collect();
    compile_module(allowance, &paces)?;
    Ok(ExitCode::SUCCESS)
}
