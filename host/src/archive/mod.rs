//! History outside a node: journals as canonical immutable files, with the modules that decided them.
//!
//! ```text
//! effective entries ─▶ SegmentsWriter: cut, hash, name ─▶ <folder>/<machine>/<partition>/*.journal ─▶ Manifest: journal.json
//! folder ─▶ Manifest ─▶ SegmentsReader: every byte checked ─▶ entries with the place that each was read from
//! ```
//! In: entries of a journal, in order. Out: files that are the same from every replica, and entries again. It does not know where
//! entries come from, what they mean, or who keeps the files.

mod error;
mod segment;
mod write;
mod read;
mod folder;
#[cfg(test)]
mod tests;

pub use error::{ArchiveError, SegmentDamage};
pub use folder::{FileFacts, Manifest, PartitionFacts, modules_folder, partition_folder, write_module};
pub use read::{Placed, SegmentsReader};
pub use segment::{Boundary, Stream};
pub use write::SegmentsWriter;
