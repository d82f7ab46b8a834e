//! `compile-module`: the child process in which other commands of a program compile modules. Nobody types it.
//!
//! In: a module on stdin. Out: machine code on stdout, in frames that only this program reads. It does not know how it
//! is limited and confined.

use std::process::ExitCode;

use clap::Args;

use crate::guest::{Allowance, Pace, compile_module};

/// What is compiled, and for which engines.
#[derive(Debug, Args)]
pub struct CompileArgs {
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

/// Compiles the module on stdin.
///
/// # Errors
/// The module is refused, or stdin or stdout is closed.
pub fn run(args: &CompileArgs) -> anyhow::Result<ExitCode> {
    let allowance = if args.recorded { Allowance::Recorded } else { Allowance::Foreign };
    let paces = [(Pace::Fast, args.fast), (Pace::Metered, args.metered)];
    let paces: Vec<Pace> = paces.into_iter().filter_map(|(pace, is_asked)| is_asked.then_some(pace)).collect();
    compile_module(allowance, &paces)?;
    Ok(ExitCode::SUCCESS)
}
