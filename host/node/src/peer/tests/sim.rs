//! What only the simulated network has: faults on demand, and the same run for the same seed.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::conformance::{Pair, conformance};
use super::fake::{self, Fake};
use super::{ANSWERER, CALLER, LONG, SHORT, entry_id, group, question, told};
use crate::consensus::PeerRequest;
use crate::ids::Term;
use crate::limits;
use crate::log::Vote;
use crate::peer::{Call, Network, SimNetwork, Topic};

async fn pair() -> Pair {
    let (network, service) = (SimNetwork::new(1), Fake::new());
    network.join(ANSWERER, service.clone());
    Pair { network: network.join(CALLER, Fake::new()), service, _alive: Box::new(network) }
}

conformance!(pair);

const ANSWERED: &str = r#"b"hello""#;
const SILENCE: &str = "node 2 did not answer in time";
const MS: Duration = Duration::from_millis(1);

async fn ask(network: &dyn Network) -> String {
    told(network.call(ANSWERER, question(Topic::Submit, "hello"), SHORT).await)
}

fn heartbeat() -> PeerRequest {
    let vote = Vote { term: Term(1), node: Some(CALLER), committed: true };
    PeerRequest::Append { vote, previous: Some(entry_id(1)), entries: vec![], committed: None }
}

#[tokio::test(start_paused = true)]
async fn a_cut_swallows_requests_in_one_direction_and_replies_in_the_other() {
    let (sim, service) = (SimNetwork::new(1), Fake::new());
    sim.join(ANSWERER, service.clone());
    let network = sim.join(CALLER, Fake::new());
    let heard = || service.calls_heard.lock().len();
    sim.cut(CALLER, ANSWERER);
    assert_eq!((ask(&*network).await, heard()), (SILENCE.to_owned(), 0));
    sim.heal();
    assert_eq!((ask(&*network).await, heard()), (ANSWERED.to_owned(), 1));
    sim.cut(ANSWERER, CALLER);
    assert_eq!((ask(&*network).await, heard()), (SILENCE.to_owned(), 2));
    sim.cut_both_ways(CALLER, ANSWERER);
    assert_eq!((ask(&*network).await, heard()), (SILENCE.to_owned(), 2));
    sim.heal();
    assert_eq!((ask(&*network).await, heard()), (ANSWERED.to_owned(), 3));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_entered_asks_at_once_and_answers_when_it_has_a_service() {
    let (sim, service) = (SimNetwork::new(1), Fake::new());
    let network = sim.enter(CALLER);
    sim.enter(ANSWERER);
    assert_eq!(ask(&*network).await, "node 2 failed: it is down");
    sim.answer(ANSWERER, service.clone());
    assert_eq!(ask(&*network).await, ANSWERED);
    sim.leave(ANSWERER);
    sim.answer(ANSWERER, service);
    assert_eq!(ask(&*network).await, "node 2 failed: it is down", "a life that has ended does not begin again");
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_when_the_way_is_cut_does_not_arrive() {
    let (sim, service) = (SimNetwork::new(1), Fake::new());
    sim.join(ANSWERER, service.clone());
    let network = sim.join(CALLER, Fake::new());
    sim.delay(CALLER, ANSWERER, 50 * MS..=50 * MS);
    let mut call = network.call(ANSWERER, question(Topic::Submit, "hello"), SHORT);
    assert!(tokio::time::timeout(10 * MS, &mut call).await.is_err());
    sim.cut(CALLER, ANSWERER);
    assert_eq!((told(call.await), service.calls_heard.lock().len()), (SILENCE.to_owned(), 0));
}

#[tokio::test(start_paused = true)]
async fn a_delay_takes_its_time_both_ways_and_never_more_than_the_deadline() {
    let (sim, service) = (SimNetwork::new(1), Fake::new());
    sim.join(ANSWERER, service.clone());
    let network = sim.join(CALLER, Fake::new());
    sim.delay(CALLER, ANSWERER, 30 * MS..=30 * MS);
    sim.delay(ANSWERER, CALLER, 12 * MS..=12 * MS);
    let begin = Instant::now();
    assert_eq!(ask(&*network).await, ANSWERED);
    assert_eq!(Instant::now() - begin, 42 * MS);
    let (_, _, left) = service.calls_heard.lock().pop().expect("it was heard");
    assert_eq!(left, SHORT - 30 * MS, "what the way took is gone");
    sim.delay(CALLER, ANSWERER, SHORT + MS..=SHORT + MS);
    assert_eq!(ask(&*network).await, SILENCE);
    tokio::time::advance(LONG).await;
    assert!(service.calls_heard.lock().is_empty(), "a request does not outlive its deadline");
}

/// The order in which 100 calls, sent in order over a network that reorders them, are heard.
async fn heard_order(seed: u64, reordered_permille: u32) -> Vec<u8> {
    let (sim, service) = (SimNetwork::new(seed), Fake::new());
    sim.join(ANSWERER, service.clone());
    let network = sim.join(CALLER, Fake::new());
    sim.delay(CALLER, ANSWERER, MS..=9 * MS);
    sim.reorder(CALLER, ANSWERER, reordered_permille);
    let calls = (0..100u8).map(|n| {
        let call = Call { topic: Topic::Submit, group: None, body: vec![n].into() };
        network.call(ANSWERER, call, LONG)
    });
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    service.calls_heard.lock().iter().map(|(_, call, _)| call.body[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn calls_keep_their_order_unless_they_are_reordered_and_a_seed_repeats_it() {
    let in_order: Vec<u8> = (0..100).collect();
    assert_eq!(heard_order(1, 0).await, in_order);
    let reordered = heard_order(1, 500).await;
    assert_ne!(reordered, in_order);
    assert_eq!(heard_order(1, 500).await, reordered);
    assert_ne!(heard_order(2, 500).await, reordered);
    let mut sorted = reordered;
    sorted.sort();
    assert_eq!(sorted, in_order, "each arrives once");
}

#[tokio::test(start_paused = true)]
async fn appends_keep_their_order_whatever_happens_to_calls() {
    let (sim, service) = (SimNetwork::new(1), Fake::new());
    sim.join(ANSWERER, service.clone());
    let network = sim.join(CALLER, Fake::new());
    sim.delay(CALLER, ANSWERER, MS..=9 * MS);
    sim.reorder(CALLER, ANSWERER, 500);
    sim.lose_replies(CALLER, ANSWERER, 1000);
    let append = |n| {
        let PeerRequest::Append { vote, .. } = heartbeat() else { panic!("a heartbeat is an append") };
        PeerRequest::Append { vote, previous: Some(entry_id(n)), entries: vec![], committed: None }
    };
    let sent: Vec<_> = (0..100).map(append).collect();
    let replies = network.appends(ANSWERER, &group(fake::EACH), stream::iter(sent.clone()).boxed());
    let replies: Vec<String> = replies.map(told).collect().await;
    assert_eq!(*service.appends_heard.lock(), sent);
    let expected: Vec<String> = (0..100).map(|n| format!("Partial(Some({:?}))", entry_id(n))).collect();
    assert_eq!(replies, expected);
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_leaves_a_request_that_was_carried_out() {
    let (sim, service) = (SimNetwork::new(1), Fake::new());
    sim.join(ANSWERER, service.clone());
    let network = sim.join(CALLER, Fake::new());
    sim.lose_replies(CALLER, ANSWERER, 1000);
    assert_eq!((ask(&*network).await, service.calls_heard.lock().len()), (SILENCE.to_owned(), 1));
    sim.lose_replies(CALLER, ANSWERER, 500);
    let mut answered = 0;
    for _ in 0..100 {
        answered += usize::from(ask(&*network).await == ANSWERED);
    }
    assert!((30..70).contains(&answered), "about half of the replies come back: {answered}");
    assert_eq!(service.calls_heard.lock().len(), 101);
}

#[tokio::test(start_paused = true)]
async fn a_lost_call_is_heard_by_nobody_and_a_doubled_one_twice_and_both_are_answered_at_most_once() {
    let (sim, service) = (SimNetwork::new(1), Fake::new());
    sim.join(ANSWERER, service.clone());
    let network = sim.join(CALLER, Fake::new());
    sim.lose_calls(CALLER, ANSWERER, 1000);
    assert_eq!((ask(&*network).await, service.calls_heard.lock().len()), (SILENCE.to_owned(), 0));
    sim.heal();
    sim.double_calls(CALLER, ANSWERER, 1000);
    sim.delay(CALLER, ANSWERER, MS..=MS);
    assert_eq!(ask(&*network).await, ANSWERED);
    assert!(tokio::time::timeout(5 * MS, std::future::pending::<()>()).await.is_err());
    assert_eq!(service.calls_heard.lock().len(), 2);
    // If one copy is lost, the other one still arrives.
    sim.lose_calls(CALLER, ANSWERER, 1000);
    assert_eq!((ask(&*network).await, service.calls_heard.lock().len()), (SILENCE.to_owned(), 3));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_breaks_off_and_is_found_again_when_it_joins() {
    let (sim, service) = (SimNetwork::new(1), Fake::new());
    sim.join(ANSWERER, service.clone());
    let network = sim.join(CALLER, Fake::new());
    let mut hanging = network.call(ANSWERER, question(Topic::Submit, "hang"), LONG);
    let mut replies = network.appends(ANSWERER, &group(fake::EACH), stream::pending().boxed());
    assert!(tokio::time::timeout(MS, &mut hanging).await.is_err());
    assert!(tokio::time::timeout(MS, replies.next()).await.is_err());
    let begin = Instant::now();
    sim.leave(ANSWERER);
    assert_eq!(told(hanging.await), "node 2 failed: it is down");
    assert_eq!(replies.map(told).collect::<Vec<_>>().await, ["node 2 failed: it is down"]);
    assert_eq!(ask(&*network).await, "node 2 failed: it is down");
    assert_eq!(Instant::now(), begin, "nobody waits for a node that is down");
    sim.join(ANSWERER, service.clone());
    assert_eq!(ask(&*network).await, ANSWERED);
    sim.join(CALLER, Fake::new());
    assert_eq!(ask(&*network).await, "node 1 failed: it is down", "an earlier life of a node says nothing more");
}

#[tokio::test(start_paused = true)]
async fn a_stream_outlives_a_short_cut_and_breaks_at_a_long_one() {
    let (sim, service) = (SimNetwork::new(1), Fake::new());
    sim.join(ANSWERER, service.clone());
    let network = sim.join(CALLER, Fake::new());
    let requests = stream::iter([heartbeat()]).chain(stream::pending());
    let mut replies = network.appends(ANSWERER, &group(fake::EACH), requests.boxed());
    sim.cut(ANSWERER, CALLER);
    assert!(tokio::time::timeout(limits::PEER_PROBE_PATIENCE, replies.next()).await.is_err());
    assert_eq!(service.appends_heard.lock().len(), 1, "only the way back is cut");
    sim.heal();
    assert!(replies.next().await.is_some_and(|reply| reply.is_ok()), "it was only late");
    sim.cut(CALLER, ANSWERER);
    assert_eq!(replies.map(told).collect::<Vec<_>>().await, [SILENCE]);
}
