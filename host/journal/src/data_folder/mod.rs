//! What a node's data folder says beside its journals: who the node is, which replicas have had entries, and how far
//! the id index of a partition is.
//!
//! In: a folder, or the bytes of one of its files. Out: what the file says. A node writes these files, and an auditor
//! reads them as evidence, also while the node runs. This folder does not know what follows from what they say, and
//! takes no lock.

mod error;
mod identity;
mod small_file;
mod record;
mod id_runs;

pub use error::FolderError;
pub use id_runs::{RunList, Span, ids_applied_in};
pub use identity::{IDENTITY, Identity};
pub use record::{GivenUp, RecordContent, RecordedClaim, record_file, replicas_with_entries};
pub use small_file::{SmallFile, SmallFileError};
