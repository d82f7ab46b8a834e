//! The contents of a log: entries with their ids, and the vote.
//!
//! These are plain values for the log's users. They know nothing of bytes on disk; `frame.rs` does.

use bytes::Bytes;

use crate::ids::{EntryId, NodeId, Term};

/// The content of an entry. The log stores the bytes and does not look into them. It is cheap to clone.
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

/// The vote of this node. `committed` says that a quorum granted it, so the node leads or follows a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    pub term: Term,
    pub node: Option<NodeId>,
    pub committed: bool,
}

impl Vote {
    /// A vote for nobody. After it no vote in this term or an earlier one can be given, and no leader of those terms is
    /// followed.
    ///
    /// Votes are ordered by term, then node, then whether they are committed, and only a greater one is ever granted or
    /// followed. No node has the greatest possible number, so this vote is above all others of its term, and it elects
    /// nobody. The next term is free: a group that has a leader in this term holds one more election.
    pub fn barrier(term: Term) -> Self {
        Self { term, node: Some(NodeId(u64::MAX)), committed: false }
    }

    /// The key by which two votes are compared when one is to replace the other.
    pub fn order(&self) -> (Term, Option<NodeId>, bool) {
        (self.term, self.node, self.committed)
    }
}
