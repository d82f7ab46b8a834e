//! The command line of the auditor: the program `statehouse-audit`, and `statehouse audit`, which calls the same
//! commands.
//!
//! Exit codes: 0 all is well, 1 something is wrong with what was asked about, 2 the command could not be carried out;
//! some commands have further ones. It knows nothing of how anything is recomputed.

mod offline;
pub mod audit;
pub mod compile;
pub mod output;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::audit::AuditArgs;
use self::compile::CompileArgs;
use self::offline::{NoAccess, OfflineReach};
use crate::guest::compile_by;

#[derive(Parser)]
#[command(
    name = "statehouse-audit",
    version,
    about = "Recomputes the recorded history of a Statehouse cluster from a folder, without a server"
)]
struct Auditor {
    #[command(subcommand)]
    command: AuditorCommand,
}

#[derive(Subcommand)]
enum AuditorCommand {
    #[command(flatten)]
    Audit(AuditArgs<NoAccess>),
    #[command(hide = true)]
    CompileModule(CompileArgs),
}

/// Runs the command with which the process `statehouse-audit` was started.
pub fn main() -> ExitCode {
    let arguments = Auditor::parse();
    // Even if a later version has replaced the file meanwhile: modules must be compiled by this very program.
    compile_by(PathBuf::from("/proc/self/exe"));
    let result = match arguments.command {
        AuditorCommand::Audit(args) => audit::run(args, &OfflineReach),
        AuditorCommand::CompileModule(args) => compile::run(&args),
    };
    result.unwrap_or_else(|error| {
        output::complain(&format!("error: {error:#}"));
        ExitCode::from(2)
    })
}
