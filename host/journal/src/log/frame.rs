//! The bytes of the stream: frames of records. Only this file reads and writes them.
//!
//! Numbers are little-endian. One append or one vote writes one *frame*. A frame starts at a multiple of 8:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `SHF1` |
//! | 4 | 4 | size of the frame in bytes with header and padding, a multiple of 8 |
//! | 8 | 8 | lsn: where the frame starts in the stream |
//! | 16 | 8 | durable watermark: the stream was synced up to here before this frame was written |
//! | 24 | 4 | number of records |
//! | 28 | 4 | flags: 1 = sync mark (written when the stream goes idle, not synced itself) |
//! | 32 | 8 | checksum: blake3 of the frame with this field zero, keyed by the segment's nonce, first 8 bytes |
//! | 40 | – | records, then zeros |
//!
//! A *record*:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | kind: 1 ENTRY, 2 VOTE, 3 TRUNCATE, 4 PURGE, 5 COMMIT |
//! | 1 | 1 | detail: ENTRY 0 blank, 1 entry, 2 membership · VOTE 1 node, 2 committed · TRUNCATE 1 has id · else 0 |
//! | 2 | 2 | zero |
//! | 4 | 4 | size of the body |
//! | 8 | 24 | term, node, index |
//! | 32 | – | body: ENTRY hash of the entry before (32), then payload · PURGE hash of the purged entry · else none |
//!
//! The hash of an entry is blake3(hash of the entry before it ‖ term ‖ node ‖ index ‖ detail ‖ blake3(payload)). The
//! hash before the first entry and after a gap is 32 zeros. It does not depend on the node, so replicas can compare
//! logs and exchange entries by hash.

use bytes::Bytes;

use crate::ids::{LogIndex, Lsn, NodeId, Term};
use crate::log::{EntryId, LogEntry, Payload, Vote};
use crate::planted::{Bug, is_planted};

pub(super) const FRAME_HEADER_SIZE: usize = 40;
pub(super) const RECORD_HEADER_SIZE: usize = 32;
/// Header and chain hash of an ENTRY record: the bytes that an entry needs besides its payload.
pub(super) const ENTRY_OVERHEAD: usize = RECORD_HEADER_SIZE + 32;
const MAGIC: [u8; 4] = *b"SHF1";
const FLAG_SYNC_MARK: u32 = 1;
const ALIGN: usize = 8;

/// The hash of an entry; zeros stand for no entry.
pub(super) type Hash = [u8; 32];
pub(super) const NO_HASH: Hash = [0; 32];

/// The key of a segment's frame checksums, so that a frame of another segment is never taken for a valid one.
#[derive(Clone, Copy)]
pub(super) struct FrameKey([u8; 32]);

impl FrameKey {
    pub fn of_nonce(nonce: &[u8; 16]) -> Self {
        Self(blake3::derive_key("statehouse 2026 log frame checksum", nonce))
    }

    /// The checksum of a few bytes that are not a frame.
    pub fn checksum_of(&self, bytes: &[u8]) -> [u8; 8] {
        *blake3::keyed_hash(&self.0, bytes).as_bytes().first_chunk().expect("a hash is longer than a checksum")
    }

    fn checksum(&self, frame: &[u8]) -> [u8; 8] {
        assert!(FRAME_HEADER_SIZE <= frame.len());
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&frame[..32]).update(&[0; 8]).update(&frame[40..]);
        *hasher.finalize().as_bytes().first_chunk().expect("a hash is longer than a checksum")
    }
}

/// One fact of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Entry {
        entry: LogEntry,
        before: Hash,
    },
    Vote(Vote),
    /// No entry after this one exists. `None` means that no entry exists at all.
    Truncate(Option<EntryId>),
    /// `hash` is zero when the log never held the entry.
    Purge {
        upto: EntryId,
        hash: Hash,
    },
    Commit(EntryId),
}

impl Record {
    pub fn size(&self) -> usize {
        RECORD_HEADER_SIZE
            + match self {
                Self::Entry { entry, .. } => 32 + entry.payload.size(),
                Self::Purge { .. } => 32,
                Self::Vote(_) | Self::Truncate(_) | Self::Commit(_) => 0,
            }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let none = EntryId { term: Term(0), node: NodeId(0), index: LogIndex(0) };
        let (kind, detail, id) = match self {
            Self::Entry { entry, .. } => (1, payload_detail(&entry.payload), entry.id),
            Self::Vote(vote) => {
                let node = vote.node.unwrap_or(NodeId(0));
                let detail = u8::from(vote.node.is_some()) | u8::from(vote.committed) << 1;
                (2, detail, EntryId { term: vote.term, node, ..none })
            }
            Self::Truncate(last) => (3, u8::from(last.is_some()), last.unwrap_or(none)),
            Self::Purge { upto, .. } => (4, 0, *upto),
            Self::Commit(id) => (5, 0, *id),
        };
        let body_size = u32::try_from(self.size() - RECORD_HEADER_SIZE).expect("payloads are bounded far below 4 GiB");
        let start = out.len();
        out.extend_from_slice(&[kind, detail, 0, 0]);
        out.extend_from_slice(&body_size.to_le_bytes());
        out.extend_from_slice(&id_bytes(id));
        match self {
            Self::Entry { entry, before } => {
                out.extend_from_slice(before);
                out.extend_from_slice(entry.payload.bytes());
            }
            Self::Purge { hash, .. } => out.extend_from_slice(hash),
            Self::Vote(_) | Self::Truncate(_) | Self::Commit(_) => {}
        }
        assert_eq!(out.len() - start, self.size());
    }

    /// The record at the start of `bytes`; `None` if the bytes are not in this format.
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<RECORD_HEADER_SIZE>()?;
        let body_size = u32_at(header, 4) as usize;
        if rest.len() < body_size || header[2..4] != [0, 0] {
            return None;
        }
        let (kind, detail, id) = (header[0], header[1], id_at(header, 8));
        let body = bytes.slice(RECORD_HEADER_SIZE..RECORD_HEADER_SIZE + body_size);
        let record = match (kind, detail, body_size) {
            (1, 0..=2, 32..) => {
                let content = body.slice(32..);
                let payload = match detail {
                    0 if content.is_empty() => Payload::Blank,
                    1 => Payload::Entry(content),
                    2 => Payload::Membership(content),
                    _ => return None,
                };
                Self::Entry { entry: LogEntry { id, payload }, before: *body.first_chunk()? }
            }
            (2, 0..=3, 0) => {
                let node = (detail & 1 != 0).then_some(id.node);
                Self::Vote(Vote { term: id.term, node, committed: detail & 2 != 0 })
            }
            (3, 0..=1, 0) => Self::Truncate((detail == 1).then_some(id)),
            (4, 0, 32) => Self::Purge { upto: id, hash: *body.first_chunk()? },
            (5, 0, 0) => Self::Commit(id),
            _ => return None,
        };
        assert_eq!(record.size(), RECORD_HEADER_SIZE + body_size);
        Some(record)
    }
}

/// The chain hash of an entry whose payload hashes to `payload_hash`.
pub(super) fn entry_hash(before: &Hash, id: EntryId, payload: &Payload, payload_hash: &blake3::Hash) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before).update(&id_bytes(id)).update(&[payload_detail(payload)]).update(payload_hash.as_bytes());
    let hash = *hasher.finalize().as_bytes();
    assert_ne!(hash, NO_HASH);
    hash
}

/// Records that are written together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub lsn: Lsn,
    pub is_sync_mark: bool,
    pub records: Vec<Record>,
}

impl Frame {
    /// The size of a frame whose records have `records_size` bytes together.
    pub fn size_for(records_size: usize) -> usize {
        (FRAME_HEADER_SIZE + records_size).next_multiple_of(ALIGN)
    }

    pub fn size(&self) -> usize {
        Self::size_for(self.records.iter().map(Record::size).sum())
    }

    /// The lsn at which the next frame starts.
    pub fn end(&self) -> Lsn {
        Lsn(self.lsn.0 + self.size() as u64)
    }

    pub fn encode(&self, durable: Lsn, key: &FrameKey, out: &mut Vec<u8>) {
        assert!(durable <= self.lsn);
        let size = self.size();
        let start = out.len();
        out.reserve(size);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&u32::try_from(size).expect("a frame fits a segment").to_le_bytes());
        out.extend_from_slice(&self.lsn.0.to_le_bytes());
        out.extend_from_slice(&durable.0.to_le_bytes());
        out.extend_from_slice(&u32::try_from(self.records.len()).expect("records have bytes").to_le_bytes());
        out.extend_from_slice(&if self.is_sync_mark { FLAG_SYNC_MARK } else { 0 }.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        for record in &self.records {
            record.encode(out);
        }
        out.resize(start + size, 0);
        let checksum = key.checksum(&out[start..]);
        out[start + 32..start + 40].copy_from_slice(&checksum);
    }
}

/// A frame that was read and whose checksum and place are right.
#[derive(Debug)]
pub(super) struct FrameRead {
    pub frame: Frame,
    /// The durable watermark in the frame's header.
    pub durable: Lsn,
    /// For each record, its start, counted from the start of the frame.
    pub offsets: Vec<u32>,
}

/// Why some bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameError {
    /// All bytes of the header are zero: nothing was written here.
    Empty,
    Invalid,
    /// The checksum is right but the records are not. A disk fault cannot cause that.
    Malformed,
}

/// Reads the frame that should start at `lsn` and at the start of `bytes`.
pub(super) fn read_frame(bytes: &Bytes, lsn: Lsn, key: &FrameKey) -> Result<FrameRead, FrameError> {
    let header = bytes.first_chunk::<FRAME_HEADER_SIZE>().ok_or(FrameError::Invalid)?;
    if *header == [0; FRAME_HEADER_SIZE] {
        return Err(FrameError::Empty);
    }
    let size = frame_size(header, lsn).filter(|&size| size <= bytes.len()).ok_or(FrameError::Invalid)?;
    if key.checksum(&bytes[..size]) != header[32..40] && !is_planted(Bug::ChecksumIgnored) {
        return Err(FrameError::Invalid);
    }
    let count = u32_at(header, 24);
    let mut offset = FRAME_HEADER_SIZE;
    let (mut records, mut offsets) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let record = Record::decode(&bytes.slice(offset..size)).ok_or(FrameError::Malformed)?;
        offsets.push(u32::try_from(offset).map_err(|_| FrameError::Malformed)?);
        offset += record.size();
        records.push(record);
    }
    let frame = Frame { lsn, is_sync_mark: u32_at(header, 28) & FLAG_SYNC_MARK != 0, records };
    if frame.size() != size || u32_at(header, 28) & !FLAG_SYNC_MARK != 0 || lsn.0 < u64_at(header, 16) {
        return Err(FrameError::Malformed);
    }
    Ok(FrameRead { frame, durable: Lsn(u64_at(header, 16)), offsets })
}

/// The size in a frame's header, if the header looks like that of a frame at `lsn`. This is a cheap first test.
pub(super) fn frame_size(header: &[u8; FRAME_HEADER_SIZE], lsn: Lsn) -> Option<usize> {
    let size = u32_at(header, 4) as usize;
    let is_plausible = header[..4] == MAGIC && u64_at(header, 8) == lsn.0;
    (is_plausible && FRAME_HEADER_SIZE <= size && size.is_multiple_of(ALIGN)).then_some(size)
}

fn payload_detail(payload: &Payload) -> u8 {
    match payload {
        Payload::Blank => 0,
        Payload::Entry(_) => 1,
        Payload::Membership(_) => 2,
    }
}

pub(super) fn id_bytes(id: EntryId) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&id.term.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&id.node.0.to_le_bytes());
    bytes[16..].copy_from_slice(&id.index.0.to_le_bytes());
    bytes
}

/// Panics if `bytes` is too short, and so do the two functions below. The callers checked the size of what they read.
pub(super) fn id_at(bytes: &[u8], offset: usize) -> EntryId {
    let [term, node, index] = [0, 8, 16].map(|field| u64_at(bytes, offset + field));
    EntryId { term: Term(term), node: NodeId(node), index: LogIndex(index) }
}

pub(super) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(*bytes[offset..].first_chunk().expect("the caller checked the size"))
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(*bytes[offset..].first_chunk().expect("the caller checked the size"))
}
