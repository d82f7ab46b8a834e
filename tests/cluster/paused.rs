//! The leader is paused for a few seconds, and wakes up in a world that has continued without it.

use std::time::Duration;

use statehouse_kernel::ids::{NodeId, PartitionId};
use statehouse_tests::hold::hold;
use statehouse_tests::trial::Trial;

use crate::alone;

/// Longer than any election.
const PAUSE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stood_still_does_not_answer_for_the_new_one() {
    let _alone = alone().await;
    let mut trial = Trial::start().await;
    for _ in 0..2 {
        let leader = trial.cluster.leader(PartitionId(0)).await;
        let others: Vec<NodeId> = trial.cluster.ids().into_iter().filter(|id| *id != leader).collect();
        trial.load.take_gap();
        trial.cluster.pause(leader);
        hold(PAUSE).await;
        let next = trial.cluster.leader_among(PartitionId(0), &others).await;
        trial.progress().await;
        println!("node {leader} paused: node {next} leads, {:?} without a successful write", trial.load.take_gap());
        // Its clients ask it at once, while it still believes that it leads.
        trial.cluster.resume(leader);
        trial.progress().await;
        trial.cluster.ready_on(leader).await;
    }
    trial.finish().await;
}
