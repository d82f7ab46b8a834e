//! The bytes of a segment and of a seal, compared with the golden files of format version 1. Any difference needs a new
//! format version.

use expect_test::expect_file;

use super::*;
use crate::ids::Lsn;
use crate::log::frame::{Frame, FrameKey, NO_HASH, Record, entry_hash, read_frame};
use crate::log::seal::Seal;
use crate::log::segment::{Checkpoint, FORMAT_VERSION, HEADER_SIZE, SegmentHeader, decode_watermark, encode_watermark};
use crate::log::{Damage, Vote};

pub(super) fn header() -> SegmentHeader {
    SegmentHeader {
        stream: options().stream,
        nonce: *b"0123456789abcdef",
        first_lsn: Lsn(0x1000),
        before: Some(Lsn(0)),
        checkpoint: Checkpoint {
            vote: Some(Vote { term: Term(7), node: Some(NodeId(2)), committed: true }),
            last: Some(id(7, 99)),
            last_hash: [0xaa; 32],
            purged: Some(id(6, 50)),
            purged_hash: [0xbb; 32],
            committed: Some(id(7, 98)),
        },
    }
}

pub(super) fn frames() -> [Frame; 2] {
    let vote = Vote { term: Term(8), node: None, committed: false };
    let membership = LogEntry { id: id(8, 101), payload: Payload::Membership(Bytes::from_static(b"nodes")) };
    let blank = LogEntry { id: id(8, 102), payload: Payload::Blank };
    let records = vec![
        Record::Entry { entry: entry_of(7, 100, 9), before: [0xaa; 32] },
        Record::Entry { entry: membership, before: [0xcc; 32] },
        Record::Entry { entry: blank, before: NO_HASH },
        Record::Vote(vote),
        Record::Truncate(Some(id(7, 100))),
        Record::Truncate(None),
        Record::Purge { upto: id(7, 99), hash: [0xaa; 32] },
    ];
    let first = Frame { lsn: Lsn(0x1000), is_sync_mark: false, records };
    let mark = Frame { lsn: first.end(), is_sync_mark: true, records: vec![Record::Commit(id(7, 100))] };
    [first, mark]
}

/// The rows of 16 bytes that are not all zero.
fn dump(bytes: &[u8]) -> String {
    let rows = bytes.chunks(16).enumerate().filter(|(_, row)| row.iter().any(|byte| *byte != 0));
    rows.map(|(number, row)| {
        let digits: Vec<_> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:05x}  {}\n", number * 16, digits.join(" "))
    })
    .collect()
}

#[test]
fn a_segment_has_the_bytes_of_its_version() {
    assert_eq!(FORMAT_VERSION, 1);
    let key = FrameKey::of_nonce(&header().nonce);
    let mut bytes = header().encode();
    let watermark = encode_watermark(Lsn(0x1000), &key);
    bytes[3584..3584 + watermark.len()].copy_from_slice(&watermark);
    for frame in frames() {
        frame.encode(Lsn(0x1000), &key, &mut bytes);
    }
    expect_file!["golden/segment-v1.txt"].assert_eq(&dump(&bytes));

    assert_eq!(SegmentHeader::decode(&bytes[..HEADER_SIZE], "seg").expect("intact"), header());
    assert_eq!(decode_watermark(&bytes[..HEADER_SIZE], &key), Ok(Some(Lsn(0x1000))));
    let mut rest = Bytes::from(bytes).slice(HEADER_SIZE..);
    for frame in frames() {
        let read = read_frame(&rest, frame.lsn, &key).expect("valid");
        assert_eq!((&read.frame, read.durable), (&frame, Lsn(0x1000)));
        rest = rest.slice(frame.size()..);
    }
    assert!(rest.is_empty());
}

/// A segment that begins by replacing two entries of the segment before it, and the file of its seal.
fn sealed() -> (Bytes, Seal, Vec<u8>) {
    let key = FrameKey::of_nonce(&header().nonce);
    let (mut bytes, mut lsn, mut before) = (header().encode(), header().first_lsn, [0xcc; 32]);
    let mut records = vec![Record::Truncate(Some(id(7, 97)))];
    for entry in [entry_of(7, 98, 40 << 10), entry_of(7, 99, 9), entry_of(8, 100, 9)] {
        let hash = entry_hash(&before, entry.id, &entry.payload, &blake3::hash(entry.payload.bytes()));
        records.push(Record::Entry { entry, before });
        let frame = Frame { lsn, is_sync_mark: false, records: std::mem::take(&mut records) };
        frame.encode(Lsn(0x1000), &key, &mut bytes);
        (lsn, before) = (frame.end(), hash);
    }
    bytes.resize(64 << 10, 0);
    let bytes = Bytes::from(bytes);
    let (seal, points) = Seal::survey(&header(), lsn, &bytes).expect("it is whole");
    let file = seal.encode(&points);
    (bytes, seal, file)
}

#[test]
fn a_seal_has_the_bytes_of_its_version() {
    let (segment, seal, file) = sealed();
    expect_file!["golden/seal-v1.txt"].assert_eq(&dump(&file));
    assert_eq!((seal.first(), seal.last, seal.ends_from), (Some(LogIndex(98)), Some(id(8, 100)), Some(LogIndex(98))));
    assert_eq!(seal.runs, [id(7, 98), id(8, 100)]);
    let disk = SimDisk::new();
    disk.put(&dir().join("seg-0000000000001000.seal"), file.clone());
    let checkpoint = Checkpoint { last: seal.last, last_hash: seal.last_hash, ..Checkpoint::default() };
    let next = SegmentHeader { first_lsn: seal.end, before: Some(Lsn(0x1000)), checkpoint, ..header() };
    let find = |header: &SegmentHeader, size: usize, next: &SegmentHeader| {
        Seal::find(&disk, dir(), header, size as u64, next).map(|(seal, _)| seal)
    };
    assert_eq!(find(&header(), segment.len(), &next), Some(seal));
    // The segment is another one, has another size, or is continued at another lsn or after another entry.
    let other = SegmentHeader { nonce: *b"0123456789abcdee", ..header() };
    assert_eq!(find(&other, segment.len(), &next), None);
    assert_eq!(find(&header(), segment.len() - 1, &next), None);
    assert_eq!(
        find(&header(), segment.len(), &SegmentHeader { first_lsn: Lsn(next.first_lsn.0 + 8), ..next.clone() }),
        None
    );
    let checkpoint = Checkpoint { last_hash: [1; 32], ..checkpoint };
    assert_eq!(find(&header(), segment.len(), &SegmentHeader { checkpoint, ..next.clone() }), None);
    // A seal of a later version is made again: it says nothing that the segment does not.
    let mut later = file;
    later[8] = 2;
    disk.put(&dir().join("seg-0000000000001000.seal"), later);
    assert_eq!(find(&header(), segment.len(), &next), None);
}

#[test]
fn a_newer_format_is_named() {
    let mut bytes = header().encode();
    bytes[8] = 2;
    let hash = *blake3::hash(&bytes[..3552]).as_bytes();
    bytes[3552..3584].copy_from_slice(&hash);
    assert!(matches!(SegmentHeader::decode(&bytes, "seg"), Err(LogError::Version { found: 2, known: 1, .. })));
    bytes[3552] ^= 1;
    let damaged = SegmentHeader::decode(&bytes, "seg");
    assert!(matches!(damaged, Err(LogError::Corrupt { damage: Damage::Header, .. })));
}
