//! Seals: sealed segments are not read when a log opens, and no fault of a seal or of its segment changes the log's
//! content.

use super::mending::give;
use super::*;
use crate::disk::SimOp;
use crate::ids::Lsn;
use crate::log::{Damage, ScrubPace, Vote};

/// Yields until the condition holds; another thread works on it.
pub(super) fn wait_until(is_so: impl Fn() -> bool) {
    for _ in 0..50_000_000 {
        if is_so() {
            return;
        }
        std::thread::yield_now();
    }
    panic!("it never came to that");
}

fn names(disk: &SimDisk, suffix: &str) -> Vec<String> {
    let names = disk.list(dir()).expect("the folder is there");
    names.into_iter().filter(|name| name.starts_with("seg-") && name.ends_with(suffix)).collect()
}

pub(super) fn seals(disk: &SimDisk) -> Vec<String> {
    names(disk, ".seal")
}

pub(super) fn segments(disk: &SimDisk) -> Vec<String> {
    names(disk, ".log")
}

pub(super) fn size(disk: &SimDisk, name: &str) -> u64 {
    disk.content(&dir().join(name)).map_or(0, |content| content.len() as u64)
}

pub(super) fn is_sealed(log: &Log, disk: &SimDisk) -> bool {
    seals(disk).len() == segments(disk).len() - 1 && log.sealed_segments().len() == seals(disk).len()
}

/// The same disk without seals: the content that the segments alone have.
pub(super) fn without_seals(disk: &SimDisk) -> SimDisk {
    let copy = disk.copy();
    for name in seals(&copy) {
        copy.remove(&dir().join(name)).expect("it is there");
    }
    copy
}

/// A log with some replaced entries, all of them committed at the end.
fn committed_log(disk: &SimDisk) -> Log {
    let log = opened(disk);
    let mut next = 0;
    for term in 1..30 {
        next = u64::saturating_sub(next, term % 5);
        append_durably(&log, (next..next + 12).map(|index| entry_of(term, index, 900)).collect());
        next += 12;
        if term % 4 == 0 {
            block_on(log.save_vote(Vote { term: Term(term), node: Some(NodeId(2)), committed: true })).expect("saved");
        }
    }
    log.save_committed(log.last().expect("it has entries"));
    log
}

pub(super) fn sealed_log(disk: &SimDisk) -> Log {
    let log = committed_log(disk);
    wait_until(|| is_sealed(&log, disk));
    assert!(4 < seals(disk).len(), "{:?}", seals(disk));
    log
}

/// A disk with a closed log whose closed segments are all sealed, and its entries.
pub(super) fn sealed_disk() -> (SimDisk, Vec<LogEntry>) {
    let disk = SimDisk::new();
    let log = sealed_log(&disk);
    let entries = all(&log);
    log.close().expect("closes");
    (disk, entries)
}

/// The most bytes that opening a sealed log may read: headers, the heads of seals, and the newest segment.
fn bytes_of_tail(disk: &SimDisk) -> u64 {
    let segments = segments(disk);
    let newest = segments.last().map_or(0, |name| size(disk, name));
    newest + 2 * 4096 * segments.len() as u64
}

#[test]
fn a_log_that_opens_reads_its_tail_alone() {
    let (disk, entries) = sealed_disk();
    let (before, whole) = (disk.bytes_read(), segments(&disk).iter().map(|name| size(&disk, name)).sum::<u64>());
    let log = opened(&disk);
    let read = disk.bytes_read() - before;
    assert!(read <= bytes_of_tail(&disk), "{read} of {whole}");
    let plain = without_seals(&disk);
    let log_plain = opened(&plain);
    assert!(whole <= plain.bytes_read());
    assert_eq!((all(&log), all(&log_plain)), (entries.clone(), entries.clone()));
    assert_eq!((log.last(), log.vote(), log.committed()), (log_plain.last(), log_plain.vote(), log_plain.committed()));
    assert_eq!(log.term_starts(), log_plain.term_starts());
    for entry in &entries {
        let hash = log.hash_of(entry.id).expect("readable");
        assert_eq!(hash, log_plain.hash_of(entry.id).expect("readable"), "{}", entry.id);
        let one = log.read(entry.id.index..entry.id.index.next(), 1).expect("readable");
        assert_eq!(one, std::slice::from_ref(entry));
    }
    assert_eq!(log.hash_of(id(99, 5)).expect("readable"), [0; 32], "there is no such entry");
    let next = entries.len() as u64;
    append_durably(&log, vec![entry(40, next)]);
    drop(log);
    assert_eq!(opened(&disk).last(), Some(id(40, next)));
    assert_eq!(scan(&disk).expect("it is whole").entries().count(), entries.len() + 1);
}

/// The state's ids are found again like this after a crash: back along the chain, and then forward.
#[test]
fn a_walk_entry_by_entry_reads_each_byte_once_in_both_directions() {
    let (disk, entries) = sealed_disk();
    let whole = segments(&disk).iter().map(|name| size(&disk, name)).sum::<u64>();
    let seals = seals(&disk).iter().map(|name| size(&disk, name)).sum::<u64>();
    let log = opened(&disk);
    let before = disk.bytes_read();
    for entry in entries.iter().rev().chain(&entries) {
        let one = log.read(entry.id.index..entry.id.index.next(), 1).expect("readable");
        assert_eq!(one, std::slice::from_ref(entry));
    }
    let read = disk.bytes_read() - before;
    // A seal is read again when its segment is opened again.
    assert!(read <= 2 * (whole + seals), "{read} of twice {whole}");
}

#[test]
fn pieces_have_the_size_that_was_asked_for() {
    let (disk, entries) = sealed_disk();
    let log = opened(&disk);
    for bytes_max in [0, 899, 900, 2000, 70_000] {
        let (mut next, mut found) = (0, Vec::new());
        while next < entries.len() as u64 {
            let piece = log.read(LogIndex(next)..LogIndex(u64::MAX), bytes_max).expect("readable");
            let bytes: usize = piece.iter().map(|entry| entry.payload.size()).sum();
            assert!(bytes <= bytes_max || piece.len() == 1, "{bytes} of {bytes_max}");
            next += piece.len() as u64;
            assert!(next == entries.len() as u64 || bytes_max < bytes + 900, "{bytes} of {bytes_max}");
            found.extend(piece);
        }
        assert_eq!(found, entries);
    }
}

#[test]
fn how_much_follows_what_is_sealed_is_told_about() {
    let (disk, entries) = sealed_disk();
    let (log, plain) = (opened(&disk), without_seals(&disk));
    let plain = opened(&plain);
    let near = crate::limits::LOG_POINT_BYTES + (16 << 10);
    for entry in entries.iter().step_by(7) {
        let (about, exact) = (log.bytes_after(Some(entry.id)), plain.bytes_after(Some(entry.id)));
        assert!(exact <= about && about <= exact + near, "{}: {about} for {exact}", entry.id);
        let found = log.find_before_last(exact);
        assert!(found.is_none_or(|found| exact <= plain.bytes_after(Some(found))), "{found:?} for {}", entry.id);
        assert!(found.is_none_or(|found| plain.bytes_after(Some(found)) <= exact + 2 * near), "{found:?}");
    }
    // The other log is being sealed meanwhile, and counts from an entry or from its frame.
    let (about, exact) = (log.bytes_after(None), plain.bytes_after(None));
    assert!(exact <= about && about <= exact + near, "{about} for {exact}");
}

#[test]
fn a_log_without_seals_gets_them() {
    let (disk, entries) = sealed_disk();
    let expected: Vec<_> = seals(&disk).iter().map(|name| disk.content(&dir().join(name))).collect();
    let disk = without_seals(&disk);
    let log = opened(&disk);
    wait_until(|| is_sealed(&log, &disk));
    let made: Vec<_> = seals(&disk).iter().map(|name| disk.content(&dir().join(name))).collect();
    assert_eq!(made, expected, "a seal is a function of its segment");
    assert_eq!(all(&log), entries);
    wait_for_spare(&log, &disk);
    assert_eq!(disk.used(), log.bytes(), "seals count");
}

#[test]
fn what_is_not_committed_is_read_like_the_tail() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    append_durably(&log, (0..40).map(|index| entry_of(1, index, 900)).collect());
    log.save_committed(id(1, 30));
    append_durably(&log, (40..140).map(|index| entry_of(1, index, 900)).collect());
    wait_until(|| !seals(&disk).is_empty());
    log.truncate_after(Some(id(1, 50))).expect("none of it is committed");
    append_durably(&log, (51..60).map(|index| entry_of(2, index, 900)).collect());
    let expected = all(&log);
    log.close().expect("closes");
    assert!(seals(&disk).len() < segments(&disk).len() - 1);
    assert_eq!(all(&opened(&disk)), expected);
}

#[test]
fn what_is_sealed_cannot_be_dropped_but_as_a_whole() {
    let (disk, entries) = sealed_disk();
    let log = opened(&disk);
    let last = log.last().expect("it has entries");
    let truncated = log.truncate_after(Some(entries[20].id));
    assert!(matches!(truncated, Err(LogError::Sealed { .. })), "{truncated:?}");
    let replaced = append(&log, vec![entry(50, 21)]).map(drop);
    assert!(matches!(replaced, Err(LogError::Sealed { .. })), "{replaced:?}");
    assert_eq!(all(&log), entries);
    // Nothing is purged, so nothing is left: this is the case in which a snapshot replaces everything.
    log.truncate_after(None).expect("accepted");
    assert!(indexes(&log).is_empty());
    log.skip_to(id(60, last.index.0 + 5), [7; 32]).expect("the disk is well");
    append_durably(&log, vec![entry(60, last.index.0 + 6)]);
    drop(log);
    let log = opened(&disk);
    assert_eq!((indexes(&log), log.last_purged()), (vec![last.index.0 + 6], Some(id(60, last.index.0 + 5))));
}

#[test]
fn a_damaged_seal_is_made_anew() {
    let (intact, entries) = sealed_disk();
    let names = seals(&intact);
    for name in [&names[0], &names[2], &names[names.len() - 1]] {
        let path = dir().join(name);
        let content = intact.content(&path).expect("it is there");
        let offsets = (0..content.len()).step_by(5).map(Some).chain([None]);
        for offset in offsets {
            let disk = intact.copy();
            let mut damaged = content.clone();
            match offset {
                Some(offset) => damaged[offset] ^= 16,
                None => damaged.truncate(content.len() / 2),
            }
            disk.put(&path, damaged);
            let log = opened(&disk);
            assert_eq!(all(&log), entries, "{name}, {offset:?}");
            for segment in log.sealed_segments() {
                assert_eq!(log.scrub(segment, |_| ScrubPace::GoOn).expect("the segments are whole"), ScrubPace::GoOn);
            }
            wait_until(|| disk.content(&path).as_ref() == Some(&content));
        }
    }
}

#[test]
fn a_seal_that_is_missing_costs_the_reading_of_its_segment() {
    let (intact, entries) = sealed_disk();
    let names = seals(&intact);
    for name in &names[..names.len() - 1] {
        let disk = intact.copy();
        disk.remove(&dir().join(name)).expect("it is there");
        let log = opened(&disk);
        let segment = size(&disk, &name.replace(".seal", ".log"));
        assert!(disk.bytes_read() <= bytes_of_tail(&disk) + segment, "{name}: {}", disk.bytes_read());
        assert_eq!(disk.content(&dir().join(name)), intact.content(&dir().join(name)));
        assert_eq!(all(&log), entries);
    }
}

#[test]
fn the_seal_of_another_segment_is_not_believed() {
    let ((disk, entries), (other, _)) = (sealed_disk(), sealed_disk());
    for name in seals(&disk) {
        // The other seal has the same name but another nonce.
        disk.put(&dir().join(&name), other.content(&dir().join(&name)).expect("both have the same segments"));
    }
    disk.put(&dir().join("seg-00000000000fffff.seal"), b"of no segment".to_vec());
    let log = opened(&disk);
    assert_eq!(all(&log), entries);
    wait_until(|| is_sealed(&log, &disk));
}

/// The approximate place of the frames in a segment's file.
pub(super) fn frames_of(content: &[u8]) -> std::ops::Range<usize> {
    let end = content.iter().rposition(|byte| *byte != 0).expect("a segment is not empty");
    4096..end
}

#[test]
fn damage_in_a_sealed_segment_is_met_by_who_reads_it_and_by_nobody_else() {
    let (intact, entries) = sealed_disk();
    for name in seals(&intact) {
        let path = dir().join(name.replace(".seal", ".log"));
        let content = intact.content(&path).expect("it is there");
        for offset in frames_of(&content).step_by(3001) {
            let disk = intact.copy();
            let mut damaged = content.clone();
            damaged[offset] ^= 1;
            disk.put(&path, damaged);
            let log = opened(&disk);
            let vote = Vote { term: Term(90), node: Some(NodeId(3)), committed: false };
            block_on(log.save_vote(vote)).expect("it votes");
            let mut lost = 0;
            for entry in &entries {
                match log.read(entry.id.index..entry.id.index.next(), 1) {
                    Ok(found) => assert_eq!(found, std::slice::from_ref(entry)),
                    Err(LogError::Corrupt { .. }) => lost += 1,
                    Err(error) => panic!("{}", error.reason()),
                }
            }
            let first_lsn = Lsn(u64::from_str_radix(&name[4..20], 16).expect("a segment's name"));
            let is_met = log.watch_rot().borrow().contains_key(&first_lsn);
            assert_eq!(is_met, 0 < lost, "{name}, {offset}");
            assert!(lost < entries.len() / 2, "{name}, {offset}: {lost}");
            let found: Vec<_> =
                log.sealed_segments().into_iter().map(|it| log.scrub(it, |_| ScrubPace::GoOn)).collect();
            assert_eq!(found.iter().filter(|found| found.is_err()).count(), 1, "{name}, {offset}");
            assert_eq!(log.watch_rot().borrow().keys().collect::<Vec<_>>(), [&first_lsn]);
            assert!(scan(&disk).is_err(), "the auditor believes no seal");
        }
    }
}

#[test]
fn a_sealed_segment_that_is_cut_or_cannot_be_read_is_damage() {
    let (intact, entries) = sealed_disk();
    let path = dir().join(&segments(&intact)[1]);
    let content = intact.content(&path).expect("it is there");
    // The file is cut before the log opens: the seal is for a file of another size.
    let disk = intact.copy();
    disk.put(&path, content[..content.len() / 2].to_vec());
    assert!(matches!(open(&disk).err(), Some(LogError::Corrupt { .. })));
    // The file is cut while the log is open.
    let disk = intact.copy();
    let log = opened(&disk);
    disk.put(&path, content[..5000].to_vec());
    let found = log.read(LogIndex(0)..LogIndex(u64::MAX), usize::MAX);
    assert!(matches!(found, Err(LogError::Corrupt { damage: Damage::Size, .. })), "{found:?}");
    let last = entries.last().expect("there are some").id.index;
    assert_eq!(log.read(last..last.next(), 1).expect("that one is whole").len(), 1);
    // The disk returns nothing.
    let disk = intact.copy();
    let log = opened(&disk);
    disk.set_failing(Some(SimOp::Read));
    let found = log.read(LogIndex(0)..LogIndex(1), 1);
    assert!(found.is_err(), "{found:?}");
    disk.set_failing(None);
    assert_eq!(all(&log), entries, "it was the disk's bad moment");
}

#[test]
fn a_power_cut_while_segments_are_sealed_is_harmless() {
    let (sealed, entries) = sealed_disk();
    let intact = without_seals(&sealed);
    let mut is_cut = true;
    let mut operations = 0;
    while is_cut {
        let disk = intact.copy();
        disk.crash_after(operations);
        is_cut = match open(&disk) {
            Ok(log) => {
                wait_until(|| is_sealed(&log, &disk) || operations <= disk.operations());
                !is_sealed(&log, &disk)
            }
            Err(_) => true,
        };
        for seed in 0..4 {
            let log = opened(&disk.copy().crash(seed));
            assert_eq!(all(&log), entries, "{operations}, {seed}");
        }
        operations += 1;
        assert!(operations < 500);
    }
}

#[test]
fn seals_go_with_their_segments() {
    let disk = SimDisk::new();
    let log = sealed_log(&disk);
    let purged = log.find_before_last(60 << 10).expect("it is longer");
    log.purge(purged).expect("accepted");
    let expected = all(&log);
    let (mut next, before) = (log.last().expect("it has entries").index.0 + 1, segments(&disk).len());
    while segments(&disk).len() < before + 2 {
        append_durably(&log, (next..next + 8).map(|index| entry_of(40, index, 900)).collect());
        next += 8;
    }
    let bytes = segments(&disk).len();
    assert!(0 < log.release().expect("the disk is well"));
    assert!(segments(&disk).len() < bytes);
    let of_segments: Vec<_> = segments(&disk).iter().map(|name| name.replace(".log", ".seal")).collect();
    assert!(seals(&disk).iter().all(|name| of_segments.contains(name)), "{:?}", seals(&disk));
    assert_eq!(all(&log)[..expected.len()], expected);
    let now = all(&log);
    log.close().expect("closes");
    let log = opened(&disk);
    assert_eq!((all(&log), log.last_purged()), (now, Some(purged)));
}

/// A folder that was copied while the log was written: the seals were copied last, and say more than the copied
/// segments.
#[test]
fn seals_newer_than_the_segments_beside_them_are_not_believed() {
    let disk = SimDisk::new();
    let log = sealed_log(&disk);
    let early = disk.copy();
    let expected = all(&log);
    let mut next = expected.len() as u64;
    let (before, newest) = (segments(&disk).len(), newest_segment(&disk));
    while segments(&disk).len() < before + 3 {
        append_durably(&log, (next..next + 8).map(|index| entry_of(40, index, 900)).collect());
        next += 8;
    }
    log.save_committed(log.last().expect("it has entries"));
    wait_until(|| is_sealed(&log, &disk));
    for name in seals(&disk) {
        early.put(&dir().join(&name), disk.content(&dir().join(&name)).expect("it is there"));
    }
    let copied = opened(&early);
    assert_eq!(all(&copied), expected);
    let seal_of_newest = newest.with_extension("seal");
    assert!(early.content(&seal_of_newest).is_none(), "it is not sealed: the stream goes on there");
    // The stream continues differently, from the same place of the same segment.
    append_durably(&copied, (expected.len() as u64..next).map(|index| entry_of(41, index, 700)).collect());
    copied.save_committed(copied.last().expect("it has entries"));
    wait_until(|| is_sealed(&copied, &early));
    let expected = all(&copied);
    drop(copied);
    assert_eq!(all(&opened(&early)), expected);
    // As if the copy was made again, over the log that has continued.
    for name in seals(&disk) {
        early.put(&dir().join(&name), disk.content(&dir().join(&name)).expect("it is there"));
    }
    let copied = opened(&early);
    assert_eq!(all(&copied), expected);
    for segment in copied.sealed_segments() {
        copied.scrub(segment, |_| ScrubPace::GoOn).expect("whole");
    }
}

/// A start does not read sealed segments, yet it must not report that all is well.
#[test]
fn what_was_found_to_be_damaged_is_known_after_a_restart() {
    let (intact, entries) = sealed_disk();
    let name = &seals(&intact)[1];
    let (path, disk) = (dir().join(name.replace(".seal", ".log")), intact.copy());
    let first_lsn = Lsn(u64::from_str_radix(&name[4..20], 16).expect("a segment's name"));
    let mut damaged = intact.content(&path).expect("it is there");
    damaged[6000] ^= 1;
    disk.put(&path, damaged);
    let log = opened(&disk);
    assert!(!log.is_damaged(), "nobody has read it");
    log.read(LogIndex(0)..LogIndex(u64::MAX), usize::MAX).expect_err("it is damaged");
    drop(log);
    let disk = disk.crash(1);
    let log = opened(&disk);
    assert_eq!(log.watch_rot().borrow().keys().collect::<Vec<_>>(), [&first_lsn]);
    log.mend(first_lsn, &give(&entries, &log.lost_in(first_lsn).expect("sealed"))).expect("it is mended");
    drop(log);
    assert!(!opened(&disk).is_damaged());
    // Without its seal the segment is read and found intact; the mark is then out of date.
    disk.put(&path.with_extension("rot"), Vec::new());
    assert!(opened(&disk).is_damaged());
    let plain = without_seals(&disk);
    assert!(!opened(&plain).is_damaged());
    assert!(plain.content(&path.with_extension("rot")).is_none());
}
