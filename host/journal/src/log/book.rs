//! The log's knowledge in memory: the place of each entry in the tail, the sealed segments before the tail, the newest
//! payloads, the vote, and what is purged and committed.
//!
//! Appends keep the book, and recovery rebuilds it record by record. It has no single entry of a sealed segment, so its
//! size is that of the tail. It does no I/O and takes no lock. It does not know what is durable; it is only told which
//! payloads it may forget.

mod sealed;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::ids::{LogIndex, Lsn, NodeId, Term};
use crate::log::frame::{Hash, NO_HASH, Record, entry_hash};
use crate::log::seal::Seal;
use crate::log::segment::{Checkpoint, Segment};
use crate::log::{EntryId, LogEntry, Payload, Vote};

/// The place of an entry.
#[derive(Clone)]
pub(super) struct EntrySlot {
    pub id: EntryId,
    pub hash: Hash,
    pub segment: Arc<Segment>,
    /// The lsn of the record, not of its frame.
    pub lsn: Lsn,
    pub payload_size: u32,
}

/// An entry of the tail, as the book has it.
pub(super) enum FoundEntry {
    InMemory(LogEntry),
    OnDisk(EntrySlot),
}

/// The first entries of a range that are in one place.
pub(super) enum FoundRange {
    /// All of them are in this sealed segment.
    Sealed(Arc<Seal>, Range<LogIndex>),
    Tail(Vec<FoundEntry>),
}

/// The place of an entry in the stream.
pub(super) enum EntryPlace {
    At(Lsn),
    Sealed(Arc<Seal>, LogIndex),
}

/// The entries of a sealed segment that are left: consecutive ones.
struct SealedPart {
    seal: Arc<Seal>,
    first: LogIndex,
    last: LogIndex,
}

/// Whether entries stay in the book after they were purged. The log's own book drops them; a scan of the journal keeps
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PurgePolicy {
    Dropped,
    Kept,
}

/// A record that contradicts those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contradiction {
    /// The record names another hash for the entry before it.
    Chain,
    /// The index does not follow.
    Order,
    /// The record drops sealed entries.
    Sealed,
}

pub(super) struct Book {
    purged: PurgePolicy,
    /// INVARIANT: each part begins where the one before ends, the first slot where the last part ends; no part is
    /// purged whole.
    sealed: VecDeque<SealedPart>,
    /// The last sealed entry. It is `Some` if there is any part.
    sealed_end: Option<(EntryId, Hash)>,
    /// Seals of segments whose payloads are still in memory, oldest first.
    waiting: VecDeque<Arc<Seal>>,
    /// INVARIANT: the slots are ordered by index, and without gaps if purged entries are dropped.
    slots: VecDeque<EntrySlot>,
    /// INVARIANT: the payloads of the last `tail.len()` slots.
    tail: VecDeque<Payload>,
    tail_bytes: usize,
    /// The first entry of each leader's run. The first of them may be purged.
    runs: VecDeque<EntryId>,
    pub vote: Option<Vote>,
    pub committed: Option<EntryId>,
    last_purged: Option<EntryId>,
    /// `None` if recovery started after that entry and has not seen it.
    purged_hash: Option<Hash>,
    /// The index after which recovery started; see `replay_truncation`.
    start: Option<LogIndex>,
}

impl Book {
    pub fn new(purged: PurgePolicy) -> Self {
        Self {
            purged,
            sealed: VecDeque::new(),
            sealed_end: None,
            waiting: VecDeque::new(),
            slots: VecDeque::new(),
            tail: VecDeque::new(),
            tail_bytes: 0,
            runs: VecDeque::new(),
            vote: None,
            committed: None,
            last_purged: None,
            purged_hash: Some(NO_HASH),
            start: None,
        }
    }

    /// The book at the start of a segment. Everything before it is purged, at that point or later in the stream.
    pub fn at(checkpoint: &Checkpoint, purged: PurgePolicy) -> Self {
        Self {
            vote: checkpoint.vote,
            committed: checkpoint.committed,
            last_purged: checkpoint.last,
            purged_hash: Some(checkpoint.last_hash),
            start: checkpoint.last.map(|last| last.index),
            ..Self::new(purged)
        }
    }

    /// The first entry that is in the log and not purged.
    fn first(&self) -> Option<LogIndex> {
        let sealed = self.sealed.front().map(|part| part.first);
        sealed.or(self.slots.front().map(|slot| slot.id.index))
    }

    /// Keeps the run that has the first entry, and the later ones.
    fn forget_runs(&mut self) {
        let first = self.first();
        while self.runs.get(1).is_some_and(|run| first.is_none_or(|first| run.index <= first)) {
            self.runs.pop_front();
        }
        if first.is_none() {
            self.runs.clear();
        }
    }

    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            vote: self.vote,
            last: self.last(),
            last_hash: self.last_hash(),
            purged: self.last_purged,
            purged_hash: self.purged_hash.unwrap_or(NO_HASH),
            committed: self.committed,
        }
    }

    pub fn last(&self) -> Option<EntryId> {
        let sealed = self.sealed_end.map(|(id, _)| id);
        let last = self.slots.back().map(|slot| slot.id).or(sealed);
        last.filter(|last| self.last_purged.is_none_or(|purged| purged.index <= last.index)).or(self.last_purged)
    }

    pub fn last_purged(&self) -> Option<EntryId> {
        self.last_purged
    }

    pub fn slots(&self) -> impl DoubleEndedIterator<Item = &EntrySlot> {
        self.slots.iter()
    }

    pub fn term_starts(&self) -> Vec<EntryId> {
        let Some(first) = self.first() else { return Vec::new() };
        assert!(self.runs.back().is_some_and(|run| self.last().is_some_and(|last| run.index <= last.index)));
        self.runs.iter().map(|run| EntryId { index: run.index.max(first), ..*run }).collect()
    }

    /// The hash that the next entry's record carries.
    pub fn last_hash(&self) -> Hash {
        self.known_last_hash().unwrap_or(NO_HASH)
    }

    /// The same hash; `None` if recovery cannot know it.
    pub fn known_last_hash(&self) -> Option<Hash> {
        let sealed = self.sealed_end;
        let last = self.slots.back().map(|slot| (slot.id, slot.hash)).or(sealed);
        let last = last.filter(|(id, _)| Some(*id) == self.last());
        last.map_or(self.purged_hash, |(_, hash)| Some(hash))
    }

    /// Adds the entry after the last one. A `payload` stays in memory until [`Book::forget_payloads`].
    pub fn push(&mut self, slot: EntrySlot, payload: Option<Payload>) {
        assert!(self.last().is_none_or(|last| last.index.next() == slot.id.index));
        if self.runs.back().is_none_or(|run| (run.term, run.node) != (slot.id.term, slot.id.node)) {
            self.runs.push_back(slot.id);
        }
        match payload {
            Some(payload) => {
                self.tail_bytes += payload.size();
                self.tail.push_back(payload);
            }
            None => assert!(self.tail.is_empty(), "a gap among the payloads in memory"),
        }
        assert_ne!(slot.hash, NO_HASH);
        assert!(slot.segment.first_lsn <= slot.lsn);
        assert!(self.slots.back().is_none_or(|before| before.lsn < slot.lsn));
        self.slots.push_back(slot);
        assert!(self.tail.len() <= self.slots.len());
        assert!(!self.runs.is_empty());
    }

    /// Drops all entries after `last`, which must not be purged. None of them counts as committed. Returns whether
    /// there were any.
    pub fn truncate_after(&mut self, last: Option<LogIndex>) -> bool {
        let is_beyond = |id: &EntryId| last.is_none_or(|last| last < id.index);
        assert!(self.last_purged.is_none_or(|purged| !is_beyond(&purged)));
        let slots_before = self.slots.len() + self.sealed.len();
        if self.sealed_end.is_some_and(|(id, _)| is_beyond(&id)) {
            assert!(last <= self.last_purged.map(|purged| purged.index), "what is sealed goes as a whole");
            self.sealed.clear();
            self.sealed_end = None;
        }
        while self.slots.back().is_some_and(|slot| is_beyond(&slot.id)) {
            self.slots.pop_back();
            if let Some(payload) = self.tail.pop_back() {
                self.tail_bytes -= payload.size();
            }
        }
        while self.runs.back().is_some_and(is_beyond) {
            self.runs.pop_back();
        }
        if self.committed.is_some_and(|committed| is_beyond(&committed)) {
            self.committed = self.last();
        }
        assert!(self.tail.len() <= self.slots.len());
        assert!(!self.tail.is_empty() || self.tail_bytes == 0);
        self.slots.len() + self.sealed.len() < slots_before
    }

    /// The entry before `index`: one that is in the log, or the last purged one.
    pub fn id_before(&self, index: LogIndex) -> Option<EntryId> {
        let position = self.slots.partition_point(|slot| slot.id.index < index);
        assert!(position <= self.slots.len());
        let before = position.checked_sub(1).map(|position| self.slots[position].id);
        let sealed = self.sealed_end.map(|(id, _)| id);
        before.or(sealed).or(self.last_purged).filter(|before| before.index.next() == index)
    }

    /// The hash that a PURGE record up to `id` carries: zeros if the log does not know that entry. `Err`: it must be
    /// read.
    pub fn hash_of(&self, id: EntryId) -> Result<Hash, Arc<Seal>> {
        if let Some(hash) = self.purged_hash.filter(|_| self.last_purged == Some(id)) {
            return Ok(hash);
        }
        match (self.sealed_end, self.find_part(id.index)) {
            (Some((end, hash)), _) if end == id => Ok(hash),
            (_, Some(part)) if part.seal.id_at(id.index) == id => Err(part.seal.clone()),
            _ => Ok(self.find_slot(id.index).filter(|slot| slot.id == id).map_or(NO_HASH, |slot| slot.hash)),
        }
    }

    /// The id of the entry at `index`, if it is in the log.
    pub fn find_id(&self, index: LogIndex) -> Option<EntryId> {
        let sealed = self.find_part(index).map(|part| part.seal.id_at(index));
        sealed.or(self.find_slot(index).map(|slot| slot.id))
    }

    fn find_slot(&self, index: LogIndex) -> Option<&EntrySlot> {
        let position = self.slots.partition_point(|slot| slot.id.index < index);
        self.slots.get(position).filter(|slot| slot.id.index == index)
    }

    /// The place in the stream of the first entry after `index`. An `index` of `None` means the very first entry.
    pub fn place_after(&self, index: Option<LogIndex>) -> Option<EntryPlace> {
        let first = self.first()?;
        let wanted = index.map_or(first, LogIndex::next).max(first);
        if let Some(part) = self.find_part(wanted) {
            return Some(EntryPlace::Sealed(part.seal.clone(), wanted));
        }
        let position = self.slots.partition_point(|slot| slot.id.index < wanted);
        self.slots.get(position).map(|slot| EntryPlace::At(slot.lsn))
    }

    /// The last entry of the tail that ends at or before `lsn`, or the sealed segment in which there may be one.
    pub fn last_before(&self, lsn: Lsn) -> Option<Result<EntryId, Arc<Seal>>> {
        let begun = self.slots.partition_point(|slot| slot.lsn <= lsn);
        // The last slot that begins at or before `lsn` extends beyond it.
        if let Some(position) = begun.checked_sub(2) {
            return Some(Ok(self.slots[position].id));
        }
        if let Some((end, _)) = self.sealed_end.filter(|_| self.slots.front().is_some_and(|first| first.lsn <= lsn)) {
            return Some(Ok(end));
        }
        let position = self.sealed.partition_point(|part| part.seal.first_lsn() <= lsn).checked_sub(1)?;
        Some(Err(self.sealed[position].seal.clone()))
    }

    /// Forgets the entries up to `upto`, which may be beyond the last one.
    pub fn purge(&mut self, upto: EntryId, hash: Hash) {
        assert!(self.last_purged.is_none_or(|purged| purged.index < upto.index));
        if self.purged == PurgePolicy::Dropped {
            while self.slots.front().is_some_and(|slot| slot.id.index <= upto.index) {
                self.slots.pop_front();
            }
            while self.slots.len() < self.tail.len() {
                self.tail_bytes -= self.tail.pop_front().map_or(0, |payload| payload.size());
            }
            self.drop_sealed_upto(Some(upto));
            self.forget_runs();
            assert!(self.tail.len() <= self.slots.len());
            assert_eq!(self.first().is_none(), self.runs.is_empty());
        }
        self.last_purged = Some(upto);
        self.purged_hash = Some(hash);
        assert!(self.last().is_some_and(|last| upto.index <= last.index));
    }

    /// The first entries in `range`, in order, until their payloads exceed `bytes_max`, but at least one if there is
    /// any. If they are sealed, they are all in one segment.
    pub fn find(&self, range: Range<LogIndex>, bytes_max: usize) -> FoundRange {
        assert!(self.purged == PurgePolicy::Dropped, "only a book without gaps can be asked by index");
        let start = range.start.max(self.first().unwrap_or(range.start));
        if let Some(part) = self.find_part(start).filter(|_| start < range.end) {
            return FoundRange::Sealed(part.seal.clone(), start..range.end.min(part.last.next()));
        }
        FoundRange::Tail(self.find_in_tail(start..range.end, bytes_max))
    }

    fn find_in_tail(&self, range: Range<LogIndex>, bytes_max: usize) -> Vec<FoundEntry> {
        let Some(first) = self.slots.front().map(|slot| slot.id.index) else { return Vec::new() };
        let start = usize::try_from(first.distance_to(range.start)).unwrap_or(usize::MAX);
        let count = usize::try_from(range.start.max(first).distance_to(range.end)).unwrap_or(usize::MAX);
        let in_memory_from = self.slots.len() - self.tail.len();
        let mut found = Vec::new();
        let mut bytes = 0_usize;
        for (position, slot) in self.slots.iter().enumerate().skip(start).take(count) {
            assert!(range.contains(&slot.id.index));
            bytes = bytes.saturating_add(slot.payload_size as usize);
            if bytes_max < bytes && !found.is_empty() {
                break;
            }
            found.push(match position.checked_sub(in_memory_from) {
                Some(position) => FoundEntry::InMemory(LogEntry { id: slot.id, payload: self.tail[position].clone() }),
                None => FoundEntry::OnDisk(slot.clone()),
            });
        }
        found
    }

    /// Forgets the oldest payloads until at most `bytes_max` are left, but none of a record at or after `written`.
    pub fn forget_payloads(&mut self, written: Lsn, bytes_max: usize) {
        while bytes_max < self.tail_bytes {
            let oldest = &self.slots[self.slots.len() - self.tail.len()];
            if written <= oldest.lsn {
                break;
            }
            self.tail_bytes -= self.tail.pop_front().map_or(0, |payload| payload.size());
        }
        assert!(!self.tail.is_empty() || self.tail_bytes == 0);
        self.forget_sealed();
    }

    /// Takes over a record that recovery has read.
    pub fn replay(&mut self, record: &Record, segment: &Arc<Segment>, lsn: Lsn) -> Result<(), Contradiction> {
        match record {
            Record::Entry { entry, before } => {
                self.replay_truncation(entry.id.index.0.checked_sub(1).map(LogIndex), Some(*before), entry.id)?;
                if self.last().is_some_and(|last| last.index.next() != entry.id.index) {
                    return Err(Contradiction::Order);
                }
                if self.known_last_hash().is_some_and(|hash| hash != *before) {
                    return Err(Contradiction::Chain);
                }
                let hash = entry_hash(before, entry.id, &entry.payload, &blake3::hash(entry.payload.bytes()));
                let payload_size = u32::try_from(entry.payload.size()).expect("read from a field of four bytes");
                self.push(EntrySlot { id: entry.id, hash, segment: segment.clone(), lsn, payload_size }, None);
            }
            Record::Vote(vote) => self.vote = Some(*vote),
            Record::Truncate(Some(last)) => self.replay_truncation(Some(last.index), None, *last)?,
            Record::Truncate(None) => {
                let nobody = EntryId { term: Term(0), node: NodeId(0), index: LogIndex(0) };
                self.replay_truncation(None, Some(NO_HASH), nobody)?;
            }
            Record::Purge { upto, hash } => {
                if self.last_purged.is_none_or(|purged| purged.index < upto.index) {
                    self.purge(*upto, *hash);
                }
            }
            Record::Commit(id) => self.committed = Some(*id),
        }
        Ok(())
    }

    /// Truncates to `last`. Recovery may start at a segment whose beginning rewrote entries of the segment before it.
    /// Those are purged later in the stream. Until then the place of the purge moves back, and only its hash matters.
    fn replay_truncation(
        &mut self,
        last: Option<LogIndex>,
        hash: Option<Hash>,
        id: EntryId,
    ) -> Result<(), Contradiction> {
        if let Some(purged) = self.last_purged.filter(|purged| last.is_none_or(|last| last < purged.index)) {
            if self.start.is_none_or(|start| start < purged.index) {
                return Err(Contradiction::Order);
            }
            self.last_purged = last.map(|index| EntryId { index, ..id });
            self.purged_hash = hash;
        }
        if self.keeps_after(last).is_some() {
            return Err(Contradiction::Sealed);
        }
        self.truncate_after(last);
        assert!(self.last().is_none_or(|found| last.is_some_and(|last| found.index <= last)));
        Ok(())
    }

    /// Called after recovery: a commit may have been saved for entries that never became durable.
    pub fn clamp_committed(&mut self) {
        let last = self.last();
        if self.committed.is_some_and(|committed| last.is_none_or(|last| last.index < committed.index)) {
            self.committed = last;
        }
        assert!(self.committed.map(|id| id.index) <= last.map(|id| id.index));
    }
}
