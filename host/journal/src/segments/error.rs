//! What can be wrong with a folder of journal segments, and where.
//!
//! Each error says what to do, if there is anything to do. A segment's damage names file, byte and entry. This file
//! knows nothing of who reads or writes.

use std::io;
use std::path::{Path, PathBuf};

use crate::ids::{ClusterId, Head, JournalIndex, PartitionId};
use crate::machine::entry::EntryError;

#[derive(Debug, thiserror::Error)]
pub enum SegmentsError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is not what was written: {reason}", path.display())]
    Manifest { path: PathBuf, reason: String },
    #[error("{} has format {found}, this program reads {known}; use a later version", path.display())]
    Format { path: PathBuf, found: u32, known: u32 },
    #[error(
        "{} holds the history of cluster {found}, and this is cluster {expected}: choose another folder",
        path.display()
    )]
    OtherCluster { path: PathBuf, expected: String, found: String },
    #[error(
        "{machine}/{partition}: the archive has two segments that begin with entry {first}, {one} and {other}: \
         two histories were archived to one place"
    )]
    Fork { machine: String, partition: PartitionId, first: JournalIndex, one: String, other: String },
    #[error("{machine}/{partition}: {file}, at byte {offset}, entry {index}: {damage}")]
    Segment {
        machine: String,
        partition: PartitionId,
        /// The name of the file.
        file: String,
        offset: u64,
        /// The first entry that cannot be vouched for.
        index: JournalIndex,
        damage: SegmentDamage,
    },
}

impl SegmentsError {
    /// Turns an error of the file system at this path.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    /// Whether the only fault is that a file does not exist.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// In which way a segment differs from what was written.
#[derive(Debug, thiserror::Error)]
pub enum SegmentDamage {
    #[error("the file is missing")]
    Missing,
    #[error("the file cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("this is no journal segment")]
    Magic,
    #[error("the segment has format {found}, this program reads {known}")]
    Format { found: u16, known: u16 },
    #[error("it is a segment of {machine}/{partition} of cluster {cluster}")]
    ForeignStream { cluster: ClusterId, machine: String, partition: PartitionId },
    #[error("the file is cut off")]
    Cut,
    #[error("{0} bytes follow the end of the segment")]
    Surplus(u64),
    #[error(
        "the segment begins with entry {found}: \
         the entries before that, from {expected} on, are missing or out of order"
    )]
    Begins { expected: JournalIndex, found: JournalIndex },
    #[error("it says that it is entry {found}: an entry was removed, added or moved")]
    Order { found: JournalIndex },
    #[error(
        "it was computed on the head {}, and the entries before it result in {}: it or one before it was changed",
        found.short(), expected.short()
    )]
    Parent { expected: Head, found: Head },
    #[error(
        "its bytes result in the head {}, and {} is recorded with them: it was changed",
        found.short(), expected.short()
    )]
    Head { expected: Head, found: Head },
    #[error("an entry of {0} bytes is longer than any can be")]
    TooLong(u32),
    #[error("it is no entry: {0}")]
    Entry(#[from] EntryError),
    #[error("the segment continues after the entry that must end it, or ends before that: it was cut at another place")]
    Boundary,
    #[error("the end of the segment does not name its last entry")]
    Trailer,
    #[error("the bytes of the file do not have the hash that stands at their end")]
    Hash,
    #[error("the file is not the one that `journal.json` lists")]
    Listed,
}
