//! Segments that hold nothing but purged entries are deleted. Nothing misses them, and no other segment may be missing.

use super::*;
use crate::log::{Damage, DamagedLog, Vote};

/// A log of several segments that is purged almost to its end, as the newest header says.
fn purged_log(disk: &SimDisk) -> Log {
    let log = opened(disk);
    block_on(log.save_vote(Vote { term: Term(1), node: Some(NodeId(1)), committed: true })).expect("saved");
    fill(&log, 60);
    log.purge(id(1, 40)).expect("accepted");
    let before = segments(disk);
    let mut next = 60;
    while segments(disk).len() < before.len() + 2 {
        append_durably(&log, (next..next + 8).map(|index| entry_of(1, index, 900)).collect());
        next += 8;
    }
    log
}

fn fill(log: &Log, count: u64) {
    for index in 0..count {
        append_durably(log, vec![entry_of(1, index, 900)]);
    }
}

fn segments(disk: &SimDisk) -> Vec<String> {
    let mut names = disk.list(dir()).expect("the folder is there");
    names.retain(|name| name.starts_with("seg-") && name.ends_with(".log"));
    names.sort_unstable();
    names
}

#[test]
fn nothing_is_deleted_that_is_not_purged() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    fill(&log, 60);
    let before = segments(&disk);
    assert!(2 < before.len());
    assert_eq!(log.release().expect("it looks"), 0);
    log.purge(id(1, 40)).expect("accepted");
    assert_eq!(log.release().expect("it looks"), 0, "the newest header does not say so yet");
    assert_eq!(segments(&disk), before);
}

#[test]
fn a_released_log_opens_and_goes_on() {
    let disk = SimDisk::new();
    let log = purged_log(&disk);
    let (before, bytes, expected, earlier) = (segments(&disk), log.bytes(), all(&log), disk.copy());
    let freed = log.release().expect("the disk is well");
    let after = segments(&disk);
    assert!(after.len() < before.len() && before.ends_with(&after), "{before:?} → {after:?}");
    let gone = before.iter().filter(|name| !after.contains(name));
    let size = |name: &String| earlier.content(&dir().join(name)).map_or(0, |content| content.len() as u64);
    assert_eq!(freed, gone.map(size).sum::<u64>(), "the bytes of the files that are gone");
    // The log may have made its next segment meanwhile.
    let made = log.bytes() + freed - bytes;
    assert!(made == 0 || made == 64 << 10, "{made}");
    assert_eq!(log.release().expect("the disk is well"), 0, "once is enough");
    assert_eq!(all(&log), expected);
    let (last, vote) = (log.last(), log.vote());
    drop(log);
    let log = opened(&disk);
    assert_eq!((all(&log), log.last(), log.vote()), (expected.clone(), last, vote));
    assert_eq!(log.last_purged(), Some(id(1, 40)));
    let next = last.map_or(0, |last| last.index.0 + 1);
    append_durably(&log, vec![entry(2, next)]);
    drop(log);
    let scan = scan(&disk).expect("what is left is sound");
    let found: Vec<LogEntry> = scan.entries().map(|found| found.expect("readable").entry).collect();
    assert!(found.len() > expected.len() && found[0].id.index < LogIndex(40), "purged ones that are left are there");
    assert_eq!(found.last().map(|entry| entry.id), Some(id(2, next)));
}

#[test]
fn a_segment_that_was_not_released_is_missed() {
    let disk = SimDisk::new();
    drop(purged_log(&disk));
    let names = segments(&disk);
    for (number, name) in names.iter().enumerate().take(names.len() - 1) {
        let disk = disk.copy();
        disk.remove(&dir().join(name)).expect("it is there");
        let opened = open(&disk);
        if number == 0 {
            // It makes no difference whether the segment was released or lost: everything in it is purged.
            opened.expect("the newest header vouches for it");
        } else {
            let error = opened.err().expect("it is missed");
            assert!(matches!(error, LogError::Corrupt { damage: Damage::SegmentMissing(_), .. }), "{error}");
        }
    }
    // A missing beginning that is not purged is reported.
    let disk = SimDisk::new();
    let log = opened(&disk);
    fill(&log, 60);
    drop(log);
    disk.remove(&dir().join(&segments(&disk)[0])).expect("it is there");
    let error = open(&disk).err().expect("it is missed");
    assert!(matches!(error, LogError::Corrupt { damage: Damage::SegmentMissing(_), .. }), "{error}");
}

#[test]
fn a_power_cut_while_files_are_deleted_is_harmless() {
    let intact = SimDisk::new();
    drop(purged_log(&intact));
    let expected = all(&opened(&intact.copy()));
    for operations in 0..40 {
        for seed in 0..4 {
            let disk = intact.copy();
            let log = opened(&disk);
            disk.crash_after(operations);
            let is_done = log.release().is_ok();
            drop(log);
            let disk = disk.crash(seed);
            let log = open(&disk).unwrap_or_else(|error| panic!("{operations}, {seed}: {}", error.reason()));
            assert_eq!(all(&log), expected, "{operations}, {seed}");
            log.release().expect("it goes on");
            assert_eq!(all(&log), expected, "{operations}, {seed}");
            if is_done {
                break;
            }
        }
    }
}

#[test]
fn a_released_log_that_is_damaged_is_repaired() {
    let intact = SimDisk::new();
    let log = purged_log(&intact);
    log.release().expect("the disk is well");
    log.close().expect("closes");
    let entries = all(&opened(&intact.copy()));
    let names = segments(&intact);
    assert!(2 <= names.len());
    for name in &names {
        for offset in [100, 5000, 9000] {
            let disk = intact.copy();
            let path = dir().join(name);
            let mut content = disk.content(&path).expect("it is there");
            content[offset] ^= 8;
            disk.put(&path, content);
            let Some(damaged) =
                DamagedLog::examine(Arc::new(disk.clone()), dir(), &options()).expect("it can be looked at")
            else {
                continue;
            };
            let missing = damaged.missing();
            assert!(missing.iter().all(|range| LogIndex(40) < *range.start()), "{name}, {offset}: {missing:?}");
            let is_wanted = |entry: &&LogEntry| {
                missing.iter().any(|range| range.contains(&entry.id.index))
                    || damaged.lost_from().is_some_and(|from| from <= entry.id.index)
            };
            let given: Vec<LogEntry> = entries.iter().filter(is_wanted).cloned().collect();
            let repaired = damaged.repair(&given, None, Term(1));
            repaired.unwrap_or_else(|error| panic!("{name}, {offset}: {}", error.reason()));
            assert_eq!(all(&opened(&disk)), entries, "{name}, {offset}");
        }
    }
}

/// There are two replicas: one has all entries, the other a snapshot up to `upto`.
fn check_skip(held: Vec<LogEntry>, upto: EntryId, expected: &[u64]) {
    let whole = opened(&SimDisk::new());
    append_durably(&whole, (0..8).map(|index| entry(1, index)).chain((8..12).map(|index| entry(2, index))).collect());
    let disk = SimDisk::new();
    let log = opened(&disk);
    append_durably(&log, held);
    let hash = whole.hash_of(upto).expect("readable");
    log.skip_to(upto, hash).expect("the disk is well");
    let disk = disk.crash(1);
    let log = opened(&disk);
    assert_eq!(log.last_purged(), Some(upto));
    assert_eq!(indexes(&log), expected, "what follows it stays, what contradicts it goes");
    log.skip_to(upto, hash).expect("once more changes nothing");
    let next = log.last().expect("it skipped to one").index;
    append_durably(&log, (next.0 + 1..12).map(|index| entry(2, index)).collect());
    let hash_of = |log: &Log| log.hash_of(id(2, 11)).expect("readable");
    assert_eq!(hash_of(&log), hash_of(&whole), "the chain is the same on both");
}

#[test]
fn a_snapshot_takes_the_place_of_entries() {
    let ones = |range: std::ops::Range<u64>| range.map(|index| entry(1, index)).collect::<Vec<_>>();
    check_skip(vec![], id(2, 9), &[]);
    check_skip(ones(0..3), id(2, 9), &[]);
    check_skip(ones(0..8), id(1, 5), &[6, 7]);
    check_skip(ones(0..11), id(2, 9), &[]);
}

#[test]
fn how_much_follows_an_entry_is_told() {
    let log = opened(&SimDisk::new());
    assert_eq!((log.bytes_after(None), log.find_before_last(0)), (0, None));
    for index in 0..20 {
        append_durably(&log, vec![entry_of(1, index, 500)]);
    }
    assert_eq!(log.bytes_after(Some(id(1, 19))), 0);
    for bytes in [0, 600, 5000] {
        let found = log.find_before_last(bytes).expect("there is more than that");
        let next = EntryId { index: found.index.next(), ..found };
        assert!(bytes <= log.bytes_after(Some(found)), "{bytes}: {found}");
        assert!(log.bytes_after(Some(next)) <= bytes, "{bytes}: {found}");
    }
    assert_eq!(log.find_before_last(1 << 20), None);
}
