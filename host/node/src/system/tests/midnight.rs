//! Midnight on three nodes. While leaders change, clocks jump and power is cut, every day has one snapshot, and it is
//! the same everywhere.
//!
//! In: clocks that are moved together, hours back and forth and days ahead. Out: the canonical snapshots that all
//! replicas list, and their bytes. This file does not know how a snapshot is made.

use std::collections::BTreeMap;

use super::*;
use crate::disk::RealDisk;
use crate::ids::JournalIndex;
use crate::snapshot::canonical::{Days, ListedFile, SnapshotFile};

const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// How far ahead clocks must be to show 00:00 UTC of the day after tomorrow. That is far from any midnight that may
/// come while the test runs.
pub(super) fn midnight() -> Duration {
    let now = SystemClock.now();
    let left = Days::next_midnight(now).0 - now.0;
    Duration::from_micros(u64::try_from(left).expect("it is ahead")) + DAY
}

/// The time that clocks show when they are this far ahead.
fn moment(offset: Duration) -> Micros {
    Micros(SystemClock.now().0 + i64::try_from(offset.as_micros()).expect("some days fit"))
}

impl Cluster {
    pub(super) fn move_clocks(&self, offset: Duration) {
        self.members.values().for_each(|member| member.clock.move_to(offset));
    }

    /// All replicas of a node, including that of `system`.
    pub(super) fn all_replicas(&self, node: NodeId) -> Vec<Arc<Partition>> {
        let mut found = self.replicas(node);
        found.extend(self.node(node).context.system_partition());
        found
    }

    /// Waits until the journal of each partition has reached the day that `offset` leads to, on all running nodes.
    pub(super) async fn day_has_begun(&self, offset: Duration) {
        self.served().await;
        let reached = moment(offset);
        for node in self.running() {
            for replica in self.all_replicas(node) {
                let mut progress = replica.watch_progress();
                let is_there = progress.wait_for(|now| Days::between(now.journal.time, reached).is_none());
                let waited = tokio::time::timeout(PATIENCE, is_there).await;
                waited.expect("the day begins also where nothing happens").expect("the partition runs");
            }
        }
    }

    /// Waits until all nodes list the same snapshots of each partition, with each day once and none left out. Returns
    /// the number of days.
    pub(super) async fn check_days(&self, offset: Duration) -> i64 {
        let is_up_to_date = |of_partition: &Vec<ListedFile>| {
            let newest = of_partition.last().and_then(|newest| newest.facts.days);
            newest.is_some_and(|days| Days::between(Micros(0), moment(offset)).is_some_and(|all| all.last == days.last))
        };
        let found: BTreeMap<NodeId, Vec<Vec<ListedFile>>> =
            eventually("all nodes have made the same snapshots", || {
                let listed = |node| {
                    let of_all = self.all_replicas(node).into_iter().map(|replica| replica.canonical_snapshots());
                    (node, of_all.collect())
                };
                let found: BTreeMap<NodeId, Vec<Vec<ListedFile>>> = self.running().into_iter().map(listed).collect();
                let first = found.values().next().filter(|first| first.iter().all(is_up_to_date))?;
                found.values().all(|of_node| of_node == first).then_some(found)
            })
            .await;
        let mut days_max = 0;
        for of_partition in &found[&self.running()[0]] {
            let days: Vec<Days> = of_partition.iter().filter_map(|listed| listed.facts.days).collect();
            assert!(!days.is_empty() && days.len() == of_partition.len(), "{of_partition:?}");
            let goes_on = |pair: &[Days]| pair[0].last + 1 == pair[1].first;
            assert!(days.windows(2).all(goes_on), "each day once, none left out: {days:?}");
            days_max = days_max.max(days[days.len() - 1].last - days[0].first + 1);
        }
        for node in self.running() {
            for replica in self.all_replicas(node) {
                let system = self.node(node).context.system_partition().expect("it is open");
                let machine = if Arc::ptr_eq(&replica, &system) { crate::system::logic::SYSTEM } else { MACHINE };
                let data = self.folder.path().join(node.to_string());
                let folder = crate::system::folder::partition_folder(&data, machine, replica.id()).join("canonical");
                for listed in replica.canonical_snapshots() {
                    let mut file =
                        SnapshotFile::open(&RealDisk, &folder.join(&listed.name)).expect("it is where it is listed");
                    file.visit(|_, _| {}).expect("every byte is as it was written");
                    assert_eq!(*file.listed(), listed);
                }
            }
        }
        days_max
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_midnight_has_one_snapshot_though_leaders_change_and_clocks_jump_across_it() {
    let mut cluster = Cluster::found().await;
    let midnight = midnight();
    let mut load = cluster.load();
    // It is some minutes to midnight. On the way there the day before has begun as well.
    cluster.move_clocks(midnight - 20 * MINUTE);
    load.more(40).await;
    cluster.day_has_begun(midnight - 20 * MINUTE).await;
    let leader = cluster.leader(&NODES).await;
    cluster.move_clocks(midnight + 20 * MINUTE);
    cluster.crash(leader).await;
    load.more(40).await;
    cluster.start(leader).await;
    load.more(20).await;
    cluster.day_has_begun(midnight + 20 * MINUTE).await;
    // The clocks go back an hour, into yesterday, and forward again: first one clock, then all. While all are wrong,
    // commands expire.
    let leader = cluster.leader(&NODES).await;
    cluster.members[&leader].clock.move_to(midnight - 40 * MINUTE);
    load.more(40).await;
    cluster.move_clocks(midnight + 21 * MINUTE);
    load.more(40).await;
    cluster.move_clocks(midnight - 40 * MINUTE);
    let leader = cluster.leader(&NODES).await;
    cluster.crash(leader).await;
    cluster.leader(&others(leader).collect::<Vec<_>>()).await;
    cluster.move_clocks(midnight + 25 * MINUTE);
    cluster.start(leader).await;
    load.more(40).await;
    let attempts = load.stop().await;
    cluster.judge(&attempts).await;
    cluster.day_has_begun(midnight + 25 * MINUTE).await;
    let days = cluster.check_days(midnight + 25 * MINUTE).await;
    assert!((2..=3).contains(&days), "{days}: of yesterday and of today");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_partitions_have_a_snapshot_each_midnight_and_one_for_all_that_were_missed() {
    let mut cluster = Cluster::found().await;
    let midnight = midnight();
    cluster.move_clocks(midnight + HOUR);
    cluster.day_has_begun(midnight + HOUR).await;
    let before = cluster.check_days(midnight + HOUR).await;
    // Power is off for three days.
    cluster.cut_power(&NODES);
    for node in NODES {
        cluster.bury(node).await;
    }
    cluster.move_clocks(midnight + HOUR + 3 * DAY);
    for node in NODES {
        cluster.start(node).await;
    }
    cluster.served().await;
    cluster.day_has_begun(midnight + HOUR + 3 * DAY).await;
    assert_eq!(cluster.check_days(midnight + HOUR + 3 * DAY).await, before + 3);
    let newest = cluster.replica(NODES[0]).canonical_snapshots().pop().expect("there are some");
    let days = newest.facts.days.expect("it stands for midnights");
    assert_eq!((days.last - days.first, newest.facts.journal.index > JournalIndex(0)), (2, true), "{days}");
    cluster.judge(&[]).await;
}
