//! A segment: one file of the stream, `seg-<first lsn, 16 hexadecimal digits>.log`. Only this file knows its header.
//!
//! The file has its full size from the start and zeros where nothing was written. The header is written once, when the
//! stream rolls into the segment, and synced before the file gets its name. Numbers are little-endian.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `SHLOGSEG` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | partition |
//! | 16 | 1 + 63 | length of the machine's name, the name, zeros |
//! | 80 | 16 | nonce: random, seeds the checksums of the frames |
//! | 96 | 8 | lsn of the first frame |
//! | 104 | 8 | lsn of the first frame of the segment before; all ones if there is none |
//! | 112 | 32 | hash of the last entry before this segment |
//! | 144 | 4 | checkpoint, fields that are set: 1 vote, 2 its node, 4 committed, 8 last, 16 purged, 32 committed |
//! | 148 | 4 | zero |
//! | 152 | 16 | vote: term, node |
//! | 168 | 72 | last, purged, committed: term, node, index each |
//! | 240 | 32 | hash of the purged entry |
//! | 272 | – | zeros |
//! | 3552 | 32 | blake3 of all bytes before this field |
//! | 3584 | 8 | watermark, in its own sector: the stream is durable up to this lsn; rewritten when idle |
//! | 3592 | 8 | its checksum: blake3 keyed like a frame's, first 8 bytes |
//! | 3600 | – | zeros |
//! | 4096 | – | frames |
//!
//! The checkpoint is the log's state before the first frame. Recovery starts at the last segment before which
//! everything is purged. The watermark is in the header as well as in the frames because a cut removes all later
//! frames.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Disk, DiskFile, DiskMap};
use crate::durable;
use crate::ids::{LogIndex, Lsn, NodeId, PartitionId, Term};
use crate::log::frame::{FrameKey, Hash, id_at, id_bytes, u32_at, u64_at};
use crate::log::{Damage, EntryId, LogError, Vote};

pub(super) const HEADER_SIZE: usize = 4096;
pub(super) const FORMAT_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"SHLOGSEG";
const MACHINE_BYTES_MAX: usize = 63;
const HASH_AT: usize = WATERMARK_AT - 32;
pub(super) const WATERMARK_AT: usize = 3584;
const WATERMARK_SIZE: usize = 16;
/// The place of the nonce in a header.
pub(super) const NONCE: std::ops::Range<usize> = 80..96;
const NO_SEGMENT: u64 = u64::MAX;

/// The owner of a log. It is written into every segment and checked when the log is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamId {
    machine: String,
    partition: PartitionId,
}

impl StreamId {
    /// The machine's name must have 1 to 63 bytes; otherwise this returns [`LogError::MachineName`].
    pub fn new(machine: &str, partition: PartitionId) -> Result<Self, LogError> {
        if machine.is_empty() || MACHINE_BYTES_MAX < machine.len() {
            return Err(LogError::MachineName(machine.to_owned()));
        }
        Ok(Self { machine: machine.to_owned(), partition })
    }

    pub fn machine(&self) -> &str {
        &self.machine
    }

    pub fn partition(&self) -> PartitionId {
        self.partition
    }
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.machine, self.partition)
    }
}

/// The log's state at one point of the stream, except for its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub vote: Option<Vote>,
    pub last: Option<EntryId>,
    pub last_hash: Hash,
    pub purged: Option<EntryId>,
    pub purged_hash: Hash,
    pub committed: Option<EntryId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub stream: StreamId,
    pub nonce: [u8; 16],
    pub first_lsn: Lsn,
    /// The first lsn of the segment before; `None` for the first segment of the stream.
    pub before: Option<Lsn>,
    pub checkpoint: Checkpoint,
}

impl SegmentHeader {
    pub fn encode(&self) -> Vec<u8> {
        let (machine, checkpoint) = (self.stream.machine.as_bytes(), &self.checkpoint);
        assert!(machine.len() <= MACHINE_BYTES_MAX);
        let mut bytes = vec![0; HEADER_SIZE];
        let mut put = |offset: usize, field: &[u8]| bytes[offset..offset + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(8, &FORMAT_VERSION.to_le_bytes());
        put(12, &self.stream.partition.0.to_le_bytes());
        put(16, &[machine.len() as u8]);
        put(17, machine);
        put(NONCE.start, &self.nonce);
        put(96, &self.first_lsn.0.to_le_bytes());
        put(104, &self.before.map_or(NO_SEGMENT, |lsn| lsn.0).to_le_bytes());
        put(112, &checkpoint.last_hash);
        let mut set = 0_u32;
        if let Some(vote) = checkpoint.vote {
            set |= 1 | u32::from(vote.node.is_some()) << 1 | u32::from(vote.committed) << 2;
            put(152, &vote.term.0.to_le_bytes());
            put(160, &vote.node.map_or(0, |node| node.0).to_le_bytes());
        }
        let ids = [checkpoint.last, checkpoint.purged, checkpoint.committed];
        for (position, id) in ids.into_iter().enumerate() {
            if let Some(id) = id {
                set |= 8 << position;
                put(168 + 24 * position, &id_bytes(id));
            }
        }
        put(144, &set.to_le_bytes());
        put(240, &checkpoint.purged_hash);
        let hash = blake3::hash(&bytes[..HASH_AT]);
        bytes[HASH_AT..WATERMARK_AT].copy_from_slice(hash.as_bytes());
        bytes
    }

    /// The hash that the header stores after its fields and that vouches for them.
    pub fn hash(&self) -> Hash {
        *self.encode()[HASH_AT..].first_chunk().expect("a header is longer")
    }

    /// The key of the checksums of this segment's frames.
    pub fn key(&self) -> FrameKey {
        FrameKey::of_nonce(&self.nonce)
    }

    /// Reads the header of `segment`. A newer format is a [`LogError::Version`]; any other deviation is corruption.
    pub fn decode(bytes: &[u8], segment: &str) -> Result<Self, LogError> {
        let index = LogIndex(0);
        let corrupt = LogError::Corrupt { segment: segment.to_owned(), offset: 0, index, damage: Damage::Header };
        let is_intact = bytes.len() == HEADER_SIZE
            && bytes[..8] == MAGIC
            && *blake3::hash(&bytes[..HASH_AT]).as_bytes() == bytes[HASH_AT..WATERMARK_AT];
        if !is_intact {
            return Err(corrupt);
        }
        let found = u32_at(bytes, 8);
        if found != FORMAT_VERSION {
            return Err(LogError::Version { segment: segment.to_owned(), found, known: FORMAT_VERSION });
        }
        let machine = bytes[17..80].get(..bytes[16] as usize).and_then(|name| std::str::from_utf8(name).ok());
        let stream = StreamId::new(machine.ok_or_else(|| corrupt.clone())?, PartitionId(u32_at(bytes, 12)))?;
        let set = u32_at(bytes, 144);
        let vote = (set & 1 != 0).then(|| Vote {
            term: Term(u64_at(bytes, 152)),
            node: (set & 2 != 0).then(|| NodeId(u64_at(bytes, 160))),
            committed: set & 4 != 0,
        });
        let [last, purged, committed] =
            [0, 1, 2].map(|position| (set & 8 << position != 0).then(|| id_at(bytes, 168 + 24 * position)));
        let hash_at = |offset: usize| *bytes[offset..].first_chunk::<32>().expect("the size was checked");
        let checkpoint =
            Checkpoint { vote, last, last_hash: hash_at(112), purged, purged_hash: hash_at(240), committed };
        let header = Self {
            stream,
            nonce: *bytes[NONCE].first_chunk().expect("the size was checked"),
            first_lsn: Lsn(u64_at(bytes, 96)),
            before: Some(Lsn(u64_at(bytes, 104))).filter(|lsn| lsn.0 != NO_SEGMENT),
            checkpoint,
        };
        if header.before.is_some_and(|before| header.first_lsn <= before) { Err(corrupt) } else { Ok(header) }
    }
}

/// The bytes at [`WATERMARK_AT`] that say that the stream is durable up to `lsn`.
pub(super) fn encode_watermark(lsn: Lsn, key: &FrameKey) -> [u8; WATERMARK_SIZE] {
    let mut bytes = [0; WATERMARK_SIZE];
    bytes[..8].copy_from_slice(&lsn.0.to_le_bytes());
    let checksum = key.checksum_of(&bytes[..8]);
    bytes[8..].copy_from_slice(&checksum);
    bytes
}

/// Reads the watermark from a segment's first [`HEADER_SIZE`] bytes. Returns `Ok(None)` if none was written yet, and
/// `Err` if it is damaged.
pub(super) fn decode_watermark(bytes: &[u8], key: &FrameKey) -> Result<Option<Lsn>, Damage> {
    assert_eq!(bytes.len(), HEADER_SIZE);
    let (mark, rest) = bytes[WATERMARK_AT..].split_at(WATERMARK_SIZE);
    let is_written = mark.iter().any(|byte| *byte != 0);
    let is_intact = !is_written || key.checksum_of(&mark[..8]) == mark[8..];
    if !is_intact || rest.iter().any(|byte| *byte != 0) {
        return Err(Damage::Watermark);
    }
    Ok(is_written.then(|| Lsn(u64_at(mark, 0))))
}

pub(super) fn file_name(first_lsn: Lsn) -> String {
    format!("seg-{:016x}.log", first_lsn.0)
}

/// The first lsn in the name of a segment; `None` for other files.
pub(super) fn parse_file_name(name: &str) -> Option<Lsn> {
    let digits = name.strip_prefix("seg-")?.strip_suffix(".log")?;
    let lsn = Lsn(u64::from_str_radix(digits, 16).ok()?);
    (file_name(lsn) == name).then_some(lsn)
}

/// An open segment. The writer and the entries in it share it, so that it stays readable while any of them exists.
pub(super) struct Segment {
    pub header: SegmentHeader,
    pub name: String,
    pub first_lsn: Lsn,
    pub key: FrameKey,
    /// The size of the file, header included.
    pub size: u64,
    pub file: Arc<dyn DiskFile>,
    /// The map of the segment that is being written, until it is sealed. A segment that is only read has none.
    map: Option<Arc<dyn DiskMap>>,
}

impl Segment {
    pub fn new(header: &SegmentHeader, file: Arc<dyn DiskFile>, size: u64) -> Self {
        assert!(HEADER_SIZE as u64 <= size);
        let (first_lsn, key) = (header.first_lsn, header.key());
        Self { header: header.clone(), name: file_name(first_lsn), first_lsn, key, size, file, map: None }
    }

    /// The same segment, read through a map from now on. This is for the segment at the end of the stream.
    pub fn mapped(self) -> Result<Self, LogError> {
        let map = self.file.map().map_err(|error| LogError::disk(&self.name, error))?;
        Ok(Self { map: Some(map), ..self })
    }

    /// Reads a range that nobody writes any more. Returns an `UnexpectedEof` if the file is shorter.
    pub fn read(&self, offset: u64, size: usize) -> io::Result<Bytes> {
        if let Some(map) = &self.map {
            return map.read(offset, size);
        }
        let mut bytes = vec![0; size];
        self.file.read_at(&mut bytes, offset)?;
        Ok(Bytes::from(bytes))
    }

    /// The offset of `lsn` in the file. Panics if `lsn` is before the segment.
    pub fn offset_of(&self, lsn: Lsn) -> u64 {
        assert!(self.first_lsn <= lsn);
        HEADER_SIZE as u64 + self.first_lsn.distance_to(lsn)
    }

    /// The lsn at which the file ends. No frame may extend past it.
    pub fn end(&self) -> Lsn {
        Lsn(self.first_lsn.0 + (self.size - HEADER_SIZE as u64))
    }
}

/// The most bytes that one bad sector makes unreadable.
const BLOCK_BYTES: usize = 4096;

/// The first bytes of a file, as far as the disk returns them.
pub(super) struct ReadableBytes {
    /// The bytes, with zeros where the disk returned nothing.
    pub bytes: Vec<u8>,
    /// The range that contains all missing bytes.
    pub lost: Option<std::ops::Range<u64>>,
}

impl ReadableBytes {
    /// # Errors
    /// Errors that pass. They do not mean that the disk has lost anything.
    pub fn read(file: &dyn DiskFile, size: usize) -> io::Result<Self> {
        let mut bytes = vec![0; size];
        match file.read_at(&mut bytes, 0) {
            Ok(()) => return Ok(Self { bytes, lost: None }),
            Err(error) if durable::is_passing(&error) => return Err(error),
            Err(_) => {}
        }
        let there = file.size()?;
        let mut lost: Option<std::ops::Range<u64>> = None;
        for (number, block) in bytes.chunks_mut(BLOCK_BYTES).enumerate() {
            let offset = (number * BLOCK_BYTES) as u64;
            let end = offset + block.len() as u64;
            block.fill(0);
            // The last block of a truncated file is only partly there.
            let kept = there.saturating_sub(offset).min(block.len() as u64) as usize;
            let is_read = file.read_at(&mut block[..kept], offset).is_ok();
            if !is_read {
                block.fill(0);
            }
            if !is_read || kept < block.len() {
                lost = Some(lost.map_or(offset, |lost| lost.start)..end);
            }
        }
        Ok(Self { bytes, lost })
    }
}

/// A segment that nothing is written to any more.
#[derive(Clone)]
pub(super) struct ClosedSegment {
    pub segment: Arc<Segment>,
    /// The lsn at which the next segment begins.
    pub end: Lsn,
    /// The log's last entry at that point.
    pub last: Option<LogIndex>,
}

/// A synced file of zeros that waits to become a segment. It has no header and only a temporary name.
pub(super) struct Spare {
    pub path: PathBuf,
    pub size: u64,
    file: Arc<dyn DiskFile>,
    map: Arc<dyn DiskMap>,
}

impl Spare {
    /// Writes and syncs the zeros. On an error no file is left, if it can be removed.
    pub fn prepare(disk: &dyn Disk, dir: &Path, number: u64, size: u64) -> io::Result<Self> {
        assert!(HEADER_SIZE as u64 <= size);
        let path = dir.join(format!("spare-{number}.tmp"));
        let prepare = || {
            let file = disk.create(&path)?;
            fail::fail_point!("log::spare_created", |_| std::process::abort());
            let zeros = vec![0; 1 << 20];
            let mut offset = 0;
            while offset < size {
                let part = (size - offset).min(zeros.len() as u64);
                file.write_at(&zeros[..part as usize], offset)?;
                offset += part;
            }
            fail::fail_point!("log::spare_zeroed", |_| std::process::abort());
            file.sync()?;
            disk.sync_dir(dir)?;
            fail::fail_point!("log::spare_synced", |_| std::process::abort());
            let map = file.map()?;
            Ok((file, map))
        };
        match prepare() {
            Ok((file, map)) => Ok(Self { path, size, file, map }),
            Err(error) => {
                // The first error says what is wrong; the file may not even exist.
                let _ = disk.remove(&path);
                Err(error)
            }
        }
    }

    /// The segment that this file will become.
    pub fn segment(&self, header: &SegmentHeader) -> Segment {
        assert!(header.before.is_none_or(|before| before < header.first_lsn));
        Segment { map: Some(self.map.clone()), ..Segment::new(header, self.file.clone(), self.size) }
    }

    /// Writes the header, then renames the file: a file with the name of a segment always has a durable header.
    pub fn become_segment(&self, disk: &dyn Disk, dir: &Path, header: &SegmentHeader) -> Result<(), LogError> {
        let name = file_name(header.first_lsn);
        assert_eq!(parse_file_name(&name), Some(header.first_lsn));
        let write = || {
            self.file.write_at(&header.encode(), 0)?;
            fail::fail_point!("log::roll_header_written", |_| std::process::abort());
            self.file.sync()?;
            fail::fail_point!("log::roll_header_synced", |_| std::process::abort());
            disk.rename(&self.path, &dir.join(&name))?;
            fail::fail_point!("log::roll_renamed", |_| std::process::abort());
            disk.sync_dir(dir)
        };
        let result = write();
        fail::fail_point!("log::roll_done", |_| std::process::abort());
        result.map_err(|error| LogError::disk(&name, error))
    }
}
