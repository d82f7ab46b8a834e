//! Canonical snapshots: all rows of a partition after one entry of its journal, as a file that is the same from every
//! replica.
//!
//! ```text
//! rows in order of key ─▶ SnapshotWriter: chunks, hashes ─▶ <folder>/<index>[-<day>]-<hash>.snapshot
//!                      ─▶ SnapshotFile: every byte checked
//! ```
//! Rows and the journal that they belong to go in. Files for certain moments come out, above all for 00:00 UTC of each
//! day, and rows again. This folder does not know how a state is kept while a file is made from it, nor when one is
//! due.

mod days;
mod error;
mod folder;
mod manifest;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use days::Days;
pub use error::{CanonicalError, SnapshotDamage};
pub use folder::{DueSnapshot, SnapshotFolder, copy_file, folder_of, indexes_in, list_files};
pub use manifest::{Facts, ListedFile, parse_name};
pub use read::SnapshotFile;
pub use write::SnapshotWriter;
