//! Speculation: the batches this leader has proposed and not yet seen committed, and the rows they will write.
//!
//! In: decided entries. Out: the row a key will have, and the writes to promote once the identical entry is committed.
//! No reader but the sequencer ever sees these rows. It does not know why a batch would be lost.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use statehouse_abi::ops::OpsBlock;
use statehouse_abi::rows::WritesBlock;

use crate::ids::Head;
use crate::machine::entry::Entry;
use crate::machine::journal::Journal;
use crate::sequencer::submission::Submission;

/// One proposed entry.
pub struct SpeculativeBatch {
    pub entry: Entry,
    /// The journal once the entry is effective.
    pub journal: Journal,
    /// The commands of the entry, in order; empty for a tick.
    pub submissions: Vec<Submission>,
    /// WRITES block.
    writes: Vec<u8>,
    /// Numbers of writes by hash of their key.
    index: HashTable<(u64, u32)>,
}

impl SpeculativeBatch {
    pub fn into_parts(self) -> (Entry, Vec<u8>, Vec<Submission>) {
        (self.entry, self.writes, self.submissions)
    }
}

/// All proposed entries, oldest first.
#[derive(Default)]
pub struct Speculation {
    batches: VecDeque<SpeculativeBatch>,
    hasher: DefaultHashBuilder,
}

impl Speculation {
    pub fn len(&self) -> usize {
        self.batches.len()
    }

    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Oldest first.
    pub fn batches(&self) -> impl Iterator<Item = &SpeculativeBatch> {
        self.batches.iter()
    }

    /// The journal after the youngest proposed entry.
    pub fn journal(&self) -> Option<Journal> {
        self.batches.back().map(|batch| batch.journal)
    }

    /// What the proposed entries will write, to look many keys up in.
    pub fn writes(&self) -> SpeculativeWrites<'_> {
        SpeculativeWrites {
            batches: self.batches.iter().rev().filter_map(SpeculativeBatch::writes).collect(),
            hasher: &self.hasher,
        }
    }

    pub fn push(&mut self, entry: Entry, journal: Journal, writes: Vec<u8>, submissions: Vec<Submission>) {
        assert!(self.journal().is_none_or(|before| before.head == entry.header().parent));
        assert!(journal.head == entry.head_after());
        let mut index = HashTable::new();
        if let Some(batch) = entry.batch() {
            let block = WritesBlock::parse(&writes, batch.ops.key_count()).expect("checked when the batch was decided");
            index.reserve(block.count(), |(hash, _)| *hash);
            for (at, (key, _)) in block.writes().enumerate() {
                let hash = self.hasher.hash_one(batch.ops.key(key as usize));
                index.insert_unique(hash, (hash, at as u32), |(hash, _)| *hash);
            }
        }
        self.batches.push_back(SpeculativeBatch { entry, journal, submissions, writes, index });
    }

    /// Whether the oldest proposed entry is this very one.
    pub fn is_oldest(&self, entry: &Entry) -> bool {
        self.batches.front().is_some_and(|batch| batch.entry.payload() == entry.payload())
    }

    /// Takes the oldest proposed entry, if it is this very one.
    pub fn promote(&mut self, entry: &Entry) -> Option<SpeculativeBatch> {
        if self.is_oldest(entry) { self.batches.pop_front() } else { None }
    }

    /// Drops the proposed entry that leads to this head and all entries computed on it, and returns them, oldest first.
    pub fn drop_from(&mut self, head: Head) -> Vec<SpeculativeBatch> {
        let first = self.batches.iter().position(|batch| batch.journal.head == head);
        first.map_or_else(Vec::new, |first| self.batches.drain(first..).collect())
    }

    /// Drops all speculation and gives back what was proposed, oldest first.
    pub fn drain(&mut self) -> Vec<SpeculativeBatch> {
        self.batches.drain(..).collect()
    }
}

impl SpeculativeBatch {
    fn writes(&self) -> Option<BatchWrites<'_>> {
        let ops = self.entry.batch()?.ops;
        let writes = WritesBlock::parse_trusted(&self.writes).expect("checked when the batch was decided");
        Some(BatchWrites { ops, writes, index: &self.index })
    }
}

/// The writes of all proposed entries, youngest first.
pub struct SpeculativeWrites<'a> {
    batches: Vec<BatchWrites<'a>>,
    hasher: &'a DefaultHashBuilder,
}

struct BatchWrites<'a> {
    ops: OpsBlock<'a>,
    writes: WritesBlock<'a>,
    index: &'a HashTable<(u64, u32)>,
}

impl<'a> SpeculativeWrites<'a> {
    /// The row a key will have, if a proposed entry writes it; `Some(None)` says that it will be deleted.
    pub fn find(&self, key: &[u8]) -> Option<Option<&'a [u8]>> {
        if self.batches.is_empty() {
            return None;
        }
        let hash = self.hasher.hash_one(key);
        self.batches.iter().find_map(|batch| {
            let is_same = |&(_, at): &(u64, u32)| batch.ops.key(batch.writes.write(at as usize).0 as usize) == key;
            let (_, at) = batch.index.find(hash, is_same)?;
            Some(batch.writes.write(*at as usize).1)
        })
    }
}
