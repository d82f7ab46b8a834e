//! A log of which little is kept: what is released, what must not be, and what a partition still knows without it.

use std::io::ErrorKind;

use super::*;
use crate::store::StoreFaults;

/// Checks what the partition still knows of a log that is not kept, and how it answers about the rest.
async fn check_released(partition: &Arc<Partition>, ids: &[CommandId], expected: &Content) {
    assert_eq!(content(partition, ids).await, *expected, "state and ids need no log");
    let error = partition.find_entry(JournalIndex(1)).expect_err("it is gone").to_string();
    assert!(error.contains("begins with entry") && error.contains("at position 0."), "{error}");
    let (place, applied) = (Place::after(&partition.genesis()), partition.progress());
    let read = partition.reader().read_waiting(place, &applied, Bound { bytes: 1, entries: 1 }, |_| unreachable!());
    assert!(matches!(read, Err(PartitionError::Released { .. })), "without an archive nothing is waited for");
    let newest = expected.journal;
    assert_eq!(partition.find_entry(newest).expect("it is kept").entry.header().index, newest);
    let answer = ask(partition, 0).await;
    assert!(
        matches!(&answer, Answer::Unavailable(Unavailability { reason: UnavailableReason::OutcomeReleased, .. })),
        "it is not executed again, and how it ended is not known: {answer:?}"
    );
    let newest = ask(partition, 29).await;
    assert!(matches!(newest, Answer::Done(_)), "{newest:?}");
    assert_eq!(content(partition, ids).await, *expected, "nothing was executed twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_released_up_to_what_is_to_be_kept() {
    const KEPT: u64 = 4096;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let partition = open(folder.path()).await;
    let ids = create(&partition, 0..30).await;
    let expected = content(&partition, &ids).await;
    partition.release_log(1 << 30, nobody_asks).await.expect("the disk is well");
    assert!(partition.snapshots().newest().is_none(), "there is less than that");
    let bytes = partition.log().bytes_after(None);
    // Each call continues what the last one began, once the group has followed.
    let released = async {
        while partition.log().last_purged().is_none() {
            partition.release_log(KEPT, nobody_asks).await.expect("the disk is well");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout_at(soon(), released).await.expect("the log is purged");
    let left = partition.log().bytes_after(None);
    assert!(KEPT <= left && left < bytes, "{bytes} → {left}");
    check_released(&partition, &ids, &expected).await;
    partition.close().await.expect("closes");
    drop(partition);

    let partition = open(folder.path()).await;
    check_released(&partition, &ids, &expected).await;
    partition.close().await.expect("closes");
    drop(partition);
    // Without a snapshot a follower could not be helped, so a new one is made.
    std::fs::remove_dir_all(folder.path().join("snapshots")).expect("removed");
    let partition = open(folder.path()).await;
    let made = partition.snapshots().newest().expect("something is purged");
    assert_eq!(made.manifest.journal, expected.journal.0);
    check_released(&partition, &ids, &expected).await;
    partition.close().await.expect("closes");
}

/// Nothing is needed, because no command is in flight.
async fn nobody_asks() -> Result<Needed, PartitionError> {
    Ok(Needed::default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_command_in_flight_may_ask_for_is_not_released() {
    const KEPT: u64 = 1024;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let partition = open(folder.path()).await;
    create(&partition, 0..30).await;
    // As if a partition had no leader that could answer.
    let silent = async || Err(PartitionError::NoLeader);
    for _ in 0..20 {
        let refused = partition.release_log(KEPT, silent).await;
        assert!(matches!(refused, Ok(()) | Err(PartitionError::NoLeader)), "{refused:?}");
        tokio::task::yield_now().await;
    }
    assert_eq!(partition.log().last_purged(), None, "as long as nobody knows, everything stays");

    let oldest = partition.find_entry(JournalIndex(15)).expect("it is kept");
    let since = oldest.entry.header().time;
    let released = async {
        while partition.log().last_purged().is_none() {
            partition
                .release_log(KEPT, async || Ok(Needed { since: Some(since), followed: None }))
                .await
                .expect("the disk is well");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout_at(soon(), released).await.expect("the log is purged");
    let found = partition.find_entry(JournalIndex(15)).expect("somebody may ask for it");
    assert_eq!(found.entry.header().time, since);
    assert!(
        matches!(partition.find_entry(JournalIndex(14)), Err(PartitionError::Released { .. })),
        "nobody asks for it"
    );
    partition.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_beginning_of_the_log_nothing_is_made_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let partition = open(folder.path()).await;
    create(&partition, 0..5).await;
    let last = partition.log().last().expect("there are entries");
    partition.close().await.expect("closes");
    drop(partition);
    // An empty log is no beginning either.
    std::fs::rename(folder.path().join("log"), folder.path().join("elsewhere")).expect("renamed");
    let refused = try_open(folder.path()).await.err().expect("refused").to_string();
    assert!(
        refused.contains("lost acknowledged entries: it is empty") && refused.contains("the state is"),
        "{refused}"
    );
    std::fs::remove_dir_all(folder.path().join("log")).expect("removed");
    std::fs::rename(folder.path().join("elsewhere"), folder.path().join("log")).expect("renamed");

    let partition = open(folder.path()).await;
    partition.log().purge(last).expect("purged, as after a snapshot");
    partition.close().await.expect("closes");
    drop(partition);
    let refusal = |refused: Option<PartitionError>| refused.expect("refused").to_string();
    std::fs::rename(folder.path().join("ids"), folder.path().join("ids.elsewhere")).expect("renamed");
    let refused = refusal(try_open(folder.path()).await.err());
    assert!(refused.contains("the id index must be made again") && refused.contains("begins with"), "{refused}");
    flip(&folder.path().join("state/rocks/CURRENT"), 0);
    let refused = refusal(try_open(folder.path()).await.err());
    assert!(refused.contains("state must be made again") && refused.contains("begins with"), "{refused}");
    assert!(!folder.path().join("state.damaged").exists(), "nothing was moved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_fails_halts_nothing_and_the_next_one_is_made() {
    let (folder, faults) = (tempfile::tempdir().expect("a temporary folder"), StoreFaults::armed());
    let store = StoreOptions::new(StoreShared::new(1 << 20).with_faults(faults.clone()));
    let partition = open_with(PartitionOptions { store, ..options(folder.path()) }).await.expect("it opens");
    let mut ids = create(&partition, 0..5).await;
    let rows = &partition.parts.store;
    let written = async {
        while rows.meta_written() != rows.meta_applied() {
            rows.flush().expect("nothing fails");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout_at(soon(), written).await.expect("all of it is durable in the log");
    faults.fail_after(0, ErrorKind::Other);
    let failed = partition.take_snapshot().await.expect_err("the state cannot be copied");
    assert!(matches!(failed, PartitionError::Store(_)), "{failed}");
    ids.extend(create(&partition, 5..10).await);
    partition.take_snapshot().await.expect("nothing fails any more");
    let made = partition.snapshots().newest().expect("it was made");
    let content = content(&partition, &ids).await;
    assert_eq!(made.manifest.journal, content.journal.0);
    assert!(content.ids.values().all(Option::is_some));
    partition.close().await.expect("closes");
}
