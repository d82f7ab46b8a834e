//! What a log holds: entries with their ids, and the vote.
//!
//! Plain values of the log's users. They know nothing of bytes on disk; `frame.rs` does.

use std::fmt;

use bytes::Bytes;

use crate::ids::{LogIndex, NodeId, Term};

/// The identity of an entry: two entries with the same id have the same content on every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    pub term: Term,
    /// The leader that proposed it.
    pub node: NodeId,
    pub index: LogIndex,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}.{}", self.term, self.node, self.index)
    }
}

/// What an entry carries. The log stores the bytes and does not look into them. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    Blank,
    Entry(Bytes),
    Membership(Bytes),
}

impl Payload {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Blank => &[],
            Self::Entry(bytes) | Self::Membership(bytes) => bytes,
        }
    }

    /// Bytes of the content.
    pub fn size(&self) -> usize {
        self.bytes().len()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub id: EntryId,
    pub payload: Payload,
}

/// What this node promised to whom. `committed` says that a quorum granted it: the node is a leader's follower, or leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    pub term: Term,
    pub node: Option<NodeId>,
    pub committed: bool,
}

impl Vote {
    /// A vote for nobody: no vote in this term or an earlier one can be given any more, and no leader of them is followed.
    ///
    /// Votes are ordered by term, then node, then whether they are committed, and only a greater one is ever granted or
    /// followed. No node has the greatest number there is, so this vote is above all those of its term, and nobody is elected
    /// by it. The next term is free: a group that has a leader in this term elects once more.
    pub fn barrier(term: Term) -> Self {
        Self { term, node: Some(NodeId(u64::MAX)), committed: false }
    }

    /// What is compared when one vote is to replace another.
    pub fn order(&self) -> (Term, Option<NodeId>, bool) {
        (self.term, self.node, self.committed)
    }
}
