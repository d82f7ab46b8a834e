//! A full disk, or a lack of descriptors, is a refusal that passes on its own. A failed write or sync is final until
//! the log is opened again.

use futures_util::FutureExt;

use super::*;
use crate::disk::SimOp;
use crate::log::{LogHealth, Vote};

/// Appends entry after entry until the log refuses. Returns how many it has.
fn fill(log: &Log, from: u64) -> u64 {
    let mut next = from;
    loop {
        match append(log, vec![entry_of(1, next, 1000)]) {
            Ok(durable) => durable.recv().expect("called").expect("an accepted append never meets a full disk"),
            Err(LogError::Full) => return next,
            Err(error) => panic!("unexpected: {error}"),
        }
        next += 1;
    }
}

#[test]
fn a_full_disk_refuses_appends_and_nothing_else() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    disk.set_capacity(Some(150 << 10));
    let count = fill(&log, 0);
    assert!(0 < count);
    assert_eq!(log.health(), LogHealth::Full);
    assert_eq!(all(&log).len() as u64, count, "a refused append changed nothing");
    let vote = Vote { term: Term(2), node: None, committed: false };
    block_on(log.save_vote(vote)).expect("a vote has room kept for it");
    log.purge(id(1, 0)).expect("a purge too");

    disk.set_capacity(None);
    let mut accepted = append(&log, vec![entry(1, count)]);
    while matches!(accepted, Err(LogError::Full)) {
        std::thread::yield_now();
        accepted = append(&log, vec![entry(1, count)]);
    }
    accepted.expect("resumed").recv().expect("called").expect("durable");
    // A small append may have found room in the old segment, before the next one is ready.
    while log.health() != LogHealth::Ok {
        std::thread::yield_now();
    }
    log.close().expect("closes");
    let log = opened(&disk);
    assert_eq!((log.last(), log.vote()), (Some(id(1, count)), Some(vote)));
}

/// A lack of descriptors used to end the log: a client that held a thousand idle connections open halted a partition.
#[test]
fn a_want_of_descriptors_refuses_appends_and_passes() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    append_durably(&log, vec![entry(1, 0)]);
    disk.set_lacking_descriptors(true);
    let count = fill(&log, 1);
    assert_eq!(log.health(), LogHealth::Full);
    block_on(log.save_vote(Vote { term: Term(2), node: None, committed: false })).expect("a vote has room kept for it");
    disk.set_lacking_descriptors(false);
    while log.health() != LogHealth::Ok {
        std::thread::yield_now();
    }
    append_durably(&log, vec![entry(1, count)]);
    log.close().expect("closes");
    assert_eq!(opened(&disk).last(), Some(id(1, count)));
}

#[test]
fn what_is_under_way_when_the_disk_gets_full_may_use_the_rest_of_the_segment() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(16 << 10));
    let log = opened(&disk);
    while log.health() != LogHealth::Full {
        std::thread::yield_now();
    }
    append_durably(&log, vec![entry_of(1, 0, 1000)]);
    assert_eq!(log.health(), LogHealth::Full);
    let count = fill(&log, 1);
    assert!(8 < count, "{count} entries of 1,104 bytes fit beside the reserve of 2 KiB");
    // The reserve is still free: a vote needs a frame of 72 bytes.
    for term in 2..22 {
        let vote = Vote { term: Term(term), node: None, committed: false };
        block_on(log.save_vote(vote)).expect("a vote has room kept for it");
    }
    drop(log);
    assert_eq!(opened(&disk).vote().map(|vote| vote.term), Some(Term(21)));
}

#[test]
fn a_log_opens_on_a_full_disk() {
    let disk = SimDisk::new();
    append_durably(&opened(&disk), vec![entry(1, 0)]);
    disk.set_capacity(Some(disk.used()));
    let log = opened(&disk);
    assert_eq!(indexes(&log), [0]);
    let count = fill(&log, 1);
    assert_eq!(all(&log).len() as u64, count);
}

#[test]
fn a_failed_write_or_sync_is_final() {
    for op in [SimOp::Write, SimOp::Sync] {
        let disk = SimDisk::new();
        let log = opened(&disk);
        append_durably(&log, vec![entry(1, 0)]);
        wait_for_spare(&log, &disk);
        disk.set_failing(Some(op));
        let result = append(&log, vec![entry(1, 1)]).expect("accepted in memory").recv().expect("called");
        assert!(matches!(result, Err(LogError::Disk { .. })), "{op:?}: {result:?}");
        disk.set_failing(None);
        assert!(matches!(append(&log, vec![entry(1, 2)]), Err(LogError::Disk { .. })), "{op:?} is not tried again");
        assert!(matches!(
            block_on(log.save_vote(Vote { term: Term(1), node: None, committed: false })),
            Err(LogError::Disk { .. })
        ));
        assert!(matches!(log.health(), LogHealth::Failed(_)));
        assert_eq!(log.durable(), Some(id(1, 0)));
        assert!(log.close().is_err());
        let recovered = opened(&disk);
        assert_eq!(all(&recovered)[0], entry(1, 0));
    }
}

#[test]
fn callbacks_come_in_order_and_exactly_once() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    let (sender, receiver) = mpsc::channel();
    wait_for_spare(&log, &disk);
    for index in 0..=20 {
        let sender = sender.clone();
        let done = move |result: Result<(), LogError>| sender.send((index, result.is_ok())).expect("the test waits");
        log.append(vec![entry_of(1, index, 500)], Box::new(done)).expect("accepted");
    }
    // An append of no entries is durable when everything before it is.
    append_durably(&log, vec![]);
    wait_for_spare(&log, &disk);
    disk.set_failing(Some(SimOp::Sync));
    let failed = append(&log, vec![entry(1, 21)]).expect("accepted").recv().expect("called");
    assert!(failed.is_err());
    drop((log, sender));
    let called: Vec<_> = receiver.iter().collect();
    assert_eq!(called, (0..=20).map(|index| (index, true)).collect::<Vec<_>>());
}

/// The append used to block a runtime thread while a segment was prepared, and with it the heartbeats of all other
/// partitions.
#[test]
fn an_append_that_waits_for_room_holds_no_thread() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    disk.hold_syncs();
    let mut next = 0;
    while let Some(appended) = log.append_in_turn(vec![entry_of(1, next, 1000)], Box::new(drop)).now_or_never() {
        appended.expect("there is room");
        next += 1;
    }
    let (sender, durable) = mpsc::channel();
    block_on(async {
        let waiting =
            log.append_in_turn(vec![entry_of(1, next, 1000)], Box::new(move |result| _ = sender.send(result)));
        // The append is polled first: if it blocked the thread, nobody would release the disk.
        let (appended, ()) = futures_util::join!(waiting, async { disk.release_syncs() });
        appended.expect("there is room again");
    });
    durable.recv().expect("called").expect("durable");
    assert_eq!(all(&log).len() as u64, next + 1, "one that was dropped while it waited was not added");
}

#[test]
fn whoever_waits_for_room_hears_that_the_log_has_failed() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    let ended = log.watch_ended();
    disk.hold_syncs();
    let mut next = 0;
    while let Some(appended) = log.append_in_turn(vec![entry_of(1, next, 1000)], Box::new(drop)).now_or_never() {
        appended.expect("there is room");
        next += 1;
    }
    assert_eq!(*ended.borrow(), None);
    block_on(async {
        let waiting = log.append_in_turn(vec![entry_of(1, next, 1000)], Box::new(drop));
        let (appended, ()) = futures_util::join!(waiting, async {
            disk.set_failing(Some(SimOp::Sync));
            disk.release_syncs();
        });
        assert!(matches!(appended, Err(LogError::Disk { .. })), "{appended:?}");
    });
    assert!(ended.borrow().is_some());
}

#[test]
fn a_closed_log_may_be_opened_again_although_somebody_reads_from_it() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    let (open, reader) = (log.open_mark(), log.clone());
    append_durably(&log, vec![entry(1, 0)]);
    assert_ne!(open.strong_count(), 0);
    log.close().expect("closes");
    assert_eq!(open.strong_count(), 0);
    assert_eq!(all(&reader), [entry(1, 0)]);
}
