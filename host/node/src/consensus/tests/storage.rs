//! What must be durable when, over a disk that stalls, fails, fills up and loses power.
//!
//! openraft's suite, beside this file, checks the rest of the storage's contract.

use std::path::Path;

use futures_util::{FutureExt, TryStreamExt};
use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;

use super::disk::{FOLDER, MemoryDisk, log_on};
use super::*;
use crate::consensus::StopReason;
use crate::consensus::model::{self, Model};
use crate::consensus::storage::{Storage, clamp_committed};
use crate::disk::SimDisk;
use crate::ids::Lsn;
use crate::log::{Log, LogHealth};

const MIB: usize = 1 << 20;

fn storage_on(log: &Log) -> Storage {
    Storage::new(log.clone(), watch::channel(false).1)
}

/// Appends, and returns a future that is told when the entries are durable.
async fn append(storage: &mut Storage, entries: Vec<LogEntry>) -> impl Future<Output = std::io::Result<()>> + use<> {
    let (told, durable) = Model::oneshot();
    let entries = entries.into_iter().map(|entry| model::raft_entry(entry).expect("it is no membership"));
    storage.append(entries, IOFlushed::signal(told)).await.expect("the log takes it");
    async move { durable.await.expect("it is told once") }
}

fn big_entry(index: u64, bytes: usize) -> LogEntry {
    LogEntry { id: id(1, index), payload: Payload::Entry(Bytes::from(vec![index as u8; bytes])) }
}

#[tokio::test]
async fn a_vote_returns_only_when_the_appends_before_it_are_durable_too() {
    let disk = MemoryDisk::new();
    let log = log_on(&disk);
    let mut storage = storage_on(&log);
    disk.hold_syncs();
    let mut appended = Box::pin(append(&mut storage, vec![entry(1, 0, b"a")]).await);
    let vote = model::raft_vote(crate::log::Vote { term: Term(2), node: Some(ME), committed: false })
        .expect("it names a node");
    let saving = tokio::spawn(async move { storage.save_vote(&vote).await });
    assert!(appended.as_mut().now_or_never().is_none(), "told durable before a sync returned");
    assert_eq!(log_on(&disk.after_power_loss()).last(), None);
    disk.release_syncs();
    soon(saving).await.expect("no panic").expect("the disk is well");
    let after = log_on(&disk.after_power_loss());
    assert_eq!((after.last(), after.vote().map(|vote| vote.term)), (Some(id(1, 0)), Some(Term(2))));
    soon(appended).await.expect("it is durable");
}

#[tokio::test]
async fn one_report_covers_all_pieces_of_a_large_append() {
    let disk = MemoryDisk::new();
    let log = log_on(&disk);
    let mut storage = storage_on(&log);
    let entries: Vec<LogEntry> = (0..12).map(|index| big_entry(index, MIB)).collect();
    soon(append(&mut storage, entries.clone()).await).await.expect("the disk is well");
    let after = log_on(&disk.after_power_loss());
    assert_eq!(after.read(LogIndex(0)..LogIndex(12), usize::MAX).expect("it is sound"), entries);
}

#[tokio::test]
async fn a_limited_read_is_bounded_in_bytes_and_never_empty() {
    let mut storage = storage_on(&log_on(&MemoryDisk::new()));
    let entries = vec![big_entry(0, 5 * MIB), big_entry(1, MIB), big_entry(2, MIB), big_entry(3, 3 * MIB)];
    soon(append(&mut storage, entries).await).await.expect("the disk is well");
    for (start, expected) in [(0, 1), (1, 2), (3, 1), (4, 0)] {
        let read = storage.limited_get_log_entries(start, 9).await.expect("it is sound");
        assert_eq!(read.len(), expected, "entries from {start}");
    }
}

/// A log whose first segment is sealed and has lost an entry, and the entries that it had.
async fn damaged_log() -> (Log, Vec<LogEntry>) {
    let disk = SimDisk::new();
    let log = log_on(&disk);
    let mut storage = storage_on(&log);
    let entries: Vec<LogEntry> = (0..40).map(|index| big_entry(index, 50_000)).collect();
    for entry in &entries {
        soon(append(&mut storage, vec![entry.clone()]).await).await.expect("the disk is well");
        log.save_committed(entry.id);
    }
    // The log records the commit with its next record.
    soon(append(&mut storage, vec![big_entry(40, 1)]).await).await.expect("the disk is well");
    soon(async {
        while log.sealed_segments().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let path = Path::new(FOLDER).join("seg-0000000000000000.log");
    let mut content = disk.content(&path).expect("it is there");
    // The first entry is longer than this offset.
    content[20_000] ^= 1;
    // The log reads from memory what it has in memory, so it is opened again.
    log.close().expect("the disk is well");
    drop((log, storage));
    disk.put(&path, content);
    (log_on(&disk), entries)
}

#[tokio::test]
async fn what_a_sealed_segment_has_lost_is_waited_for_by_those_who_need_it() {
    let (log, entries) = damaged_log().await;
    let mut storage = storage_on(&log);
    let end = entries.len() as u64;
    let read = soon(storage.limited_get_log_entries(0, end)).await.expect("a group goes on");
    assert!(read.is_empty());
    assert!(log.is_damaged());
    let other = storage.limited_get_log_entries(end - 1, end).await.expect("it is whole");
    assert_eq!(other.len(), 1);

    let mut reader = storage.clone();
    let mut applying = Box::pin(async move { reader.entries_stream(0..end).await.try_collect::<Vec<_>>().await });
    assert!(applying.as_mut().now_or_never().is_none(), "it waits");
    log.mend(Lsn(0), &entries).expect("they are the right ones");
    assert_eq!(soon(applying).await.expect("it is mended").len(), entries.len());
    let read = storage.limited_get_log_entries(0, end).await.expect("it is whole");
    assert!(!read.is_empty() && !log.is_damaged());
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_what_a_sealed_segment_has_lost() {
    let (log, entries) = damaged_log().await;
    let (stop, stopping) = watch::channel(false);
    let mut storage = Storage::new(log, stopping);
    let mut applying =
        Box::pin(async { storage.entries_stream(0..entries.len() as u64).await.try_collect::<Vec<_>>().await });
    assert!(applying.as_mut().now_or_never().is_none(), "it waits");
    stop.send_replace(true);
    let words = soon(applying).await.expect_err("nobody has mended it").to_string();
    assert!(words.contains("seg-0000000000000000.log"), "{words}");
}

#[test]
fn only_what_is_durable_here_counts_as_committed_at_start() {
    let check = |committed, durable, expected| assert_eq!(clamp_committed(committed, durable), expected);
    check(Some(id(3, 9)), Some(id(3, 12)), Some(id(3, 9)));
    check(Some(id(3, 9)), Some(id(3, 9)), Some(id(3, 9)));
    check(Some(id(3, 9)), Some(id(2, 7)), Some(id(2, 7)));
    check(Some(id(3, 9)), None, None);
    check(None, Some(id(3, 9)), None);
}

#[tokio::test]
async fn a_commit_ahead_of_this_disk_does_not_keep_it_from_starting() {
    let disk = MemoryDisk::new();
    let log = log_on(&disk);
    let mut storage = storage_on(&log);
    soon(append(&mut storage, vec![entry(1, 0, b"a")]).await).await.expect("the disk is well");
    disk.hold_syncs();
    drop(append(&mut storage, vec![entry(1, 1, b"b")]).await);
    storage.save_committed(Some(model::log_id(id(1, 1)))).await.expect("it is only noted");
    assert_eq!(storage.read_committed().await.expect("it is sound"), Some(model::log_id(id(1, 0))));
    let after = log_on(&disk.after_power_loss());
    disk.release_syncs();
    let partition = Partition::new();
    let group = Group::start(ME, after, partition, GroupOptions::alone("wallet/0")).await;
    group.expect("it starts with what it has").shutdown().await.expect("it runs");
}

async fn start(disk: &MemoryDisk) -> (Group, Log, Partition, Term) {
    let (log, partition) = (log_on(disk), Partition::new());
    let group = Group::start(ME, log.clone(), partition.clone(), GroupOptions::alone("wallet/0")).await;
    let group = group.expect("the disk is sound");
    group.initialize(&[ME]).await.expect("the log is new");
    let term = leads(&group).await;
    (group, log, partition, term)
}

#[tokio::test]
async fn a_leader_has_its_vote_and_every_committed_entry_on_disk() {
    let disk = MemoryDisk::new();
    let (group, _log, partition, term) = start(&disk).await;
    let vote = log_on(&disk.after_power_loss()).vote().expect("it leads");
    assert_eq!((vote.term, vote.node), (term, Some(ME)));

    disk.hold_syncs();
    let mut proposed = Box::pin(group.propose(term, Bytes::from("a")).await.expect("it leads"));
    assert!(proposed.as_mut().now_or_never().is_none());
    assert_eq!(partition.contents(), Vec::<Bytes>::new(), "applied before its sync");
    disk.release_syncs();
    let committed = soon(proposed).await.expect("a lone voter commits what it appends");
    assert_eq!(log_on(&disk.after_power_loss()).last(), Some(committed));
}

#[tokio::test]
async fn a_failed_sync_stops_the_group_with_the_reason() {
    let disk = MemoryDisk::new();
    let (group, _log, partition, term) = start(&disk).await;
    disk.fail_syncs();
    let outcome = soon(group.propose(term, Bytes::from("a")).await.expect("it leads")).await;
    assert!(matches!(outcome, Err(ConsensusError::OutcomeUnknown)), "{outcome:?}");
    let stopped = wait_for(&group, |leadership| matches!(leadership, Leadership::Stopped { .. })).await;
    let Leadership::Stopped { reason: StopReason::Failed { detail } } = &stopped else { panic!("{stopped:?}") };
    assert!(detail.contains("the device is gone"), "{detail}");
    assert_eq!(partition.contents(), Vec::<Bytes>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_wait_for_a_full_disk_and_go_on_in_order() {
    let disk = MemoryDisk::new();
    let (group, log, partition, term) = start(&disk).await;
    disk.fill(true);
    let mut proposed = Vec::new();
    let contents: Vec<Bytes> = (0..40).map(|number: u8| Bytes::from(vec![number; 16 << 10])).collect();
    for content in &contents {
        proposed.push(group.propose(term, content.clone()).await.expect("it leads"));
    }
    let full = async {
        while log.health() != LogHealth::Full {
            tokio::task::yield_now().await;
        }
    };
    soon(full).await;
    assert!(proposed.last_mut().expect("there are 40").now_or_never().is_none());
    assert_eq!(*group.leadership().borrow(), Leadership::Leader { term });
    disk.fill(false);
    for proposed in proposed {
        soon(proposed).await.expect("there is room again");
    }
    assert_eq!(partition.contents(), contents);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_does_not_wait_for_room_on_a_full_disk() {
    let disk = MemoryDisk::new();
    let (group, _log, _partition, term) = start(&disk).await;
    disk.fill(true);
    let proposed = group.propose(term, Bytes::from(vec![7; 4 * MIB])).await.expect("it leads");
    soon(group.shutdown()).await.expect("it lets go");
    let outcome = soon(proposed).await;
    assert!(matches!(outcome, Err(ConsensusError::OutcomeUnknown)), "{outcome:?}");
}
