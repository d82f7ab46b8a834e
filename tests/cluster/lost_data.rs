//! A node whose disk was wiped must not come back as the node it was: it says so, and is replaced by a new one. A
//! node whose disk was rolled back takes part again once the others have given back what it forgot.
//!
//! Such a node has forgotten what it promised, so counting it again before that could lose what was acknowledged.

use statehouse_kernel::ids::{NodeId, PartitionId};
use statehouse_tests::cluster::Cluster;
use statehouse_tests::hold::{PATIENCE, within};
use statehouse_tests::process::CommandOutput;
use statehouse_tests::trial::Trial;

use crate::alone;

const PARTITION: PartitionId = PartitionId(0);

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_is_told_to_join_under_a_new_id_and_does() {
    let _alone = alone().await;
    let mut trial = Trial::start().await;
    let (leader, lost) = pick(&trial.cluster).await;
    trial.cluster.kill(lost);
    trial.cluster.wipe(lost);
    trial.cluster.restart(lost).await;
    check_is_not_ready(&trial.cluster, lost).await;
    let CommandOutput { code, stdout, stderr } = trial.cluster.add(leader, lost);
    assert_ne!(code, Some(0), "a used id is refused: {stdout}");
    assert!(stderr.contains("new id"), "it says what to do: {stderr}");
    trial.cluster.kill(lost);

    replace(&mut trial.cluster, leader, lost).await;
    trial.progress().await;
    trial.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_rolled_back_is_given_back_what_it_forgot() {
    let _alone = alone().await;
    let mut trial = Trial::start().await;
    let (_, lost) = pick(&trial.cluster).await;
    trial.cluster.terminate(lost).await;
    let backup = trial.cluster.copy(lost);
    trial.cluster.restart(lost).await;
    trial.cluster.ready_on(lost).await;
    trial.progress().await;
    trial.cluster.kill(lost);
    trial.cluster.roll_back(lost, &backup);
    trial.cluster.restart(lost).await;
    trial.cluster.ready_on(lost).await;
    trial.progress().await;
    trial.finish().await;
}

/// The leader of the partition, and a node that does not lead it.
async fn pick(cluster: &Cluster) -> (NodeId, NodeId) {
    let leader = cluster.leader(PARTITION).await;
    let other = cluster.ids().into_iter().find(|id| *id != leader).expect("a cluster has followers");
    (leader, other)
}

/// Asserts that the node says that it needs a new id.
async fn check_is_not_ready(cluster: &Cluster, id: NodeId) {
    let mut client = cluster.client(id);
    let what = format!("node {id} knows that it lost its data");
    let reasons = within(PATIENCE, &what, async || {
        let answer = client.get("/readyz").await.expect("the node answers");
        assert_eq!(answer.status, 503, "node {id} is not ready: {answer:?}");
        let reasons = answer.text("detail");
        reasons.contains("new id").then_some(reasons)
    })
    .await;
    println!("node {id}: {reasons}");
}

/// Replaces a lost node by a new one.
async fn replace(cluster: &mut Cluster, at: NodeId, lost: NodeId) {
    let new = cluster.start_another().await;
    let added = cluster.add(at, new);
    assert_eq!(added.code, Some(0), "node {new} is taken in: {added:?}");
    cluster.ready_on(new).await;
    let removed = cluster.command(at, "remove", &["--node", &lost.to_string()]);
    assert_eq!(removed.code, Some(0), "node {lost} is removed: {removed:?}");
}
