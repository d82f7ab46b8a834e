//! The command line: one file per command. Each turns arguments into a call, and the result into text.
//!
//! Exit codes: 0 all is well, 1 something is wrong with what was asked about, 2 the command could not be carried out.
//! It knows nothing of how anything works.

mod dev;
mod serve;
mod reload;
mod host;
mod cluster;
mod client;
mod trust;
mod authority;
mod members;
mod command;
mod descriptors;
mod audit;
mod bench;
mod module;
mod compile;
mod snapshot;
mod view;
mod webhook;
mod shipped;
mod output;
#[cfg(test)]
mod reference;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::guest::compile_by;
use crate::system::privacy;

#[derive(Parser)]
#[command(name = "statehouse", version, about = "A replicated host for deterministic WebAssembly state machines")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
#[expect(clippy::enum_variant_names, reason = "one of the commands is `command`")]
enum Command {
    /// Start three nodes with the wallet, for trying things out
    Dev(dev::DevArgs),
    /// Start a node from a configuration file
    Serve(serve::ServeArgs),
    /// Found a cluster, look at it, change its nodes and leaders, through any node's REST API
    Cluster(cluster::ClusterArgs),
    #[command(subcommand)]
    Command(command::CommandCommand),
    Module(module::ModuleArgs),
    #[command(subcommand)]
    View(view::ViewCommand),
    #[command(subcommand)]
    Webhook(webhook::WebhookCommand),
    /// Recompute and check what a data folder says
    #[command(subcommand)]
    Audit(audit::AuditArgs),
    /// All rows of a partition at one moment, as files that are the same from every replica
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotArgs),
    #[command(hide = true)]
    CompileModule(compile::CompileArgs),
    /// Measure this machine
    #[command(subcommand)]
    Bench(bench::BenchArgs),
}

/// Runs the command with which the process was started.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Even if a later version has replaced the file meanwhile: modules must be compiled by this very program.
    compile_by(PathBuf::from("/proc/self/exe"));
    if let Command::Dev(_) | Command::Serve(_) | Command::Snapshot(_) = &arguments.command {
        // This also keeps files private that libraries such as RocksDB create.
        privacy::keep_new_files_private();
    }
    let result = match arguments.command {
        Command::Dev(args) => dev::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Cluster(args) => cluster::run(args),
        Command::Command(command) => command::run(&command),
        Command::Module(args) => module::run(args),
        Command::View(command) => view::run(&command),
        Command::Webhook(command) => webhook::run(&command),
        Command::Audit(args) => audit::run(args),
        Command::Snapshot(args) => snapshot::run(args),
        Command::CompileModule(args) => compile::run(&args),
        Command::Bench(args) => bench::run(args),
    };
    result.unwrap_or_else(|error| {
        output::complain(&format!("error: {error:#}"));
        ExitCode::from(2)
    })
}
