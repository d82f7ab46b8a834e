//! Snapshots of a partition: the state and the ids up to one entry, in a folder of their own, and their way to another node.
//!
//! ```text
//! build:    state, ids ─ checkpoint ─▶ snapshots/building ─ hash, sync, manifest ─▶ snapshots/<log index>     (two are kept)
//! send:     offer (the manifest) ──▶ the other node fetches what it lacks: file by file, from where it was
//! receive:  snapshots/incoming ─ every file checked, synced ─▶ install
//! install:  when the partition is opened: log skips to the entry, state and ids are replaced, install is removed
//! ```
//! For people and archives there are canonical files beside them, the same from every replica: [`canonical`].
//! What has its final name is whole: every rename comes after a sync. It does not know when a snapshot is due, what is in the state, or
//! how the partition is closed and opened.

mod build;
pub mod canonical;
mod error;
mod files;
mod incoming;
mod install;
mod manifest;
mod transfer;
#[cfg(test)]
mod tests;

pub use build::{Kept, Snapshots};
pub use error::SnapshotError;
pub use incoming::Incoming;
pub use install::finish_install;
pub use manifest::Manifest;
pub use transfer::{TransferError, ask_newest, newest_wanted, pieces, receive, serve};

/// A partition's rows, in its folder and in a snapshot.
pub const STATE: &str = "state";
/// Its id index.
pub const IDS: &str = "ids";
const MANIFEST: &str = "manifest";
