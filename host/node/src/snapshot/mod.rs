//! Snapshots of a partition: the state and the ids up to one entry, in a folder of their own, and their way to another
//! node.
//!
//! ```text
//! build:    state, ids ─ checkpoint ─▶ snapshots/building ─ hash, sync, manifest ─▶ snapshots/<log index> (two kept)
//! send:     offer (the manifest) ──▶ the other node fetches the missing files one by one, and resumes a partial one
//! receive:  snapshots/incoming ─ every file checked, synced ─▶ install
//! install:  when the partition is opened: log skips to the entry, state and ids are replaced, install is removed
//! ```
//! Beside them are canonical files for people and archives, the same from every replica: [`canonical`], which the crate
//! of formats has. A file or folder with its final name is complete, because every rename follows a sync. This folder
//! does not know when a snapshot is due, what is in the state, or how the partition is closed and opened.

pub use statehouse_journal::canonical;

mod build;
mod error;
mod files;
mod incoming;
mod install;
mod manifest;
mod transfer;
#[cfg(test)]
mod tests;

pub use build::{KeptSnapshot, Snapshots};
pub use error::SnapshotError;
pub use incoming::IncomingSnapshot;
pub use install::finish_install;
pub use manifest::Manifest;
pub use transfer::{TransferError, ask_newest, newest_wanted, pieces, receive, serve};

/// A partition's rows, in its folder and in a snapshot.
pub const STATE: &str = "state";
/// The partition's id index, in its folder and in a snapshot.
pub const IDS: &str = "ids";
const MANIFEST: &str = "manifest";
