//! The command line: one file per command. Each turns arguments into a call, and the result into text.
//!
//! Exit codes: 0 all is well, 1 something is wrong with what was asked about, 2 the command could not be carried out.
//! It knows nothing of how anything works. It is a library, because the tests of the fail points are a host themselves.
#![deny(unsafe_op_in_unsafe_fn)]

mod dev;
mod serve;
mod reload;
mod host;
mod cluster;
mod client;
mod trust;
mod authority;
mod members;
mod token;
mod command;
mod descriptors;
mod audit;
mod bench;
mod module;
mod snapshot;
mod view;
mod webhook;
mod shipped;
#[cfg(test)]
mod reference;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use statehouse_audit::cli::audit::AuditArgs;
use statehouse_audit::cli::{compile, output};
use statehouse_engine::guest::compile_by;
use statehouse_node::system::privacy;

#[derive(Parser)]
#[command(name = "statehouse", version, about = "A replicated host for deterministic WebAssembly state machines")]
struct Arguments {
    #[command(subcommand)]
    command: ProgramCommand,
}

#[derive(Subcommand)]
enum ProgramCommand {
    /// Start a local cluster with the wallet, to try things out
    Dev(dev::DevArgs),
    /// Run one node, with the settings of a configuration file
    Serve(serve::ServeArgs),
    /// Create a cluster, show its state, and change its nodes and leaders, through the REST API of any node
    Cluster(cluster::ClusterArgs),
    Token(token::TokenArgs),
    #[command(subcommand)]
    Command(command::CommandCommand),
    Module(module::ModuleArgs),
    #[command(subcommand)]
    View(view::ViewCommand),
    #[command(subcommand)]
    Webhook(webhook::WebhookCommand),
    /// Check recorded history by recomputing it, and print balances, histories, the journal and replays
    #[command(subcommand)]
    Audit(AuditArgs<client::AccessArgs>),
    /// Take, list and verify canonical snapshots, and restore a lost cluster
    ///
    /// A canonical snapshot is a file with all rows of one partition at one moment. Every replica makes the same bytes.
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotArgs),
    #[command(hide = true)]
    CompileModule(compile::CompileArgs),
    /// Measure how fast this machine runs the parts of a node
    #[command(subcommand)]
    Bench(bench::BenchArgs),
}

/// Runs the command with which the process was started.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Even if a later version has replaced the file meanwhile: modules must be compiled by this very program.
    compile_by(PathBuf::from("/proc/self/exe"));
    if let ProgramCommand::Dev(_) | ProgramCommand::Serve(_) | ProgramCommand::Snapshot(_) = &arguments.command {
        // This also keeps files private that libraries such as RocksDB create.
        privacy::keep_new_files_private();
    }
    let result = match arguments.command {
        ProgramCommand::Dev(args) => dev::run(args),
        ProgramCommand::Serve(args) => serve::run(args),
        ProgramCommand::Cluster(args) => cluster::run(args),
        ProgramCommand::Token(args) => token::run(&args),
        ProgramCommand::Command(command) => command::run(&command),
        ProgramCommand::Module(args) => module::run(args),
        ProgramCommand::View(command) => view::run(&command),
        ProgramCommand::Webhook(command) => webhook::run(&command),
        ProgramCommand::Audit(args) => audit::run(args),
        ProgramCommand::Snapshot(args) => snapshot::run(args),
        ProgramCommand::CompileModule(args) => compile::run(&args),
        ProgramCommand::Bench(args) => bench::run(args),
    };
    result.unwrap_or_else(|error| {
        output::complain(&format!("error: {error:#}"));
        ExitCode::from(2)
    })
}
