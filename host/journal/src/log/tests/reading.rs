//! Appends, reads, truncation and purge without faults, on both disks, and while others append.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::disk::RealDisk;
use crate::log::{LogHealth, Vote};

#[test]
fn entries_are_readable_at_once_and_after_reopening() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    disk.hold_syncs();
    let durable = append(&log, vec![entry(1, 0), entry(1, 1)]).expect("accepted");
    assert_eq!(indexes(&log.clone()), [0, 1]);
    assert_eq!(log.durable(), None);
    disk.release_syncs();
    durable.recv().expect("called").expect("durable");
    assert_eq!(log.durable(), Some(id(1, 1)));
    let large: Vec<_> = (2..40).map(|index| entry_of(2, index, 1500)).collect();
    append_durably(&log, large.clone());
    assert_eq!(all(&log)[2..], large);
    log.close().expect("closes");

    let log = opened(&disk);
    assert_eq!(all(&log)[2..], large);
    assert_eq!(log.last(), Some(id(2, 39)));
    assert_eq!(log.term_starts(), [id(1, 0), id(2, 2)]);
    assert_eq!(log.health(), LogHealth::Ok);
}

#[test]
fn the_real_disk_and_its_map_do_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path().join("wallet/3/log");
    let open = || Log::open(Arc::new(RealDisk), &dir, options()).expect("opens");
    let entries: Vec<_> = (1..200).map(|index| entry_of(1, index, 700)).collect();
    let log = open();
    for entry in &entries {
        append_durably(&log, vec![entry.clone()]);
    }
    assert_eq!(all(&log), entries);
    log.save_committed(id(1, 150));
    log.close().expect("closes");
    assert!(matches!(append(&log, vec![entry(1, 200)]), Err(LogError::Closed)));
    let log = open();
    assert_eq!(all(&log), entries);
    assert_eq!(log.committed(), Some(id(1, 150)));
    let scan = LogScan::open(&RealDisk, &dir).expect("a running log can be scanned");
    assert_eq!(scan.entries().count(), 199);
    assert_eq!(scan.durable(), Some(id(1, 199)));
}

#[test]
fn a_read_is_bounded_in_bytes_but_never_empty() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    append_durably(&log, (1..10).map(|index| entry_of(1, index, 100)).collect());
    let read = |range: std::ops::Range<u64>, bytes_max| {
        let entries = log.read(LogIndex(range.start)..LogIndex(range.end), bytes_max).expect("readable");
        entries.iter().map(|entry| entry.id.index.0).collect::<Vec<_>>()
    };
    assert_eq!(read(0..100, 250), [1, 2]);
    assert_eq!(read(4..100, 0), [4]);
    assert_eq!(read(4..6, usize::MAX), [4, 5]);
    assert_eq!(read(10..100, usize::MAX), [0; 0]);
    assert_eq!(read(0..1, usize::MAX), [0; 0]);
}

#[test]
fn truncation_and_purge_survive_reopening() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    append_durably(&log, (0..10).map(|index| entry(1, index)).collect());
    log.truncate_after(Some(id(1, 6))).expect("accepted");
    assert_eq!(log.durable(), Some(id(1, 6)));
    log.purge(id(1, 2)).expect("accepted");
    assert_eq!(indexes(&log), [3, 4, 5, 6]);
    append_durably(&log, vec![entry(2, 7)]);
    log.close().expect("closes");
    let log = opened(&disk);
    assert_eq!((indexes(&log), log.last_purged()), (vec![3, 4, 5, 6, 7], Some(id(1, 2))));
    assert_eq!(log.term_starts(), [id(1, 3), id(2, 7)]);
    assert!(matches!(log.truncate_after(Some(id(1, 1))), Err(LogError::Purged { .. })));

    // A snapshot's installation does the same.
    log.purge(id(5, 50)).expect("accepted");
    assert_eq!((log.last(), all(&log)), (Some(id(5, 50)), vec![]));
    assert!(matches!(append(&log, vec![entry(5, 52)]), Err(LogError::Gap { .. })));
    append_durably(&log, vec![entry(5, 51)]);
    log.close().expect("closes");
    let log = opened(&disk);
    assert_eq!((indexes(&log), log.last_purged()), (vec![51], Some(id(5, 50))));
    log.close().expect("closes");
    let scan = scan(&disk).expect("intact");
    let kept: Vec<_> = scan.entries().map(|found| found.expect("readable").entry.id.index.0).collect();
    assert_eq!(kept, [0, 1, 2, 3, 4, 5, 6, 7, 51], "the journal keeps what Raft purged");
}

#[test]
fn an_entry_may_be_larger_than_a_segment() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    let entries = vec![entry(1, 0), entry_of(1, 1, 3 << 20), entry(1, 2)];
    append_durably(&log, entries.clone());
    let too_large = entry_of(1, 3, crate::machine::limits::ENTRY_BYTES_MAX + 1);
    assert!(matches!(append(&log, vec![too_large]), Err(LogError::EntryTooLarge { .. })));
    log.close().expect("closes");
    assert_eq!(all(&opened(&disk)), entries);
}

#[test]
fn recovery_starts_behind_what_is_purged() {
    let disk = SimDisk::new();
    let mut log = opened(&disk);
    let mut next = 0;
    for term in 1..60 {
        // Rewrites entries that are purged later, some of them in an earlier segment.
        next = u64::saturating_sub(next, term % 13);
        append_durably(&log, (next..next + 20).map(|index| entry_of(term, index, 700)).collect());
        next += 20;
        let entries = all(&log);
        if 40 < entries.len() {
            log.purge(entries[entries.len() - 30].id).expect("accepted");
        }
        let expected = all(&log);
        log.close().expect("closes");
        log = opened(&disk);
        assert_eq!(all(&log), expected, "term {term}");
    }
    log.close().expect("closes");
    assert_eq!(scan(&disk).expect("intact").entries().count() as u64, next);
}

#[test]
fn an_append_replaces_what_it_overlaps() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    append_durably(&log, (0..5).map(|index| entry(1, index)).collect());
    append_durably(&log, vec![entry(2, 3)]);
    let expected = vec![entry(1, 0), entry(1, 1), entry(1, 2), entry(2, 3)];
    assert_eq!((all(&log), log.durable()), (expected.clone(), Some(id(2, 3))));
    log.close().expect("closes");
    assert_eq!(all(&opened(&disk)), expected);
}

#[test]
fn a_first_entry_may_be_larger_than_the_first_segment() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    append_durably(&log, vec![entry_of(1, 0, 40 << 10)]);
    log.close().expect("closes");
    assert_eq!(all(&opened(&disk)), [entry_of(1, 0, 40 << 10)]);
}

#[test]
fn a_running_log_can_be_scanned() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = LogOptions { idle: Duration::ZERO, ..options() };
    let log = Log::open(Arc::new(RealDisk), folder.path(), options).expect("opens");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for index in 0..300 {
                append_durably(&log, vec![entry_of(1, index, 200)]);
                log.save_committed(id(1, index));
            }
            is_over.store(true, Ordering::Relaxed);
        });
        while !is_over.load(Ordering::Relaxed) {
            let scan = LogScan::open(&RealDisk, folder.path()).expect("never taken for corrupt");
            for (index, found) in scan.entries().enumerate() {
                assert_eq!(found.expect("readable").entry, entry_of(1, index as u64, 200));
            }
            assert!(scan.committed().map(|id| id.index) <= scan.last().map(|id| id.index));
        }
    });
    log.close().expect("closes");
    let scan = LogScan::open(&RealDisk, folder.path()).expect("intact");
    assert_eq!((scan.committed(), scan.durable()), (Some(id(1, 299)), Some(id(1, 299))));
}

#[test]
fn a_vote_makes_earlier_appends_durable() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    disk.hold_syncs();
    let durable = append(&log, vec![entry(1, 0)]).expect("accepted");
    let vote = Vote { term: Term(4), node: Some(NodeId(9)), committed: true };
    let saved = std::thread::scope(|scope| {
        let saving = scope.spawn(|| block_on(log.save_vote(vote)));
        disk.release_syncs();
        saving.join().expect("no panic")
    });
    saved.expect("the vote is saved");
    durable.try_recv().expect("called before the vote returned").expect("durable");
    let log = opened(&disk.crash(7));
    assert_eq!((log.vote(), indexes(&log)), (Some(vote), vec![0]));
}

#[test]
fn readers_see_no_half_state() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let entries = all(&log);
                    for pair in entries.windows(2) {
                        assert_eq!(pair[0].id.index.next(), pair[1].id.index);
                        assert!(pair[0].id.term <= pair[1].id.term, "an old entry behind a new one");
                    }
                    for found in entries {
                        assert_eq!(found, entry_of(found.id.term.0, found.id.index.0, 300));
                    }
                }
            });
        }
        let mut next = 0;
        for term in 1..50 {
            append(&log, (next..next + 5).map(|index| entry_of(term, index, 300)).collect()).expect("accepted");
            let last = all(&log).into_iter().find(|entry| entry.id.index.0 == next + 2).expect("just appended").id;
            log.truncate_after(Some(last)).expect("accepted");
            next += 3;
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(indexes(&log), (0..147).collect::<Vec<_>>());
}
