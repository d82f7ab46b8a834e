//! Mending a sealed segment in place while the log is open. Its damaged parts are rewritten from entries that peers
//! have.
//!
//! ```text
//! read what can be read ─▶ find stretches between two points that are damaged ─▶ (caller asks peers)
//!                       ─▶ check by the chain ─▶ new file ─▶ seal
//! ```
//! A stretch keeps its place and size: its entries come first, then filler records that say nothing new. Entries go in.
//! A segment with the same entries at the same places comes out, or the old one. This file does not know who the peers
//! are.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use bytes::Bytes;

use super::sealed::read_stretch;
use super::state::entry_record_size;
use crate::disk::Disk;
use crate::ids::{LogIndex, Lsn};
use crate::log::frame::{Frame, Hash, Record, entry_hash, read_frame};
use crate::log::seal::{Point, Seal};
use crate::log::segment::{HEADER_SIZE, ReadableBytes, SegmentHeader, decode_watermark, file_name};
use crate::log::{Log, LogEntry, LogError, Misfit};

/// The most bytes of entries that share a frame.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// The size of a record without a body. The next constant is the size of a frame's header.
const RECORD_BYTES: u64 = 32;
const FRAME_BYTES: u64 = 40;

impl Log {
    /// The entries that [`Log::mend`] needs: those lost in a damaged segment, and those between them and the next
    /// points that the seal vouches for. There may be none, if only something else is damaged.
    ///
    /// # Errors
    /// [`LogError::Unmendable`]: some lost entry was cut off or replaced later, so nobody has it; or the seal is
    /// damaged too.
    pub fn lost_in(&self, first_lsn: Lsn) -> Result<Vec<RangeInclusive<LogIndex>>, LogError> {
        let Some(mending) = self.mending(first_lsn)? else { return Ok(Vec::new()) };
        let lost: Vec<_> = mending.damaged().into_iter().map(|position| mending.entries_of(position)).collect();
        let state = self.threads.shared.state.lock();
        let purged = state.book.last_purged().map(|purged| purged.index);
        let is_there = |index: LogIndex| state.book.find_id(index) == Some(mending.seal.id_at(index));
        // Entries are always dropped from some entry to the end.
        match lost.iter().find(|range| purged < Some(*range.end()) && !is_there(*range.end())) {
            Some(range) => Err(mending.unmendable(mending.offset_of(*range.start()))),
            None => Ok(lost),
        }
    }

    /// Rewrites the segment with these entries in place of the lost ones. On return the segment is whole and durable,
    /// and [`Log::watch_rot`] no longer names it.
    ///
    /// # Errors
    /// [`LogError::Misfit`]: the entries are not the right ones, or some are missing. Nothing was changed then.
    pub fn mend(&self, first_lsn: Lsn, given: &[LogEntry]) -> Result<(), LogError> {
        let shared = &self.threads.shared;
        if let Some(mut mending) = self.mending(first_lsn)? {
            let given: BTreeMap<LogIndex, &LogEntry> = given.iter().map(|entry| (entry.id.index, entry)).collect();
            mending.fill(&given)?;
            let (seal, points) = mending.survey()?;
            // Nobody may delete the segment meanwhile: the rename would bring a deleted file back.
            let _files = shared.files.lock();
            if self.find_seal(first_lsn).is_some() {
                mending.write(&*shared.disk, &shared.dir)?;
                self.reseal(Arc::new(seal), &points)?;
                tracing::warn!(
                    dir = %shared.dir.display(), segment = file_name(first_lsn), "a damaged segment was repaired"
                );
            }
        }
        shared.on_whole(first_lsn);
        Ok(())
    }

    fn find_seal(&self, first_lsn: Lsn) -> Option<Arc<Seal>> {
        self.threads.shared.state.lock().seals.iter().find(|seal| seal.first_lsn() == first_lsn).cloned()
    }

    /// `None` once the segment was released.
    fn mending(&self, first_lsn: Lsn) -> Result<Option<SegmentMend>, LogError> {
        let shared = &self.threads.shared;
        let Some(seal) = self.find_seal(first_lsn) else { return Ok(None) };
        let points = shared.sealed.points_of(&seal).map_err(|error| match error {
            // The seal has lost its points as well.
            LogError::Corrupt { segment, offset, .. } => LogError::Unmendable { segment, offset },
            error => error,
        })?;
        let on_disk = |error| LogError::disk(file_name(first_lsn), error);
        let file = shared.disk.open_to_read(&shared.dir.join(file_name(first_lsn))).map_err(on_disk)?;
        let bytes = ReadableBytes::read(&*file, seal.size as usize).map_err(on_disk)?.bytes;
        let next = shared.disk.open_to_read(&shared.dir.join(file_name(seal.end))).map_err(on_disk)?;
        let mut header = vec![0; HEADER_SIZE];
        next.read_at(&mut header, 0).map_err(on_disk)?;
        let next = SegmentHeader::decode(&header, &file_name(seal.end))?;
        // The filler repeats the last vote, so that it is not lost with its bytes if the seal is ever lost.
        let committed = seal.last.or(seal.header.checkpoint.last);
        let filler = next.checkpoint.vote.map(Record::Vote).or(committed.map(Record::Commit));
        Ok(Some(SegmentMend { seal, points, bytes, filler }))
    }
}

struct SegmentMend {
    seal: Arc<Seal>,
    points: Vec<Point>,
    /// The file as far as it can be read; later its new content.
    bytes: Vec<u8>,
    /// A record that says nothing new.
    filler: Option<Record>,
}

impl SegmentMend {
    /// The stretches that are damaged.
    fn damaged(&self) -> Vec<usize> {
        (0..self.points.len()).filter(|position| self.read(*position).is_err()).collect()
    }

    fn read(&self, position: usize) -> Result<(), LogError> {
        let range = self.range_of(self.points[position].lsn, self.end_of(position));
        let bytes = Bytes::copy_from_slice(&self.bytes[range]);
        read_stretch(&self.seal, &self.points, position, &bytes).map(drop)
    }

    fn end_of(&self, position: usize) -> Lsn {
        self.points.get(position + 1).map_or(self.seal.end, |next| next.lsn)
    }

    fn entries_of(&self, position: usize) -> RangeInclusive<LogIndex> {
        let last = self.seal.last.expect("it has points").index;
        let last = self.points.get(position + 1).map_or(last, |next| LogIndex(next.index.0 - 1));
        self.points[position].index..=last
    }

    /// The place in the file of the frame that begins the stretch with this first entry.
    fn offset_of(&self, first: LogIndex) -> usize {
        let point = self.points.iter().find(|point| point.index == first);
        point.map_or(HEADER_SIZE, |point| self.range_of(point.lsn, point.lsn).start)
    }

    fn range_of(&self, from: Lsn, to: Lsn) -> Range<usize> {
        let offset = |lsn| HEADER_SIZE + self.seal.first_lsn().distance_to(lsn) as usize;
        offset(from)..offset(to)
    }

    /// Rewrites what is lost.
    fn fill(&mut self, given: &BTreeMap<LogIndex, &LogEntry>) -> Result<(), LogError> {
        for position in self.damaged() {
            let point = self.points[position];
            let entries = self.check(position, given)?;
            self.replace(point.lsn, self.end_of(position), &entries, point.before)?;
        }
        // Nothing before the first entry of the segment counts any more.
        let (start, end) = (self.seal.first_lsn(), self.points.first().map_or(self.seal.end, |first| first.lsn));
        if start < end && !self.is_made_of_frames(start, end) {
            self.replace(start, end, &[], self.seal.header.checkpoint.last_hash)?;
        }
        let header = &self.bytes[..HEADER_SIZE];
        let is_whole = SegmentHeader::decode(header, "").is_ok_and(|header| header == self.seal.header)
            && decode_watermark(header, &self.seal.header.key()).is_ok();
        if !is_whole {
            self.bytes[..HEADER_SIZE].copy_from_slice(&self.seal.header.encode());
        }
        Ok(())
    }

    /// The entries of a stretch, if the given ones are the right ones.
    fn check(&self, position: usize, given: &BTreeMap<LogIndex, &LogEntry>) -> Result<Vec<LogEntry>, LogError> {
        let range = self.entries_of(position);
        let mut hash = self.points[position].before;
        let mut entries: Vec<LogEntry> = Vec::new();
        for index in range.start().0..=range.end().0 {
            let misfit = |misfit| LogError::Misfit { index: LogIndex(index), misfit };
            let entry = *given.get(&LogIndex(index)).ok_or_else(|| misfit(Misfit::Missing))?;
            if entry.id != self.seal.id_at(LogIndex(index)) {
                return Err(misfit(Misfit::Id));
            }
            hash = entry_hash(&hash, entry.id, &entry.payload, &blake3::hash(entry.payload.bytes()));
            entries.push(entry.clone());
        }
        let expected = self.points.get(position + 1).map_or(self.seal.last_hash, |next| next.before);
        if hash == expected {
            Ok(entries)
        } else {
            Err(LogError::Misfit { index: *range.end(), misfit: Misfit::Content })
        }
    }

    fn is_made_of_frames(&self, start: Lsn, end: Lsn) -> bool {
        let (bytes, key) = (Bytes::copy_from_slice(&self.bytes[self.range_of(start, end)]), self.seal.header.key());
        let mut lsn = start;
        while lsn < end {
            match read_frame(&bytes.slice(start.distance_to(lsn) as usize..), lsn, &key) {
                Ok(read) => lsn = read.frame.end(),
                Err(_) => return false,
            }
        }
        lsn == end
    }

    /// Writes frames of these entries over the bytes between two places, up to the last byte.
    fn replace(&mut self, start: Lsn, end: Lsn, entries: &[LogEntry], before: Hash) -> Result<(), LogError> {
        let space = start.distance_to(end);
        let range = self.range_of(start, end);
        let sizes: Vec<usize> = entries.iter().map(entry_record_size).collect();
        let layout = lay_out(&sizes, space, self.filler.is_some());
        let layout = layout.ok_or_else(|| self.unmendable(range.start))?;
        let key = self.seal.header.key();
        let (mut bytes, mut lsn, mut hash) = (Vec::with_capacity(range.len()), start, before);
        for part in &layout {
            let mut records: Vec<Record> = Vec::new();
            for entry in &entries[part.entries.clone()] {
                records.push(Record::Entry { entry: entry.clone(), before: hash });
                hash = entry_hash(&hash, entry.id, &entry.payload, &blake3::hash(entry.payload.bytes()));
            }
            records.extend(self.filler.iter().cycle().take(part.fillers).cloned());
            let frame = Frame { lsn, is_sync_mark: records.is_empty(), records };
            frame.encode(self.seal.first_lsn(), &key, &mut bytes);
            lsn = frame.end();
        }
        assert_eq!((lsn, bytes.len()), (end, range.len()));
        self.bytes[range].copy_from_slice(&bytes);
        Ok(())
    }

    /// The seal of the new segment. It must say the same as the old one.
    fn survey(&self) -> Result<(Seal, Vec<Point>), LogError> {
        let (seal, points) = Seal::survey(&self.seal.header, self.seal.end, &Bytes::copy_from_slice(&self.bytes))?;
        if seal.says_the_same(&self.seal) {
            return Ok((seal, points));
        }
        Err(self.unmendable(HEADER_SIZE))
    }

    fn unmendable(&self, offset: usize) -> LogError {
        LogError::Unmendable { segment: file_name(self.seal.first_lsn()), offset: offset as u64 }
    }

    fn write(&self, disk: &dyn Disk, dir: &std::path::Path) -> Result<(), LogError> {
        let name = file_name(self.seal.first_lsn());
        let building = dir.join(format!("mended-{:016x}.tmp", self.seal.first_lsn().0));
        let write = || {
            let file = disk.create(&building)?;
            file.write_at(&self.bytes, 0)?;
            file.sync()?;
            disk.rename(&building, &dir.join(&name))?;
            disk.sync_dir(dir)
        };
        let result = write();
        if result.is_err() {
            // The first error says what is wrong; the file may not even exist.
            let _ = disk.remove(&building);
        }
        result.map_err(|error| LogError::disk(name, error))
    }
}

/// A frame: which of the entries it has, and how many filler records.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FramePart {
    entries: Range<usize>,
    fillers: usize,
}

/// Frames with records of these sizes that have exactly `space` bytes together. The old frames, which nobody knows, had
/// these records and more. One frame may leave a rest that no filler fits exactly; two or three frames do not.
fn lay_out(sizes: &[usize], space: u64, has_filler: bool) -> Option<Vec<FramePart>> {
    let cuts = greedy_cuts(sizes);
    let try_with = |more: &[usize]| {
        let mut cuts: Vec<usize> = cuts.iter().chain(more).copied().collect();
        cuts.sort_unstable();
        cuts.dedup();
        fill_up(sizes, &cuts, space, has_filler)
    };
    let all = 1..sizes.len();
    let none = std::iter::once(try_with(&[]));
    let one = all.clone().map(|first| try_with(&[first]));
    let two = all.clone().flat_map(|first| (first + 1..all.end).map(move |second| [first, second]));
    none.chain(one).chain(two.map(|pair| try_with(&pair))).find_map(|layout| layout)
}

/// Where frames end if an append writes these entries.
fn greedy_cuts(sizes: &[usize]) -> Vec<usize> {
    let (mut cuts, mut size) = (Vec::new(), 0);
    for (position, more) in sizes.iter().enumerate() {
        if 0 < position && FRAME_BYTES_MAX < size + more {
            cuts.push(position);
            size = 0;
        }
        size += more;
    }
    cuts
}

fn fill_up(sizes: &[usize], cuts: &[usize], space: u64, has_filler: bool) -> Option<Vec<FramePart>> {
    let mut parts = Vec::new();
    if !sizes.is_empty() {
        let starts = std::iter::once(0).chain(cuts.iter().copied());
        let ends = cuts.iter().copied().chain([sizes.len()]);
        parts.extend(starts.zip(ends).map(|(start, end)| FramePart { entries: start..end, fillers: 0 }));
    }
    let used: usize = parts.iter().map(|part| Frame::size_for(sizes[part.entries.clone()].iter().sum())).sum();
    let rest = space.checked_sub(used as u64)?;
    // This many frames without entries leave a rest of whole records.
    let least = u64::from(parts.is_empty() && 0 < rest);
    let fits = |frames: &u64| {
        let left = rest.checked_sub(frames * FRAME_BYTES);
        left.is_some_and(|left| left % RECORD_BYTES == 0 && (left == 0 || has_filler))
    };
    let frames = (least..=4).find(fits)?;
    let fillers = usize::try_from((rest - frames * FRAME_BYTES) / RECORD_BYTES).ok()?;
    let end = sizes.len();
    parts.extend((0..frames).map(|_| FramePart { entries: end..end, fillers: 0 }));
    if 0 < fillers {
        parts.last_mut()?.fillers = fillers;
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_was_there_has_a_layout() {
        // Frames of entries and of other records, as the log writes them.
        let mut random = 7_u64;
        let mut next = |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % bound
        };
        for _ in 0..3000 {
            let (mut sizes, mut space) = (Vec::new(), 0);
            for _ in 0..=next(5) {
                if next(3) == 0 {
                    space += FRAME_BYTES + RECORD_BYTES * next(3);
                    continue;
                }
                let entries: Vec<usize> = (0..=next(4)).map(|_| 64 + next(300) as usize).collect();
                space += Frame::size_for(entries.iter().sum::<usize>() + 32 * next(2) as usize) as u64;
                sizes.extend(entries);
            }
            let layout = lay_out(&sizes, space, true).unwrap_or_else(|| panic!("{sizes:?} in {space}"));
            let size = |part: &FramePart| {
                Frame::size_for(sizes[part.entries.clone()].iter().sum::<usize>() + 32 * part.fillers) as u64
            };
            assert_eq!(layout.iter().map(size).sum::<u64>(), space);
            let entries: Vec<usize> = layout.iter().flat_map(|part| part.entries.clone()).collect();
            assert_eq!(entries, (0..sizes.len()).collect::<Vec<_>>());
        }
    }
}
