//! `statehouse audit`: the auditor's commands, and what they reach beyond folders: archives elsewhere, and nodes.
//!
//! In: the arguments of [`statehouse_audit`]'s commands. Out: what they print, and their exit code. It knows nothing of
//! how anything is recomputed, nor what a command prints.

mod remote;

use std::path::Path;
use std::process::ExitCode;

pub use statehouse_audit::cli::audit::parse_moment;
use statehouse_audit::cli::audit::{self, AuditArgs, OpenSource, Reach, ReplayArgs};
use statehouse_journal::segments::Mirror;
use statehouse_node::archive::Archive;

use crate::client::AccessArgs;

/// This program has a network.
struct OnlineReach;

impl Reach for OnlineReach {
    type Access = AccessArgs;

    fn fetch(&self, url: &str, folder: &Path, on_bytes: &dyn Fn(u64)) -> anyhow::Result<Mirror> {
        let archive = Archive::open(url)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(archive.mirror(folder, on_bytes))?)
    }

    fn replay(&self, args: &ReplayArgs<AccessArgs>, url: &str) -> anyhow::Result<u8> {
        remote::carry_out(args, url)
    }
}

pub fn run(args: AuditArgs<AccessArgs>) -> anyhow::Result<ExitCode> {
    audit::run(args, &OnlineReach)
}

/// Opens a folder, or an archive by its folder or URL.
pub fn open_at(path: &Path) -> anyhow::Result<OpenSource> {
    audit::open_at(path, None, &OnlineReach)
}
