//! What can go wrong with a partition.
//!
//! In: errors of its parts. Out: messages that say what to do. This file decides only one thing: whether reopening a
//! partition would repair it. It does not know how an error is shown to a client.

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
    /// The disk was wiped or restored from a copy, or files are missing: this node has forgotten entries, and perhaps
    /// votes, on which other nodes or clients rely.
    #[error("{0}")]
    Forgot(Loss),
    /// The nodes that answered were away at the end, or have lost what they knew.
    #[error("nobody who answers can say whether this node's disk was set back")]
    Unvouched,
    #[error("thread of the executor cannot be started: {0}")]
    Thread(std::io::Error),
    /// The partition is left open.
    #[error("the partition was not closed in time: what it waits for, most likely its disk, does not answer")]
    NotClosed,
    #[error("this node does not lead the partition")]
    NotLeading,
    #[error("this node has no replica of partition {0}")]
    NotHere(PartitionId),
    /// No node that this one knows of led the partition before the deadline.
    #[error("no node was known to lead the partition before the deadline")]
    NoLeader,
    /// The node that leads, as far as this one knows, did not say in time up to where to read.
    #[error("node {0}, which leads, did not answer before the deadline")]
    LeaderSilent(NodeId),
    /// This node leads, but no majority of the voters confirmed that in time.
    #[error("no majority confirmed before the deadline that this node leads")]
    NoMajority,
    /// Nothing was read in time.
    #[error("the deadline passed")]
    Deadline,
    #[error("journal entry {0} is not in the log")]
    NoEntry(JournalIndex),
    /// What was asked for is older than the log that this node has kept, or was never sent to this node.
    #[error(
        "the journal of this node begins with entry {first}{}: earlier entries were released or replaced by a \
         snapshot; ask another node, or audit a copy that has them",
        position.map_or_else(String::new, |position| format!(" at position {position}"))
    )]
    Released { first: JournalIndex, position: Option<Position> },
    /// The position comes from before a restore, or from another cluster.
    #[error("position {0} is not one of this partition's history")]
    OtherHistory(Position),
    /// One of the two nodes has forgotten what was acknowledged. The logs are compared again by the task that stops
    /// both.
    #[error(
        "this replica's log differs from that of node {leader}, which leads, at entry {index}: nothing is read here"
    )]
    TwoHistories { index: LogIndex, leader: NodeId },
    /// The partition keeps the module that it has.
    #[error("module {} cannot be activated: {reason}", module.short())]
    NotActivated { module: ModuleId, reason: String },
    /// Events are never shown in part. This node, or another one, may be able to render them in a moment.
    #[error("module {} could not render here: {reason}", module.short())]
    NotRendered { module: ModuleId, reason: String },
    #[error("snapshot: {0}")]
    Snapshot(#[from] SnapshotError),
    /// What the log has released was looked for in the archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("{} requested canonical snapshots of it are not made yet; ask again later", SNAPSHOTS_ASKED_MAX)]
    SnapshotsAsked,
    #[error("canonical snapshot: {0}")]
    Canonical(#[from] SnapshotMakingError),
    /// State or ids lack what only the beginning of the log could restore. They are left unchanged.
    #[error("{what} must be made again from the log ({reason}), but {held}")]
    CannotRebuild { what: &'static str, reason: String, held: Held },
}

impl From<CanonicalError> for PartitionError {
    fn from(error: CanonicalError) -> Self {
        Self::Canonical(error.into())
    }
}

/// Why a canonical snapshot was not made, read or taken in.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotMakingError {
    #[error(transparent)]
    File(#[from] CanonicalError),
    #[error("the kept state cannot be read: {0}")]
    Kept(#[from] StoreError),
    #[error("the kept state stands at entry {found}, and was to be kept at {expected}")]
    Elsewhere { expected: JournalIndex, found: JournalIndex },
    #[error("{file} is a snapshot of another partition, cluster or history than this one")]
    Foreign { file: String },
    /// The work is resumed at the next start.
    #[error("the partition is being closed")]
    Closing,
}

/// What remains of a log whose beginning is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Held {
    #[error("the log is empty")]
    Nothing,
    #[error("the log begins with entry {0}")]
    From(LogIndex),
}

/// Why a partition's replica on this node has halted.
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
    Host(#[from] crate::machine::decide::HostFault),
    #[error("consensus stopped: {0}")]
    Consensus(String),
    #[error("journal entry {index} is not what node {leader}, which leads, has there")]
    Diverged { index: JournalIndex, leader: NodeId },
    #[error("the executor panicked: {0}")]
    Panic(String),
}

impl HaltReason {
    /// Whether the partition may continue after it is reopened: damage is repaired then, and what was missing may have
    /// arrived. Any other fault would only be found again, so an operator has to look.
    pub fn is_mended_by_opening(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Consensus(_) | Self::Module { .. })
    }
}

pub(super) fn store_failed(error: StoreError) -> HaltReason {
    HaltReason::Store(error.to_string())
}

/// What a panic says.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".to_owned())
}
