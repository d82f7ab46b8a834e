//! Journal segments: the journals of partitions as canonical immutable files, with the modules that decided them.
//!
//! ```text
//! effective entries ─▶ SegmentsWriter: cut, hash, name ─▶ <folder>/<machine>/<partition>/*.journal
//!                   ─▶ Manifest: journal.json
//! folder ─▶ Manifest ─▶ SegmentsReader: every byte checked ─▶ entries, each with the place that it was read from
//! ```
//! Entries of a journal go in, in order. Files that are the same from every replica come out, and entries again. This
//! folder does not know where entries come from or what they mean, nor whether the files are on their way into an
//! archive.

mod error;
mod segment;
mod write;
mod read;
mod folder;
mod archived;
#[cfg(any(test, feature = "testing"))]
pub mod kit;
#[cfg(test)]
mod tests;

pub use archived::{LISTINGS_MAX, OWNER, UPLOADING, chain, decode_owner, encode_owner};
pub use error::{SegmentDamage, SegmentsError};
pub use folder::{FileFacts, Manifest, Mirror, PartitionFacts, modules_folder, partition_folder, write_module};
pub use read::{PlacedEntry, SegmentsReader};
pub use segment::{Boundary, SegmentName, Stream, TRAILER_SIZE, decode_trailer};
pub use write::SegmentsWriter;
