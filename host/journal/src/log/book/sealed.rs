//! The sealed part of the book: its segments, and which of their entries are left. No entry of them is in memory.
//!
//! Seals arrive in order, at recovery from the disk and later one by one. A segment whose newest payloads are still in
//! memory waits until these are forgotten. Purges remove parts at the front. At the back, a snapshot that replaces the
//! log removes everything, and a cut removes what was given up; nothing else does.

use std::sync::Arc;

use super::{Book, SealedPart};
use crate::ids::LogIndex;
use crate::log::EntryId;
use crate::log::frame::Hash;
use crate::log::seal::Seal;
use crate::log::segment::Checkpoint;

impl Book {
    /// The book after these sealed segments, where the log's state is `end`. `None` if they are not one stream without
    /// gaps.
    pub fn after(mut self, seals: &[Arc<Seal>], end: &Checkpoint) -> Option<Self> {
        assert!(self.slots.is_empty() && self.sealed.is_empty());
        for seal in seals {
            self.add_sealed(seal)?;
        }
        if let Some(purged) =
            end.purged.filter(|purged| self.last_purged.is_none_or(|known| known.index < purged.index))
        {
            (self.last_purged, self.purged_hash) = (Some(purged), Some(end.purged_hash));
        }
        let purged = self.last_purged;
        self.drop_sealed_upto(purged);
        let first = self.sealed.front().map(|part| part.first);
        let last = self.sealed.back().map(|part| part.last).or(purged.map(|purged| purged.index));
        let follows = first.is_none_or(|first| purged.is_none_or(|purged| purged.index.next() == first));
        if !follows || last != end.last.map(|last| last.index) {
            return None;
        }
        self.sealed_end = end.last.filter(|_| !self.sealed.is_empty()).map(|last| (last, end.last_hash));
        (self.vote, self.committed) = (end.vote, end.committed);
        self.forget_runs();
        Some(self)
    }

    fn add_sealed(&mut self, seal: &Arc<Seal>) -> Option<()> {
        if let Some(from) = seal.ends_from {
            if self.last_purged.is_some_and(|purged| from <= purged.index) {
                return None;
            }
            while self.sealed.pop_back_if(|part| from <= part.first).is_some() {}
            if let Some(part) = self.sealed.back_mut() {
                part.last = part.last.min(LogIndex(from.0 - 1));
            }
            while self.runs.pop_back_if(|run| from <= run.index).is_some() {}
        }
        let Some((first, last)) = seal.first().zip(seal.last) else { return Some(()) };
        if self.sealed.back().is_some_and(|part| part.last.next() != first) {
            // A snapshot replaced the entries before this segment.
            self.sealed.clear();
            self.runs.clear();
        }
        self.sealed.push_back(SealedPart { seal: seal.clone(), first, last: last.index });
        let is_same =
            |run: &EntryId| self.runs.back().is_some_and(|back| (back.term, back.node) == (run.term, run.node));
        let new = seal.runs.iter().skip(usize::from(seal.runs.first().is_some_and(is_same)));
        self.runs.extend(new.copied());
        Some(())
    }

    /// Sealed entries are committed, whether the stream says so or not.
    pub fn commit_sealed(&mut self) {
        let sealed = self.sealed_end.map(|(id, _)| id);
        self.committed = self.committed.into_iter().chain(sealed).max_by_key(|id| id.index);
    }

    /// A segment is sealed. Its entries are forgotten as soon as their payloads are.
    pub fn on_sealed(&mut self, seal: Arc<Seal>) {
        assert!(self.waiting.back().is_none_or(|before| before.first_lsn() < seal.first_lsn()));
        self.waiting.push_back(seal);
        self.forget_sealed();
    }

    pub(super) fn forget_sealed(&mut self) {
        while let Some(seal) = self.waiting.front() {
            let count = self.slots.partition_point(|slot| slot.lsn < seal.end);
            if self.slots.len() - self.tail.len() < count {
                return;
            }
            let (first, last) = (self.slots.front().map(|slot| slot.id.index), count.checked_sub(1));
            if let (Some(first), Some(last)) = (first, last) {
                let last = &self.slots[last];
                assert!(self.sealed.back().is_none_or(|part| part.last.next() == first));
                assert_eq!(last.segment.first_lsn, seal.first_lsn(), "segments are sealed in order");
                self.sealed_end = Some((last.id, last.hash));
                self.sealed.push_back(SealedPart { seal: seal.clone(), first, last: last.id.index });
            }
            self.slots.drain(..count);
            self.waiting.pop_front();
        }
    }

    /// A segment has a new seal for the same entries.
    pub fn on_resealed(&mut self, seal: &Arc<Seal>) {
        let parts = self.sealed.iter_mut().map(|part| &mut part.seal);
        for known in parts.chain(self.waiting.iter_mut()).filter(|known| known.first_lsn() == seal.first_lsn()) {
            *known = seal.clone();
        }
    }

    /// Drops all entries after `last`, even sealed ones. `hash` is that of `last`, which is here or is the last purged
    /// entry.
    pub fn cut_after(&mut self, last: EntryId, hash: Hash) {
        if self.find_part(last.index).is_some() {
            while self.sealed.pop_back_if(|part| last.index < part.first).is_some() {}
            let part = self.sealed.back_mut().expect("one of them has the entry");
            assert_eq!(part.seal.id_at(last.index), last);
            part.last = last.index;
            self.sealed_end = Some((last, hash));
        }
        self.truncate_after(Some(last.index));
    }

    /// The last sealed entry, if it forbids Raft to drop the entries after `last`. All entries may be dropped together,
    /// when a snapshot replaces them.
    pub fn keeps_after(&self, last: Option<LogIndex>) -> Option<EntryId> {
        let is_everything = last <= self.last_purged.map(|purged| purged.index);
        let is_there = |id: &EntryId| self.find_slot(id.index).is_some_and(|slot| slot.id == *id);
        let waiting = self.waiting.iter().rev().filter_map(|seal| seal.last).find(is_there);
        let sealed = waiting.or(self.sealed_end.map(|(id, _)| id));
        sealed.filter(|sealed| !is_everything && last < Some(sealed.index))
    }

    pub(super) fn find_part(&self, index: LogIndex) -> Option<&SealedPart> {
        let position = self.sealed.partition_point(|part| part.last < index);
        self.sealed.get(position).filter(|part| part.first <= index)
    }

    pub(super) fn drop_sealed_upto(&mut self, purged: Option<EntryId>) {
        let Some(purged) = purged else { return };
        while self.sealed.pop_front_if(|part| part.last <= purged.index).is_some() {}
        if let Some(part) = self.sealed.front_mut() {
            part.first = part.first.max(purged.index.next());
        }
        if self.sealed.is_empty() {
            self.sealed_end = None;
        }
    }
}
