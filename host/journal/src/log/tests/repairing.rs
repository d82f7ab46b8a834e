//! A damaged log is rebuilt from its intact entries and from those that peers give. It then equals an undamaged copy.
//! Wrong entries are refused, votes never go back, and a power cut during the repair leaves the damaged log or the
//! repaired one, never a third thing. An intact copy of the disk plays the peers.

use std::ops::RangeInclusive;

use super::*;
use crate::log::{Damage, DamagedLog, Misfit, RepairReport, Vote};

/// The highest term that the peers of these tests have heard of.
const FLOOR: Term = Term(9);

fn vote(term: u64, node: u64, committed: bool) -> Vote {
    Vote { term: Term(term), node: Some(NodeId(node)), committed }
}

/// A closed log of several segments, with votes between entries, a truncation that is overwritten, commits and a purge.
fn eventful_log() -> SimDisk {
    let disk = SimDisk::new();
    let log = opened(&disk);
    block_on(log.save_vote(vote(1, 1, true))).expect("saved");
    for index in 0..24 {
        append_durably(&log, vec![entry_of(1, index, 700)]);
        if index == 8 {
            log.save_committed(id(1, 8));
        }
    }
    log.save_committed(id(1, 15));
    block_on(log.save_vote(vote(2, 3, false))).expect("saved");
    append_durably(&log, (24..30).map(|index| entry_of(1, index, 500)).collect());
    log.truncate_after(Some(id(1, 20))).expect("accepted");
    block_on(log.save_vote(vote(3, 2, true))).expect("saved");
    append_durably(&log, (21..26).map(|index| entry_of(3, index, 900)).collect());
    log.purge(id(1, 4)).expect("accepted");
    for index in 26..60 {
        append_durably(&log, vec![entry_of(3, index, 600)]);
        log.save_committed(id(3, index - 1));
    }
    log.close().expect("closes");
    disk
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let names = disk.list(dir()).expect("the folder is there");
    let mut names: Vec<_> =
        names.into_iter().filter(|name| name.starts_with("seg-") && name.ends_with(".log")).collect();
    names.sort_unstable();
    names.iter().map(|name| dir().join(name)).collect()
}

/// Every entry of the journal in `disk`, purged ones too, with its chain hash.
fn journal(disk: &SimDisk) -> Vec<(LogEntry, [u8; 32])> {
    let scan = scan(disk).expect("intact");
    scan.entries().map(|found| found.map(|found| (found.entry, found.hash)).expect("readable")).collect()
}

fn examine(disk: &SimDisk) -> Option<DamagedLog> {
    DamagedLog::examine(Arc::new(disk.clone()), dir(), &options()).expect("it can be read")
}

/// The entries that a caller fetches from an intact copy.
fn fetched(damaged: &DamagedLog, copy: &[(LogEntry, [u8; 32])]) -> Vec<LogEntry> {
    let missing: Vec<RangeInclusive<LogIndex>> = damaged.missing();
    let is_wanted = |entry: &LogEntry| {
        missing.iter().any(|range| range.contains(&entry.id.index))
            || damaged.lost_from().is_some_and(|from| from <= entry.id.index)
    };
    copy.iter().map(|(entry, _)| entry.clone()).filter(is_wanted).collect()
}

/// Repairs the log on `disk` from the intact one on `copy`, and checks that both are then the same. `None`: it was
/// sound.
fn check_repair(disk: &SimDisk, copy: &SimDisk, what: &str) -> Option<RepairReport> {
    let expected = journal(copy);
    let damaged = examine(disk)?;
    let entries = fetched(&damaged, &expected);
    let repaired = damaged.repair(&entries, None, FLOOR).unwrap_or_else(|error| panic!("{what}: {}", error.reason()));
    check_equal(disk, copy, what, repaired.vote_may_be_lost);
    assert!(examine(disk).is_none(), "{what}: sound");
    Some(repaired)
}

fn check_equal(disk: &SimDisk, copy: &SimDisk, what: &str, vote_may_be_lost: bool) {
    let ids = |journal: &[(LogEntry, [u8; 32])]| journal.iter().map(|(entry, _)| entry.id).collect::<Vec<_>>();
    let (found, expected) = (journal(disk), journal(copy));
    assert_eq!(ids(&found), ids(&expected), "{what}");
    assert!(found == expected, "{what}: entry by entry, hash by hash");
    let (log, copy) = (opened(disk), opened(&copy.copy()));
    assert_eq!(log.last(), copy.last(), "{what}");
    // A purge is lost with its record and every later header. Then more entries are kept than necessary.
    assert!(log.last_purged().is_none_or(|purged| Some(purged) == copy.last_purged()), "{what}");
    assert!(log.committed().map(|id| id.index) <= copy.committed().map(|id| id.index), "{what}");
    if vote_may_be_lost {
        assert_eq!(log.vote(), Some(Vote::barrier(FLOOR)), "{what}");
    } else {
        assert_eq!(log.vote(), copy.vote(), "{what}");
    }
    let next = log.last().map_or(0, |last| last.index.0 + 1);
    append_durably(&log, vec![entry(9, next)]);
    log.truncate_after(Some(id(3, next - 1))).expect("accepted");
    drop(log);
    let (found, expected) = (all(&opened(disk)), all(&copy));
    assert!(found.ends_with(&expected), "{what}: it goes on and opens again");
}

/// A newest segment that is missing leaves no trace in the log.
#[test]
fn a_log_that_has_forgotten_its_end_is_given_it_back() {
    let intact = eventful_log();
    let segments = segments(&intact);
    for kept in 0..segments.len() {
        let disk = intact.copy();
        for path in &segments[kept..] {
            disk.remove(path).expect("it is there");
        }
        disk.sync_dir(dir()).expect("synced");
        let what = format!("{kept} of {} segments", segments.len());
        assert!(examine(&disk).is_none(), "{what}: nothing is wrong in itself");
        let forgotten = DamagedLog::forgotten(Arc::new(disk.clone()), dir(), &options(), "a test says so".to_owned());
        let forgotten = forgotten.expect("it can be read");
        let entries = fetched(&forgotten, &journal(&intact));
        forgotten.repair(&entries, None, FLOOR).unwrap_or_else(|error| panic!("{what}: {}", error.reason()));
        check_equal(&disk, &intact, &what, true);
    }
}

#[test]
fn any_flipped_bit_is_repaired() {
    let intact = eventful_log();
    let segments = segments(&intact);
    assert!(3 <= segments.len(), "{} segments", segments.len());
    let (mut repairs, mut lost_votes) = (0, 0);
    for path in &segments {
        let content = intact.content(path).expect("there");
        let end = content.iter().rposition(|byte| *byte != 0).expect("not empty");
        // Every 61st byte hits each field of frame headers and records somewhere; the segment's header has its own
        // stride.
        for position in (0..4096).step_by(37).chain((3584..3600).step_by(3)).chain((4096..=end).step_by(61)) {
            let disk = intact.copy();
            let mut damaged = content.clone();
            damaged[position] ^= 1 << (position % 8);
            disk.put(path, damaged);
            let repaired = check_repair(&disk, &intact, &format!("{} at {position}", path.display()));
            repairs += usize::from(repaired.is_some());
            lost_votes += usize::from(repaired.is_some_and(|repaired| repaired.vote_may_be_lost));
        }
    }
    assert!(600 < repairs, "{repairs} flips were damage");
    assert!(
        0 < lost_votes && lost_votes < repairs / 2,
        "{lost_votes} of {repairs}: the last header has the older votes"
    );
}

/// The entry is lost with its frame, and the frame after it says that the entry was committed.
#[test]
fn what_is_known_to_be_committed_is_missing_where_its_bytes_are_lost() {
    let intact = SimDisk::new();
    let log = opened(&intact);
    append_durably(&log, vec![entry(1, 0), entry(1, 1)]);
    append_durably(&log, vec![entry(1, 2)]);
    log.save_committed(id(1, 2));
    block_on(log.save_vote(vote(1, 2, true))).expect("saved");
    log.close().expect("closes");
    let disk = intact.copy();
    let lost = scan(&intact).expect("intact").entries().last().expect("there are three").expect("readable");
    let path = dir().join(&lost.segment);
    let mut content = intact.content(&path).expect("there");
    content[lost.offset as usize] ^= 1;
    disk.put(&path, content);
    let damaged = examine(&disk).expect("it is damaged");
    // The lost bytes may have replaced entries before them that were not known to be committed.
    assert_eq!(damaged.missing(), [LogIndex(0)..=LogIndex(2)]);
    check_repair(&disk, &intact, "the newest entry").expect("it is damaged");
}

#[test]
fn any_sector_that_is_not_given_back_is_repaired() {
    let intact = eventful_log();
    let segments = segments(&intact);
    for (position, path) in segments.iter().enumerate() {
        let size = intact.content(path).expect("there").len();
        for offset in (0..size).step_by(if position + 1 < segments.len() { 1024 } else { 512 }) {
            let disk = intact.copy();
            disk.spoil(path, offset);
            let what = format!("{} at {offset}", path.display());
            let damage = scan(&disk).err();
            assert!(matches!(damage, Some(LogError::Corrupt { damage: Damage::Unreadable, .. })), "{what}: {damage:?}");
            let repaired = check_repair(&disk, &intact, &what).expect("it is damaged");
            // After the last frame of the newest segment there may have been others.
            assert!(position + 1 == segments.len() || !repaired.vote_may_be_lost, "{what}");
        }
    }
}

#[test]
fn a_cut_a_missing_segment_and_several_damages_are_repaired() {
    let intact = eventful_log();
    let segments = segments(&intact);
    let newest = segments.last().expect("there are several");
    for (number, path) in segments.iter().enumerate() {
        let content = intact.content(path).expect("there");
        let end = content.iter().rposition(|byte| *byte != 0).expect("not empty");
        for cut in [0, 100, 4096, 4104, end / 2, end - 9] {
            if cut == end - 9 && path == newest {
                // These bytes are the mark of an idle stream, which was never acknowledged to anybody.
                continue;
            }
            let disk = intact.copy();
            disk.put(path, content[..cut].to_vec());
            check_repair(&disk, &intact, &format!("segment {number} cut at {cut}")).expect("a cut is damage");
        }
        if path != newest {
            let disk = intact.copy();
            disk.remove(path).expect("removed");
            check_repair(&disk, &intact, &format!("segment {number} removed")).expect("a missing segment is damage");
        }
    }
    // One bit in every segment, in its header or in the middle.
    for place in [90, 200, 7000] {
        let disk = intact.copy();
        for path in &segments {
            let mut content = intact.content(path).expect("there");
            content[place] ^= 4;
            disk.put(path, content);
        }
        check_repair(&disk, &intact, &format!("byte {place} of all segments")).expect("damage");
    }
}

/// The eventful log without its second segment, and the entries that it lacks.
fn without_a_segment() -> (SimDisk, SimDisk, Vec<LogEntry>) {
    let intact = eventful_log();
    let disk = intact.copy();
    disk.remove(&segments(&intact)[1]).expect("removed");
    let damaged = examine(&disk).expect("damaged");
    let entries = fetched(&damaged, &journal(&intact));
    assert_eq!((damaged.missing().len(), damaged.lost_from()), (1, None));
    assert!(3 < entries.len());
    (intact, disk, entries)
}

#[test]
fn wrong_entries_are_refused_and_change_nothing() {
    let (intact, disk, entries) = without_a_segment();
    let damaged = examine(&disk).expect("damaged");
    let refused = |entries: &[LogEntry]| match damaged.repair(entries, None, FLOOR) {
        Err(LogError::Misfit { index, misfit }) => (index.0, misfit),
        other => panic!("not refused: {other:?}"),
    };
    let first = entries[0].id.index.0;
    let last = first + entries.len() as u64 - 1;
    assert_eq!(refused(&entries[1..]), (first, Misfit::Missing));
    assert_eq!(refused(&entries[..entries.len() - 1]), (last, Misfit::Missing));
    let mut twice = entries.clone();
    twice.insert(1, entries[0].clone());
    assert_eq!(refused(&twice), (first, Misfit::Order));
    // The last entry's hash is in the next segment's header, and covers all entries before it.
    let mut other = entries.clone();
    other[1].payload = Payload::Entry(Bytes::from_static(b"other"));
    assert_eq!(refused(&other), (last, Misfit::Content));
    let mut later = entries.clone();
    later[1].id.term = Term(8);
    assert_eq!(refused(&later), (first + 2, Misfit::Term));
    let mut earlier = entries.clone();
    earlier[0].id.term = Term(0);
    assert_eq!(refused(&earlier), (first, Misfit::Term));
    let mut beyond = entries.clone();
    beyond.push(entry(9, 60));
    assert_eq!(refused(&beyond), (60, Misfit::Beyond));
    assert!(matches!(open(&disk), Err(LogError::Corrupt { .. })), "still the damaged log");
    check_repair(&disk, &intact, "with the right entries").expect("damaged");
}

#[test]
fn entries_that_lost_bytes_may_have_replaced_are_missing_too() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    append_durably(&log, (0..7).map(|index| entry(1, index)).collect());
    log.save_committed(id(1, 2));
    append_durably(&log, vec![entry(1, 7)]);
    let from = scan(&disk).expect("intact").end().0 as usize;
    log.truncate_after(Some(id(1, 4))).expect("accepted");
    append_durably(&log, (5..10).map(|index| entry(2, index)).collect());
    let until = scan(&disk).expect("intact").end().0 as usize;
    append_durably(&log, vec![entry(2, 10)]);
    log.close().expect("closes");
    let damaged_disk = disk.copy();
    let path = newest_segment(&disk);
    let mut content = disk.content(&path).expect("there");
    content[4096 + from..4096 + until].fill(7);
    damaged_disk.put(&path, content);
    let damaged = examine(&damaged_disk).expect("damaged");
    assert_eq!(damaged.missing(), [LogIndex(3)..=LogIndex(9)]);
    let old: Vec<_> = (3..10).map(|index| entry(if index < 8 { 1 } else { 2 }, index)).collect();
    let refused = damaged.repair(&old, None, FLOOR);
    assert!(matches!(refused, Err(LogError::Misfit { index: LogIndex(9), misfit: Misfit::Content })), "{refused:?}");
    let new: Vec<_> = (3..10).map(|index| entry(if index < 5 { 1 } else { 2 }, index)).collect();
    damaged.repair(&new, None, FLOOR).expect("repaired");
    assert!(journal(&damaged_disk) == journal(&disk));
}

#[test]
fn a_lost_end_is_said_to_be_of_unknown_length() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    append_durably(&log, (0..4).map(|index| entry(1, index)).collect());
    log.save_committed(id(1, 1));
    append_durably(&log, vec![entry(1, 4)]);
    let from = scan(&disk).expect("intact").end().0 as usize;
    block_on(log.save_vote(vote(5, 2, false))).expect("saved");
    append_durably(&log, vec![entry(5, 5)]);
    log.close().expect("closes");
    let path = newest_segment(&disk);
    let mut content = disk.content(&path).expect("there");
    content[4096 + from..].fill(0);
    disk.put(&path, content);
    let damaged = examine(&disk).expect("the watermark tells");
    assert_eq!((damaged.missing(), damaged.lost_from()), (vec![], Some(LogIndex(2))));
    assert!(damaged.vote_may_be_lost());
    // The group continued: another leader replaced what the lost bytes held, with fewer entries.
    let entries = [entry(1, 2), entry(6, 3)];
    let repaired = damaged.repair(&entries, None, Term(6)).expect("repaired");
    assert_eq!((repaired.last, repaired.vote), (Some(id(6, 3)), Some(Vote::barrier(Term(6)))));
    let log = opened(&disk);
    assert_eq!(all(&log), [entry(1, 0), entry(1, 1), entry(1, 2), entry(6, 3)]);
    assert!(disk.list(Path::new("/")).expect("there").contains(&"log.damaged-1".to_owned()));
}

#[test]
fn indexes_that_a_snapshot_replaced_are_not_missing() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    append_durably(&log, (0..20).map(|index| entry_of(1, index, 600)).collect());
    log.purge(id(2, 40)).expect("beyond the end");
    for index in 41..70 {
        append_durably(&log, vec![entry_of(2, index, 600)]);
    }
    log.close().expect("closes");
    let mut repairs = 0;
    for (number, path) in segments(&disk).iter().enumerate() {
        let content = disk.content(path).expect("there");
        for position in [7, 5000] {
            let damaged = disk.copy();
            let mut content = content.clone();
            content[position] ^= 1;
            damaged.put(path, content);
            let Some(found) = examine(&damaged) else { continue };
            repairs += 1;
            let missing = found.missing();
            let is_hole = |index: u64| missing.iter().any(|range| range.contains(&LogIndex(index)));
            assert!(!(20..=40).any(is_hole), "segment {number} at {position}: {missing:?}");
            found.repair(&fetched(&found, &journal(&disk)), None, FLOOR).expect("repaired");
            let after_hole = |disk: &SimDisk| {
                journal(disk).into_iter().filter(|(entry, _)| LogIndex(40) < entry.id.index).collect::<Vec<_>>()
            };
            assert!(after_hole(&damaged) == after_hole(&disk), "segment {number} at {position}");
            assert_eq!(opened(&damaged).last_purged(), Some(id(2, 40)));
        }
    }
    assert!(3 < repairs, "{repairs} repairs");
}

#[test]
fn a_power_cut_leaves_the_damaged_log_or_the_repaired_one() {
    let (intact, damaged, entries) = without_a_segment();
    // A generation from an earlier repair, which this one replaces.
    damaged.put(Path::new("/log.damaged-4/seg-0000000000000000.log"), vec![1; 5000]);
    let operations = {
        let disk = damaged.copy();
        examine(&disk).expect("damaged").repair(&entries, None, FLOOR).expect("repaired");
        let kept = disk.list(Path::new("/")).expect("there");
        assert_eq!(kept, ["log", "log.damaged-5"], "one generation is kept");
        disk.operations()
    };
    let (mut found_damaged, mut found_repaired) = (0, 0);
    for (cut, seed) in (0..operations + 4).flat_map(|cut| (0..3).map(move |seed| (cut, seed))) {
        let disk = damaged.copy();
        disk.crash_after(cut);
        let result = examine(&disk).expect("damaged").repair(&entries, None, FLOOR);
        let disk = disk.crash(cut * 7 + seed);
        match open(&disk) {
            Ok(log) => {
                assert!(log.last().is_some(), "cut at {cut}: not a new, empty log");
                drop(log);
                found_repaired += 1;
                check_equal(&disk, &intact, &format!("cut at {cut}"), false);
            }
            Err(LogError::Corrupt { .. }) => {
                assert!(result.is_err(), "cut at {cut}: a repair that was acknowledged stays");
                found_damaged += 1;
                check_repair(&disk, &intact, &format!("cut at {cut}")).expect("still damaged");
            }
            Err(error) => panic!("cut at {cut}: {}", error.reason()),
        }
    }
    assert!(0 < found_damaged && 0 < found_repaired, "{found_damaged} damaged, {found_repaired} repaired");
}

/// Peers may have released the entries that are missing here, and have a snapshot that covers them.
#[test]
fn a_snapshot_takes_the_place_of_entries_that_nobody_has_any_more() {
    let intact = eventful_log();
    let copy = journal(&intact);
    let last = copy.last().expect("it has entries").0.id.index;
    let mut repairs = 0;
    for path in &segments(&intact) {
        let content = intact.content(path).expect("there");
        let end = content.iter().rposition(|byte| *byte != 0).expect("not empty");
        for position in (4096..=end).step_by(1709) {
            let damage = || {
                let disk = intact.copy();
                let mut damaged = content.clone();
                damaged[position] ^= 1 << (position % 8);
                disk.put(path, damaged);
                disk
            };
            let Some(damaged) = examine(&damage()) else { continue };
            let missing = damaged.missing().last().map_or(LogIndex(0), |range| *range.end());
            for base in [missing, LogIndex((missing.0 + last.0) / 2), last] {
                let what = format!("{} at {position}, a snapshot of {base}", path.display());
                let (disk, (entry, hash)) = (damage(), &copy[base.0 as usize]);
                let damaged = examine(&disk).expect("as before");
                let given = copy.iter().map(|(entry, _)| entry.clone());
                let lost = damaged.lost_from().map_or(LogIndex(u64::MAX), |from| from.max(base.next()));
                let given: Vec<LogEntry> = given.filter(|entry| lost <= entry.id.index).collect();
                let repaired = damaged.repair(&given, Some((entry.id, *hash)), FLOOR);
                repaired.unwrap_or_else(|error| panic!("{what}: {}", error.reason()));
                assert!(examine(&disk).is_none(), "{what}: sound");
                let log = opened(&disk);
                let purged = entry.id.max(id(1, 4));
                assert_eq!((log.last_purged(), log.last()), (Some(purged), Some(id(3, last.0))), "{what}");
                let behind = copy.iter().map(|(entry, _)| entry.clone());
                let behind: Vec<LogEntry> = behind.filter(|entry| purged.index < entry.id.index).collect();
                assert!(all(&log) == behind, "{what}: what follows it stays");
                repairs += 1;
            }
        }
    }
    assert!(20 < repairs, "{repairs}");
}

#[test]
fn a_snapshot_of_another_history_is_refused_unless_it_is_a_later_one() {
    let intact = eventful_log();
    let copy = journal(&intact);
    let damage = || {
        let disk = intact.copy();
        let path = &segments(&intact)[0];
        let mut content = disk.content(path).expect("there");
        content[6000] ^= 1;
        disk.put(path, content);
        disk
    };
    let base = copy[40].0.id;
    let repair = |disk: &SimDisk, id: EntryId| {
        let damaged = examine(disk).expect("damaged");
        assert!(damaged.lost_from().is_none() && damaged.missing().iter().all(|range| *range.end() < base.index));
        damaged.repair(&[], Some((id, [7; 32])), FLOOR)
    };
    // A leader of this entry's term, or of a later one, had the entries that are here.
    let refused = repair(&damage(), base);
    assert!(matches!(refused, Err(LogError::Misfit { misfit: Misfit::Chain, .. })), "{refused:?}");
    // A leader of an earlier term placed the entries here, and they were replaced.
    let disk = damage();
    let later = EntryId { term: Term(5), ..base };
    repair(&disk, later).expect("repaired");
    let log = opened(&disk);
    assert_eq!((log.last_purged(), log.last(), all(&log).len()), (Some(later), Some(later), 0));
}
