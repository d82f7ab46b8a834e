//! A bit of a follower's disk flips: the follower gets what it lost from the others, and every audit passes again.
//!
//! No matter which file it is in, nothing wrong is ever served, and nobody has to come and repair it.

use statehouse_kernel::ids::PartitionId;
use statehouse_tests::damage::Place;
use statehouse_tests::trial::Trial;

use crate::alone;

const PARTITION: PartitionId = PartitionId(0);

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_with_a_flipped_bit_is_repaired_by_the_others() {
    let _alone = alone().await;
    let mut trial = Trial::start().await;
    for place in [Place::LogMiddle, Place::SegmentHeader, Place::State, Place::Ids] {
        let leader = trial.cluster.leader(PARTITION).await;
        let follower = trial.cluster.ids().into_iter().find(|id| *id != leader).expect("a cluster has followers");
        // The node stops in order, so that rows and ids are on disk.
        trial.cluster.terminate(follower).await;
        let damaged = trial.cluster.flip_bit(follower, PARTITION, place);
        let damaged = damaged.unwrap_or_else(|| panic!("node {follower} has no file for {place:?}"));
        println!("node {follower}: a bit is flipped in {}", damaged.display());
        trial.progress().await;
        trial.cluster.restart(follower).await;
        trial.cluster.ready_on(follower).await;
        trial.progress().await;
    }
    trial.finish().await;
}
