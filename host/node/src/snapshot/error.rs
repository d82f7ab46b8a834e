//! What can be wrong with a snapshot on its way to or from the disk.

use std::io;
use std::path::{Path, PathBuf};

use crate::ids::LogIndex;
use crate::log::LogError;
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{path}: cannot be {action}: {source}")]
    Io { path: PathBuf, action: &'static str, source: io::Error },
    #[error("the snapshot's manifest is damaged: {what}")]
    Manifest { what: &'static str },
    #[error("the snapshot has format {found}, this program reads up to {known}; update this node")]
    Format { found: String, known: String },
    #[error("the snapshot is of {found}, not of {expected}")]
    ForeignStream { expected: String, found: String },
    #[error("the snapshot names a file `{name}` that no snapshot has")]
    FileName { name: String },
    /// The file was removed, so that the next attempt fetches it again.
    #[error("the file `{name}` of the snapshot is not what its manifest says, and is fetched again")]
    FileDamaged { name: String },
    #[error("there is no snapshot at entry {0} here any more")]
    Gone(LogIndex),
    #[error("log: {}", .0.reason())]
    Log(#[from] LogError),
    #[error("state: {0}")]
    Store(#[from] StoreError),
}

impl SnapshotError {
    pub(super) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }
}
