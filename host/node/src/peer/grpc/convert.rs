//! Values of `consensus/` as messages of the protocol, and back.
//!
//! Payloads are handed over as they are, without a copy. A message that lacks something is unreadable: nothing is
//! guessed. It does not know who sent a message.

use super::wire;
use super::wire::append_reply::Outcome;
use super::wire::entry::Payload as WirePayload;
use super::wire::raft_reply::Reply;
use super::wire::raft_request::Message;
use crate::consensus::{AppendReply, PeerReply, PeerRequest};
use crate::ids::{LogIndex, NodeId, PartitionId, Term};
use crate::log::{EntryId, LogEntry, Payload, Vote};
use crate::peer::{Call, GroupName, Topic};

/// What a message lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct UnreadableMessage(&'static str);

type ReadMessage<T> = Result<T, UnreadableMessage>;

pub(super) fn group_out(group: &GroupName) -> wire::Group {
    wire::Group { machine: group.machine.to_string(), partition: group.partition.0 }
}

pub(super) fn group_in(group: Option<wire::Group>) -> ReadMessage<GroupName> {
    let group = group.ok_or(UnreadableMessage("it names no group"))?;
    Ok(GroupName::new(&group.machine, PartitionId(group.partition)))
}

pub(super) fn call_out(call: Call) -> wire::CallRequest {
    wire::CallRequest { topic: call.topic as u32, group: call.group.as_ref().map(group_out), body: call.body }
}

pub(super) fn call_in(call: wire::CallRequest) -> ReadMessage<Call> {
    let topic = Topic::from_number(call.topic).ok_or(UnreadableMessage("its topic is unknown"))?;
    let group = call.group.map(|group| group_in(Some(group))).transpose()?;
    Ok(Call { topic, group, body: call.body })
}

pub(super) fn request_out(group: &GroupName, request: PeerRequest) -> wire::RaftRequest {
    let message = match request {
        PeerRequest::Append { .. } => Message::Append(append_out(request)),
        PeerRequest::Vote { vote, last, transfer } => Message::Vote(ballot_out(vote, last, transfer)),
        PeerRequest::PreVote { vote, last } => Message::PreVote(ballot_out(vote, last, false)),
        PeerRequest::Transfer { vote, to, last } => {
            Message::Transfer(wire::Transfer { vote: Some(vote_out(vote)), to: to.0, last: last.map(id_out) })
        }
    };
    wire::RaftRequest { group: Some(group_out(group)), message: Some(message) }
}

pub(super) fn request_in(request: wire::RaftRequest) -> ReadMessage<(GroupName, PeerRequest)> {
    let message = match request.message.ok_or(UnreadableMessage("it holds no message that is known"))? {
        Message::Append(append) => append_in(append)?,
        Message::Vote(ballot) => {
            PeerRequest::Vote { vote: vote_in(ballot.vote)?, last: ballot.last.map(id_in), transfer: ballot.transfer }
        }
        Message::PreVote(ballot) => PeerRequest::PreVote { vote: vote_in(ballot.vote)?, last: ballot.last.map(id_in) },
        Message::Transfer(transfer) => PeerRequest::Transfer {
            vote: vote_in(transfer.vote)?,
            to: NodeId(transfer.to),
            last: transfer.last.map(id_in),
        },
    };
    Ok((group_in(request.group)?, message))
}

/// It takes a [`PeerRequest::Append`] only.
pub(super) fn append_out(request: PeerRequest) -> wire::Append {
    let PeerRequest::Append { vote, previous, entries, committed } = request else {
        panic!("only appends go over a stream of appends: {request:?}");
    };
    wire::Append {
        vote: Some(vote_out(vote)),
        previous: previous.map(id_out),
        entries: entries.into_iter().map(entry_out).collect(),
        committed: committed.map(id_out),
    }
}

pub(super) fn append_in(append: wire::Append) -> ReadMessage<PeerRequest> {
    Ok(PeerRequest::Append {
        vote: vote_in(append.vote)?,
        previous: append.previous.map(id_in),
        entries: append.entries.into_iter().map(entry_in).collect::<ReadMessage<_>>()?,
        committed: append.committed.map(id_in),
    })
}

pub(super) fn reply_out(reply: PeerReply) -> wire::RaftReply {
    let reply = match reply {
        PeerReply::Append(reply) => Reply::Append(append_reply_out(reply)),
        PeerReply::Vote { vote, granted, last } => {
            Reply::Vote(wire::BallotReply { vote: Some(vote_out(vote)), granted, last: last.map(id_out) })
        }
        PeerReply::Transfer { accepted } => Reply::Transfer(wire::TransferReply { accepted }),
    };
    wire::RaftReply { reply: Some(reply) }
}

pub(super) fn reply_in(reply: wire::RaftReply) -> ReadMessage<PeerReply> {
    Ok(match reply.reply.ok_or(UnreadableMessage("it holds no reply that is known"))? {
        Reply::Append(reply) => PeerReply::Append(append_reply_in(reply)?),
        Reply::Vote(reply) => {
            PeerReply::Vote { vote: vote_in(reply.vote)?, granted: reply.granted, last: reply.last.map(id_in) }
        }
        Reply::Transfer(reply) => PeerReply::Transfer { accepted: reply.accepted },
    })
}

pub(super) fn append_reply_out(reply: AppendReply) -> wire::AppendReply {
    let outcome = match reply {
        AppendReply::Success => Outcome::Success(wire::Blank {}),
        AppendReply::Partial(last) => Outcome::Partial(wire::Partial { last: last.map(id_out) }),
        AppendReply::Conflict => Outcome::Conflict(wire::Blank {}),
        AppendReply::HigherVote(vote) => Outcome::HigherVote(vote_out(vote)),
    };
    wire::AppendReply { outcome: Some(outcome) }
}

pub(super) fn append_reply_in(reply: wire::AppendReply) -> ReadMessage<AppendReply> {
    Ok(match reply.outcome.ok_or(UnreadableMessage("it holds no outcome that is known"))? {
        Outcome::Success(_) => AppendReply::Success,
        Outcome::Partial(partial) => AppendReply::Partial(partial.last.map(id_in)),
        Outcome::Conflict(_) => AppendReply::Conflict,
        Outcome::HigherVote(vote) => AppendReply::HigherVote(vote_in(Some(vote))?),
    })
}

fn entry_out(entry: LogEntry) -> wire::Entry {
    let payload = match entry.payload {
        Payload::Blank => WirePayload::Blank(wire::Blank {}),
        Payload::Entry(bytes) => WirePayload::Entry(bytes),
        Payload::Membership(bytes) => WirePayload::Membership(bytes),
    };
    wire::Entry { id: Some(id_out(entry.id)), payload: Some(payload) }
}

fn entry_in(entry: wire::Entry) -> ReadMessage<LogEntry> {
    let payload = match entry.payload.ok_or(UnreadableMessage("an entry has no payload that is known"))? {
        WirePayload::Blank(_) => Payload::Blank,
        WirePayload::Entry(bytes) => Payload::Entry(bytes),
        WirePayload::Membership(bytes) => Payload::Membership(bytes),
    };
    Ok(LogEntry { id: entry.id.map(id_in).ok_or(UnreadableMessage("an entry has no id"))?, payload })
}

fn ballot_out(vote: Vote, last: Option<EntryId>, transfer: bool) -> wire::Ballot {
    wire::Ballot { vote: Some(vote_out(vote)), last: last.map(id_out), transfer }
}

fn vote_out(vote: Vote) -> wire::Vote {
    wire::Vote { term: vote.term.0, node: vote.node.map(|node| node.0), committed: vote.committed }
}

fn vote_in(vote: Option<wire::Vote>) -> ReadMessage<Vote> {
    let vote = vote.ok_or(UnreadableMessage("it carries no vote"))?;
    Ok(Vote { term: Term(vote.term), node: vote.node.map(NodeId), committed: vote.committed })
}

fn id_out(id: EntryId) -> wire::EntryId {
    wire::EntryId { term: id.term.0, node: id.node.0, index: id.index.0 }
}

fn id_in(id: wire::EntryId) -> EntryId {
    EntryId { term: Term(id.term), node: NodeId(id.node), index: LogIndex(id.index) }
}
