//! What can be wrong with a Raft group, an entry proposed to it, a peer, or the state that it feeds.
//!
//! Errors of openraft are converted at the edge of this folder. `api/` decides how a client is told.

use crate::ids::{NodeId, Term};
use crate::log::EntryId;

/// Why a group refused a request, or could not tell its outcome.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConsensusError {
    /// Nothing was appended. `term` is the newest term that this node knows.
    #[error("this node does not lead in term {term}")]
    NotLeader { leader: Option<NodeId>, term: Term },
    /// Nothing was appended or promised: the leader has not heard from a majority for a whole lease.
    #[error("this leader has not heard from a majority lately")]
    NoQuorum,
    /// The entry was appended here, and then the leadership was lost: another leader may commit the entry, or nobody
    /// ever does.
    #[error("leadership was lost before the entry was known to be committed")]
    OutcomeUnknown,
    /// The group already has a history.
    #[error("the group is already initialized")]
    AlreadyInitialized,
    /// `initialize` must run on one of the voters.
    #[error("node {node} is not among the voters it was to start with")]
    NotAVoter { node: NodeId },
    /// The group's state does not allow this change of members: another one is under way, or a new voter is not a
    /// learner yet.
    #[error("the members cannot be changed now: {reason}")]
    NotChanged { reason: String },
    /// The store has entries that the log does not: the disk lost a synced write, or files were mixed.
    #[error("the state is ahead of the log: applied {applied}, last in the log {last:?}")]
    StateAheadOfLog { applied: EntryId, last: Option<EntryId> },
    /// A peer sent a malformed request.
    #[error("a peer's vote names no node")]
    VoteOfNobody,
    /// No node of the cluster would send this; it changed nothing.
    #[error("a message of node {node} is refused: {reason}")]
    NotTaken { node: NodeId, reason: NotTaken },
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error("the group stopped: {0}")]
    Stopped(StopReason),
}

/// The fault of a peer's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    #[error("its vote is not in its own name")]
    OtherName { named: Option<NodeId> },
    #[error("its term {found} is further ahead of this replica's term {own} than elections can explain")]
    Leap { own: Term, found: Term },
    #[error("it is a learner of this group, and cannot be elected")]
    Learner,
    #[error("its entries do not follow each other, or are of a term that is not there yet")]
    Entries,
    /// There are two histories of the group.
    #[error("it has another entry {found} where this replica has one that was committed")]
    Replaces { found: EntryId },
}

/// Why a group no longer takes part until the process starts it again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    #[error("it was shut down")]
    Shutdown,
    /// A read, write or sync of the log failed, or an apply did. After a failed sync nothing on that disk can be
    /// trusted.
    #[error("{detail}")]
    Failed { detail: String },
    #[error("it panicked")]
    Panicked,
}

/// Why a partition could not take committed entries. Each error stops the group, because an entry cannot be skipped.
#[derive(Debug, thiserror::Error)]
pub enum ApplierError {
    #[error("the partition's executor is gone")]
    Gone,
    #[error("snapshots are not available on this node")]
    NoSnapshots,
    #[error("{reason}")]
    Halted { reason: String },
}

/// Why a peer did not answer. None of the errors implies that the request had no effect there.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PeerError {
    #[error("no route to node {0}")]
    NoRoute(NodeId),
    #[error("node {0} did not answer in time")]
    Timeout(NodeId),
    #[error("node {node} gave an answer to another question")]
    UnexpectedReply { node: NodeId },
    /// The peer takes no requests from this node: the cluster, the node that was meant, or the format differs.
    #[error("node {node} refused: {detail}")]
    Refused { node: NodeId, detail: String },
    #[error("node {node} failed: {detail}")]
    Failed { node: NodeId, detail: String },
}

/// Why bytes are not a stored membership.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    #[error("membership of {found} bytes, expected {expected}")]
    Length { expected: usize, found: usize },
    #[error("membership format {found} is unknown, this version reads {expected}")]
    Version { expected: u8, found: u8 },
    #[error("membership names {0} sets of voters, expected 1 or 2")]
    Sets(u8),
    #[error("membership gives node {node} a vote in a set that does not exist")]
    Mask { node: NodeId },
    #[error("membership lists node {node} out of order")]
    Order { node: NodeId },
    #[error("membership belongs to entry {found}, found in entry {expected}")]
    Entry { expected: EntryId, found: EntryId },
}
