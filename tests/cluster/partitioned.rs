//! The leader is cut off from the others, both ways or only one way: they continue without it, and it learns so when
//! healed.
//!
//! A leader that nobody hears, or that hears nobody, must not keep the others waiting for it, nor answer for them.

use statehouse_kernel::ids::{NodeId, PartitionId};
use statehouse_tests::network::Network;
use statehouse_tests::proxy::Link;
use statehouse_tests::trial::Trial;

use crate::alone;

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_both_ways_is_replaced() {
    check("cut off", Network::isolate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_nobody_hears_is_replaced() {
    check("mute", Network::mute).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hears_nobody_is_replaced() {
    check("deaf", Network::deafen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_half_open_connections_is_replaced() {
    check("half open", |network, leader| network.set_all_of(leader, Link::HalfOpen)).await;
}

/// Each fault comes twice, so that the second leader is one that was elected in an emergency.
async fn check(what: &str, damage: impl Fn(&Network, NodeId)) {
    let _alone = alone().await;
    let mut trial = Trial::start().await;
    for _ in 0..2 {
        let leader = trial.cluster.leader(PartitionId(0)).await;
        let others: Vec<NodeId> = trial.cluster.ids().into_iter().filter(|id| *id != leader).collect();
        trial.load.take_gap();
        damage(trial.cluster.network(), leader);
        let next = trial.cluster.leader_among(PartitionId(0), &others).await;
        trial.progress().await;
        println!("node {leader} {what}: node {next} leads, {:?} without a successful write", trial.load.take_gap());
        trial.cluster.network().heal();
        trial.cluster.ready_on(leader).await;
        trial.progress().await;
    }
    trial.finish().await;
}
