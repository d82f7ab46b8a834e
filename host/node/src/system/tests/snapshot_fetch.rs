//! Midnights that a node lacks come from the other nodes, byte for byte, although its log and its archive do not go
//! back to them. A changed or disputed file is not taken in.
//!
//! The tests release logs themselves, at once and as far as they can.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::midnight::{DAY, HOUR, midnight};
use super::*;
use crate::disk::RealDisk;
use crate::ids::{Head, JournalIndex};
use crate::partition::{HeadProof, PartitionError};
use crate::peer::{Call, GroupName, Topic};
use crate::snapshot::canonical::{ListedFile, SnapshotWriter};
use crate::system::snapshot_fetch::{MidnightError, Tended, take, tend};

/// Names and bytes of midnights, by partition.
type Files = BTreeMap<GroupName, BTreeMap<String, Vec<u8>>>;

fn midnights(partition: &Partition) -> Vec<ListedFile> {
    partition.canonical_snapshots().into_iter().filter(|listed| listed.facts.days.is_some()).collect()
}

fn group() -> GroupName {
    GroupName::new(MACHINE, PartitionId(0))
}

impl Cluster {
    /// Returns `None` while one of the files is being deleted.
    fn midnight_files(&self, node: NodeId) -> Option<Files> {
        let files = |(group, partition): (GroupName, Arc<Partition>)| {
            let read = |listed: ListedFile| {
                Some((listed.name.clone(), std::fs::read(partition.canonical_file(&listed)).ok()?))
            };
            Some((group, midnights(&partition).into_iter().map(read).collect::<Option<_>>()?))
        };
        self.node(node).context.replicas().into_iter().map(files).collect()
    }

    /// Lets days begin, one after the other, with some commands on each.
    async fn live_through(&self, begin: Duration, days: u32) -> Duration {
        let mut offset = begin;
        for _ in 0..days {
            offset += DAY;
            self.move_clocks(offset);
            let mut load = self.load();
            self.day_has_begun(offset).await;
            load.more(10).await;
            load.stop().await;
        }
        offset
    }

    /// Has all running nodes release everything that they have applied.
    pub(super) async fn release(&self) {
        for node in self.running() {
            self.release_at(node).await;
        }
    }

    pub(super) async fn release_at(&self, node: NodeId) {
        for partition in self.all_replicas(node) {
            partition.take_snapshot().await.expect("it is taken");
            let upto = partition.snapshots().newest().expect("just taken").manifest.last();
            let purging = async {
                let mut looks = tokio::time::interval(LOOK);
                while partition.log().last_purged() < Some(upto) {
                    partition.group().purge(upto.index).await.expect("it is in a snapshot");
                    looks.tick().await;
                }
            };
            tokio::time::timeout(PATIENCE, purging).await.expect("the log is purged");
        }
    }

    /// Waits until a node has the midnights of another node, `count` of each partition, and checks that it made none
    /// of them itself.
    async fn has_midnights_of(&self, node: NodeId, other: NodeId, count: usize) {
        eventually("the node has the midnights of the others", || {
            let (here, there) = (self.midnight_files(node)?, self.midnight_files(other)?);
            assert!(there.len() == 1 + PARTITIONS as usize);
            (here == there && here.values().all(|files| files.len() == count)).then_some(())
        })
        .await;
        for partition in self.replicas(node) {
            let begin = partition.find_entry(JournalIndex(1)).err();
            assert!(matches!(begin, Some(PartitionError::Released { .. })), "it was sent a state: {begin:?}");
            for listed in midnights(&partition) {
                let mut file = partition.open_canonical(&listed).expect("it is listed");
                file.visit(|_, _| {}).expect("every byte is as it was written");
            }
            let oldest = midnights(&partition)[0].facts.journal.index;
            assert_eq!(partition.head_at(oldest).expect("the log can be read"), None, "its log begins behind it");
        }
    }

    /// Deletes the newest midnight of the wallet's first partition on a node, and says which one it was.
    fn without_newest(&self, node: NodeId) -> (Arc<Partition>, ListedFile) {
        let partition = self.replica(node);
        let listed = midnights(&partition).pop().expect("there is one");
        partition.delete_canonical(&listed).expect("the folder is ours");
        (partition, listed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_sent_a_state_gets_the_midnights_before_it_from_the_others() {
    let mut cluster = Cluster::found().await;
    let begin = cluster.live_through(midnight() + HOUR - DAY, 1).await;
    cluster.check_days(begin).await;
    let (leader, before) = (cluster.leader(&NODES).await, midnights(&cluster.replica(NODES[0])).len());
    let behind = others(leader).next().expect("there are three");
    cluster.crash(behind).await;
    let end = cluster.live_through(begin, 2).await;
    cluster.check_days(end).await;
    cluster.release().await;
    cluster.start(behind).await;
    cluster.has_midnights_of(behind, leader, before + 2).await;

    // A node that has nothing gets everything.
    let new = NodeId(4);
    cluster.add_member(new).await;
    cluster.members[&new].clock.move_to(end);
    cluster.node(leader).cluster().add(new, address(new), soon()).await.expect("it is taken in");
    eventually("it serves", || find_replica(cluster.node(new).router()).map(drop)).await;
    cluster.has_midnights_of(new, leader, before + 2).await;
    let spool = cluster.folder.path().join(new.to_string()).join("midnights-spool");
    // The files of the other partitions may still be on their way.
    let is_empty = || std::fs::read_dir(&spool).expect("something was fetched").next().is_none();
    eventually("nothing is left of it", || is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_with_an_archive_of_its_own_gets_as_many_midnights_as_are_kept() {
    let mut cluster =
        Cluster::found_with(Options { has_archive: true, snapshot_keep: Some(2), ..Options::default() }).await;
    let end = cluster.live_through(midnight() + HOUR - DAY, 3).await;
    let is_archived = || NODES.iter().all(|node| cluster.node(*node).cluster().is_archived());
    eventually("all is archived", || is_archived().then_some(())).await;
    cluster.release().await;
    let new = NodeId(4);
    cluster.add_member(new).await;
    cluster.members[&new].clock.move_to(end);
    cluster.node(NODES[0]).cluster().add(new, address(new), soon()).await.expect("it is taken in");
    eventually("it serves", || find_replica(cluster.node(new).router()).map(drop)).await;
    cluster.has_midnights_of(new, NODES[0], 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_is_not_taken_in_and_another_nodes_is() {
    let mut cluster = Cluster::found().await;
    let end = cluster.live_through(midnight() + HOUR - DAY, 1).await;
    cluster.check_days(end).await;
    let (node, other, third) = (NODES[0], NODES[1], NODES[2]);
    let context = cluster.node(node).context.clone();
    assert!(matches!(tend(&context, &group()).await, Tended::Whole), "no day is missing, so that nobody is asked");
    let (partition, listed) = cluster.without_newest(node);
    let files = [other, third].map(|id| cluster.replica(id).canonical_file(&listed));
    let whole = std::fs::read(&files[1]).expect("it can be read");
    let mut changed = whole.clone();
    changed[20] ^= 1;
    for file in &files {
        std::fs::write(file, &changed).expect("the folder is ours");
    }
    let tended = tend(&context, &group()).await;
    assert!(matches!(tended, Tended::Unsettled), "{tended:?}");
    assert!(!partition.canonical_file(&listed).exists() && !midnights(&partition).contains(&listed));

    // A name that a node asks for is never a path, and a node must not send more than it has announced.
    for body in ["../../log", "", "000000000001-2026-11-22-0123456789abcdef.snapshot"] {
        let call = Call { topic: Topic::Midnights, group: Some(group()), body: body.into() };
        let refused = context.network.fetch(other, call, PATIENCE).await.err().map(|error| error.to_string());
        assert!(refused.as_ref().is_some_and(|text| text.contains("is not here")), "{body}: {refused:?}");
    }
    std::fs::write(&files[1], &whole).expect("the folder is ours");
    let long = take(&context, &group(), &listed.name, third, listed.bytes - 1).await;
    assert!(matches!(long, Err(MidnightError::TooLong(_))), "{long:?}");
    let tended = tend(&context, &group()).await;
    assert!(matches!(&tended, Tended::Took(taken) if *taken == listed.name), "{tended:?}");
    assert!(std::fs::read(partition.canonical_file(&listed)).expect("it is here") == whole);

    // A node that is down holds up nobody.
    cluster.crash(other).await;
    let (partition, listed) = cluster.without_newest(node);
    let tended = tend(&context, &group()).await;
    assert!(matches!(&tended, Tended::Took(taken) if *taken == listed.name), "{tended:?}");
    assert!(midnights(&partition).contains(&listed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_midnight_that_nodes_dispute_nothing_is_taken_in() {
    let cluster = Cluster::found().await;
    let end = cluster.live_through(midnight() + HOUR - DAY, 1).await;
    cluster.check_days(end).await;
    let (node, wrong) = (NODES[0], cluster.replica(NODES[1]));
    let context = cluster.node(node).context.clone();
    let (partition, listed) = cluster.without_newest(node);

    // The rows differ, but the head is right: only a replay or the other nodes can tell.
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let mut writer =
        SnapshotWriter::begin(Arc::new(RealDisk), folder.path(), &listed.facts).expect("the folder is ours");
    writer.put(b"key", b"row").expect("the folder is ours");
    let forged = writer.finish().expect("the folder is ours");
    wrong.delete_canonical(&listed).expect("the folder is ours");
    let taken = wrong.take_in_canonical(&folder.path().join(&forged.name), HeadProof::Journal).await;
    assert_eq!(taken.map(|taken| taken.name).ok(), Some(forged.name.clone()));
    let tended = tend(&context, &group()).await;
    assert!(matches!(tended, Tended::Unsettled), "{tended:?}");
    assert!(midnights(&partition).iter().all(|here| here.facts.journal.index != listed.facts.journal.index));

    // A head that differs from the log's is refused, whatever the other nodes say.
    let mut facts = listed.facts.clone();
    facts.journal.head = Head([9; 32]);
    let stray = SnapshotWriter::begin(Arc::new(RealDisk), folder.path(), &facts)
        .and_then(SnapshotWriter::finish)
        .expect("it is ours");
    let taken = partition.take_in_canonical(&folder.path().join(&stray.name), HeadProof::JournalOrWord).await;
    assert!(taken.as_ref().is_err_and(|error| error.to_string().contains("history than this one")), "{taken:?}");

    wrong.delete_canonical(&forged).expect("the folder is ours");
    let tended = tend(&context, &group()).await;
    assert!(matches!(&tended, Tended::Took(taken) if *taken == listed.name), "{tended:?}");
}
