//! Cuts after an entry that somebody has accepted as the last one, also inside sealed segments. Nothing after it is in
//! the log any more, or counts as committed, whenever the power is cut and whichever seals exist.

use super::sealing::{is_sealed, sealed_disk, sealed_log, seals, wait_until, without_seals};
use super::*;
use crate::ids::Lsn;
use crate::log::{Damage, DamagedLog, ScannedEntry, ScrubPace, Vote};

/// Reads entries in some places, so that their segments are open.
fn touch(log: &Log, entries: &[LogEntry]) {
    for entry in entries.iter().step_by(40) {
        log.read(entry.id.index..entry.id.index.next(), 1).expect("readable");
    }
}

/// Checks that the log has exactly these entries, and that its segments are intact.
fn check(log: &Log, expected: &[LogEntry], what: &str) {
    assert_eq!(all(log), expected, "{what}");
    let last = expected.last().map(|entry| entry.id);
    assert_eq!((log.last(), log.durable()), (last, last), "{what}");
    assert!(log.committed().map(|id| id.index) <= last.map(|id| id.index), "{what}");
    let mut starts: Vec<EntryId> = Vec::new();
    for entry in expected {
        if starts.last().is_none_or(|start| start.term != entry.id.term) {
            starts.push(entry.id);
        }
    }
    assert_eq!(log.term_starts(), starts, "{what}");
    for segment in log.sealed_segments() {
        assert_eq!(log.scrub(segment, |_| ScrubPace::GoOn).expect("whole"), ScrubPace::GoOn, "{what}");
    }
}

fn scanned(disk: &SimDisk) -> Vec<LogEntry> {
    let entry = |found: Result<ScannedEntry, LogError>| found.expect("readable").entry;
    scan(disk).expect("it is whole").entries().map(entry).collect()
}

/// Appends and commits in a later term until `more` further segments exist. All closed segments can then be sealed.
fn go_on(log: &Log, disk: &SimDisk, term: u64, more: usize) {
    let segments = || disk.list(dir()).expect("it is there").iter().filter(|name| name.ends_with(".log")).count();
    let (wanted, mut next) = (segments() + more, log.last().map_or(0, |last| last.index.0 + 1));
    while segments() < wanted {
        append_durably(log, (next..next + 8).map(|index| entry_of(term, index, 900)).collect());
        next += 8;
    }
    log.save_committed(log.last().expect("it has entries"));
}

/// Positions of all kinds for the last entry that stays.
fn places(entries: &[LogEntry]) -> Vec<usize> {
    let last = entries.len() - 1;
    (0..=last).step_by(23).chain([last - 1, last]).collect()
}

#[test]
fn a_log_is_cut_wherever_an_entry_is_accepted_as_the_last() {
    let (intact, entries) = sealed_disk();
    for place in places(&entries) {
        let (disk, expected, what) = (intact.copy(), &entries[..=place], format!("behind {}", entries[place].id));
        let log = opened(&disk);
        let (vote, committed) = (log.vote(), log.committed());
        touch(&log, &entries);
        log.cut_after(entries[place].id).unwrap_or_else(|error| panic!("{what}: {}", error.reason()));
        check(&log, expected, &what);
        assert_eq!(log.committed(), committed.filter(|_| place + 1 == entries.len()).or(Some(entries[place].id)));
        drop(log);
        let plain = opened(&without_seals(&disk));
        check(&plain, expected, &what);
        let log = opened(&disk);
        check(&log, expected, &what);
        assert_eq!((log.vote(), log.committed()), (vote, plain.committed()), "{what}");
        assert_eq!(scanned(&disk), expected, "{what}");
        // The segments after the cut are sealed again once their new entries are committed.
        go_on(&log, &disk, 60, 6);
        let expected = all(&log);
        drop(log);
        check(&opened(&disk), &expected, &what);
        check(&opened(&without_seals(&disk)), &expected, &what);
    }
}

#[test]
fn a_log_that_was_just_sealed_is_cut() {
    for place in [3, 60, 150, 250] {
        let disk = SimDisk::new();
        let log = sealed_log(&disk);
        let mut expected = all(&log);
        expected.truncate(place + 1);
        log.cut_after(expected[place].id).expect("it is there");
        check(&log, &expected, "while it is open");
        go_on(&log, &disk, 60, 8);
        wait_until(|| is_sealed(&log, &disk));
        let expected = all(&log);
        assert_eq!(expected[place + 1].id.term, Term(60));
        check(&log, &expected, "while it is open");
        drop(log);
        check(&opened(&disk), &expected, "opened again");
        check(&opened(&without_seals(&disk)), &expected, "without seals");
    }
}

#[test]
fn what_is_not_there_is_no_place_to_cut() {
    let (disk, entries) = sealed_disk();
    let log = opened(&disk);
    let last = log.last().expect("it has entries");
    let other = EntryId { term: Term(77), ..entries[40].id };
    assert!(matches!(log.cut_after(other), Err(LogError::NotThere(found)) if found == other));
    let beyond = EntryId { index: last.index.next(), ..last };
    assert!(matches!(log.cut_after(beyond), Err(LogError::NotThere(found)) if found == beyond));
    log.purge(entries[50].id).expect("accepted");
    assert!(matches!(log.cut_after(entries[49].id), Err(LogError::Purged { .. })));
    assert_eq!(all(&log), entries[51..]);
    // Only purged entries are left.
    log.cut_after(entries[50].id).expect("the last purged one is known");
    assert!(indexes(&log).is_empty());
    append_durably(&log, vec![entry(60, 51)]);
    drop(log);
    let log = opened(&disk);
    assert_eq!((indexes(&log), log.last_purged()), (vec![51], Some(entries[50].id)));
    // An entry that cannot be read vouches for nothing.
    let (disk, entries) = sealed_disk();
    let path = dir().join(seals(&disk)[1].replace(".seal", ".log"));
    let mut damaged = disk.content(&path).expect("it is there");
    damaged[4096..12_000].fill(0xee);
    let log = opened(&disk);
    disk.put(&path, damaged);
    let lost = entries.iter().find(|entry| log.hash_of(entry.id).is_err()).expect("some of it is lost").id;
    let cut = log.cut_after(lost);
    assert!(matches!(cut, Err(LogError::Corrupt { damage: Damage::Frame, .. })), "{cut:?}");
    assert_eq!(log.last(), entries.last().map(|entry| entry.id));
}

/// Before the cut is durable the log is the old one, afterwards the cut one. This also holds if the power is cut again
/// while the log is opened.
#[test]
fn a_power_cut_while_a_log_is_cut_leaves_the_old_one_or_the_new_one() {
    let (intact, entries) = sealed_disk();
    for place in [5, 100, 200] {
        let (old, new) = (&entries[..], &entries[..=place]);
        let (mut is_cut, mut operations) = (false, 0);
        while !is_cut {
            for seed in 0..6 {
                let disk = intact.copy();
                let log = opened(&disk);
                wait_for_spare(&log, &disk);
                disk.crash_after(operations);
                is_cut = log.cut_after(entries[place].id).is_ok();
                drop(log);
                let disk = disk.crash(seed);
                let found = all(&opened(&disk.copy()));
                assert!(found == new || (!is_cut && found == old), "{place}, {operations}, {seed}: {}", found.len());
                check_opening(&disk, &found, seed);
            }
            operations += 1;
            assert!(operations < 100);
        }
    }
}

/// The power is cut at any operation of the next start, which drops seals.
fn check_opening(disk: &SimDisk, expected: &[LogEntry], seed: u64) {
    let count = |disk: &SimDisk| {
        let log = opened(disk);
        wait_for_spare(&log, disk);
        disk.operations()
    };
    for operations in 0..count(&disk.copy()) {
        let started = disk.copy();
        started.crash_after(operations);
        drop(open(&started));
        let started = started.crash(seed);
        assert_eq!(all(&opened(&without_seals(&started))), expected, "{operations}, {seed}, without seals");
        assert_eq!(all(&opened(&started)), expected, "{operations}, {seed}");
    }
}

/// The entries that replace what was given up have the same indexes, and nobody has committed them yet.
#[test]
fn what_follows_a_cut_is_not_committed_by_what_was_before_it() {
    let (intact, entries) = sealed_disk();
    for place in [30, 120, entries.len() - 2] {
        for seed in 0..8 {
            let disk = intact.copy();
            let log = opened(&disk);
            block_on(log.save_vote(Vote { term: Term(50), node: Some(NodeId(1)), committed: true })).expect("saved");
            log.cut_after(entries[place].id).expect("it is there");
            let next = place as u64 + 1;
            append_durably(&log, (next..next + 200).map(|index| entry_of(50, index, 300)).collect());
            assert_eq!(log.committed(), Some(entries[place].id));
            let disk = disk.crash(seed);
            drop(log);
            for disk in [without_seals(&disk), disk] {
                let log = opened(&disk);
                assert_eq!(log.last(), Some(id(50, next + 199)));
                assert!(log.committed().is_some_and(|committed| committed.index.0 <= place as u64), "{place}, {seed}");
            }
        }
    }
}

/// Nobody has what was given up, so asking for it is useless. When the log is opened again it is repaired without it.
#[test]
fn damage_in_what_was_given_up_is_repaired_without_it() {
    let (disk, entries) = sealed_disk();
    let log = opened(&disk);
    log.cut_after(entries[60].id).expect("it is there");
    let kept = all(&log);
    let name = seals(&disk)[4].clone();
    let path = dir().join(name.replace(".seal", ".log"));
    let mut damaged = disk.content(&path).expect("it is there");
    damaged[6000] ^= 1;
    disk.put(&path, damaged);
    let first_lsn = Lsn(u64::from_str_radix(&name[4..20], 16).expect("a segment's name"));
    let segment = log.sealed_segments().into_iter().find(|it| it.first_lsn == first_lsn).expect("sealed");
    log.scrub(segment, |_| ScrubPace::GoOn).expect_err("it is damaged");
    let lost = log.lost_in(first_lsn);
    assert!(matches!(lost, Err(LogError::Unmendable { .. })), "{lost:?}");
    assert!(log.is_damaged(), "and stays so");
    drop(log);
    // The next start reads the segments that were cut, and finds the damage.
    let error = open(&disk).err().expect("it is damaged");
    assert!(matches!(error, LogError::Corrupt { .. }), "{}", error.reason());
    let examined = DamagedLog::examine(Arc::new(disk.clone()), dir(), &options()).expect("it can be read");
    let examined = examined.expect("it is damaged");
    // Lost bytes may have replaced entries before them that were not known to be committed then.
    assert!(examined.missing().iter().all(|range| *range.end() <= LogIndex(60)), "{:?}", examined.missing());
    examined.repair(&kept, None, Term(0)).expect("the others have what was kept");
    assert_eq!(all(&opened(&disk)), kept);
}
