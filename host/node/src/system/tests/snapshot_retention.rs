//! Which canonical snapshots a node has. Midnights that it lacks come from the archive, unless they were changed
//! there. Those beyond the number to be kept are deleted; where there is an archive, only those that are archived.
//!
//! A node lacks a snapshot here because the test has deleted it. Normally it lacks those before the snapshot of a state
//! that it was sent.

use super::midnight::{DAY, HOUR, midnight};
use super::*;
use crate::partition::HeadProof;
use crate::snapshot::canonical::ListedFile;

fn midnights(partition: &Partition) -> Vec<ListedFile> {
    partition.canonical_snapshots().into_iter().filter(|listed| listed.facts.days.is_some()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_midnight_that_a_node_lacks_comes_from_the_archive_and_is_checked() {
    let cluster = Cluster::found_with(Options { has_archive: true, ..Options::default() }).await;
    let today = midnight() + HOUR;
    cluster.move_clocks(today);
    cluster.day_has_begun(today).await;
    cluster.check_days(today).await;
    let (node, partition) = (NODES[0], cluster.replica(NODES[0]));
    let listed = midnights(&partition).pop().expect("there is one");
    let archived = cluster.archive(node).join(MACHINE).join("0").join(&listed.name);
    eventually("it is archived", || archived.exists().then_some(())).await;
    let elsewhere = || cluster.node(node).cluster().snapshots_elsewhere(MACHINE).expect("the machine is there");
    partition.delete_canonical(&listed).expect("the folder is ours");
    eventually("it is here again", || midnights(&partition).contains(&listed).then_some(())).await;
    let mut file = partition.open_canonical(&listed).expect("it is where it is listed");
    file.visit(|_, _| {}).expect("every byte is as it was written");
    assert!(elsewhere().iter().all(|(_, name)| *name != listed.name));

    let whole = std::fs::read(&archived).expect("it can be read");
    let mut changed = whole.clone();
    changed[20] ^= 1;
    std::fs::write(&archived, changed).expect("the folder is ours");
    let taken = partition.take_in_canonical(&archived, HeadProof::Journal).await.map(|taken| taken.name);
    assert!(taken.as_ref().is_err_and(|error| error.to_string().contains("chunk 0 has the hash")), "{taken:?}");
    // The other nodes have the snapshot as well, so the node must not hear them.
    cluster.cut_off(node);
    partition.delete_canonical(&listed).expect("the folder is ours");
    eventually("it is known to be there alone", || {
        elsewhere().contains(&(partition.id(), listed.name.clone())).then_some(())
    })
    .await;
    std::fs::write(&archived, whole).expect("the folder is ours");
    eventually("it is here again", || midnights(&partition).contains(&listed).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_another_partition_is_not_taken_in() {
    let cluster = Cluster::found().await;
    let replicas = cluster.replicas(NODES[0]);
    let other = replicas[1].take_canonical().await.expect("something has happened there");
    let taken = replicas[0].take_in_canonical(&replicas[1].canonical_file(&other), HeadProof::JournalOrWord).await;
    let taken = taken.map(|taken| taken.name);
    assert!(taken.as_ref().is_err_and(|error| error.to_string().contains("another partition")), "{taken:?}");
    assert!(replicas[0].canonical_snapshots().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_beyond_those_that_are_kept_are_deleted() {
    let cluster = Cluster::found_with(Options { snapshot_keep: Some(1), ..Options::default() }).await;
    let today = midnight() + HOUR;
    cluster.move_clocks(today);
    cluster.day_has_begun(today).await;
    let partition = cluster.replica(NODES[0]);
    let first = eventually("there is one", || midnights(&partition).pop()).await;
    // Snapshots that somebody asks for are counted separately.
    let asked = partition.take_canonical().await.expect("something has happened there");
    cluster.move_clocks(today + DAY);
    cluster.day_has_begun(today + DAY).await;
    let left = eventually("only the newest midnight is left", || {
        let left = midnights(&partition);
        (left.len() == 1 && left[0] != first).then_some(left)
    });
    assert!(first.facts.journal.index < left.await[0].facts.journal.index);
    assert!(!partition.canonical_file(&first).exists());
    assert!(partition.canonical_snapshots().contains(&asked) && partition.canonical_file(&asked).exists());
}
