//! The archive: journal segments, snapshots and modules in an object store, and back.
//!
//! ```text
//! entries ─▶ Upload ─▶ SegmentsWriter ─▶ Archive: an object store, each object read back ─▶ Mirror: a folder again
//!                                        ArchivedJournal: released entries, a segment at a time
//! ```
//! Entries of a journal go in, in order. Objects that are the same from every replica come out, and entries again. The
//! segments themselves are in the crate of formats ([`crate::segments`]), which this folder names again. It does not
//! know where entries come from or what they mean. Only this folder names `object_store`.

mod error;
mod store;
mod mirror;
mod upload;
mod past;
#[cfg(test)]
mod tests;

pub use crate::segments::{Boundary, Stream, partition_folder};
pub use error::ArchiveError;
pub use past::ArchivedJournal;
pub use store::Archive;
pub use upload::{Upload, UploadCounts, UploadRun};
