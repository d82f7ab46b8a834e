//! Mending in place: a sealed segment gets back what it lost, and a power cut on the way leaves the old segment or the
//! new one.

use super::sealing::*;
use super::*;
use crate::ids::Lsn;
use crate::log::ScrubPace;

/// The entries in these ranges, as a peer that has all entries returns them.
pub(super) fn give(entries: &[LogEntry], ranges: &[std::ops::RangeInclusive<LogIndex>]) -> Vec<LogEntry> {
    let is_asked_for = |entry: &&LogEntry| ranges.iter().any(|range| range.contains(&entry.id.index));
    entries.iter().filter(is_asked_for).cloned().collect()
}

#[test]
fn a_damaged_sealed_segment_is_mended_in_place() {
    let (intact, entries) = sealed_disk();
    let plain = opened(&without_seals(&intact));
    let (vote, last) = (plain.vote(), plain.last());
    for name in seals(&intact) {
        let path = dir().join(name.replace(".seal", ".log"));
        let content = intact.content(&path).expect("it is there");
        let frames = frames_of(&content);
        let first_lsn = Lsn(u64::from_str_radix(&name[4..20], 16).expect("a segment's name"));
        for (size, step) in [(1, 2003), (700, 3001), (9000, 9001), (0, 9001)] {
            for offset in (0..frames.end).step_by(step) {
                let disk = intact.copy();
                let log = opened(&disk);
                let mut damaged = content.clone();
                match size {
                    0 => damaged.truncate(offset),
                    1 => damaged[offset] ^= 4,
                    _ => damaged[offset..(offset + size).min(frames.end)].fill(0xee),
                }
                disk.put(&path, damaged);
                let segment = log.sealed_segments().into_iter().find(|it| it.first_lsn == first_lsn).expect("sealed");
                let what = format!("{name}, {size} at {offset}");
                if log.scrub(segment, |_| ScrubPace::GoOn).is_ok() {
                    // The damaged bytes were unused.
                    continue;
                }
                let lost = log.lost_in(first_lsn).unwrap_or_else(|error| panic!("{what}: {}", error.reason()));
                if let Some(range) = lost.first() {
                    let mut wrong = give(&entries, &lost);
                    wrong.retain(|entry| entry.id.index != *range.start());
                    assert!(matches!(log.mend(first_lsn, &wrong), Err(LogError::Misfit { .. })), "{what}");
                    assert!(!log.watch_rot().borrow().is_empty(), "{what}");
                }
                let mended = log.mend(first_lsn, &give(&entries, &lost));
                mended.unwrap_or_else(|error| panic!("{what}: {}", error.reason()));
                assert!(log.watch_rot().borrow().is_empty(), "{what}");
                assert_eq!(all(&log), entries, "{what}");
                assert_eq!(log.scrub(segment, |_| ScrubPace::GoOn).expect("whole"), ScrubPace::GoOn, "{what}");
                drop(log);
                let found = opened(&without_seals(&disk));
                assert_eq!((found.vote(), found.last()), (vote, last), "{what}: without any seal");
                assert_eq!(all(&found), entries, "{what}");
                assert_eq!(scan(&disk).expect("it is whole").entries().count(), entries.len(), "{what}");
            }
        }
    }
}

#[test]
fn a_power_cut_while_a_segment_is_mended_leaves_the_old_one_or_the_new_one() {
    let (intact, entries) = sealed_disk();
    let name = &seals(&intact)[2];
    let path = dir().join(name.replace(".seal", ".log"));
    let first_lsn = Lsn(u64::from_str_radix(&name[4..20], 16).expect("a segment's name"));
    let mut damaged = intact.content(&path).expect("it is there");
    damaged[6000] ^= 1;
    let mut is_mended = false;
    for operations in 0..40 {
        for seed in 0..4 {
            let disk = intact.copy();
            disk.put(&path, damaged.clone());
            let log = opened(&disk);
            wait_for_spare(&log, &disk);
            disk.crash_after(operations);
            is_mended = log.mend(first_lsn, &give(&entries, &log.lost_in(first_lsn).expect("sealed"))).is_ok();
            drop(log);
            let disk = disk.crash(seed);
            let log = opened(&disk);
            let segment = log.sealed_segments().into_iter().find(|it| it.first_lsn == first_lsn).expect("sealed");
            if log.scrub(segment, |_| ScrubPace::GoOn).is_err() {
                assert!(!is_mended);
                let lost = log.lost_in(first_lsn).expect("sealed");
                log.mend(first_lsn, &give(&entries, &lost)).expect("it is mended now");
            }
            assert_eq!(all(&log), entries, "{operations}, {seed}");
            scan(&disk).expect("it is whole");
        }
        if is_mended {
            break;
        }
    }
    assert!(is_mended);
}

/// A backup of a segment from before it was full has the same name, header and size, but less content.
#[test]
fn a_segment_older_than_its_seal_is_damage_and_is_mended() {
    let (intact, entries) = sealed_disk();
    let name = &seals(&intact)[3];
    let path = dir().join(name.replace(".seal", ".log"));
    let first_lsn = Lsn(u64::from_str_radix(&name[4..20], 16).expect("a segment's name"));
    let mut older = intact.content(&path).expect("it is there");
    let half = frames_of(&older).end / 2;
    older[half..].fill(0);
    let disk = intact.copy();
    disk.put(&path, older);
    let log = opened(&disk);
    let segment = log.sealed_segments().into_iter().find(|it| it.first_lsn == first_lsn).expect("the seal is believed");
    log.scrub(segment, |_| ScrubPace::GoOn).expect_err("it is not what was sealed");
    let lost = log.lost_in(first_lsn).expect("sealed");
    assert!(!lost.is_empty());
    log.mend(first_lsn, &give(&entries, &lost)).expect("the others have it");
    assert_eq!((all(&log), log.is_damaged()), (entries.clone(), false));
    // Without the seal, which knows better, the older segment is not taken for the end of the log either.
    let mut older = intact.content(&path).expect("it is there");
    older[half..].fill(0);
    let plain = without_seals(&intact);
    plain.put(&path, older);
    assert!(matches!(open(&plain).err(), Some(LogError::Corrupt { .. })));
}
