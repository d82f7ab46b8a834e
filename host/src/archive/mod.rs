//! History outside a node: journals as canonical immutable files, with the modules that decided them.
//!
//! ```text
//! effective entries ─▶ SegmentsWriter: cut, hash, name ─▶ <folder>/<machine>/<partition>/*.journal
//!                   ─▶ Manifest: journal.json
//! entries ─▶ Upload ─▶ Archive: an object store, each object read back ─▶ Mirror: a folder again
//! folder ─▶ Manifest ─▶ SegmentsReader: every byte checked ─▶ entries, each with the place that it was read from
//! ```
//! Entries of a journal go in, in order. Files that are the same from every replica come out, and entries again. This
//! folder does not know where entries come from or what they mean. Only this folder names `object_store`.

mod error;
mod segment;
mod write;
mod read;
mod folder;
mod store;
mod mirror;
mod upload;
mod past;
#[cfg(test)]
mod tests;

pub use error::{ArchiveError, SegmentDamage};
pub use folder::{FileFacts, Manifest, PartitionFacts, modules_folder, partition_folder, write_module};
pub use mirror::{Mirror, chain};
pub use past::Past;
pub use read::{Placed, SegmentsReader};
pub use segment::{Boundary, SegmentName, Stream};
pub use store::{Archive, OWNER as ARCHIVE_FILE};
pub use upload::{Go, Kept, Upload};
pub use write::SegmentsWriter;
