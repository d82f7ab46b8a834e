//! openraft's types as this host configures them, and the conversions between them and the types of `log/`.
//!
//! A leader is named by term *and* node (openraft's "advanced" mode), because log entries carry both. A group does not
//! know the addresses of nodes: the `system` machine knows them, so a member is only an id here.

use std::fmt;
use std::io;

use bytes::Bytes;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::{EmptyNode, EntryPayload, RaftTypeConfig};

use super::{MembershipError, membership};
use crate::ids::{LogIndex, NodeId, Term};
use crate::log::{EntryId, LogEntry, Payload, Vote};

openraft::declare_raft_types!(
    /// Names every type that openraft leaves open.
    pub(super) Model:
        D = ProposalContent,
        R = (),
        Node = EmptyNode,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

pub(super) type RaftLeaderId = LeaderId<u64, u64>;
pub(super) type RaftLogId = openraft::alias::LogIdOf<Model>;
pub(super) type RaftVote = openraft::alias::VoteOf<Model>;
pub(super) type RaftEntry = <Model as RaftTypeConfig>::Entry;
pub(super) type RaftStoredMembership = openraft::alias::StoredMembershipOf<Model>;

/// A proposal's content: bytes that this folder never looks into. Clones share the bytes.
#[derive(Clone)]
pub(super) struct ProposalContent(pub Bytes);

impl fmt::Display for ProposalContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Debug for ProposalContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(super) fn leader_id(term: Term, node: NodeId) -> RaftLeaderId {
    LeaderId { term: term.0, node_id: node.0 }
}

pub(super) fn log_id(id: EntryId) -> RaftLogId {
    RaftLogId::new(leader_id(id.term, id.node), id.index.0)
}

pub(super) fn entry_id(id: &RaftLogId) -> EntryId {
    EntryId { term: Term(id.leader_id.term), node: NodeId(id.leader_id.node_id), index: LogIndex(id.index) }
}

pub(super) fn raft_vote(vote: Vote) -> io::Result<RaftVote> {
    let node = vote.node.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the stored vote names no node"))?;
    Ok(RaftVote { leader_id: leader_id(vote.term, node), committed: vote.committed })
}

pub(super) fn vote(vote: &RaftVote) -> Vote {
    let RaftVote { leader_id, committed } = *vote;
    Vote { term: Term(leader_id.term), node: Some(NodeId(leader_id.node_id)), committed }
}

pub(super) fn raft_entry(entry: LogEntry) -> Result<RaftEntry, MembershipError> {
    let payload = match entry.payload {
        Payload::Blank => EntryPayload::Blank,
        Payload::Entry(bytes) => EntryPayload::Normal(ProposalContent(bytes)),
        Payload::Membership(bytes) => {
            let (found, membership) = membership::decode(&bytes)?;
            if found != entry.id {
                return Err(MembershipError::Entry { expected: entry.id, found });
            }
            EntryPayload::Membership(membership)
        }
    };
    Ok(RaftEntry { log_id: log_id(entry.id), payload })
}

pub(super) fn log_entry(entry: RaftEntry) -> LogEntry {
    let id = entry_id(&entry.log_id);
    let payload = match entry.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Normal(ProposalContent(bytes)) => Payload::Entry(bytes),
        EntryPayload::Membership(membership) => Payload::Membership(membership::encode(id, &membership)),
    };
    LogEntry { id, payload }
}

/// A membership and the entry that set it, as openraft expects it. If none is set yet, this is openraft's default.
pub(super) fn stored_membership(bytes: Option<&Bytes>) -> Result<RaftStoredMembership, MembershipError> {
    let Some(bytes) = bytes else { return Ok(RaftStoredMembership::default()) };
    let (entry, membership) = membership::decode(bytes)?;
    Ok(RaftStoredMembership::new(Some(log_id(entry)), membership))
}

/// The inverse of [`stored_membership`].
pub(super) fn membership_bytes(stored: &RaftStoredMembership) -> Option<Bytes> {
    let entry = stored.log_id().as_ref()?;
    Some(membership::encode(entry_id(entry), stored.membership()))
}
