//! Reads what can be read of a damaged log and works out which entries it must have held. It writes nothing.
//!
//! Segment files go in, some of them damaged or missing. The intact entries by index come out, the hashes that later
//! records and headers require of the others, and what nobody can know any more. Unlike recovery it continues past
//! damage: a frame vouches for itself by its checksum, and an entry record says which hash came before it, whatever was
//! lost between.
//!
//! It does not know where other copies of the entries come from.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::Disk;
use crate::ids::{LogIndex, Lsn};
use crate::log::book::EntrySlot;
use crate::log::frame::{FRAME_HEADER_SIZE, FrameKey, FrameRead, Hash, NO_HASH, Record, entry_hash, read_frame};
use crate::log::segment::{
    Checkpoint, HEADER_SIZE, NONCE, ReadableBytes, Segment, SegmentHeader, decode_watermark, parse_file_name,
};
use crate::log::{EntryId, LogError, StreamId, Vote};

/// An entry whose record can be read.
pub(super) struct IntactEntry {
    pub slot: EntrySlot,
    /// The hash that its record requires of the entry before it.
    pub before: Hash,
}

/// What headers, truncations and purges say about an entry. What the next entry's record says is kept in that record.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EntryAnchor {
    pub hash: Option<Hash>,
    pub id: Option<EntryId>,
}

/// Indexes that this log never held: they are before its first entry, or a snapshot replaced them.
#[derive(Clone, Debug)]
pub(super) struct Hole {
    pub range: RangeInclusive<u64>,
    /// The purge that made the hole.
    pub upto: Option<EntryId>,
    /// The hash from which the chain continues.
    pub hash: Hash,
}

/// The readable rest of a damaged log.
#[derive(Default)]
pub(super) struct Salvage {
    /// INVARIANT: this and the next two fields have no index beyond `last`.
    pub intact: BTreeMap<LogIndex, IntactEntry>,
    pub anchors: BTreeMap<LogIndex, EntryAnchor>,
    /// The holes, in order.
    pub holes: Vec<Hole>,
    /// The last index that is known to have existed.
    pub last: Option<LogIndex>,
    /// The newest vote that can be read.
    pub vote: Option<Vote>,
    /// A later vote may have been lost.
    pub is_vote_doubtful: bool,
    pub committed: Option<EntryId>,
    pub purged: Option<EntryId>,
    /// Acknowledged bytes are lost, and nothing after them says where the log ended at that point. So nobody here knows
    /// how many entries or truncations were in them.
    pub is_tail_lost: bool,
    /// The disk did not return some bytes. It may return them at another attempt.
    pub is_unreadable: bool,
}

impl Salvage {
    /// Reads all segments in `dir`.
    pub fn read(disk: &dyn Disk, dir: &Path, stream: &StreamId) -> Result<Self, LogError> {
        let mut names = disk.list(dir).map_err(|error| LogError::disk(dir.display().to_string(), error))?;
        names.retain(|name| parse_file_name(name).is_some());
        names.sort_unstable();
        let starts: Vec<_> = names.iter().filter_map(|name| parse_file_name(name)).collect();
        let mut salvage = Self::default();
        let (mut begins_after, mut released) = (None, None);
        let mut lsn = Lsn(0);
        for (position, name) in names.iter().enumerate() {
            if lsn != starts[position] {
                salvage.on_lost_bytes();
            }
            let part = SegmentPart::open(disk, dir, name, starts[position], stream)?;
            salvage.is_unreadable |= part.lost_until.is_some();
            if let Some(checkpoint) = &part.checkpoint {
                salvage.on_checkpoint(checkpoint);
                released = checkpoint.purged.map(|purged| (purged, checkpoint.purged_hash));
                let last = checkpoint.last.map(|last| last.index);
                begins_after = if position == 0 { last } else { begins_after.min(last) };
            }
            lsn = match starts.get(position + 1) {
                Some(next) => salvage.take_frames(&part, *next, *next),
                None => salvage.take_newest(&part),
            };
        }
        // If the header of the oldest segment can be read, it says whether the segments before it held only purged
        // entries.
        let begins_late = starts.first().is_some_and(|first| *first != Lsn(0));
        let is_purged = |upto: &EntryId| begins_late && begins_after.is_none_or(|last| last <= upto.index);
        if let Some((upto, hash)) = released.filter(|(upto, _)| is_purged(upto)) {
            salvage.on_released(upto, hash);
        }
        Ok(salvage)
    }

    /// The oldest segments are not there, and nobody needs them. The log then begins with a hole for what was purged.
    fn on_released(&mut self, upto: EntryId, hash: Hash) {
        let next = upto.index.next();
        self.intact = self.intact.split_off(&next);
        self.anchors = self.anchors.split_off(&next);
        self.holes.retain_mut(|hole| {
            if *hole.range.start() < next.0 && next.0 <= *hole.range.end() {
                hole.range = next.0..=*hole.range.end();
            }
            next.0 <= *hole.range.start()
        });
        self.holes.insert(0, Hole { range: 0..=upto.index.0, upto: Some(upto), hash });
        self.last = self.last.max(Some(upto.index));
    }

    /// The indexes of entries that existed and cannot be read, in order.
    pub fn missing(&self) -> Vec<RangeInclusive<LogIndex>> {
        let holes = self.holes.iter().map(|hole| hole.range.clone());
        let mut there: Vec<_> = self.intact.keys().map(|index| index.0..=index.0).chain(holes).collect();
        there.sort_unstable_by_key(|range| *range.start());
        let mut missing = Vec::new();
        let mut next = 0;
        for range in there {
            if next < *range.start() {
                missing.push(LogIndex(next)..=LogIndex(range.start() - 1));
            }
            next = range.end() + 1;
        }
        if let Some(last) = self.last.filter(|last| next <= last.0) {
            missing.push(LogIndex(next)..=last);
        }
        missing
    }

    /// Takes over the frames before `until`. Frames after a gap count only if the gap starts before `watermark`;
    /// otherwise neither the gap nor those frames were ever acknowledged. Returns where the last frame ends.
    fn take_frames(&mut self, part: &SegmentPart, until: Lsn, watermark: Lsn) -> Lsn {
        let mut end = part.first_lsn;
        for (segment, read) in part.frames(until) {
            if end != read.frame.lsn {
                if watermark <= end {
                    return end;
                }
                self.on_lost_bytes();
            }
            end = read.frame.end();
            for (record, offset) in read.frame.records.iter().zip(&read.offsets) {
                self.on_record(record, segment, Lsn(read.frame.lsn.0 + u64::from(*offset)));
            }
        }
        assert!(part.first_lsn <= end);
        end
    }

    fn take_newest(&mut self, part: &SegmentPart) -> Lsn {
        let marks = part.frames(Lsn(u64::MAX)).map(|(_, read)| read.durable);
        let watermark = marks.chain(part.mark).max().unwrap_or(Lsn(0)).max(part.first_lsn);
        let end = self.take_frames(part, Lsn(u64::MAX), watermark);
        // Without a readable header and mark, bytes after the last frame may or may not have been acknowledged. The
        // same holds for bytes that the disk does not return.
        let is_unknown = !part.is_header_intact && part.has_bytes_after(end) || part.has_lost_bytes_after(end);
        if end < watermark || is_unknown {
            self.on_lost_bytes();
        }
        end
    }

    /// The lost bytes may have held anything, even a truncation. So anchors of entries that are not settled no longer
    /// count.
    pub fn on_lost_bytes(&mut self) {
        self.is_vote_doubtful = true;
        self.is_tail_lost = true;
        self.anchors.split_off(&self.doubtful_from());
    }

    /// An intact header says all that must be known of the stream before it, except for the entries.
    fn on_checkpoint(&mut self, checkpoint: &Checkpoint) {
        self.on_end_known(checkpoint.last.map(|last| last.index));
        self.keep_up_to(checkpoint.last.map(|last| last.index));
        if let Some(last) = checkpoint.last {
            self.on_last(last, checkpoint.last_hash);
        }
        if let Some(purged) = checkpoint.purged {
            self.purged = Some(purged);
            if checkpoint.purged_hash != NO_HASH {
                self.expect(purged, Some(checkpoint.purged_hash));
            }
        }
        (self.vote, self.committed) = (checkpoint.vote, checkpoint.committed);
        self.is_vote_doubtful = false;
    }

    /// The log ended at `last` here, whatever was lost before. If entries up to there are missing, the lost bytes may
    /// also have replaced entries before them, back to the last settled one. If none is missing, the hash of the last
    /// one vouches for all.
    fn on_end_known(&mut self, last: Option<LogIndex>) {
        if self.is_tail_lost && self.last < last {
            self.intact.split_off(&self.doubtful_from());
        }
        self.is_tail_lost = false;
    }

    fn on_record(&mut self, record: &Record, segment: &Arc<Segment>, lsn: Lsn) {
        match record {
            Record::Entry { entry, before } => {
                let index = entry.id.index;
                let last_before = index.0.checked_sub(1).map(LogIndex);
                self.on_end_known(last_before);
                self.keep_up_to(last_before);
                match last_before {
                    Some(last) if *before == NO_HASH => self.add_hole(last, None, NO_HASH),
                    Some(last) => self.drop_replaced(last, EntryAnchor { hash: Some(*before), id: None }),
                    None => {}
                }
                let hash = entry_hash(before, entry.id, &entry.payload, &blake3::hash(entry.payload.bytes()));
                let payload_size = u32::try_from(entry.payload.size()).expect("read from a field of four bytes");
                let slot = EntrySlot { id: entry.id, hash, segment: segment.clone(), lsn, payload_size };
                self.intact.insert(index, IntactEntry { slot, before: *before });
                self.last = Some(index);
            }
            Record::Vote(vote) => {
                self.vote = Some(*vote);
                self.is_vote_doubtful = false;
            }
            Record::Truncate(last) => {
                self.on_end_known(last.map(|last| last.index));
                self.keep_up_to(last.map(|last| last.index));
                if let Some(last) = last {
                    self.expect(*last, None);
                }
                // A cut also drops committed entries.
                if last.map(|last| last.index) < self.committed.map(|committed| committed.index) {
                    self.committed = *last;
                }
            }
            Record::Purge { upto, hash } => {
                if self.last < Some(upto.index) {
                    // If nothing is lost, the purge went beyond the end of the log.
                    if *hash == NO_HASH || !self.is_tail_lost {
                        self.add_hole(upto.index, Some(*upto), *hash);
                    } else {
                        self.expect(*upto, Some(*hash));
                    }
                } else if *hash != NO_HASH {
                    self.expect(*upto, Some(*hash));
                }
                if self.purged.is_none_or(|purged| purged.index < upto.index) {
                    self.purged = Some(*upto);
                }
            }
            Record::Commit(id) => {
                // The entry was in bytes that are lost. They may also have replaced the entries before it.
                if self.is_tail_lost && self.last < Some(id.index) {
                    self.intact.split_off(&self.doubtful_from());
                    self.expect(*id, None);
                }
                self.committed = Some(*id);
            }
        }
    }

    /// The log ended at `last` here: at an entry with this hash, or at the end of a hole if there is no hash.
    fn on_last(&mut self, last: EntryId, hash: Hash) {
        if hash == NO_HASH {
            self.add_hole(last.index, Some(last), NO_HASH);
        } else {
            self.expect(last, Some(hash));
        }
    }

    fn expect(&mut self, id: EntryId, hash: Option<Hash>) {
        if self.is_in_hole(id.index) {
            return;
        }
        self.drop_replaced(id.index, EntryAnchor { hash, id: Some(id) });
        let known = self.anchors.entry(id.index).or_default();
        *known = EntryAnchor { hash: hash.or(known.hash), id: Some(id) };
        self.last = self.last.max(Some(id.index));
    }

    /// An entry as in `anchor` existed. If another one was read, lost bytes replaced it, and perhaps others before it.
    /// Only settled entries have certainly stayed.
    fn drop_replaced(&mut self, index: LogIndex, anchor: EntryAnchor) {
        let is_other = self.intact.get(&index).is_some_and(|intact| {
            anchor.hash.is_some_and(|hash| hash != intact.slot.hash) || anchor.id.is_some_and(|id| id != intact.slot.id)
        });
        if is_other {
            let from = self.doubtful_from().min(index);
            self.intact.split_off(&from);
            self.anchors.split_off(&from);
        }
    }

    /// Everything before this index is committed or purged, and stays for ever.
    pub fn doubtful_from(&self) -> LogIndex {
        let settled = self.committed.into_iter().chain(self.purged).map(|id| id.index).max();
        settled.map_or(LogIndex(0), LogIndex::next)
    }

    /// Indexes up to `last` that are not known were never here.
    fn add_hole(&mut self, last: LogIndex, upto: Option<EntryId>, hash: Hash) {
        let first = self.last.map_or(0, |last| last.next().0);
        if first <= last.0 {
            self.holes.push(Hole { range: first..=last.0, upto, hash });
            self.last = Some(last);
        }
    }

    fn is_in_hole(&self, index: LogIndex) -> bool {
        self.holes.iter().any(|hole| hole.range.contains(&index.0))
    }

    /// Forgets everything after `last`.
    fn keep_up_to(&mut self, last: Option<LogIndex>) {
        let end = last.map_or(LogIndex(0), LogIndex::next);
        self.intact.split_off(&end);
        self.anchors.split_off(&end);
        self.holes.retain_mut(|hole| {
            if end.0 <= *hole.range.end() && *hole.range.start() < end.0 {
                *hole = Hole { range: *hole.range.start()..=end.0 - 1, upto: None, hash: NO_HASH };
            }
            *hole.range.end() < end.0
        });
        self.last = self.last.min(last);
    }
}

/// A segment's file, as far as it can be read.
struct SegmentPart {
    first_lsn: Lsn,
    checkpoint: Option<Checkpoint>,
    /// The header and the watermark are both intact.
    is_header_intact: bool,
    mark: Option<Lsn>,
    /// `None` if the file is shorter than a header.
    content: Option<(Arc<Segment>, Bytes)>,
    /// The end of the bytes of the file that the disk does not return.
    lost_until: Option<u64>,
}

impl SegmentPart {
    fn open(disk: &dyn Disk, dir: &Path, name: &str, first_lsn: Lsn, stream: &StreamId) -> Result<Self, LogError> {
        let on_disk = |error| LogError::disk(name, error);
        let file = disk.open_to_read(&dir.join(name)).map_err(on_disk)?;
        let size = file.size().map_err(on_disk)?;
        let lost =
            Self { first_lsn, checkpoint: None, is_header_intact: false, mark: None, content: None, lost_until: None };
        if size < HEADER_SIZE as u64 {
            return Ok(lost);
        }
        let read =
            ReadableBytes::read(&*file, usize::try_from(size).expect("segments fit the memory")).map_err(on_disk)?;
        let bytes = Bytes::from(read.bytes);
        let header = match SegmentHeader::decode(&bytes[..HEADER_SIZE], name) {
            Ok(header) if header.first_lsn == first_lsn => Some(header),
            Ok(_) | Err(LogError::Corrupt { .. }) => None,
            Err(error) => return Err(error),
        };
        if let Some(header) = header.as_ref().filter(|header| header.stream != *stream) {
            let (expected, found) = (stream.to_string(), header.stream.to_string());
            return Err(LogError::ForeignStream { segment: name.to_owned(), expected, found });
        }
        let checkpoint = header.as_ref().map(|header| header.checkpoint);
        let is_intact = header.is_some();
        // A damaged header may still have the nonce. If it does not, no frame's checksum will be right.
        let header = header.unwrap_or_else(|| SegmentHeader {
            stream: stream.clone(),
            nonce: *bytes[NONCE].first_chunk().expect("the range has this size"),
            first_lsn,
            before: None,
            checkpoint: Checkpoint::default(),
        });
        let mark = decode_watermark(&bytes[..HEADER_SIZE], &FrameKey::of_nonce(&header.nonce));
        let segment = Arc::new(Segment::new(&header, file, size));
        Ok(Self {
            checkpoint,
            is_header_intact: is_intact && mark.is_ok(),
            mark: mark.unwrap_or(None),
            content: Some((segment, bytes)),
            lost_until: read.lost.map(|lost| lost.end),
            ..lost
        })
    }

    /// The valid frames before `until`, wherever they are.
    fn frames(&self, until: Lsn) -> impl Iterator<Item = (&Arc<Segment>, FrameRead)> {
        let mut lsn = self.first_lsn;
        std::iter::from_fn(move || {
            let (segment, bytes) = self.content.as_ref()?;
            loop {
                let offset = usize::try_from(segment.offset_of(lsn)).expect("segments fit the memory");
                if until <= lsn || bytes.len() < offset + FRAME_HEADER_SIZE {
                    return None;
                }
                match read_frame(&bytes.slice(offset..), lsn, &segment.key) {
                    Ok(read) => {
                        lsn = read.frame.end();
                        return Some((segment, read));
                    }
                    // Frames start at multiples of 8.
                    Err(_) => lsn = Lsn(lsn.0 + 8),
                }
            }
        })
    }

    fn has_lost_bytes_after(&self, end: Lsn) -> bool {
        let lost_until = self.content.as_ref().zip(self.lost_until);
        lost_until.is_some_and(|((segment, _), until)| segment.offset_of(end) < until)
    }

    fn has_bytes_after(&self, end: Lsn) -> bool {
        self.content.as_ref().is_none_or(|(segment, bytes)| {
            let offset = usize::try_from(segment.offset_of(end)).expect("segments fit the memory");
            bytes[offset.min(bytes.len())..].iter().any(|byte| *byte != 0)
        })
    }
}
