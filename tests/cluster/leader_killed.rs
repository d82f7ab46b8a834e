//! The leader is killed under load, again and again: nothing acknowledged is lost or doubled, and service continues.
//!
//! This is done a few times in `make test` and many times in `make chaos`. Each fail-over's longest time without a
//! successful write is printed; no test judges it.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use statehouse_tests::hold::hold;
use statehouse_tests::trial::{SHAPE, Trial, partitions, seed};

use crate::{alone, rounds};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_loses_and_doubles_nothing() {
    let _alone = alone().await;
    let mut random = StdRng::seed_from_u64(seed());
    let mut trial = Trial::start().await;
    for (round, partition) in partitions(SHAPE).cycle().take(rounds(3, 20)).enumerate() {
        let leader = trial.cluster.leader(partition).await;
        // The kill comes at any moment of a batch, not always just after a question was answered.
        hold(Duration::from_micros(random.random_range(0..50_000))).await;
        trial.load.take_gap();
        trial.cluster.kill(leader);
        trial.progress().await;
        println!("kill {round}: node {leader}, {:?} without a successful write", trial.load.take_gap());
        trial.cluster.restart(leader).await;
        trial.cluster.ready_on(leader).await;
    }
    trial.finish().await;
}
