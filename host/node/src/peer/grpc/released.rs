//! The messages of the protocol between nodes as released versions have sent them: this version reads them, and sends
//! the same. Messages inside of calls are tested where they are made.

use bytes::Bytes;
use prost::Message;
use statehouse_fuzz::{check_recorded, recorded};

use super::{convert, wire};
use crate::consensus::{AppendReply, PeerReply, PeerRequest};
use crate::ids::{LogIndex, NodeId, PartitionId, Term};
use crate::log::{EntryId, LogEntry, Payload, Vote};
use crate::peer::{Call, GroupName, Topic};

fn vote() -> Vote {
    Vote { term: Term(7), node: Some(NodeId(2)), committed: true }
}

fn id(index: u64) -> EntryId {
    EntryId { term: Term(7), node: NodeId(2), index: LogIndex(index) }
}

pub(super) fn group() -> GroupName {
    GroupName::new("wallet", PartitionId(3))
}

/// One of each kind of request.
pub(super) fn requests() -> Vec<PeerRequest> {
    let entry = |index, payload| LogEntry { id: id(index), payload };
    let entries = vec![
        entry(10, Payload::Blank),
        entry(11, Payload::Entry(Bytes::from_static(b"an entry"))),
        entry(12, Payload::Membership(Bytes::from_static(b"members"))),
    ];
    vec![
        PeerRequest::Append { vote: vote(), previous: Some(id(9)), entries, committed: Some(id(8)) },
        PeerRequest::Append { vote: vote(), previous: None, entries: Vec::new(), committed: None },
        PeerRequest::Vote { vote: vote(), last: Some(id(9)), transfer: true },
        PeerRequest::PreVote { vote: vote(), last: None },
        PeerRequest::Transfer { vote: vote(), to: NodeId(3), last: Some(id(9)) },
    ]
}

/// One of each kind of reply.
pub(super) fn replies() -> Vec<PeerReply> {
    let appended = [
        AppendReply::Success,
        AppendReply::Partial(Some(id(9))),
        AppendReply::Partial(None),
        AppendReply::Conflict,
        AppendReply::HigherVote(vote()),
    ];
    let others =
        [PeerReply::Vote { vote: vote(), granted: true, last: Some(id(9)) }, PeerReply::Transfer { accepted: true }];
    appended.map(PeerReply::Append).into_iter().chain(others).collect()
}

/// A call about a partition, and one about none.
pub(super) fn calls() -> Vec<Call> {
    let call = |group| Call { topic: Topic::Submit, group, body: Bytes::from_static(b"a body") };
    [Some(group()), None].map(call).into()
}

#[test]
fn messages_of_released_versions_are_read_and_sent_as_before() {
    let requests = requests().into_iter().map(|request| convert::request_out(&group(), request).encode_to_vec());
    let replies = replies().into_iter().map(|reply| convert::reply_out(reply).encode_to_vec());
    let calls = calls().into_iter().map(|call| convert::call_out(call).encode_to_vec());
    let named = |name: &'static str| move |bytes: Vec<u8>| (name.to_owned(), bytes);
    let sent: Vec<_> =
        requests.map(named("request")).chain(replies.map(named("reply"))).chain(calls.map(named("call"))).collect();
    check_recorded("0.1.0", "raft.txt", &sent);

    let (mut requests, mut replies, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for (name, bytes) in recorded("raft.txt") {
        let bytes = Bytes::from(bytes);
        match name.as_str() {
            "request" => {
                let message = wire::RaftRequest::decode(bytes).expect("it was sent");
                let (of, request) = convert::request_in(message).expect("it was sent");
                assert_eq!(of, group());
                requests.push(request);
            }
            "reply" => {
                let message = wire::RaftReply::decode(bytes).expect("it was sent");
                replies.push(convert::reply_in(message).expect("it was sent"));
            }
            _ => {
                let message = wire::CallRequest::decode(bytes).expect("it was sent");
                calls.push(convert::call_in(message).expect("it was sent"));
            }
        }
    }
    assert!(requests == self::requests() && replies == self::replies() && calls == self::calls());
}
