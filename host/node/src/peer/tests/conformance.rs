//! What every [`Network`] promises, checked with one caller and one answering [`Fake`].
//!
//! `conformance!(pair)` makes a test of each promise; `pair` is an async function that gives a [`Pair`].

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use super::fake::{self, Fake};
use super::{ANSWERER, CALLER, LONG, SHORT, entry_id, group, question, told};
use crate::consensus::{AppendReply, PeerReply, PeerRequest};
use crate::ids::{NodeId, Term};
use crate::log::{LogEntry, Payload, Vote};
use crate::peer::{Network, Topic};

pub struct Pair {
    /// The network of [`CALLER`].
    pub network: Arc<dyn Network>,
    /// The service at [`ANSWERER`].
    pub service: Arc<Fake>,
    /// Everything that must live while the two talk.
    pub _alive: Box<dyn Any + Send>,
}

macro_rules! conformance {
    ($pair:path) => {
        $crate::peer::tests::conformance::conformance! {
            $pair:
            every_message_of_raft_arrives_as_it_was_sent,
            every_reply_of_raft_comes_back_as_it_was_given,
            appends_are_under_way_before_the_first_is_answered,
            an_append_that_fails_ends_its_stream,
            a_call_brings_back_what_was_answered,
            a_failure_comes_back_in_words,
            a_call_without_an_answer_ends_at_its_deadline,
            a_call_that_is_given_up_is_given_up_there,
            a_fetch_brings_every_piece_and_then_ends,
            a_fetch_that_breaks_says_so_after_its_pieces,
            a_fetch_that_stalls_ends_with_patience,
            nobody_answers_for_a_node_that_is_not_known,
        }
    };
    ($pair:path: $($promise:ident,)*) => {
        $(#[tokio::test]
        async fn $promise() {
            $crate::peer::tests::conformance::$promise($pair().await).await;
        })*
    };
}
pub(super) use conformance;

fn vote(node: Option<NodeId>, committed: bool) -> Vote {
    Vote { term: Term(u64::MAX), node, committed }
}

pub fn append(indexes: std::ops::Range<u64>) -> PeerRequest {
    let entries = indexes.clone().map(|index| LogEntry { id: entry_id(index), payload: Payload::Blank });
    let previous = indexes.start.checked_sub(1).map(entry_id);
    PeerRequest::Append { vote: vote(Some(CALLER), true), previous, entries: entries.collect(), committed: previous }
}

pub async fn every_message_of_raft_arrives_as_it_was_sent(pair: Pair) {
    let payloads = [Payload::Blank, Payload::Entry(Bytes::new()), Payload::Membership("who".into())];
    let entries = (0..).zip(payloads).map(|(n, payload)| LogEntry { id: entry_id(n), payload }).collect();
    let large =
        LogEntry { id: entry_id(3), payload: Payload::Entry(vec![0xa5; crate::limits::ENTRY_BYTES_MAX].into()) };
    let vote = vote(Some(CALLER), true);
    let requests = [
        PeerRequest::Append { vote, previous: None, entries, committed: None },
        PeerRequest::Append { vote, previous: Some(entry_id(2)), entries: vec![large], committed: Some(entry_id(2)) },
        PeerRequest::Append { vote, previous: Some(entry_id(0)), entries: vec![], committed: Some(entry_id(0)) },
        PeerRequest::Vote { vote: self::vote(None, false), last: Some(entry_id(8)), transfer: true },
        PeerRequest::Vote { vote: self::vote(Some(NodeId(0)), false), last: None, transfer: false },
        PeerRequest::PreVote { vote, last: Some(entry_id(u64::MAX)) },
        PeerRequest::Transfer { vote, to: NodeId(3), last: Some(entry_id(1)) },
    ];
    for (partition, request) in (0..).zip(&requests) {
        let answer = pair.network.raft(ANSWERER, &group(partition), request.clone(), LONG).await;
        assert_eq!(told(answer), "Transfer { accepted: true }");
    }
    let expected: Vec<_> = (0..).zip(requests).map(|(n, request)| (CALLER, group(n), request)).collect();
    assert!(*pair.service.raft_heard.lock() == expected, "a request arrived changed, or out of order");
}

pub async fn every_reply_of_raft_comes_back_as_it_was_given(pair: Pair) {
    let vote = vote(Some(ANSWERER), false);
    let replies = [
        PeerReply::Append(AppendReply::Success),
        PeerReply::Append(AppendReply::Partial(None)),
        PeerReply::Append(AppendReply::Partial(Some(entry_id(0)))),
        PeerReply::Append(AppendReply::Conflict),
        PeerReply::Append(AppendReply::HigherVote(self::vote(None, false))),
        PeerReply::Vote { vote, granted: true, last: Some(entry_id(5)) },
        PeerReply::Vote { vote, granted: false, last: None },
        PeerReply::Transfer { accepted: false },
    ];
    for reply in replies {
        *pair.service.raft_reply.lock() = reply.clone();
        let answer = pair.network.raft(ANSWERER, &group(0), append(0..1), LONG).await;
        assert_eq!(told(answer), format!("{reply:?}"));
    }
}

pub async fn appends_are_under_way_before_the_first_is_answered(pair: Pair) {
    // Nothing is answered before the third request has arrived, so a caller that waits for each answer never gets one.
    let requests = stream::iter((0..6).map(|n| append(n..n + 2)));
    let replies = pair.network.appends(ANSWERER, &group(fake::BY_THREES), requests.boxed());
    let replies: Vec<String> = replies.map(told).collect().await;
    let expected: Vec<String> = (1..7).map(|n| format!("{:?}", AppendReply::Partial(Some(entry_id(n))))).collect();
    assert_eq!(replies, expected);
    assert_eq!(*pair.service.appends_heard.lock(), (0..6).map(|n| append(n..n + 2)).collect::<Vec<_>>());
}

pub async fn an_append_that_fails_ends_its_stream(pair: Pair) {
    // The caller's end stays open: it is the failure that ends the stream.
    let (send, requests) = mpsc::unbounded_channel();
    let requests = stream::unfold(requests, |mut requests| async { Some((requests.recv().await?, requests)) });
    for n in 0..2 {
        send.send(append(n..n + 1)).expect("the stream takes it");
    }
    let mut replies = pair.network.appends(ANSWERER, &group(fake::FAILING), requests.boxed());
    let first = replies.next().await.expect("the first is answered");
    assert_eq!(told(first), format!("{:?}", AppendReply::Partial(Some(entry_id(0)))));
    let second = replies.next().await.expect("the failure is told");
    assert_eq!(told(second), "node 2 failed: the disk is on fire");
    assert!(replies.next().await.is_none());
}

pub async fn a_call_brings_back_what_was_answered(pair: Pair) {
    for topic in Topic::ALL {
        let mut call = question(topic, "what is it");
        call.group = call.group.filter(|_| topic != Topic::Clock);
        let answer = pair.network.call(ANSWERER, call.clone(), LONG).await;
        assert_eq!(told(answer), r#"b"what is it""#);
        let (from, heard, deadline) = pair.service.calls_heard.lock().pop().expect("it was heard");
        assert_eq!((from, heard), (CALLER, call));
        assert!(SHORT < deadline && deadline <= LONG, "the answerer knows how long it has: {deadline:?}");
    }
}

pub async fn a_failure_comes_back_in_words(pair: Pair) {
    let answer = pair.network.call(ANSWERER, question(Topic::Submit, "fail"), LONG).await;
    assert_eq!(told(answer), "node 2 failed: the disk is on fire");
    let answer = pair.network.call(ANSWERER, question(Topic::Submit, "no group"), LONG).await;
    assert_eq!(told(answer), "node 2 failed: wallet/4 does not run here");
    let answer = pair.network.fetch(ANSWERER, question(Topic::Records, "fail"), LONG).await;
    assert_eq!(told(answer.map(|_| ())), "node 2 failed: the disk is on fire");
}

pub async fn a_call_without_an_answer_ends_at_its_deadline(pair: Pair) {
    let answer = pair.network.call(ANSWERER, question(Topic::Submit, "hang"), SHORT).await;
    assert_eq!(told(answer), "node 2 did not answer in time");
    assert_eq!(pair.service.given_up.lock().await.recv().await, Some(()), "it does not go on there");
}

pub async fn a_call_that_is_given_up_is_given_up_there(pair: Pair) {
    let mut call = pair.network.call(ANSWERER, question(Topic::Submit, "hang"), LONG);
    while pair.service.calls_heard.lock().is_empty() {
        assert!(tokio::time::timeout(SHORT / 10, &mut call).await.is_err(), "it was answered");
    }
    drop(call);
    assert_eq!(pair.service.given_up.lock().await.recv().await, Some(()));
}

async fn pieces(pair: &Pair, body: &'static str, patience: std::time::Duration) -> Vec<String> {
    let pieces = pair.network.fetch(ANSWERER, question(Topic::Snapshot, body), patience).await;
    pieces.expect("it opens").map(told).collect().await
}

pub async fn a_fetch_brings_every_piece_and_then_ends(pair: Pair) {
    assert_eq!(
        pieces(&pair, "some words of text", LONG).await,
        [r#"b"some""#, r#"b"words""#, r#"b"of""#, r#"b"text""#]
    );
}

pub async fn a_fetch_that_breaks_says_so_after_its_pieces(pair: Pair) {
    assert_eq!(pieces(&pair, "break", LONG).await, [r#"b"first""#, "node 2 failed: the disk is on fire"]);
}

pub async fn a_fetch_that_stalls_ends_with_patience(pair: Pair) {
    assert_eq!(pieces(&pair, "hang", SHORT).await, [r#"b"first""#, "node 2 did not answer in time"]);
}

pub async fn nobody_answers_for_a_node_that_is_not_known(pair: Pair) {
    let nobody = NodeId(9);
    let answer = pair.network.call(nobody, question(Topic::Status, ""), LONG).await;
    assert_eq!(told(answer), "no route to node 9");
    let answer = pair.network.raft(nobody, &group(0), append(0..1), LONG).await;
    assert_eq!(told(answer), "no route to node 9");
    let replies = pair.network.appends(nobody, &group(0), stream::pending().boxed());
    assert_eq!(replies.map(told).collect::<Vec<_>>().await, ["no route to node 9"]);
}
