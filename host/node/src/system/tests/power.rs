//! Power cuts under load: everything that a client was told is still there when the nodes are back.
//!
//! In: nodes that lose power without warning, with what their disks had synced. Out: the judge's verdict. This file
//! does not know what a crash leaves in which file.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cuts_of_the_leader_lose_nothing_that_was_acknowledged() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    for _ in 0..rounds(3, 30) {
        load.more(40).await;
        let leader = cluster.leader(&cluster.running()).await;
        cluster.crash(leader).await;
        load.more(20).await;
        cluster.start(leader).await;
    }
    load.more(20).await;
    let attempts = load.stop().await;
    cluster.judge_recovered(attempts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_of_all_nodes_at_once_loses_nothing_that_was_acknowledged() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    for _ in 0..rounds(2, 20) {
        load.more(60).await;
        cluster.cut_power(&NODES);
        for node in NODES {
            cluster.bury(node).await;
        }
        for node in NODES {
            cluster.start(node).await;
        }
        load.more(20).await;
    }
    let attempts = load.stop().await;
    cluster.judge_recovered(attempts).await;
}
