//! What can be wrong with the state store or the id index.
//!
//! Rows and ids are derived from the journal, so a replay repairs each of these errors; none of them is a lost
//! transfer. This file does not know how a caller answers a client.

use std::io;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::ids::JournalIndex;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("state store in {path}: cannot be opened")]
    Open { path: PathBuf, source: rocksdb::Error },
    #[error("state store: cannot be read")]
    Read { source: rocksdb::Error },
    #[error("state store: cannot be written")]
    Write { source: rocksdb::Error },
    /// A checksum failed on a read, now or before the last start. Nothing in the store is trusted any more.
    #[error("state store in {path} is damaged")]
    Damaged { path: PathBuf },
    #[error("meta row has format {found}, this program knows up to {known}")]
    MetaFormat { found: u32, known: u32 },
    #[error("meta row is damaged: {what}")]
    MetaDamaged { what: &'static str },
    /// The writer waits for space or for a descriptor, and then continues on its own. Reads and `apply` are not
    /// affected until too much is dirty.
    #[error("state store: no space left on the disk of {path}, or no file descriptor")]
    NoSpace { path: PathBuf },
    /// The store waits for something that will not happen: the log has failed, or the partition is closed.
    #[error("state store: nothing more becomes durable: {reason}")]
    Ended { reason: String },
    /// The writer has stopped for good. Reads from memory continue until the partition is restarted.
    #[error("state store: the writer has stopped: {reason}")]
    WriterStopped { reason: String },
    #[error("{path}: cannot be {action}")]
    Io { path: PathBuf, action: &'static str, source: io::Error },
    #[error("{path} is damaged: {what}; its ids must be read from the journal again")]
    IdsDamaged { path: PathBuf, what: &'static str },
    #[error("{path} has the format of a later program")]
    IdsFormat { path: PathBuf },
    #[error("ids of journal entry {found} cannot be recorded before those of entry {expected}")]
    IdsGap { expected: JournalIndex, found: JournalIndex },
}

impl StoreError {
    pub(super) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }

    /// Whether waiting may help: for space, a descriptor, or memory.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Io { source, .. } => durable::is_passing(source),
            Self::Open { source, .. } | Self::Write { source } | Self::Read { source } => {
                durable::says_passing(source.as_ref())
            }
            _ => false,
        }
    }

    /// Whether no descriptor or no memory is left.
    pub(super) fn is_scarcity(&self) -> bool {
        match self {
            Self::Io { source, .. } => durable::is_scarcity(source),
            Self::Open { source, .. } | Self::Write { source } | Self::Read { source } => {
                durable::says_scarcity(source.as_ref())
            }
            _ => false,
        }
    }

    /// The error with its cause.
    pub(super) fn reason(&self) -> String {
        std::error::Error::source(self).map_or_else(|| self.to_string(), |source| format!("{self}: {source}"))
    }

    /// Whether the disk does not have what was written, so that only a rebuild from the journal helps.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::MetaDamaged { .. } | Self::IdsDamaged { .. } => true,
            // A file that another one names is missing.
            Self::Open { source, .. } => is_corruption(source) || source.as_ref().contains("No such file or directory"),
            Self::Read { source } | Self::Write { source } => is_corruption(source),
            _ => false,
        }
    }
}

fn is_corruption(error: &rocksdb::Error) -> bool {
    error.kind() == rocksdb::ErrorKind::Corruption
}
