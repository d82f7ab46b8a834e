//! Reads sealed segments by `pread`: entries, one stretch between two points at a time, and whole files to check them.
//!
//! A seal and a range of entries go in. The entries come out, checked by the checksums of their frames and by the chain
//! from one point to the next. The files that were read last are kept open, up to a limit, each with the stretch that
//! was read last. This file does not know which segments exist, nor what happens to a damaged one.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile};
use crate::durable;
use crate::ids::{LogIndex, Lsn};
use crate::limits::LOG_SEALED_OPEN_MAX;
use crate::log::frame::{Hash, Record, entry_hash, read_frame};
use crate::log::live::scrub::ScrubPace;
use crate::log::seal::{Point, Seal};
use crate::log::segment::{HEADER_SIZE, file_name};
use crate::log::{Damage, LogEntry, LogError};

/// The number of bytes that a check reads at once.
const CHECK_BYTES: u64 = 1 << 20;

/// An entry that was read, with its chain hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SealedEntry {
    pub entry: LogEntry,
    pub hash: Hash,
}

/// The result of a check.
pub(super) enum SealCheck {
    Whole,
    Stopped,
    Other(Arc<Seal>, Vec<Point>),
}

/// The sealed segments of one folder.
pub(super) struct SealedSegments {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// The open segments; the one that was opened last is at the end.
    open: Mutex<VecDeque<Arc<OpenSegment>>>,
}

/// A sealed segment that is being read.
struct OpenSegment {
    seal: Arc<Seal>,
    file: Arc<dyn DiskFile>,
    points: Vec<Point>,
    last: Mutex<Option<CheckedStretch>>,
}

/// The stretch that was read last, so that a walk through a segment entry by entry, in either direction, reads and
/// checks each stretch once.
struct CheckedStretch {
    position: usize,
    entries: Arc<Vec<SealedEntry>>,
}

impl SealedSegments {
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        Self { disk, dir, open: Mutex::default() }
    }

    /// Reads some of the entries in `range`, which must be in the segment: from its start, at least one.
    ///
    /// # Errors
    /// [`LogError::Corrupt`]: the entries are not what was sealed, or cannot be read. [`LogError::Disk`]: the file
    /// cannot be opened; it may have been released.
    pub fn read(&self, seal: &Arc<Seal>, range: Range<LogIndex>) -> Result<Vec<SealedEntry>, LogError> {
        assert!(seal.first().is_some_and(|first| first <= range.start && range.start < range.end));
        assert!(seal.last.is_some_and(|last| range.end <= last.index.next()));
        let open = self.open(seal)?;
        let position = open.points.partition_point(|point| point.index <= range.start);
        let stretch = open.read_from(position.checked_sub(1).expect("the first point is the first entry"))?;
        let entries: Vec<_> = stretch.iter().filter(|read| range.contains(&read.entry.id.index)).cloned().collect();
        assert_eq!(entries.first().map(|read| read.entry.id.index), Some(range.start));
        Ok(entries)
    }

    /// The approximate place of an entry in the stream: before the entry by at most the distance of two points.
    pub fn lsn_of(&self, seal: &Arc<Seal>, index: LogIndex) -> Result<Lsn, LogError> {
        let open = self.open(seal)?;
        let position = open.points.partition_point(|point| point.index <= index);
        Ok(position.checked_sub(1).map_or(seal.first_lsn(), |position| open.points[position].lsn))
    }

    /// The first entry of the last point at or before `lsn`; `None` if all points are after `lsn`.
    pub fn find_first_before(&self, seal: &Arc<Seal>, lsn: Lsn) -> Result<Option<LogIndex>, LogError> {
        let open = self.open(seal)?;
        let position = open.points.partition_point(|point| point.lsn <= lsn);
        Ok(position.checked_sub(1).map(|position| open.points[position].index))
    }

    /// Reads the whole segment and checks that it is what was sealed. `pace` is asked before each piece. If a crash
    /// interrupted the mending of a segment, the file has another hash than its seal but the same entries. Then a new
    /// seal is returned.
    ///
    /// # Errors
    /// [`LogError::Corrupt`], with the first damage if it can be located.
    pub fn check(&self, seal: &Seal, mut pace: impl FnMut(u64) -> ScrubPace) -> Result<SealCheck, LogError> {
        let file = self.open_file(seal)?;
        check_size(&*file, seal)?;
        let (mut hasher, mut offset) = (blake3::Hasher::new(), 0);
        while offset < seal.size {
            let size = (seal.size - offset).min(CHECK_BYTES);
            if pace(size) == ScrubPace::Stop {
                return Ok(SealCheck::Stopped);
            }
            hasher.update(&read(&*file, seal, offset, size, LogIndex(0))?);
            offset += size;
        }
        if *hasher.finalize().as_bytes() == seal.hash {
            return Ok(SealCheck::Whole);
        }
        let (found, points) = Seal::survey(&seal.header, seal.end, &read_all(&*file, seal)?)?;
        if found.says_the_same(seal) {
            Ok(SealCheck::Other(Arc::new(found), points))
        } else {
            Err(corrupt(seal, 0, LogIndex(0), Damage::Chain))
        }
    }

    /// The points of a segment, from its seal's file or from the segment itself.
    pub fn points_of(&self, seal: &Arc<Seal>) -> Result<Vec<Point>, LogError> {
        Ok(self.open(seal)?.points.clone())
    }

    /// Closes the cached file of this segment.
    pub fn forget(&self, first_lsn: Lsn) {
        self.open.lock().retain(|open| open.seal.first_lsn() != first_lsn);
    }

    fn open(&self, seal: &Arc<Seal>) -> Result<Arc<OpenSegment>, LogError> {
        let is_this =
            |open: &&Arc<OpenSegment>| open.seal.hash == seal.hash && open.seal.first_lsn() == seal.first_lsn();
        if let Some(open) = self.open.lock().iter().find(is_this) {
            return Ok(open.clone());
        }
        let file = self.open_file(seal)?;
        let points = match seal.find_points(&*self.disk, &self.dir) {
            Some(points) => points,
            None => {
                let (found, points) = Seal::survey(&seal.header, seal.end, &read_all(&*file, seal)?)?;
                if found != **seal {
                    return Err(corrupt(seal, 0, LogIndex(0), Damage::Header));
                }
                points
            }
        };
        let open = Arc::new(OpenSegment { seal: seal.clone(), file, points, last: Mutex::default() });
        let mut kept = self.open.lock();
        while LOG_SEALED_OPEN_MAX <= kept.len() {
            kept.pop_front();
        }
        kept.push_back(open.clone());
        Ok(open)
    }

    fn open_file(&self, seal: &Seal) -> Result<Arc<dyn DiskFile>, LogError> {
        let name = file_name(seal.first_lsn());
        self.disk.open_to_read(&self.dir.join(&name)).map_err(|error| LogError::disk(name, error))
    }
}

impl OpenSegment {
    /// The entries from a point to the next one.
    fn read_from(&self, position: usize) -> Result<Arc<Vec<SealedEntry>>, LogError> {
        if let Some(last) = &*self.last.lock()
            && last.position == position
        {
            return Ok(last.entries.clone());
        }
        let (seal, point, next) = (&self.seal, &self.points[position], self.points.get(position + 1));
        let offset = HEADER_SIZE as u64 + seal.first_lsn().distance_to(point.lsn);
        let size = point.lsn.distance_to(next.map_or(seal.end, |next| next.lsn));
        let bytes = read(&*self.file, seal, offset, size, point.index)?;
        let entries = Arc::new(read_stretch(seal, &self.points, position, &bytes)?);
        *self.last.lock() = Some(CheckedStretch { position, entries: entries.clone() });
        Ok(entries)
    }
}

/// The entries in the bytes from a point to the next one.
pub(super) fn read_stretch(
    seal: &Seal,
    points: &[Point],
    position: usize,
    bytes: &Bytes,
) -> Result<Vec<SealedEntry>, LogError> {
    let (point, next, key) = (&points[position], points.get(position + 1), seal.header.key());
    let (last, last_hash) = match next {
        Some(next) => (LogIndex(next.index.0 - 1), next.before),
        None => (seal.last.expect("it has points").index, seal.last_hash),
    };
    let offset = HEADER_SIZE as u64 + seal.first_lsn().distance_to(point.lsn);
    let mut stretch = Stretch { entries: Vec::new(), before: point.before };
    let mut at = 0;
    while at < bytes.len() {
        let lsn = Lsn(point.lsn.0 + at as u64);
        let damaged = |damage| corrupt(seal, offset + at as u64, point.index, damage);
        let read = read_frame(&bytes.slice(at..), lsn, &key).map_err(|_| damaged(Damage::Frame))?;
        for record in read.frame.records.iter().take_while(|record| !is_beyond(record, last)) {
            stretch.take(record, point.index).ok_or_else(|| damaged(Damage::Chain))?;
        }
        at += lsn.distance_to(read.frame.end()) as usize;
    }
    let found = stretch.entries.last();
    if found.map(|found| (found.entry.id.index, found.hash)) != Some((last, last_hash)) {
        return Err(corrupt(seal, offset, point.index, Damage::Chain));
    }
    Ok(stretch.entries)
}

/// The entries of a stretch that are left so far.
struct Stretch {
    entries: Vec<SealedEntry>,
    /// The hash before the first entry.
    before: Hash,
}

impl Stretch {
    fn take(&mut self, record: &Record, first: LogIndex) -> Option<()> {
        let from = match record {
            Record::Entry { entry, .. } => entry.id.index,
            Record::Truncate(last) => last.map_or(LogIndex(0), |last| last.index.next()),
            Record::Purge { .. } | Record::Vote(_) | Record::Commit(_) => return Some(()),
        };
        while self.entries.pop_if(|read| from <= read.entry.id.index).is_some() {}
        let Record::Entry { entry, before } = record else { return Some(()) };
        let expected = self.entries.last().map_or((first, self.before), |read| (read.entry.id.index.next(), read.hash));
        if expected != (from, *before) {
            return None;
        }
        let hash = entry_hash(before, entry.id, &entry.payload, &blake3::hash(entry.payload.bytes()));
        self.entries.push(SealedEntry { entry: entry.clone(), hash });
        Some(())
    }
}

/// Whether the record is an entry after the last one of a stretch. A later stretch replaced that entry, or begins with
/// it.
fn is_beyond(record: &Record, last: LogIndex) -> bool {
    matches!(record, Record::Entry { entry, .. } if last < entry.id.index)
}

/// Reads the whole file of a segment as it was sealed.
pub(super) fn read_all(file: &dyn DiskFile, seal: &Seal) -> Result<Bytes, LogError> {
    check_size(file, seal)?;
    read(file, seal, 0, seal.size, seal.first().unwrap_or(LogIndex(0)))
}

fn check_size(file: &dyn DiskFile, seal: &Seal) -> Result<(), LogError> {
    let size = file.size().map_err(|error| LogError::disk(file_name(seal.first_lsn()), error))?;
    if size == seal.size { Ok(()) } else { Err(corrupt(seal, size.min(seal.size), LogIndex(0), Damage::Size)) }
}

fn read(file: &dyn DiskFile, seal: &Seal, offset: u64, size: u64, index: LogIndex) -> Result<Bytes, LogError> {
    let mut bytes = vec![0; usize::try_from(size).expect("segments fit the memory")];
    match file.read_at(&mut bytes, offset) {
        Ok(()) => Ok(Bytes::from(bytes)),
        Err(error) if durable::is_passing(&error) => Err(LogError::disk(file_name(seal.first_lsn()), error)),
        // An unreadable sector counts as damage, like a sector with wrong bytes.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(corrupt(seal, offset, index, Damage::Size)),
        Err(_) => Err(corrupt(seal, offset, index, Damage::Unreadable)),
    }
}

fn corrupt(seal: &Seal, offset: u64, index: LogIndex, damage: Damage) -> LogError {
    LogError::Corrupt { segment: file_name(seal.first_lsn()), offset, index, damage }
}
