//! Fuzz targets: the frames and headers of a log, and a whole folder as an auditor is given it.
//!
//! In: any bytes, also such whose checksums are right. Out: nothing, if what is accepted can be written again as it was
//! read, and memory stays in proportion to the file. It does not know how inputs are made.

use statehouse_fuzz::{Target, fuzz, within};

use super::format::{frames, header};
use super::*;
use crate::ids::Lsn;
use crate::log::Vote;
use crate::log::frame::{FRAME_HEADER_SIZE, FrameKey, Record, frame_size, read_frame};
use crate::log::segment::{HEADER_SIZE, SegmentHeader, WATERMARK_AT, decode_watermark};

const SEGMENT: &str = "seg-0000000000000000.log";

fn key() -> FrameKey {
    FrameKey::of_nonce(&header().nonce)
}

/// Memory for reading: a vote of 32 bytes becomes a record of four times that, in a list that grows.
fn bound(input: &[u8]) -> usize {
    4096 + 32 * input.len()
}

/// The frame with the checksum that belongs to it, and the size if it is not one that a frame can have.
fn sealed(mut frame: Vec<u8>, key: &FrameKey) -> Vec<u8> {
    if frame.len() < FRAME_HEADER_SIZE {
        return frame;
    }
    let stated = u32::from_le_bytes(*frame[4..].first_chunk().expect("a header")) as usize;
    if !stated.is_multiple_of(8) || stated < FRAME_HEADER_SIZE || frame.len() < stated {
        frame.resize(frame.len().next_multiple_of(8), 0);
        let size = (frame.len() as u32).to_le_bytes();
        frame[4..8].copy_from_slice(&size);
    }
    let size = u32::from_le_bytes(*frame[4..].first_chunk().expect("a header")) as usize;
    frame[32..40].fill(0);
    // The checksum counts its own field as zeros.
    let checksum = key.checksum_of(&frame[..size]);
    frame[32..40].copy_from_slice(&checksum);
    frame
}

#[test]
fn a_frame_that_is_accepted_is_written_as_it_was() {
    let frames = frames().map(|frame| {
        let mut bytes = Vec::new();
        frame.encode(Lsn(0x1000), &key(), &mut bytes);
        bytes
    });
    fuzz!(Target::new("frame").seeds(frames), |input| {
        read(input);
        read(&sealed(input.to_vec(), &key()));
    });
}

fn read(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    let first = frames()[0].lsn;
    for lsn in [first, frames()[1].lsn] {
        let Ok(read) = within(bound(input), || read_frame(&bytes, lsn, &key())) else { continue };
        assert_eq!(read.offsets.len(), read.frame.records.len());
        let mut again = Vec::new();
        read.frame.encode(read.durable, &key(), &mut again);
        assert_eq!(again.len(), read.frame.size());
        let back = read_frame(&Bytes::from(again), lsn, &key()).expect("what was read can be written");
        assert_eq!((back.frame, back.durable, back.offsets), (read.frame, read.durable, read.offsets));
    }
    if let Some(record) = within(bound(input), || Record::decode(&bytes)) {
        assert!(record.size() <= input.len());
    }
}

/// The header of a segment with the hash that belongs to it.
fn sealed_header(mut header: Vec<u8>) -> Vec<u8> {
    header.resize(HEADER_SIZE, 0);
    let hash = *blake3::hash(&header[..WATERMARK_AT - 32]).as_bytes();
    header[WATERMARK_AT - 32..WATERMARK_AT].copy_from_slice(&hash);
    header
}

#[test]
fn a_segment_header_that_is_accepted_is_written_as_it_was() {
    fuzz!(Target::new("segment_header").seeds([header().encode()]), |input| {
        read_segment_header(input);
        read_segment_header(&sealed_header(input.to_vec()));
    });
}

fn read_segment_header(input: &[u8]) {
    let Ok(header) = within(bound(input), || SegmentHeader::decode(input, SEGMENT)) else { return };
    let again = SegmentHeader::decode(&header.encode(), SEGMENT).expect("what was read can be written");
    assert_eq!(again, header);
    let _ = decode_watermark(input, &header.key());
}

/// The file of a log with a vote, entries, and a tail that was cut and written again.
fn segment() -> Vec<u8> {
    let disk = SimDisk::new();
    let log = opened(&disk);
    let vote = Vote { term: Term(1), node: Some(NodeId(1)), committed: true };
    block_on(log.save_vote(vote)).expect("the disk is whole");
    let appended = append(&log, (0..6).map(|index| entry(1, index)).collect()).expect("the disk is whole");
    appended.recv().expect("the log answers").expect("the disk is whole");
    log.truncate_after(Some(id(1, 3))).expect("there are entries after it");
    let appended = append(&log, vec![entry(2, 4), entry(2, 5)]).expect("the disk is whole");
    appended.recv().expect("the log answers").expect("the disk is whole");
    drop(log);
    let mut bytes = disk.content(&dir().join(SEGMENT)).expect("its only segment");
    // What follows the last frame is zeros, which edits would mostly hit.
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("it has frames") + 1;
    bytes.truncate((end + 64).next_multiple_of(8));
    bytes
}

/// The segment with the right hash of its header and right checksums of its frames, as far as these follow each other.
fn sealed_segment(input: &[u8]) -> Vec<u8> {
    if input.len() < HEADER_SIZE {
        return input.to_vec();
    }
    let mut bytes = sealed_header(input[..HEADER_SIZE].to_vec());
    let key = FrameKey::of_nonce(bytes[80..96].first_chunk().expect("a header"));
    let first = u64::from_le_bytes(*bytes[96..].first_chunk().expect("a header"));
    let mut rest = &input[HEADER_SIZE..];
    while let Some(header) = rest.first_chunk::<FRAME_HEADER_SIZE>() {
        let lsn = Lsn(first.wrapping_add((bytes.len() - HEADER_SIZE) as u64));
        let Some(size) = frame_size(header, lsn).filter(|size| *size <= rest.len()) else { break };
        bytes.extend(sealed(rest[..size].to_vec(), &key));
        rest = &rest[size..];
    }
    bytes.extend_from_slice(rest);
    bytes
}

#[test]
fn a_log_that_an_auditor_is_given_is_read_or_refused() {
    let target = Target::new("log").seeds([segment()]).iterations(4_000);
    fuzz!(target, |input| {
        scan_segment(input);
        scan_segment(&sealed_segment(input));
    });
}

fn scan_segment(input: &[u8]) {
    let first = input.get(96..104).map_or(0, |lsn| u64::from_le_bytes(*lsn.first_chunk().expect("eight bytes")));
    let disk = SimDisk::new();
    disk.put(&dir().join(format!("seg-{first:016x}.log")), input.to_vec());
    within((1 << 20) + 64 * input.len(), || {
        let Ok(scan) = scan(&disk) else { return };
        let mut before = None;
        for entry in scan.entries() {
            let entry = entry.expect("what was scanned is still there");
            assert!(before.is_none_or(|before| before < entry.entry.id.index), "entries are in order");
            before = Some(entry.entry.id.index);
        }
        let _ = (scan.stream(), scan.watermark(), scan.end(), scan.durable(), scan.last(), scan.last_found());
        let _ = (scan.last_purged(), scan.committed(), scan.vote(), scan.tail());
        let read = scan.read_range(LogIndex(0)..LogIndex(u64::MAX), 1 << 20);
        assert!(read.is_ok(), "{read:?}");
    });
}
