//! Reads the segments of a log folder and rebuilds the book from them. It writes nothing: the caller repairs the tail,
//! from what is found here. Both opening a log and the auditor's scan use it. The log trusts the seals of segments; the
//! auditor reads every segment.
//!
//! An invalid frame below the watermark means that acknowledged bytes are corrupt: that is an error, and nothing is
//! served. A frame above the watermark was never acknowledged: it is a torn tail. The watermark is the highest one that
//! any valid frame (a later one included) or the segment's header carries. A segment that has a successor was durable
//! to its end before the successor existed.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::ids::{LogIndex, Lsn};
use crate::log::book::{Book, Contradiction, PurgePolicy};
use crate::log::frame::{FRAME_HEADER_SIZE, FrameError, frame_size, read_frame};
use crate::log::seal::{self, Point, Seal};
use crate::log::segment::{
    ClosedSegment, HEADER_SIZE, ReadableBytes, Segment, SegmentHeader, WATERMARK_AT, decode_watermark, file_name,
    parse_file_name,
};
use crate::log::trust::{TrustedSegments, trust};
use crate::log::{Damage, LogError, StreamId};

/// The contents of a log folder.
pub(super) struct RecoveredLog {
    pub stream: StreamId,
    pub book: Book,
    /// The last segment. The stream continues there.
    pub segment: Arc<Segment>,
    /// The end of the valid frames.
    pub end: Lsn,
    /// Everything before this lsn was certainly durable.
    pub watermark: Lsn,
    /// The end of the last frame that is not a sync mark.
    pub data_end: Lsn,
    /// If there are bytes after the end: where they end. They were never acknowledged.
    pub torn_until: Option<Lsn>,
    /// The last segment's file as it was read.
    pub bytes: Bytes,
    /// The size of all segment files and of the trusted seals.
    pub size: u64,
    /// The segments that were read, except the last one. They will be sealed.
    pub closed: Vec<ClosedSegment>,
    /// The seals that are trusted.
    pub seals: Vec<Arc<Seal>>,
    /// The trusted seals that must still be written.
    pub seals_missing: Vec<(Arc<Seal>, Vec<Point>)>,
}

impl RecoveredLog {
    /// Makes what was found durable, and clears what follows it.
    ///
    /// After a failed sync or a killed process, bytes may exist only in the page cache although the kernel considers
    /// them written. Therefore everything after the watermark is written again before the sync. The name of the segment
    /// may also exist only in memory, and everything acknowledged from now on would be lost with it. Therefore the
    /// folder is synced too.
    pub fn repair(&self, disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
        let segment = &self.segment;
        let start = self.watermark.max(segment.first_lsn);
        let range = segment.offset_of(start)..segment.offset_of(self.end);
        let valid = &self.bytes[range.start as usize..range.end as usize];
        let torn_bytes = self.torn_until.map_or(0, |until| self.end.distance_to(until));
        let write = || {
            segment.file.write_at(valid, range.start)?;
            fail::fail_point!("log::repair_written", |_| std::process::abort());
            segment.file.write_at(&vec![0; torn_bytes as usize], range.end)?;
            fail::fail_point!("log::repair_zeroed", |_| std::process::abort());
            segment.file.sync()?;
            disk.sync_dir(dir)
        };
        write().map_err(|error| LogError::disk(&segment.name, error))?;
        assert!(range.end + torn_bytes <= segment.size);
        if 0 < torn_bytes {
            tracing::warn!(segment = segment.name, offset = range.end, torn_bytes, "cut off an unacknowledged tail");
        }
        Ok(())
    }
}

impl RecoveredLog {
    /// Writes the missing seals and deletes those that are not trusted. Returns how many bytes were written. A seal
    /// that cannot be written is made again at the next start.
    pub fn write_seals(&self, disk: &dyn Disk, dir: &Path) -> Result<u64, LogError> {
        seal::remove_others(disk, dir, &self.seals)
            .map_err(|error| LogError::disk(dir.display().to_string(), error))?;
        let written = self.seals_missing.iter().map(|(seal, points)| {
            seal.write(disk, dir, points).unwrap_or_else(|error| {
                tracing::warn!(dir = %dir.display(), %error, "a segment is not sealed");
                0
            })
        });
        Ok(written.sum())
    }
}

/// Whether the newest file is also opened for writing, and mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Reads the log in `dir`; `None` if there is no segment. With [`PurgePolicy::Dropped`] it starts at the last segment
/// before which everything is purged.
pub(super) fn recover(
    disk: &dyn Disk,
    dir: &Path,
    access: Access,
    purged: PurgePolicy,
) -> Result<Option<RecoveredLog>, LogError> {
    let found = read_headers(disk, dir)?;
    if found.is_empty() {
        return Ok(None);
    }
    let start = match purged {
        PurgePolicy::Kept => 0,
        PurgePolicy::Dropped => first_needed(&found),
    };
    let mut seals_max = if purged == PurgePolicy::Dropped { usize::MAX } else { 0 };
    let mut step = 1;
    loop {
        let trusted = trust(disk, dir, &found[start..], seals_max);
        let seals_count = trusted.seals.len();
        match walk(disk, dir, access, &found, (start, purged), trusted) {
            // The tail replaced something that was sealed. So the last of the sealed segments are read like the tail.
            Err(WalkStop::Sealed) => {
                assert!(0 < seals_count);
                seals_max = seals_count.saturating_sub(step);
                step *= 2;
            }
            Err(WalkStop::Failed(error)) => return Err(error),
            Ok(recovered) => return Ok(Some(recovered)),
        }
    }
}

/// Why a walk ended early.
enum WalkStop {
    /// The tail contradicts a sealed segment.
    Sealed,
    Failed(LogError),
}

impl From<LogError> for WalkStop {
    fn from(error: LogError) -> Self {
        Self::Failed(error)
    }
}

/// Walks the segments from `start` on, after those whose seals are trusted.
fn walk(
    disk: &dyn Disk,
    dir: &Path,
    access: Access,
    found: &[FoundSegment],
    (start, purged): (usize, PurgePolicy),
    trusted: TrustedSegments,
) -> Result<RecoveredLog, WalkStop> {
    let newest = found.last().expect("the caller has found some");
    let is_beginning_here = start == 0 && found[0].header.before.is_none();
    let book = if is_beginning_here { Book::new(purged) } else { Book::at(&found[start].header.checkpoint, purged) };
    let tail_start = start + trusted.seals.len();
    let book = match tail_start {
        _ if tail_start == start => book,
        _ => book.after(&trusted.seals, &found[tail_start].header.checkpoint).ok_or(WalkStop::Sealed)?,
    };
    let mut walk = StreamWalk { book, lsn: found[tail_start].header.first_lsn, watermark: Lsn(0), data_end: Lsn(0) };
    let size = found.iter().map(|found| found.size).sum::<u64>() + trusted.size;
    let (mut last, mut closed) = (None, Vec::new());
    for position in tail_start..found.len() {
        let (found, next) = (&found[position], found.get(position + 1));
        let segment = Arc::new(found.open(disk, dir, if next.is_some() { Access::Read } else { access })?);
        walk.enter(&segment, &found.header)?;
        let (bytes, torn_until) = match next {
            Some(next) => {
                let end = next.header.first_lsn;
                let bytes = walk.closed(&segment, end)?;
                let last = next.header.checkpoint.last.map(|last| last.index);
                closed.push(ClosedSegment { segment: segment.clone(), end, last });
                (bytes, None)
            }
            None => walk.newest(&segment)?,
        };
        last = Some((segment, bytes, torn_until));
    }
    let (segment, bytes, torn_until) = last.expect("the range holds at least the newest segment");
    let StreamWalk { mut book, lsn: end, watermark, data_end } = walk;
    book.commit_sealed();
    book.clamp_committed();
    assert!(watermark <= end);
    Ok(RecoveredLog {
        stream: newest.header.stream.clone(),
        book,
        segment,
        end,
        watermark,
        data_end,
        torn_until,
        bytes,
        size,
        closed,
        seals: trusted.seals,
        seals_missing: trusted.missing,
    })
}

pub(super) struct FoundSegment {
    pub header: SegmentHeader,
    pub size: u64,
}

impl FoundSegment {
    pub fn name(&self) -> String {
        file_name(self.header.first_lsn)
    }

    fn open(&self, disk: &dyn Disk, dir: &Path, access: Access) -> Result<Segment, LogError> {
        let path = dir.join(self.name());
        let file = match access {
            Access::Read => disk.open_to_read(&path),
            Access::Write => disk.open(&path),
        };
        let segment = Segment::new(&self.header, file.map_err(|error| LogError::disk(self.name(), error))?, self.size);
        if access == Access::Write { segment.mapped() } else { Ok(segment) }
    }
}

/// The first lsns and the sizes of the segments that hold nothing but purged entries, oldest first.
///
/// Only the newest header counts, not what was purged since. A log whose beginning is gone must still have a segment
/// that proves that the beginning could be deleted.
pub(super) fn releasable(disk: &dyn Disk, dir: &Path) -> Result<Vec<(Lsn, u64)>, LogError> {
    let mut found = read_headers(disk, dir)?;
    let kept_from = first_needed(&found);
    assert!(found.is_empty() || kept_from < found.len(), "the newest segment stays");
    found.truncate(kept_from);
    Ok(found.into_iter().map(|found| (found.header.first_lsn, found.size)).collect())
}

/// Opens all segments and checks that they are consecutive. The oldest ones may have been released.
fn read_headers(disk: &dyn Disk, dir: &Path) -> Result<Vec<FoundSegment>, LogError> {
    let folder = |error| LogError::disk(dir.display().to_string(), error);
    let mut names: Vec<_> = disk.list(dir).map_err(folder)?;
    names.retain(|name| parse_file_name(name).is_some());
    names.sort_unstable();
    let mut found: Vec<FoundSegment> = Vec::new();
    for name in &names {
        let corrupt = |damage| LogError::Corrupt { segment: name.clone(), offset: 0, index: LogIndex(0), damage };
        let on_disk = |error| LogError::disk(name, error);
        let file = disk.open_to_read(&dir.join(name)).map_err(on_disk)?;
        let size = file.size().map_err(on_disk)?;
        let bytes = read_first(&*file, name, (size as usize).min(HEADER_SIZE))?;
        let header = SegmentHeader::decode(&bytes, name)?;
        if Some(header.first_lsn) != parse_file_name(name) {
            return Err(corrupt(Damage::Header));
        }
        let is_next = found.last().is_none_or(|before| header.before == Some(before.header.first_lsn));
        if !is_next {
            return Err(corrupt(Damage::SegmentMissing(header.before.unwrap_or(header.first_lsn))));
        }
        if let Some(before) = found.last().filter(|before| before.header.stream != header.stream) {
            let (expected, found) = (before.header.stream.to_string(), header.stream.to_string());
            return Err(LogError::ForeignStream { segment: name.clone(), expected, found });
        }
        found.push(FoundSegment { header, size });
    }
    assert_eq!(found.len(), names.len());
    check_beginning(&found)?;
    Ok(found)
}

/// Checks that a beginning that is not there was released; otherwise it is lost.
fn check_beginning(found: &[FoundSegment]) -> Result<(), LogError> {
    let Some(first) = found.first() else { return Ok(()) };
    match first.header.before {
        // Segments are released oldest first, up to the one before which all is purged. A crash may have left some of
        // them.
        Some(before) if !found.iter().any(|segment| is_released_before(segment, found)) => Err(LogError::Corrupt {
            segment: file_name(first.header.first_lsn),
            offset: 0,
            index: LogIndex(0),
            damage: Damage::SegmentMissing(before),
        }),
        _ => Ok(()),
    }
}

/// The last segment before which every entry is purged by now.
fn first_needed(found: &[FoundSegment]) -> usize {
    found.iter().rposition(|segment| is_released_before(segment, found)).unwrap_or(0)
}

/// Whether the newest header says that every entry before this segment is purged.
fn is_released_before(segment: &FoundSegment, found: &[FoundSegment]) -> bool {
    let purged = found.last().and_then(|newest| newest.header.checkpoint.purged);
    match (segment.header.checkpoint.last, purged) {
        (Some(last), Some(purged)) => last.index <= purged.index,
        _ => false,
    }
}

/// The state of the walk through the stream.
struct StreamWalk {
    book: Book,
    /// The next frame starts here.
    lsn: Lsn,
    watermark: Lsn,
    data_end: Lsn,
}

impl StreamWalk {
    fn enter(&mut self, segment: &Segment, header: &SegmentHeader) -> Result<(), LogError> {
        assert_eq!(self.lsn, header.first_lsn);
        let (checkpoint, book) = (&header.checkpoint, &mut self.book);
        let is_chained = book.known_last_hash().is_none_or(|hash| hash == checkpoint.last_hash);
        if !is_chained || book.last().map(|last| last.index) != checkpoint.last.map(|last| last.index) {
            return Err(self.corrupt(segment, 0, Damage::Chain));
        }
        book.committed = checkpoint.committed;
        self.watermark = self.watermark.max(segment.first_lsn);
        Ok(())
    }

    /// Walks a segment that has a successor: every byte up to `end` is acknowledged.
    fn closed(&mut self, segment: &Arc<Segment>, end: Lsn) -> Result<Bytes, WalkStop> {
        assert!(segment.first_lsn < end);
        let bytes = read_segment(segment)?;
        self.watermark = self.watermark.max(end);
        self.walk_frames(segment, &bytes)?;
        self.check_watermark(segment, &bytes)?;
        if self.lsn != end {
            return Err(self.corrupt(segment, segment.offset_of(self.lsn), Damage::Frame).into());
        }
        Ok(bytes)
    }

    /// Walks the newest segment. Returns its bytes and where a torn tail ends.
    ///
    /// The node may be running and writing this segment. A frame that was incomplete when it was read is complete by
    /// the time a later frame vouches for it. Therefore it is read once more before this reports corruption.
    fn newest(&mut self, segment: &Arc<Segment>) -> Result<(Bytes, Option<Lsn>), WalkStop> {
        let mut failed_at = None;
        loop {
            let bytes = read_segment(segment)?;
            self.walk_frames(segment, &bytes)?;
            let result = self.check_watermark(segment, &bytes).and_then(|()| self.check_tail(segment, &bytes));
            if result.is_ok() || failed_at == Some(self.lsn) {
                return Ok((bytes, result?));
            }
            failed_at = Some(self.lsn);
        }
    }

    /// Takes over frames until one is not valid.
    fn walk_frames(&mut self, segment: &Arc<Segment>, bytes: &Bytes) -> Result<(), WalkStop> {
        loop {
            let offset = segment.offset_of(self.lsn);
            let rest = bytes.slice((offset as usize).min(bytes.len())..);
            let read = match read_frame(&rest, self.lsn, &segment.key) {
                Ok(read) => read,
                Err(FrameError::Malformed) => return Err(self.corrupt(segment, offset, Damage::Record).into()),
                Err(FrameError::Empty | FrameError::Invalid) => return Ok(()),
            };
            for (record, record_offset) in read.frame.records.iter().zip(&read.offsets) {
                let lsn = Lsn(self.lsn.0 + u64::from(*record_offset));
                self.book.replay(record, segment, lsn).map_err(|contradiction| {
                    let damage = match contradiction {
                        Contradiction::Chain => Damage::Chain,
                        Contradiction::Order => Damage::Record,
                        Contradiction::Sealed => return WalkStop::Sealed,
                    };
                    self.corrupt(segment, segment.offset_of(lsn), damage).into()
                })?;
            }
            assert!(read.durable <= self.lsn);
            assert_eq!(read.frame.lsn, self.lsn);
            self.watermark = self.watermark.max(read.durable);
            self.lsn = read.frame.end();
            if !read.frame.is_sync_mark {
                self.data_end = self.lsn;
            }
        }
    }

    fn check_watermark(&mut self, segment: &Segment, bytes: &Bytes) -> Result<(), LogError> {
        match decode_watermark(&bytes[..HEADER_SIZE], &segment.key) {
            Ok(watermark) => self.watermark = self.watermark.max(watermark.unwrap_or(Lsn(0))),
            Err(damage) => return Err(self.corrupt(segment, WATERMARK_AT as u64, damage)),
        }
        Ok(())
    }

    /// Decides what the bytes after the last valid frame are.
    fn check_tail(&mut self, segment: &Segment, bytes: &Bytes) -> Result<Option<Lsn>, LogError> {
        let offset = segment.offset_of(self.lsn) as usize;
        let rest = &bytes[offset.min(bytes.len())..];
        let written = written_size(rest);
        // A frame begins with bytes that are not zero.
        let looked_at = &rest[..rest.len().min(written + FRAME_HEADER_SIZE)];
        for (position, header) in looked_at.windows(FRAME_HEADER_SIZE).enumerate().step_by(8) {
            let header = header.first_chunk().expect("a window has this size");
            let lsn = Lsn(self.lsn.0 + position as u64);
            if frame_size(header, lsn).is_none() {
                continue;
            }
            if let Ok(later) = read_frame(&bytes.slice(offset + position..), lsn, &segment.key) {
                self.watermark = self.watermark.max(later.durable);
            }
        }
        if self.lsn < self.watermark {
            return Err(self.corrupt(segment, offset as u64, Damage::Frame));
        }
        assert!(self.data_end <= self.lsn);
        Ok((0 < written).then(|| Lsn(self.lsn.0 + written as u64)))
    }

    fn corrupt(&self, segment: &Segment, offset: u64, damage: Damage) -> LogError {
        let index = self.book.last().map_or(LogIndex(0), |last| last.index.next());
        LogError::Corrupt { segment: segment.name.clone(), offset, index, damage }
    }
}

/// The size of `bytes` without the zeros at the end. A new segment is mostly zeros, so they are skipped in large steps.
fn written_size(bytes: &[u8]) -> usize {
    const ZEROS: [u8; 4096] = [0; 4096];
    let zero = bytes.rchunks(ZEROS.len()).take_while(|chunk| **chunk == ZEROS[..chunk.len()]);
    let end = bytes.len() - zero.map(<[u8]>::len).sum::<usize>();
    bytes[..end].iter().rposition(|byte| *byte != 0).map_or(0, |position| position + 1)
}

/// Reads the whole file.
pub(super) fn read_segment(segment: &Segment) -> Result<Bytes, LogError> {
    let size = usize::try_from(segment.size).expect("segments fit the memory");
    assert!(HEADER_SIZE <= size);
    read_first(&*segment.file, &segment.name, size)
}

/// The first `size` bytes of a segment's file. Bytes that the disk does not return must be assumed to be acknowledged.
fn read_first(file: &dyn DiskFile, name: &str, size: usize) -> Result<Bytes, LogError> {
    let read = ReadableBytes::read(file, size).map_err(|error| LogError::disk(name, error))?;
    match read.lost {
        None => Ok(Bytes::from(read.bytes)),
        Some(lost) => Err(LogError::Corrupt {
            segment: name.to_owned(),
            offset: lost.start,
            index: LogIndex(0),
            damage: Damage::Unreadable,
        }),
    }
}
