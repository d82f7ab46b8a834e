//! What can be wrong with a partition.

use std::path::PathBuf;

use crate::consensus::ConsensusError;
use crate::ids::{JournalIndex, LogIndex, ModuleId};
use crate::log::LogError;
use crate::machine::entry::EntryError;
use crate::machine::journal::JournalError;
use crate::machine::replica::ApplyError;
use crate::store::StoreError;

/// Why a partition could not be opened or asked.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    #[error("log: {0}")]
    Log(#[from] LogError),
    #[error("state: {0}")]
    Store(#[from] StoreError),
    #[error("consensus: {0}")]
    Consensus(#[from] ConsensusError),
    #[error("partition halted: {0}")]
    Halted(#[from] HaltReason),
    #[error("cannot create {path}: {source}")]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("thread of the executor cannot be started: {0}")]
    Thread(std::io::Error),
    #[error("this node does not lead the partition")]
    NotLeading,
    /// Nothing was read in time.
    #[error("the deadline passed")]
    Deadline,
    #[error("journal entry {0} is not in the log")]
    NoEntry(JournalIndex),
    /// State or ids lack what only the beginning of the log could give back. They are left as they are.
    #[error("{what} must be made again from the log ({reason}), but {held}")]
    CannotRebuild { what: &'static str, reason: String, held: Held },
}

/// What a log holds whose beginning is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Held {
    #[error("the log is empty")]
    Nothing,
    #[error("the log begins with entry {0}")]
    From(LogIndex),
}

/// Why a partition's replica on this node stands still until the process is started again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HaltReason {
    #[error("log index {index}: {source}")]
    Entry { index: u64, source: EntryError },
    #[error("log index {index}: {source}")]
    Journal { index: u64, source: JournalError },
    #[error("{0}")]
    Apply(ApplyError),
    #[error("module {} is needed by the journal, but cannot be loaded: {reason}", id.short())]
    Module { id: ModuleId, reason: String },
    #[error("state: {0}")]
    Store(String),
    #[error(transparent)]
    Host(#[from] crate::sequencer::decide::HostFault),
    #[error("consensus stopped: {0}")]
    Consensus(String),
    #[error("the executor panicked: {0}")]
    Panic(String),
}
