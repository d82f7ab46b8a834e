//! Why an audit cannot be carried out. What an audit *finds* is in its report.
//!
//! In: errors of the parts that it reads. Out: messages that say what to do. This file does not know which command runs
//! the audit.

use std::path::PathBuf;

use crate::audit::heads::StrayEntry;
use crate::canonical::CanonicalError;
use crate::data_folder::FolderError;
use crate::ids::JournalIndex;
use crate::log::LogError;
use crate::machine::replay::ReplayError;
use crate::registry::RegistryError;
use crate::segments::SegmentsError;

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error(
        "{} holds no data of a node, and no journal segments: there is neither node.json nor journal.json in it",
        path.display()
    )]
    NoNode { path: PathBuf },
    #[error("there is no machine `{machine}` in {}; there is: {}", path.display(), known.join(", "))]
    NoMachine { machine: String, path: PathBuf, known: Vec<String> },
    #[error("machine `{machine}` has no partition {partition}")]
    NoPartition { machine: String, partition: u32 },
    #[error(transparent)]
    Segments(#[from] SegmentsError),
    #[error("snapshot: {0}")]
    Snapshot(#[from] CanonicalError),
    #[error("{stream}: nothing had happened at that moment, so there is nothing to make a snapshot of")]
    NothingYet { stream: String },
    #[error("{stream}: {stray}")]
    Stray { stream: String, stray: StrayEntry },
    #[error(
        "{} has entries of {stream} up to {known}, and here they end with {last}: export from a node that has them \
         all, or into another folder", path.display()
    )]
    Shorter { stream: String, path: PathBuf, known: JournalIndex, last: JournalIndex },
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{stream}: {source}")]
    Log { stream: String, source: LogError },
    #[error("{stream}: {source}")]
    Replay { stream: String, source: ReplayError },
    /// Nothing can be recomputed without the beginning.
    #[error(
        "{stream}: the journal in this folder {}: earlier entries were released, or replaced by a snapshot; audit \
         the folder of another node, or a complete copy",
        next.map_or_else(
            || "is not here".to_owned(),
            |next| format!("begins, or continues after a gap, with entry {next}")
        )
    )]
    Released { stream: String, next: Option<JournalIndex> },
    #[error("the position is not one of this journal")]
    Gone,
    /// A partition of a running node.
    #[error("the partition cannot be followed: {0}")]
    Live(String),
    #[error("no module was active then: nothing has happened yet")]
    NoModule,
    #[error("{0}")]
    Query(String),
}
