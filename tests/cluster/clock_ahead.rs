//! A leader's clock jumps an hour ahead, and later back: the node does not lead meanwhile, and no entry ever shows it.

use statehouse_kernel::ids::{NodeId, PartitionId};
use statehouse_tests::cluster::{Cluster, MACHINE};
use statehouse_tests::hold::{PATIENCE, within};
use statehouse_tests::skipped::skipped;
use statehouse_tests::trial::Trial;
use statehouse_tests::wall_clock::WallClock;

use crate::alone;

const PARTITION: PartitionId = PartitionId(0);
const HOUR: i64 = 3600;
/// In seconds: far above the difference between clocks of one machine, and far below the jump.
const TOLERANCE: i64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_an_hour_ahead_does_not_lead_and_moves_no_time() {
    let _alone = alone().await;
    let clock = match WallClock::new() {
        Ok(clock) => clock,
        Err(reason) => return skipped(&reason),
    };
    let mut trial = Trial::start().await;
    let wrong = trial.cluster.leader(PARTITION).await;
    trial.cluster.terminate(wrong).await;
    trial.cluster.set_clock(wrong, clock);
    trial.cluster.restart(wrong).await;
    trial.cluster.ready().await;
    lead(&trial.cluster, wrong).await;
    trial.progress().await;

    trial.cluster.clock(wrong).set_ahead(HOUR);
    let others: Vec<NodeId> = trial.cluster.ids().into_iter().filter(|id| *id != wrong).collect();
    trial.cluster.leader_among(PARTITION, &others).await;
    check_time_goes_on(&trial).await;

    trial.cluster.clock(wrong).set_ahead(0);
    lead(&trial.cluster, wrong).await;
    check_time_goes_on(&trial).await;

    // Now the clock is late, which would make entries wait if anybody believed it.
    trial.cluster.clock(wrong).set_ahead(-HOUR);
    trial.cluster.leader_among(PARTITION, &others).await;
    check_time_goes_on(&trial).await;
    trial.cluster.clock(wrong).set_ahead(0);
    trial.finish().await;
}

/// Moves the leadership to a node. A node whose clock was wrong a moment ago is asked until it takes the leadership.
async fn lead(cluster: &Cluster, to: NodeId) {
    within(PATIENCE, &format!("node {to} leads"), async || {
        let leader = cluster.leader(PARTITION).await;
        if leader == to {
            return Some(());
        }
        let (partition, number) = (PARTITION.to_string(), to.to_string());
        cluster.command(leader, "transfer", &["--machine", MACHINE, "--partition", &partition, "--to", &number]);
        None
    })
    .await;
}

/// Asserts that the journal's time is now the right one, and that it advances.
async fn check_time_goes_on(trial: &Trial) {
    let before = time(trial).await;
    trial.progress().await;
    let after = time(trial).await;
    let now = jiff::Timestamp::now();
    assert!(before < after, "time stands still at {before}");
    let ahead = after.as_second() - now.as_second();
    assert!(ahead.abs() < TOLERANCE, "the journal is at {after} while it is {now}");
}

/// The time of the partition's last entry, on the node that is furthest.
async fn time(trial: &Trial) -> jiff::Timestamp {
    let mut times = Vec::new();
    for id in trial.cluster.running() {
        let replicas = trial.cluster.replicas(id).await.unwrap_or_default();
        times.extend(replicas.get(&(MACHINE.to_owned(), PARTITION)).map(|replica| replica.time.clone()));
    }
    let parse = |text: &String| text.parse().unwrap_or_else(|error| panic!("no time ({error}): {text}"));
    times.iter().map(parse).max().expect("somebody answers")
}
