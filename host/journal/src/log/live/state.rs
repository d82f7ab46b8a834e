//! The state that the threads of a log share under one lock: the book, the place of the next frame, and the writer's
//! queue.
//!
//! A frame gets its place in the stream here, in space that is already on disk as zeros; the writer thread only writes
//! it. An accepted append therefore never meets a full disk. No I/O happens here, and nobody waits here.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ids::{LogIndex, Lsn};
use crate::log::book::{Book, EntrySlot};
use crate::log::frame::{ENTRY_OVERHEAD, FRAME_HEADER_SIZE, Frame, Hash, RECORD_HEADER_SIZE, Record, entry_hash};
use crate::log::seal::Seal;
use crate::log::segment::{ClosedSegment, HEADER_SIZE, Segment, SegmentHeader, Spare};
use crate::log::{EntryId, LogEntry, LogError, StreamId};

/// Called once with the outcome of an append.
pub type OnDurable = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// A step for the writer thread, in stream order.
pub(super) enum WriterWork {
    Write { frame: Frame, segment: Arc<Segment> },
    Roll(Box<Roll>),
    Done(OnDurable),
}

/// The stream continues in a new segment.
pub(super) struct Roll {
    pub spare: Spare,
    pub header: SegmentHeader,
}

/// Entries whose records go into one frame, with their payloads' hashes.
pub(super) type HashedEntry = (LogEntry, blake3::Hash);

/// Whether a frame may use the last bytes of a segment. They are kept for votes and other small records while the disk
/// is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reserve {
    Keep,
    Use,
}

/// Whether there is room for frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Ready,
    /// A spare segment of at least this size must be ready first.
    NeedsSpare(u64),
}

pub(super) struct State {
    pub stream: StreamId,
    pub book: Book,
    /// The next frame goes into this segment.
    pub segment: Arc<Segment>,
    /// The next frame starts here.
    pub cursor: Lsn,
    /// Bytes at the end of a segment that appends leave free.
    pub reserve: u64,
    pub queue: Vec<WriterWork>,
    /// Segments that are not sealed yet, oldest first.
    closed: VecDeque<ClosedSegment>,
    /// The seals of all segments that are sealed and not released.
    pub seals: VecDeque<Arc<Seal>>,
    /// Bytes of frames accepted and not yet durable.
    pub pending_bytes: usize,
    pub spare: Option<Spare>,
    /// The smallest size that a useful spare has.
    pub spare_bytes_wanted: u64,
    /// All bytes before this lsn are durable.
    pub durable: Lsn,
    /// The last entry before `durable`.
    durable_last: Option<EntryId>,
    /// Truncations that are not yet durable. No entry after one counts as durable, because it is about to be replaced.
    truncations: VecDeque<Option<EntryId>>,
    /// The committed id that the stream already carries.
    committed_recorded: Option<EntryId>,
    /// The end of the last frame that is not a sync mark.
    data_end: Lsn,
    /// The highest watermark that the stream carries.
    marked: Lsn,
    pub is_full: bool,
    pub failed: Option<LogError>,
    pub is_closing: bool,
    /// The writer waits without a time limit, so a caller that has news must wake it.
    pub writer_dozes: bool,
    /// Size of all segment files, of their seals and of the spare.
    pub size: u64,
}

/// The state of a log when it opens.
pub(super) struct LogStart {
    pub stream: StreamId,
    pub book: Book,
    pub segment: Arc<Segment>,
    pub end: Lsn,
    pub data_end: Lsn,
    pub marked: Lsn,
    pub size: u64,
    pub reserve: u64,
    pub closed: Vec<ClosedSegment>,
    pub seals: Vec<Arc<Seal>>,
}

impl State {
    /// Everything up to the end is durable.
    pub fn new(start: LogStart) -> Self {
        assert!(start.data_end <= start.end);
        assert!(start.marked <= start.end);
        assert!(start.segment.first_lsn <= start.end);
        assert!(start.reserve < start.segment.size);
        let (durable_last, committed_recorded) = (start.book.last(), start.book.committed);
        Self {
            stream: start.stream,
            book: start.book,
            segment: start.segment,
            cursor: start.end,
            reserve: start.reserve,
            queue: Vec::new(),
            closed: start.closed.into(),
            seals: start.seals.into(),
            pending_bytes: 0,
            spare: None,
            spare_bytes_wanted: 0,
            durable: start.end,
            durable_last,
            truncations: VecDeque::new(),
            committed_recorded,
            data_end: start.data_end,
            marked: start.marked,
            is_full: false,
            failed: None,
            is_closing: false,
            writer_dozes: false,
            size: start.size,
        }
    }

    /// Whether frames of these sizes have room now, all of them.
    pub fn room_for(&self, sizes: &[usize], reserve: Reserve) -> Room {
        let kept = if reserve == Reserve::Keep { self.reserve } else { 0 };
        let mut left = self.cursor.distance_to(self.segment.end()).saturating_sub(kept);
        let mut sizes = sizes.iter().map(|size| *size as u64);
        let beyond = sizes.find(|size| left.checked_sub(*size).map(|rest| left = rest).is_none());
        let Some(beyond) = beyond else { return Room::Ready };
        assert!(left <= self.segment.size);
        let wanted = HEADER_SIZE as u64 + beyond + sizes.sum::<u64>() + self.reserve;
        match &self.spare {
            Some(spare) if wanted <= spare.size => Room::Ready,
            _ => Room::NeedsSpare(wanted),
        }
    }

    /// Gives a frame its place. The caller has made sure that there is room.
    fn place(&mut self, is_sync_mark: bool, reserve: Reserve, records: Vec<Record>) {
        let records_size = records.iter().map(Record::size).sum();
        self.roll_unless_fits(Frame::size_for(records_size), reserve);
        self.place_here(is_sync_mark, records);
    }

    fn place_here(&mut self, is_sync_mark: bool, records: Vec<Record>) {
        let frame = Frame { lsn: self.cursor, is_sync_mark, records };
        self.cursor = frame.end();
        assert!(self.cursor <= self.segment.end());
        if !is_sync_mark {
            self.data_end = self.cursor;
            self.pending_bytes += frame.size();
        }
        self.queue.push(WriterWork::Write { frame, segment: self.segment.clone() });
    }

    fn roll_unless_fits(&mut self, size: usize, reserve: Reserve) {
        let kept = if reserve == Reserve::Keep { self.reserve } else { 0 };
        if size as u64 + kept <= self.cursor.distance_to(self.segment.end()) {
            return;
        }
        if self.cursor == self.segment.first_lsn {
            // Nothing was written to this segment yet, and two segments cannot start at the same lsn.
            self.place_here(true, Vec::new());
        }
        let spare = self.spare.take().expect("the caller has made sure that there is room");
        let header = SegmentHeader {
            stream: self.stream.clone(),
            nonce: rand::random(),
            first_lsn: self.cursor,
            before: Some(self.segment.first_lsn),
            checkpoint: self.book.checkpoint(),
        };
        let closed = ClosedSegment {
            segment: std::mem::replace(&mut self.segment, Arc::new(spare.segment(&header))),
            end: self.cursor,
            last: header.checkpoint.last.map(|last| last.index),
        };
        self.closed.push_back(closed);
        self.spare_bytes_wanted = 0;
        self.committed_recorded = self.book.committed;
        self.queue.push(WriterWork::Roll(Box::new(Roll { spare, header })));
        assert!(size as u64 + kept <= self.cursor.distance_to(self.segment.end()));
    }

    /// Places the entries of one append, frame by frame, and makes them readable.
    pub fn append(&mut self, frames: Vec<Vec<HashedEntry>>) {
        let first = frames.first().and_then(|entries| entries.first()).map(|(entry, _)| entry.id);
        let first = first.expect("an append has at least one entry");
        assert!(self.failed.is_none());
        assert!(!self.is_closing);
        if self.book.last().is_some_and(|last| first.index <= last.index) {
            let before = self.book.id_before(first.index);
            self.truncate_after(before);
        }
        for entries in frames {
            let mut records = Vec::with_capacity(entries.len() + 1);
            self.roll_unless_fits(append_frame_size(&entries), Reserve::Keep);
            records.extend(self.news_of_commit());
            let mut lsn = self.cursor.0 + (FRAME_HEADER_SIZE + records.iter().map(Record::size).sum::<usize>()) as u64;
            for (entry, payload_hash) in entries {
                let before = self.book.last_hash();
                let hash = entry_hash(&before, entry.id, &entry.payload, &payload_hash);
                let payload_size = u32::try_from(entry.payload.size()).expect("payloads are bounded");
                let slot = EntrySlot { id: entry.id, hash, segment: self.segment.clone(), lsn: Lsn(lsn), payload_size };
                self.book.push(slot, Some(entry.payload.clone()));
                lsn += entry_record_size(&entry) as u64;
                records.push(Record::Entry { entry, before });
            }
            self.place(false, Reserve::Keep, records);
        }
    }

    /// Places one record that is not an entry.
    pub fn record(&mut self, record: Record) {
        assert!(!matches!(record, Record::Entry { .. }), "entries go through `append`");
        self.place(false, Reserve::Use, vec![record]);
    }

    pub fn truncate_after(&mut self, last: Option<EntryId>) {
        self.record(Record::Truncate(last));
        self.book.truncate_after(last.map(|last| last.index));
        self.truncations.push_back(last);
        assert_eq!(self.book.last().map(|found| found.index), last.map(|last| last.index));
    }

    /// Like `truncate_after`, but the dropped entries may be sealed. `hash` is the hash of `last`.
    pub fn cut_after(&mut self, last: EntryId, hash: Hash) {
        self.record(Record::Truncate(Some(last)));
        self.book.cut_after(last, hash);
        self.truncations.push_back(Some(last));
        assert_eq!(self.book.last(), Some(last));
        assert!(self.book.committed.is_none_or(|committed| committed.index <= last.index));
    }

    fn news_of_commit(&mut self) -> Option<Record> {
        // A committed entry was appended earlier, so the record comes after its entry in the stream.
        let news = self.book.committed.filter(|_| self.book.committed != self.committed_recorded)?;
        self.committed_recorded = Some(news);
        Some(Record::Commit(news))
    }

    /// The next segment to seal: it and the first bytes of its successor are durable, and nothing in it is ever
    /// dropped.
    pub fn sealable(&self) -> Option<&ClosedSegment> {
        let committed = self.book.committed.map(|committed| committed.index);
        self.closed.front().filter(|closed| closed.end < self.durable && closed.last <= committed)
    }

    /// A segment has a seal of `size` bytes now. Returns whether the segment is still there.
    pub fn on_sealed(&mut self, seal: Arc<Seal>, size: u64) -> bool {
        let is_there = self.closed.pop_front_if(|closed| closed.segment.first_lsn == seal.first_lsn()).is_some();
        if is_there {
            self.size += size;
            self.seals.push_back(seal.clone());
            self.book.on_sealed(seal);
        }
        is_there
    }

    /// A segment has a new seal for the same entries.
    pub fn on_resealed(&mut self, seal: &Arc<Seal>) {
        for known in self.seals.iter_mut().filter(|known| known.first_lsn() == seal.first_lsn()) {
            *known = seal.clone();
        }
        self.book.on_resealed(seal);
    }

    /// A segment is about to be deleted. From now on nobody seals or checks it.
    pub fn on_release(&mut self, first_lsn: Lsn) {
        self.seals.retain(|seal| seal.first_lsn() != first_lsn);
        self.closed.retain(|closed| closed.segment.first_lsn != first_lsn);
    }

    /// Whether an idle stream has something to say that no frame carries yet.
    pub fn wants_mark(&self) -> bool {
        let is_unmarked = self.marked < self.data_end && self.data_end <= self.durable;
        is_unmarked || self.book.committed != self.committed_recorded
    }

    /// Places a sync mark if there is room for one. A mark only helps recovery and readers.
    pub fn place_mark(&mut self) {
        assert!(self.wants_mark());
        assert!(self.queue.is_empty(), "a mark is for an idle stream");
        self.marked = self.durable;
        if self.reserve + SMALL_FRAME_SIZE as u64 <= self.cursor.distance_to(self.segment.end()) {
            let records = Vec::from_iter(self.news_of_commit());
            self.place(true, Reserve::Keep, records);
        } else {
            self.committed_recorded = self.book.committed;
        }
    }

    /// The writer has synced everything before `durable`; the last entry there is `last`.
    pub fn on_durable(&mut self, durable: Lsn, last: Option<EntryId>, truncations: usize, bytes: usize) {
        assert!(self.durable <= durable);
        assert!(truncations <= self.truncations.len());
        assert!(bytes <= self.pending_bytes);
        self.durable = durable;
        self.durable_last = last;
        self.truncations.drain(..truncations);
        self.pending_bytes -= bytes;
        assert!(self.durable <= self.cursor);
    }

    /// The last entry that is durable and will stay, as far as this node knows.
    pub fn durable_last(&self) -> Option<EntryId> {
        let earlier =
            |a: Option<EntryId>, b: Option<EntryId>| if b.map(|b| b.index) < a.map(|a| a.index) { b } else { a };
        self.truncations.iter().copied().fold(self.durable_last, earlier)
    }

    /// Checks that `first` may follow what the book has; see [`LogError::Gap`] and [`LogError::Purged`].
    pub fn check_next(&self, first: EntryId) -> Result<(), LogError> {
        let last = self.book.last().map(|last| last.index);
        if last.is_some_and(|last| last.next() < first.index) {
            return Err(LogError::Gap { last, found: first });
        }
        match self.book.last_purged() {
            Some(purged) if first.index <= purged.index => Err(LogError::Purged { index: first.index, purged }),
            _ => self.check_droppable(first.index.0.checked_sub(1).map(LogIndex)),
        }
    }

    /// Whether the entries after `last` may be dropped; see [`LogError::Sealed`].
    pub fn check_droppable(&self, last: Option<LogIndex>) -> Result<(), LogError> {
        self.book.keeps_after(last).map_or(Ok(()), |sealed| Err(LogError::Sealed { last, sealed }))
    }
}

/// Bytes of a frame with one record that has no body.
pub(super) const SMALL_FRAME_SIZE: usize = FRAME_HEADER_SIZE + RECORD_HEADER_SIZE;

/// The largest size that the frame of these entries can have, which is with a COMMIT record in it.
pub(super) fn append_frame_size(entries: &[HashedEntry]) -> usize {
    let records_size: usize = entries.iter().map(|(entry, _)| entry_record_size(entry)).sum();
    Frame::size_for(RECORD_HEADER_SIZE + records_size)
}

pub(super) fn entry_record_size(entry: &LogEntry) -> usize {
    ENTRY_OVERHEAD + entry.payload.size()
}
