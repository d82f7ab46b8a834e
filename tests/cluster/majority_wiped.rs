//! Two of three nodes lost everything: the survivor does not serve as if it knew what they had acknowledged.
//!
//! Nodes that lost their data must not vote for a past without it. What the survivor has stays as it is, for an audit
//! and for those who decide what to do.

use std::time::Duration;

use statehouse_kernel::ids::NodeId;
use statehouse_tests::cluster::Cluster;
use statehouse_tests::hold::hold;
use statehouse_tests::trial::Trial;
use statehouse_tests::wallet::{self, BANK};
use uuid::Uuid;

use crate::alone;

const SURVIVOR: NodeId = NodeId(1);
/// How many questions are asked, one second apart: this is the time of several elections.
const QUESTIONS: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn the_survivor_of_a_wiped_majority_refuses_and_says_why() {
    let _alone = alone().await;
    let trial = Trial::start().await;
    let account = trial.account(0).to_owned();
    let Trial { mut cluster, load, .. } = trial;
    let recording = load.stop().await;
    cluster.settle().await;
    for id in cluster.ids() {
        cluster.kill(id);
    }
    for id in cluster.ids().into_iter().filter(|id| *id != SURVIVOR) {
        cluster.wipe(id);
    }
    for id in cluster.ids() {
        cluster.restart(id).await;
    }
    for _ in 0..QUESTIONS {
        for id in cluster.ids() {
            check_refuses(&cluster, id, &account).await;
        }
        hold(Duration::from_secs(1)).await;
    }
    for id in cluster.ids() {
        cluster.kill(id);
    }
    statehouse_tests::trial::check_folders(&cluster, &[SURVIVOR], &recording, None);
}

async fn check_refuses(cluster: &Cluster, id: NodeId, account: &str) {
    let mut client = cluster.client(id);
    let readiness = client.get("/readyz").await.expect("the node answers");
    assert_eq!(readiness.status, 503, "node {id} is not ready: {readiness:?}");
    assert!(!readiness.text("detail").is_empty(), "node {id} says why: {readiness:?}");
    let write = wallet::transfer(&mut client, Uuid::new_v4(), BANK, account, 1).await.expect("the node answers");
    assert!([404, 503, 504].contains(&write.status), "node {id} accepts no write: {write:?}");
    let read = wallet::account(&mut client, account).await;
    assert!([404, 503, 504].contains(&read.status), "node {id} answers no linearizable read: {read:?}");
    // A node without a cluster has no machines. The survivor has machines, and knows the account.
    assert!(id != SURVIVOR || read.status != 404, "the survivor does not deny what it cannot know: {read:?}");
}
