//! The newest ids, in memory: a table that is filled, frozen, written as a run, and dropped.
//!
//! Cells of 8 bytes (32 bits of hash, 32 bits of record number + 1; 0 is free) point into the records, which stay in
//! their original order. A table does not know files.

use super::record::{IdHasher, IdRecord, StoredId};
use crate::ids::{CommandId, JournalIndex, LogIndex};
use crate::store::prefetch::prefetch;

/// The number of ids that are looked up together, see `store/hot.rs`.
const ROUND: usize = 32;

pub struct RecentIds {
    cells: Box<[u64]>,
    records: Vec<StoredId>,
    /// It holds the ids of the entries after `after`, up to and including `last`.
    after: JournalIndex,
    last: JournalIndex,
    /// The index in the log of the last of them.
    last_in_log: LogIndex,
}

impl RecentIds {
    pub fn new(count_expected: usize, after: JournalIndex) -> Self {
        // A quarter more than expected, because the last entry may exceed the expected number.
        let count = count_expected + count_expected / 4;
        let cells = vec![0; (2 * count).next_power_of_two()].into_boxed_slice();
        Self { cells, records: Vec::with_capacity(count), after, last: after, last_in_log: LogIndex(0) }
    }

    pub fn count(&self) -> usize {
        self.records.len()
    }

    pub fn after(&self) -> JournalIndex {
        self.after
    }

    pub fn last(&self) -> JournalIndex {
        self.last
    }

    pub fn last_in_log(&self) -> LogIndex {
        self.last_in_log
    }

    pub fn memory_size(&self) -> usize {
        self.cells.len() * size_of::<u64>() + self.records.capacity() * size_of::<StoredId>()
    }

    pub fn extend(
        &mut self,
        hasher: &IdHasher,
        records: impl Iterator<Item = StoredId>,
        last: JournalIndex,
        last_in_log: LogIndex,
    ) {
        assert_eq!(last, self.last.next(), "entries are recorded in order");
        let first_new = self.records.len();
        self.records.extend(records);
        while self.cells.len() < 2 * self.records.len() {
            self.grow(hasher, first_new);
        }
        for from in (first_new..self.records.len()).step_by(ROUND) {
            let to = (from + ROUND).min(self.records.len());
            for record in &self.records[from..to] {
                prefetch(&self.cells[self.home(hasher.hash(&record.id))]);
            }
            for at in from..to {
                self.place(hasher.hash(&self.records[at].id), at);
            }
        }
        (self.last, self.last_in_log) = (last, last_in_log);
    }

    /// Answers the ids that have no answer in `out` yet.
    pub fn find_batch(&self, hasher: &IdHasher, ids: &[CommandId], out: &mut [Option<IdRecord>]) {
        if self.records.is_empty() {
            return;
        }
        for (ids, out) in ids.chunks(ROUND).zip(out.chunks_mut(ROUND)) {
            let mut hashes = [0; ROUND];
            for (hash, id) in hashes.iter_mut().zip(ids) {
                *hash = hasher.hash(&id.0);
                prefetch(&self.cells[self.home(*hash)]);
            }
            for ((id, hash), out) in ids.iter().zip(hashes).zip(out) {
                if out.is_none() {
                    *out = self.find(hash, &id.0).map(StoredId::to_id_record);
                }
            }
        }
    }

    /// The records in order of hash, each with its hash.
    pub fn sorted(&self, hasher: &IdHasher) -> Vec<(u64, StoredId)> {
        let mut sorted: Vec<(u64, u32)> =
            self.records.iter().zip(0..).map(|(record, at)| (hasher.hash(&record.id), at)).collect();
        sorted.sort_unstable();
        sorted.into_iter().map(|(hash, at)| (hash, self.records[at as usize])).collect()
    }

    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.cells.len() - 1)
    }

    fn find(&self, hash: u64, id: &[u8; 16]) -> Option<StoredId> {
        let mask = self.cells.len() - 1;
        let mut at = self.home(hash);
        // At least half of the cells are free, so this ends.
        while self.cells[at] != 0 {
            let record = self.cells[at] as u32 as usize - 1;
            if self.cells[at] >> 32 == hash >> 32 && self.records[record].id == *id {
                return Some(self.records[record]);
            }
            at = (at + 1) & mask;
        }
        None
    }

    fn place(&mut self, hash: u64, record: usize) {
        let mask = self.cells.len() - 1;
        let mut at = self.home(hash);
        while self.cells[at] != 0 {
            at = (at + 1) & mask;
        }
        let number = u32::try_from(record + 1).expect("a table is frozen long before 2^32 ids");
        self.cells[at] = (hash >> 32) << 32 | u64::from(number);
    }

    /// Doubles the cells and places the first `count` records again.
    fn grow(&mut self, hasher: &IdHasher, count: usize) {
        self.cells = vec![0; self.cells.len() * 2].into_boxed_slice();
        for at in 0..count {
            self.place(hasher.hash(&self.records[at].id), at);
        }
    }
}
