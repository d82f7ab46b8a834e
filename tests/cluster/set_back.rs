//! A disk was set back, and the first peer that answers was away while the lost entries were written: the disk is not
//! believed, and nothing is lost.
//!
//! The node and the peer used to serve at once, without what both others had acknowledged. A command that was sent
//! again was executed a second time.

use std::time::Duration;

use statehouse_kernel::ids::{NodeId, PartitionId};
use statehouse_tests::cluster::Cluster;
use statehouse_tests::hold::{PATIENCE, hold, within};
use statehouse_tests::trial::Trial;

use crate::alone;

/// Longer than a node takes to raise its counter twice, in seconds.
const SECONDS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_set_back_waits_for_whoever_has_seen_the_end() {
    let _alone = alone().await;
    let mut trial = Trial::start().await;
    let whole = trial.cluster.leader(PartitionId(0)).await;
    let mut others = trial.cluster.ids().into_iter().filter(|id| *id != whole);
    let (away, set_back) = (others.next().expect("there are three"), others.next().expect("there are three"));
    go_on(&trial).await;
    trial.cluster.terminate(away).await;
    go_on(&trial).await;
    trial.cluster.terminate(set_back).await;
    let before = trial.cluster.copy(set_back);
    trial.cluster.restart(set_back).await;
    trial.cluster.ready_on(set_back).await;
    go_on(&trial).await;
    trial.cluster.kill(set_back);
    trial.cluster.kill(whole);
    trial.cluster.roll_back(set_back, &before);

    trial.cluster.restart(set_back).await;
    trial.cluster.restart(away).await;
    says(&trial.cluster, set_back, &["accept-loss", &format!("node {away} was away at the end")]).await;
    for _ in 0..SECONDS {
        for id in [set_back, away] {
            let answer = trial.cluster.client(id).get("/readyz").await.expect("the node answers");
            assert_eq!(answer.status, 503, "node {id} does not serve what may be lost: {answer:?}");
        }
        hold(Duration::from_secs(1)).await;
    }
    trial.cluster.restart(whole).await;
    trial.cluster.ready().await;
    trial.progress().await;
    trial.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_node_gone_for_good_the_others_are_killed_and_serve_again_by_themselves() {
    let _alone = alone().await;
    let mut trial = Trial::start().await;
    let [gone, one, other] = trial.cluster.ids()[..] else { panic!("there are three") };
    go_on(&trial).await;
    trial.cluster.kill(gone);
    for id in [one, other, one, other] {
        go_on(&trial).await;
        trial.cluster.kill(id);
        trial.cluster.restart(id).await;
        trial.cluster.ready_on(id).await;
    }
    trial.progress().await;
    trial.cluster.restart(gone).await;
    trial.cluster.ready().await;
    trial.finish().await;
}

/// Lets the nodes acknowledge commands for some seconds.
async fn go_on(trial: &Trial) {
    for _ in 0..SECONDS {
        trial.progress().await;
        hold(Duration::from_secs(1)).await;
    }
}

async fn says(cluster: &Cluster, id: NodeId, words: &[&str]) {
    let mut client = cluster.client(id);
    within(PATIENCE, &format!("node {id} says {words:?}"), async || {
        let answer = client.get("/readyz").await.ok()?;
        let reasons = answer.text("detail");
        words.iter().all(|word| reasons.contains(word)).then_some(())
    })
    .await;
}
