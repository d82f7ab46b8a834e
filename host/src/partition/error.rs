//! What can be wrong with a partition.
//!
//! In: errors of what it is made of. Out: words that say what to do. It decides nothing, but whether opening a partition again would mend it.

use std::path::PathBuf;

use crate::archive::ArchiveError;
use crate::consensus::ConsensusError;
use crate::ids::{JournalIndex, LogIndex, ModuleId, NodeId, PartitionId, Position};
use crate::limits::SNAPSHOTS_ASKED_MAX;
use crate::log::LogError;
use crate::machine::entry::EntryError;
use crate::machine::journal::JournalError;
use crate::machine::replica::ApplyError;
use crate::partition::lost::Loss;
use crate::snapshot::SnapshotError;
use crate::snapshot::canonical::CanonicalError;
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
    /// The disk was wiped or restored from a copy, or files are gone: this node has forgotten entries, and maybe votes, that others, or
    /// clients, count on.
    #[error("{0}")]
    Forgot(Loss),
    /// Those who answered were away at the end, or have lost what they knew.
    #[error("nobody who answers can say whether this node's disk was set back")]
    Unvouched,
    #[error("thread of the executor cannot be started: {0}")]
    Thread(std::io::Error),
    /// It is left behind.
    #[error("the partition was not closed in time: what it waits for, most likely its disk, does not answer")]
    NotClosed,
    #[error("this node does not lead the partition")]
    NotLeading,
    #[error("this node has no replica of partition {0}")]
    NotHere(PartitionId),
    /// Nobody who leads the partition answered in time.
    #[error("no leader answered before the deadline")]
    NoLeader,
    /// Nothing was read in time.
    #[error("the deadline passed")]
    Deadline,
    #[error("journal entry {0} is not in the log")]
    NoEntry(JournalIndex),
    /// What was asked for lies before what this node has kept of its log, or was never sent to it.
    #[error(
        "the journal of this node begins with entry {first}{}: what came before was released or replaced by a snapshot; \
         ask another node, or audit a copy that has it",
        position.map_or_else(String::new, |position| format!(" at position {position}"))
    )]
    Released { first: JournalIndex, position: Option<Position> },
    /// It came from before a restore, or from another cluster.
    #[error("position {0} is not one of this partition's history")]
    OtherHistory(Position),
    /// One of the two has forgotten what was acknowledged. It is compared again by whoever stops both.
    #[error(
        "this replica's log differs from that of node {leader}, which leads, at entry {index}: nothing is read here"
    )]
    TwoHistories { index: LogIndex, leader: NodeId },
    /// The partition goes on with the module it has.
    #[error("module {} cannot be activated: {reason}", module.short())]
    NotActivated { module: ModuleId, reason: String },
    /// Events are not shown by half: what this node cannot do now it may do in a moment, or another one.
    #[error("module {} could not render here: {reason}", module.short())]
    NotRendered { module: ModuleId, reason: String },
    #[error("snapshot: {0}")]
    Snapshot(#[from] SnapshotError),
    /// What the log has released was looked for there.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("{} canonical snapshots of it that were asked for are not made yet; ask again later", SNAPSHOTS_ASKED_MAX)]
    SnapshotsAsked,
    #[error("canonical snapshot: {0}")]
    Canonical(#[from] CanonicalError),
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

/// Why a partition's replica on this node stands still.
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
    #[error("journal entry {index} is not what node {leader}, which leads, has there")]
    Diverged { index: JournalIndex, leader: NodeId },
    #[error("the executor panicked: {0}")]
    Panic(String),
}

impl HaltReason {
    /// Whether the partition may go on when it is opened again: what is damaged is made good then, what was missing may have come.
    /// Everything else would only be found again: somebody has to look.
    pub fn is_mended_by_opening(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Consensus(_) | Self::Module { .. })
    }
}
