//! A webhook whose delivering node is killed, again and again: each event arrives, each partition's events in order,
//! and what arrives twice has the same id.
//!
//! The node that delivers is the one that leads `system`. Another node continues from what that node had recorded.

use std::collections::BTreeMap;

use serde_json::json;
use statehouse_kernel::ids::PartitionId;
use statehouse_tests::feed::Follower;
use statehouse_tests::hold::{PATIENCE, within};
use statehouse_tests::receiver::{Receiver, Reply};
use statehouse_tests::trial::Trial;

use crate::{alone, rounds};

const WEBHOOKS: &str = "/v1/machines/wallet/webhooks";

#[tokio::test(flavor = "multi_thread")]
async fn another_node_goes_on_without_a_gap() {
    let _alone = alone().await;
    let mut trial = Trial::start().await;
    let receiver = Receiver::start().await;
    let mut requests = 0;
    receiver.answer(move |_| {
        requests += 1;
        if requests % 50 == 0 { Reply::Status(500) } else { Reply::Status(200) }
    });
    let first = trial.cluster.ids()[0];
    let body = json!({"webhook": "till", "url": receiver.url(), "from": "start", "batch": 100});
    let answer = trial.cluster.client(first).post(WEBHOOKS, &body).await.expect("the node answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    let secret = answer.text("secret");
    for _ in 0..rounds(2, 12) {
        trial.progress().await;
        let leader = trial.cluster.leader_of("system", PartitionId(0), &trial.cluster.running()).await;
        let before = receiver.received().len();
        within(PATIENCE, "the webhook delivers", async || (before < receiver.received().len()).then_some(())).await;
        trial.cluster.kill(leader);
        trial.progress().await;
        trial.cluster.restart(leader).await;
        trial.cluster.ready_on(leader).await;
    }
    let seen = seen_up_to_now(&trial).await;
    let is_there = async || {
        let taken = receiver.taken(&secret);
        let has_all =
            seen.iter().all(|(partition, seen)| taken.get(partition).is_some_and(|taken| seen.len() <= taken.len()));
        has_all.then_some(taken)
    };
    let taken = within(PATIENCE, "everything arrives", is_there).await;
    for (partition, seen) in &seen {
        assert_eq!(taken[partition][..seen.len()], seen[..], "partition {partition}");
    }
    let received = receiver.received().len();
    println!("{received} requests for {} events", taken.values().map(Vec::len).sum::<usize>());
    trial.finish().await;
}

/// What a node's event stream shows, at least up to now.
async fn seen_up_to_now(trial: &Trial) -> BTreeMap<u64, Vec<String>> {
    let id = trial.cluster.ids()[0];
    let page = trial.cluster.client(id).get(&format!("{WEBHOOKS}/till")).await.expect("the node answers").json();
    let mut follower = Follower::new(vec![trial.cluster.http(id)], 0, "/v1/wallet/events?after=start");
    follower.read_to(page["cursor"].as_str().expect("a cursor")).await;
    follower.seen
}
