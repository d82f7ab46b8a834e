//! Damaged bytes. Below the watermark they are corruption, reported with segment, offset and index. Above it they are a
//! torn tail, which is cut off.

use super::*;
use crate::ids::Lsn;
use crate::log::frame::{Frame, FrameKey, Record, read_frame};
use crate::log::segment::{HEADER_SIZE, SegmentHeader};
use crate::log::{Damage, LogTail};

/// A closed log of one segment with small entries, and the place of its watermark in the file.
fn closed_log(entries: u64) -> (SimDisk, PathBuf, usize) {
    let disk = SimDisk::new();
    let log = opened(&disk);
    for index in 0..entries {
        append_durably(&log, vec![entry(1, index)]);
    }
    log.save_committed(id(1, entries - 1));
    log.close().expect("closes");
    let path = newest_segment(&disk);
    let watermark = HEADER_SIZE + scan(&disk).expect("intact").watermark().0 as usize;
    (disk, path, watermark)
}

/// Opens a copy of the log with this content. It must be reported as corrupt, and must be left alone.
fn check_corrupt(disk: &SimDisk, path: &Path, content: Vec<u8>) -> (u64, LogIndex) {
    let disk = disk.copy();
    disk.put(path, content.clone());
    let scanned = scan(&disk).err().expect("a scan reports it");
    let found = open(&disk).err().expect("opening reports it");
    assert_eq!(found.to_string(), scanned.to_string());
    let LogError::Corrupt { segment, offset, index, .. } = found else { panic!("not corruption: {found}") };
    assert_eq!(Some(segment.as_str()), path.file_name().and_then(|name| name.to_str()));
    assert!(disk.content(path) == Some(content), "a corrupt log is left as it is");
    (offset, index)
}

#[test]
fn a_flipped_bit_below_the_watermark_is_found_and_named() {
    let (disk, path, watermark) = closed_log(12);
    let content = disk.content(&path).expect("there");
    let entries: Vec<_> = scan(&disk).expect("intact").entries().map(|found| found.expect("readable")).collect();
    for position in (0..watermark).filter(|position| HEADER_SIZE <= *position || position % 13 == 0) {
        let mut damaged = content.clone();
        damaged[position] ^= 1 << (position % 8);
        let (offset, index) = check_corrupt(&disk, &path, damaged);
        assert!(offset <= position as u64, "{position}");
        if HEADER_SIZE <= position {
            // Each frame has one entry: the first entry after the damaged frame begins is the one that is named.
            let first = entries.iter().find(|entry| offset < entry.offset).expect("every frame has an entry");
            assert_eq!(index, first.entry.id.index, "{position}");
        }
    }
}

#[test]
fn a_flipped_bit_in_a_sealed_segment_is_found() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    append_durably(&log, (0..50).map(|index| entry_of(1, index, 900)).collect());
    for index in 50..80 {
        append_durably(&log, vec![entry_of(1, index, 900)]);
    }
    log.close().expect("closes");
    let first = scan(&disk).expect("intact").entries().next().expect("an entry").expect("readable");
    let path = dir().join(&first.segment);
    assert_ne!(path, newest_segment(&disk));
    let content = disk.content(&path).expect("there");
    let end = content.iter().rposition(|byte| *byte != 0).expect("not empty");
    for position in (0..end).step_by(131) {
        let mut damaged = content.clone();
        damaged[position] ^= 0x10;
        check_corrupt(&disk, &path, damaged);
    }
    let without = disk.copy();
    without.remove(&path).expect("removed");
    assert!(matches!(open(&without), Err(LogError::Corrupt { damage: Damage::SegmentMissing(_), .. })));
}

#[test]
fn a_cut_below_the_watermark_is_corruption() {
    let (disk, path, watermark) = closed_log(8);
    let content = disk.content(&path).expect("there");
    for cut in HEADER_SIZE..watermark {
        check_corrupt(&disk, &path, content[..cut].to_vec());
        let mut zeroed = content.clone();
        zeroed[cut..].fill(0);
        // The last bytes of the last frame may be padding, which is zero anyway.
        if zeroed[..watermark] != content[..watermark] {
            check_corrupt(&disk, &path, zeroed);
        }
    }
}

#[test]
fn a_cut_in_frames_that_were_not_synced_loses_only_those() {
    let (disk, path, _) = closed_log(3);
    let log = opened(&disk);
    wait_for_spare(&log, &disk);
    let acknowledged = scan(&disk).expect("intact").end();
    disk.hold_syncs();
    let operations = disk.operations();
    let mut pending = vec![append(&log, vec![entry(2, 3)]).expect("accepted")];
    while disk.operations() == operations {
        std::thread::yield_now();
    }
    pending.extend((4..6).map(|index| append(&log, vec![entry(2, index)]).expect("accepted")));
    // The writer decides how much of the rest it writes, and it hangs in a sync: let it finish, then cut the file here.
    disk.release_syncs();
    for durable in pending {
        durable.recv().expect("called").expect("durable");
    }
    let written = disk.kill();
    let content = written.content(&path).expect("there");
    let found = scan(&written).expect("intact");
    let frames: Vec<_> = found.entries().map(|found| found.expect("readable")).collect();
    let (start, end) = (HEADER_SIZE + acknowledged.0 as usize, HEADER_SIZE + found.end().0 as usize);
    for cut in start..=end {
        let mut zeroed = content.clone();
        zeroed[cut..].fill(0);
        for damaged in [content[..cut].to_vec(), zeroed] {
            let disk = written.copy();
            disk.put(&path, without_later_watermarks(damaged, acknowledged));
            let log = opened(&disk);
            let complete = frames.iter().filter(|frame| end_of_frame(frame.offset, &frame.entry) <= cut).count();
            assert!(3 <= complete);
            let found = all(&log);
            // A frame whose last bytes are zero padding is complete without them.
            assert!(complete <= found.len(), "cut at {cut}");
            assert!(found.len() <= complete + 1, "cut at {cut}");
            assert_eq!(found[..], frames.iter().map(|frame| frame.entry.clone()).collect::<Vec<_>>()[..found.len()]);
            append_durably(&log, vec![entry(3, found.len() as u64)]);
            log.close().expect("closes");
            assert_eq!(scan(&disk).expect("intact").tail(), LogTail::Clean);
        }
    }
}

fn end_of_frame(record_offset: u64, entry: &LogEntry) -> usize {
    (record_offset as usize + 64 + entry.payload.size()).next_multiple_of(8)
}

/// Rewrites the frames as if each was encoded before the sync of another one returned.
fn without_later_watermarks(mut content: Vec<u8>, acknowledged: Lsn) -> Vec<u8> {
    let key = key_of(&content);
    let mut lsn = acknowledged;
    let bytes = Bytes::from(content.clone());
    while let Some(rest) = bytes.get(HEADER_SIZE + lsn.0 as usize..).map(|rest| bytes.slice_ref(rest)) {
        let Ok(read) = read_frame(&rest, lsn, &key) else { break };
        let mut rewritten = Vec::new();
        read.frame.encode(acknowledged, &key, &mut rewritten);
        let offset = HEADER_SIZE + lsn.0 as usize;
        content[offset..offset + rewritten.len()].copy_from_slice(&rewritten);
        lsn = read.frame.end();
    }
    content
}

fn key_of(content: &[u8]) -> FrameKey {
    FrameKey::of_nonce(&SegmentHeader::decode(&content[..HEADER_SIZE], "seg").expect("intact").nonce)
}

#[test]
fn an_exchanged_entry_breaks_the_chain() {
    let (disk, path, _) = closed_log(6);
    let mut content = disk.content(&path).expect("there");
    let key = key_of(&content);
    let third = scan(&disk).expect("intact").entries().nth(2).expect("there").expect("readable");
    let offset = third.offset as usize - 40;
    let lsn = Lsn((offset - HEADER_SIZE) as u64);
    let read = read_frame(&Bytes::from(content.clone()).slice(offset..), lsn, &key).expect("a frame starts here");
    // Somebody who knows the format writes another entry of the same size, with a correct checksum.
    let Record::Entry { entry, before } = &read.frame.records[0] else { panic!("an entry") };
    let payload = Payload::Entry(Bytes::from(vec![b'x'; entry.payload.size()]));
    let forged = Record::Entry { entry: LogEntry { id: entry.id, payload }, before: *before };
    let mut bytes = Vec::new();
    Frame { records: vec![forged], ..read.frame }.encode(read.durable, &key, &mut bytes);
    content[offset..offset + bytes.len()].copy_from_slice(&bytes);
    disk.put(&path, content);
    match open(&disk) {
        Err(LogError::Corrupt { index, damage, .. }) => assert_eq!((index, damage), (LogIndex(3), Damage::Chain)),
        _ => panic!("the next entry does not follow the forged one"),
    }
}

#[test]
fn a_log_of_somebody_else_is_refused() {
    let (disk, ..) = closed_log(1);
    let stream = StreamId::new("wallet", PartitionId(4)).expect("short");
    let other = LogOptions { stream, ..options() };
    assert!(matches!(Log::open(Arc::new(disk), dir(), other), Err(LogError::ForeignStream { .. })));
}

#[test]
fn an_entry_that_rots_while_the_log_runs_is_not_served() {
    let disk = SimDisk::new();
    let log = opened(&disk);
    // There is more than the tail in memory holds: the first entries are read from disk.
    append_durably(&log, (0..8).map(|index| entry_of(1, index, 1000)).collect());
    let third = scan(&disk).expect("intact").entries().nth(2).expect("there").expect("readable");
    let file = disk.open(&newest_segment(&disk)).expect("there");
    file.write_at(b"?", third.offset + 500).expect("written");
    let rotten = log.read(LogIndex(0)..LogIndex(8), usize::MAX);
    match rotten {
        Err(LogError::Corrupt { index, offset, .. }) => assert_eq!((index, offset), (LogIndex(2), third.offset)),
        other => panic!("served: {other:?}"),
    }
    assert_eq!(log.read(LogIndex(3)..LogIndex(8), usize::MAX).expect("intact").len(), 5);
}
