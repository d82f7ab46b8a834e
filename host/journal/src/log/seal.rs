//! A seal says what a closed segment holds, so that an open log need not read it. It is the file `seg-<first lsn>.seal`
//! beside the segment. Only this file reads and writes these bytes.
//!
//! A segment is *closed* once the stream continues in the next one; nothing writes to it any more. It is sealed once
//! everything in it is durable and committed. A seal is a function of its segment: a lost seal can be made again.
//! Numbers are little-endian.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `SHLOGSEA` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | size of the head: everything before the points |
//! | 16 | 32 | the hash that the segment's header stores |
//! | 48 | 24 | lsn of the segment's first frame; lsn after its last one; size of its file |
//! | 72 | 32 | blake3 of the segment's file |
//! | 104 | 8 | entries of earlier segments from this index on are dropped in this segment; all ones if none is |
//! | 112 | 8 | number of entries left at the segment's end; a snapshot may have replaced earlier ones |
//! | 120 | 24 + 32 | the last of them: term, node, index; its chain hash |
//! | 176 | 4 + 4 | number of leaders' runs; number of points |
//! | 184 | 32 | blake3 of the points |
//! | 216 | 24 each | first entry of each leader's run among them: term, node, index |
//! | … | 32 | blake3 of the head before this field |
//! | head | 48 each | points: lsn of a frame; index of its first entry; chain hash before that entry |
//!
//! A point vouches for the bytes up to the next point: by the checksums of the frames, and by the chain.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::ids::{LogIndex, Lsn};
use crate::limits::LOG_POINT_BYTES;
use crate::log::frame::{Hash, NO_HASH, Record, entry_hash, id_at, id_bytes, read_frame, u32_at, u64_at};
use crate::log::segment::{HEADER_SIZE, SegmentHeader, decode_watermark, file_name};
use crate::log::{Damage, EntryId, LogError};

const MAGIC: [u8; 8] = *b"SHLOGSEA";
const SUFFIX: &str = ".seal";
const FORMAT_VERSION: u32 = 1;
const RUNS_AT: usize = 216;
const POINT_SIZE: usize = 48;
/// A head is read with one read of this size, unless it has very many runs.
const HEAD_BYTES: usize = 4096;
const NONE_ENDS: u64 = u64::MAX;

/// The facts that are known of a sealed segment without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    pub header: SegmentHeader,
    /// The lsn at which the next segment begins.
    pub end: Lsn,
    /// The size of the segment's file; `hash` is the hash of that file.
    pub size: u64,
    pub hash: Hash,
    /// Entries of earlier segments from this index on are dropped in this segment.
    pub ends_from: Option<LogIndex>,
    /// The number of entries that are left at the end of the segment and lie in it: the last `count` ones.
    pub count: u64,
    pub last: Option<EntryId>,
    pub last_hash: Hash,
    /// The first entry of each leader's run among them.
    pub runs: Vec<EntryId>,
    point_count: u32,
    points_hash: Hash,
}

/// A place where reading can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    /// The lsn of a frame.
    pub lsn: Lsn,
    /// The first entry of that frame.
    pub index: LogIndex,
    /// The hash of the entry before it.
    pub before: Hash,
}

impl Seal {
    pub fn first_lsn(&self) -> Lsn {
        self.header.first_lsn
    }

    /// The first entry that is left; `None` without entries.
    pub fn first(&self) -> Option<LogIndex> {
        self.last.map(|last| LogIndex(last.index.0 + 1 - self.count))
    }

    /// The entry with this index, which must be in the segment.
    pub fn id_at(&self, index: LogIndex) -> EntryId {
        let run = self.runs.partition_point(|run| run.index <= index);
        assert!(0 < run && self.last.is_some_and(|last| index <= last.index));
        EntryId { index, ..self.runs[run - 1] }
    }

    /// Reads and checks a whole closed segment, whose frames end at `end`.
    ///
    /// # Errors
    /// [`LogError::Corrupt`]: the bytes are not what was written.
    pub fn survey(header: &SegmentHeader, end: Lsn, bytes: &Bytes) -> Result<(Self, Vec<Point>), LogError> {
        check_header(header, bytes)?;
        let mut survey = Survey::new(header);
        survey.walk(header, end, bytes)?;
        let points = survey.points();
        let seal = Self {
            header: header.clone(),
            end,
            size: bytes.len() as u64,
            hash: *blake3::hash(bytes).as_bytes(),
            ends_from: survey.ends_from.map(LogIndex),
            count: survey.entries.len() as u64,
            last: survey.entries.last().map(|entry| entry.id),
            last_hash: survey.entries.last().map_or(NO_HASH, |entry| entry.hash),
            runs: survey.runs(),
            point_count: u32::try_from(points.len()).expect("points are far apart"),
            points_hash: *blake3::hash(&encode_points(&points)).as_bytes(),
        };
        assert!(seal.runs.is_empty() == seal.last.is_none());
        Ok((seal, points))
    }

    pub fn encode(&self, points: &[Point]) -> Vec<u8> {
        let head_size = self.head_size();
        let mut bytes = Vec::with_capacity(head_size + POINT_SIZE * points.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(head_size).expect("runs are few").to_le_bytes());
        bytes.extend_from_slice(&self.header.hash());
        for number in [self.first_lsn().0, self.end.0, self.size] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.hash);
        bytes.extend_from_slice(&self.ends_from.map_or(NONE_ENDS, |index| index.0).to_le_bytes());
        bytes.extend_from_slice(&self.count.to_le_bytes());
        bytes.extend_from_slice(&self.last.map_or([0; 24], id_bytes));
        bytes.extend_from_slice(&self.last_hash);
        bytes.extend_from_slice(&u32::try_from(self.runs.len()).expect("runs are few").to_le_bytes());
        bytes.extend_from_slice(&self.point_count.to_le_bytes());
        bytes.extend_from_slice(&self.points_hash);
        assert_eq!(bytes.len(), RUNS_AT);
        bytes.extend(self.runs.iter().flat_map(|run| id_bytes(*run)));
        bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
        assert_eq!(bytes.len(), head_size);
        bytes.extend_from_slice(&encode_points(points));
        bytes
    }

    /// Reads the seal of the segment that has this header, has a file of `size` bytes, and is followed by `next`.
    /// Returns it with the size of its own file. `None` if there is no intact seal of exactly this segment.
    pub fn find(
        disk: &dyn Disk,
        dir: &Path,
        header: &SegmentHeader,
        size: u64,
        next: &SegmentHeader,
    ) -> Option<(Self, u64)> {
        let file = disk.open_to_read(&dir.join(seal_name(header.first_lsn))).ok()?;
        let seal_size = file.size().ok()?;
        let mut bytes = read(&*file, 0, (seal_size as usize).min(HEAD_BYTES))?;
        let head_size = u32_at(bytes.get(..16)?, 12) as usize;
        if bytes.len() < head_size && head_size as u64 <= seal_size {
            bytes = read(&*file, 0, head_size)?;
        }
        let seal = Self::decode(bytes.get(..head_size)?, header)?;
        let is_whole = seal_size == (head_size + POINT_SIZE * seal.point_count as usize) as u64;
        let is_of_this = (seal.size, seal.end) == (size, next.first_lsn) && seal.fits(next);
        (is_whole && is_of_this).then_some((seal, seal_size))
    }

    /// Whether both seals have the same entries, wherever these are in the file.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let of = |seal: &Self| (seal.end, seal.size, seal.ends_from, seal.count, seal.last, seal.last_hash);
        of(self) == of(other) && self.header == other.header && self.runs == other.runs
    }

    /// Whether the log's state at the segment's end is the one in the next header.
    pub fn fits(&self, next: &SegmentHeader) -> bool {
        let checkpoint = &next.checkpoint;
        self.last.is_none_or(|last| checkpoint.last == Some(last) && checkpoint.last_hash == self.last_hash)
    }

    fn decode(head: &[u8], header: &SegmentHeader) -> Option<Self> {
        let (head, checksum) = head.split_last_chunk::<32>()?;
        let is_intact = RUNS_AT <= head.len()
            && head[..8] == MAGIC
            && u32_at(head, 8) == FORMAT_VERSION
            && blake3::hash(head).as_bytes() == checksum
            && head[16..48] == header.hash()
            && u64_at(head, 48) == header.first_lsn.0
            && head.len() == RUNS_AT + 24 * u32_at(head, 176) as usize;
        let hash_at = |offset: usize| *head[offset..].first_chunk::<32>().expect("the size was checked");
        is_intact.then(|| Self {
            header: header.clone(),
            end: Lsn(u64_at(head, 56)),
            size: u64_at(head, 64),
            hash: hash_at(72),
            ends_from: Some(LogIndex(u64_at(head, 104))).filter(|index| index.0 != NONE_ENDS),
            count: u64_at(head, 112),
            last: (u64_at(head, 112) != 0).then(|| id_at(head, 120)),
            last_hash: hash_at(144),
            runs: (0..u32_at(head, 176) as usize).map(|run| id_at(head, RUNS_AT + 24 * run)).collect(),
            point_count: u32_at(head, 180),
            points_hash: hash_at(184),
        })
    }

    /// The places where reading can start; `None` if the file no longer has them.
    pub fn find_points(&self, disk: &dyn Disk, dir: &Path) -> Option<Vec<Point>> {
        let file = disk.open_to_read(&dir.join(seal_name(self.first_lsn()))).ok()?;
        let bytes = read(&*file, self.head_size() as u64, POINT_SIZE * self.point_count as usize)?;
        (*blake3::hash(&bytes).as_bytes() == self.points_hash).then(|| {
            let points = bytes.chunks_exact(POINT_SIZE).map(|point| Point {
                lsn: Lsn(u64_at(point, 0)),
                index: LogIndex(u64_at(point, 8)),
                before: *point[16..].first_chunk().expect("a chunk has this size"),
            });
            points.collect()
        })
    }

    /// Whether the seal's file says the same as this seal.
    pub fn is_whole(&self, disk: &dyn Disk, dir: &Path) -> bool {
        let read_head = || {
            let file = disk.open_to_read(&dir.join(seal_name(self.first_lsn()))).ok()?;
            Self::decode(&read(&*file, 0, self.head_size())?, &self.header)
        };
        read_head().as_ref() == Some(self) && self.find_points(disk, dir).is_some()
    }

    fn head_size(&self) -> usize {
        RUNS_AT + 24 * self.runs.len() + 32
    }

    /// Writes the seal's file durably and returns its size. After an error there is no new file; an earlier one stays.
    pub fn write(&self, disk: &dyn Disk, dir: &Path, points: &[Point]) -> std::io::Result<u64> {
        let bytes = self.encode(points);
        let (name, building) = (seal_name(self.first_lsn()), dir.join(format!("seal-{:016x}.tmp", self.first_lsn().0)));
        let write = || {
            let file = disk.create(&building)?;
            fail::fail_point!("log::seal_created", |_| std::process::abort());
            file.write_at(&bytes, 0)?;
            file.sync()?;
            fail::fail_point!("log::seal_synced", |_| std::process::abort());
            disk.rename(&building, &dir.join(&name))?;
            fail::fail_point!("log::seal_renamed", |_| std::process::abort());
            disk.sync_dir(dir)
        };
        let result = write();
        if result.is_err() {
            // The first error says what is wrong; the file may not even exist.
            let _ = disk.remove(&building);
        }
        result.map(|()| bytes.len() as u64)
    }
}

pub(super) fn seal_name(first_lsn: Lsn) -> String {
    format!("seg-{:016x}{SUFFIX}", first_lsn.0)
}

/// Deletes a segment's seal if there is one, and returns its size. The deletion is durable after [`Disk::sync_dir`].
pub(super) fn remove(disk: &dyn Disk, dir: &Path, first_lsn: Lsn) -> std::io::Result<u64> {
    let path = dir.join(seal_name(first_lsn));
    let size = match disk.open_to_read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        file => file?.size()?,
    };
    disk.remove(&path)?;
    Ok(size)
}

/// Deletes all seals except these.
pub(super) fn remove_others(disk: &dyn Disk, dir: &Path, kept: &[Arc<Seal>]) -> std::io::Result<()> {
    let kept: BTreeSet<String> = kept.iter().map(|seal| seal_name(seal.first_lsn())).collect();
    for name in disk.list(dir)?.iter().filter(|name| name.ends_with(SUFFIX) && !kept.contains(*name)) {
        disk.remove(&dir.join(name))?;
    }
    Ok(())
}

fn encode_points(points: &[Point]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(POINT_SIZE * points.len());
    for point in points {
        bytes.extend_from_slice(&point.lsn.0.to_le_bytes());
        bytes.extend_from_slice(&point.index.0.to_le_bytes());
        bytes.extend_from_slice(&point.before);
    }
    bytes
}

fn read(file: &dyn DiskFile, offset: u64, size: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; size];
    file.read_at(&mut bytes, offset).ok()?;
    Some(bytes)
}

fn check_header(header: &SegmentHeader, bytes: &Bytes) -> Result<(), LogError> {
    let segment = file_name(header.first_lsn);
    let corrupt = |damage| LogError::Corrupt { segment: segment.clone(), offset: 0, index: LogIndex(0), damage };
    let found = bytes.get(..HEADER_SIZE).ok_or_else(|| corrupt(Damage::Header))?;
    if SegmentHeader::decode(found, &segment)? != *header {
        return Err(corrupt(Damage::Header));
    }
    decode_watermark(found, &header.key()).map(drop).map_err(corrupt)
}

/// The walk through a closed segment.
struct Survey {
    /// The entries that are left so far, without gaps.
    entries: Vec<SurveyedEntry>,
    ends_from: Option<u64>,
    /// The last entry and its hash, in the segment or before it. The hash is unknown once earlier entries were
    /// replaced.
    last: Option<LogIndex>,
    last_hash: Option<Hash>,
}

struct SurveyedEntry {
    id: EntryId,
    before: Hash,
    hash: Hash,
    frame: Lsn,
}

impl Survey {
    fn new(header: &SegmentHeader) -> Self {
        let checkpoint = &header.checkpoint;
        Self {
            entries: Vec::new(),
            ends_from: None,
            last: checkpoint.last.map(|last| last.index),
            // Recovery may have begun after that entry; then the header has no hash.
            last_hash: Some(checkpoint.last_hash).filter(|hash| checkpoint.last.is_none() || *hash != NO_HASH),
        }
    }

    fn walk(&mut self, header: &SegmentHeader, end: Lsn, bytes: &Bytes) -> Result<(), LogError> {
        let key = header.key();
        let mut lsn = header.first_lsn;
        while lsn < end {
            let offset = HEADER_SIZE + header.first_lsn.distance_to(lsn) as usize;
            let read = read_frame(&bytes.slice(offset.min(bytes.len())..), lsn, &key);
            let read = read.map_err(|_| self.corrupt(header, lsn, Damage::Frame))?;
            for record in &read.frame.records {
                if self.take(record, lsn).is_none() {
                    return Err(self.corrupt(header, lsn, Damage::Chain));
                }
            }
            lsn = read.frame.end();
        }
        if lsn == end { Ok(()) } else { Err(self.corrupt(header, lsn, Damage::Frame)) }
    }

    fn corrupt(&self, header: &SegmentHeader, lsn: Lsn, damage: Damage) -> LogError {
        let offset = HEADER_SIZE as u64 + header.first_lsn.distance_to(lsn);
        let index = self.last.map_or(LogIndex(0), LogIndex::next);
        LogError::Corrupt { segment: file_name(header.first_lsn), offset, index, damage }
    }

    /// Takes over a record; `None` if it contradicts those before it.
    fn take(&mut self, record: &Record, frame: Lsn) -> Option<()> {
        match record {
            Record::Entry { entry, before } => {
                self.cut(entry.id.index.0);
                let follows = self.last.is_none_or(|last| last.next() == entry.id.index);
                if !follows || self.last_hash.is_some_and(|hash| hash != *before) {
                    return None;
                }
                let hash = entry_hash(before, entry.id, &entry.payload, &blake3::hash(entry.payload.bytes()));
                self.entries.push(SurveyedEntry { id: entry.id, before: *before, hash, frame });
                (self.last, self.last_hash) = (Some(entry.id.index), Some(hash));
            }
            Record::Truncate(last) => self.cut(last.map_or(0, |last| last.index.0 + 1)),
            // The purge is beyond the end: a snapshot replaced all entries up to there.
            Record::Purge { upto, hash } if self.last < Some(upto.index) => {
                self.entries.clear();
                (self.last, self.last_hash) = (Some(upto.index), Some(*hash));
            }
            Record::Purge { .. } | Record::Vote(_) | Record::Commit(_) => {}
        }
        Some(())
    }

    /// Drops the entries from this index on.
    fn cut(&mut self, from: u64) {
        if self.last.is_none_or(|last| last.0 < from) {
            return;
        }
        let first = self.entries.first().map(|entry| entry.id.index.0);
        // The hash that the last dropped entry names. Nothing is known here of entries before the segment.
        self.last_hash = (from == 0).then_some(NO_HASH);
        while let Some(entry) = self.entries.pop_if(|entry| from <= entry.id.index.0) {
            self.last_hash = (entry.id.index.0 == from).then_some(entry.before);
        }
        self.last = from.checked_sub(1).map(LogIndex);
        if first.is_none_or(|first| from < first) {
            self.ends_from = Some(self.ends_from.unwrap_or(NONE_ENDS).min(from));
        }
    }

    fn points(&self) -> Vec<Point> {
        let mut points: Vec<Point> = Vec::new();
        let mut frame = None;
        for entry in &self.entries {
            let is_first_of_frame = frame.replace(entry.frame) != Some(entry.frame);
            let is_due = points.last().is_none_or(|point| LOG_POINT_BYTES <= point.lsn.distance_to(entry.frame));
            if is_first_of_frame && is_due {
                points.push(Point { lsn: entry.frame, index: entry.id.index, before: entry.before });
            }
        }
        points
    }

    fn runs(&self) -> Vec<EntryId> {
        let mut runs: Vec<EntryId> = Vec::new();
        for entry in &self.entries {
            if runs.last().is_none_or(|run| (run.term, run.node) != (entry.id.term, entry.id.node)) {
                runs.push(entry.id);
            }
        }
        runs
    }
}
