//! `statehouse module …`: from an empty folder to a released `.wasm`, and from there into a cluster.
//!
//! ```text
//! new ─► (edit, test natively) ─► build ─► check, inspect ─► test, diff with releases ─► release ─► verify-releases
//! stage ─► prepare ─► (shadow) ─► activate, or rollback; log
//! ```
//!
//! The first line works only on files, the second on a cluster; only `lifecycle` and `shadow` know the cluster.

mod toolchain;
mod debian;
mod build;
mod check;
mod inspect;
#[cfg(test)]
mod kernel;
mod template;
mod release;
mod named;
mod diff;
mod scenario;
mod lifecycle;
mod shadow;

pub use lifecycle::{ModuleNameArgs, block_on, short};

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::ProgressBar;

/// Write, build, test and release modules, and bring them to a cluster
#[derive(Debug, Args)]
pub struct ModuleArgs {
    #[command(subcommand)]
    command: ModuleCommand,
}

#[derive(Debug, Subcommand)]
enum ModuleCommand {
    New(template::NewArgs),
    Build(build::BuildArgs),
    Check(check::CheckArgs),
    Inspect(inspect::InspectArgs),
    Test(scenario::TestArgs),
    Diff(diff::DiffArgs),
    Release(release::ReleaseArgs),
    VerifyReleases(release::ReleaseVerifyArgs),
    Stage(lifecycle::StageArgs),
    Prepare(lifecycle::PrepareArgs),
    Activate(lifecycle::ActivateArgs),
    Rollback(lifecycle::RollbackArgs),
    #[command(subcommand)]
    Shadow(shadow::ShadowCommand),
    Log(lifecycle::ModuleLogArgs),
}

pub fn run(args: ModuleArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        ModuleCommand::New(args) => template::run(&args),
        ModuleCommand::Build(args) => build::run(&args),
        ModuleCommand::Check(args) => check::run(&args),
        ModuleCommand::Inspect(args) => inspect::run(&args),
        ModuleCommand::Test(args) => scenario::run(&args),
        ModuleCommand::Diff(args) => diff::run(&args),
        ModuleCommand::Release(args) => release::run(&args),
        ModuleCommand::VerifyReleases(args) => release::verify(&args),
        ModuleCommand::Stage(args) => lifecycle::stage(&args),
        ModuleCommand::Prepare(args) => lifecycle::prepare(&args),
        ModuleCommand::Activate(args) => lifecycle::activate(&args),
        ModuleCommand::Rollback(args) => lifecycle::rollback(&args),
        ModuleCommand::Shadow(command) => shadow::run(&command),
        ModuleCommand::Log(args) => lifecycle::log(&args),
    }
}

/// Shows `what` with a spinner while the value exists, if stderr is a terminal.
fn spinner(what: impl Into<std::borrow::Cow<'static, str>>) -> Spinner {
    let bar = ProgressBar::new_spinner().with_message(what);
    bar.enable_steady_tick(Duration::from_millis(100));
    Spinner(bar)
}

struct Spinner(ProgressBar);

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
