//! The rows of a batch while it runs: the host's rows below, what events made of them above, by index of key.
//!
//! Changed rows lie in one arena. A group's changes are journaled until it is accepted, so that a rejected group can
//! be rolled back. Nothing is hashed and nothing is allocated per row. It knows neither entities nor suffixes.

use std::cell::RefCell;

use statehouse_abi::rows::{RowsBlock, WritesWriter};

#[derive(Clone, Copy, PartialEq, Eq)]
struct Slot {
    offset: u32,
    len: u32,
}

/// As the host gave it.
const UNCHANGED: Slot = Slot { offset: u32::MAX, len: 0 };
const DELETED: Slot = Slot { offset: u32::MAX, len: 1 };

#[derive(Default)]
pub(crate) struct Overlay {
    slots: Vec<Slot>,
    arena: Vec<u8>,
    /// Slots before the open group changed them, oldest first.
    journal: Vec<(u32, Slot)>,
    /// Where the open group's rows start in the arena.
    // INVARIANT: a slot at or behind it was written by the open group, so its bytes may change without a journal entry.
    group_start: usize,
    /// Undeclared keys that were touched: op and full key. Behind a cell, because `validate` only reads.
    needed: RefCell<Vec<(u32, Vec<u8>)>>,
}

impl Overlay {
    /// `row_bytes` is the size of the host's rows: about what the changed ones will need.
    pub fn new(key_count: usize, row_bytes: usize) -> Self {
        Self { slots: vec![UNCHANGED; key_count], arena: Vec::with_capacity(row_bytes), ..Self::default() }
    }

    #[inline]
    pub fn row<'r>(&'r self, rows: &RowsBlock<'r>, key: u32) -> Option<&'r [u8]> {
        match self.slots[key as usize] {
            UNCHANGED => rows.row(key as usize),
            DELETED => None,
            Slot { offset, len } => Some(&self.arena[offset as usize..offset as usize + len as usize]),
        }
    }

    /// Sets a row to the bytes that `write` appends.
    #[inline]
    pub fn put(&mut self, key: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.arena.len();
        write(&mut self.arena);
        let slot = Slot { offset: start as u32, len: (self.arena.len() - start) as u32 };
        self.journal.push((key, std::mem::replace(&mut self.slots[key as usize], slot)));
    }

    /// Changes the bytes of a row where they lie, or of a copy when the open group has not changed it yet.
    /// `false` when there is no such row.
    #[inline]
    pub fn edit(&mut self, rows: &RowsBlock<'_>, key: u32, change: impl FnOnce(&mut [u8])) -> bool {
        let slot = self.slots[key as usize];
        let start = self.arena.len();
        match slot {
            DELETED => return false,
            UNCHANGED => match rows.row(key as usize) {
                Some(row) => self.arena.extend_from_slice(row),
                None => return false,
            },
            Slot { offset, len } => {
                let range = offset as usize..offset as usize + len as usize;
                if self.group_start <= range.start {
                    change(&mut self.arena[range]);
                    return true;
                }
                self.arena.extend_from_within(range);
            }
        }
        self.journal.push((key, slot));
        let len = (self.arena.len() - start) as u32;
        self.slots[key as usize] = Slot { offset: start as u32, len };
        change(&mut self.arena[start..]);
        true
    }

    #[inline]
    pub fn delete(&mut self, key: u32) {
        self.journal.push((key, std::mem::replace(&mut self.slots[key as usize], DELETED)));
    }

    /// Keeps what changed since the last group.
    #[inline]
    pub fn accept(&mut self) {
        self.journal.clear();
        self.group_start = self.arena.len();
    }

    /// Forgets what changed since the last group.
    pub fn roll_back(&mut self) {
        for (key, slot) in self.journal.drain(..).rev() {
            self.slots[key as usize] = slot;
        }
        self.arena.truncate(self.group_start);
    }

    /// Notes that `op` touched a key it had not declared.
    #[cold]
    pub fn need(&self, op: u32, key: Vec<u8>) {
        let mut needed = self.needed.borrow_mut();
        if !needed.iter().any(|known| known.0 == op && known.1 == key) {
            needed.push((op, key));
        }
    }

    pub fn needed_count(&self) -> usize {
        self.needed.borrow().len()
    }

    pub fn into_needed(self) -> Vec<(u32, Vec<u8>)> {
        self.needed.into_inner()
    }

    /// The rows that differ from the host's.
    pub fn writes(&self, rows: &RowsBlock<'_>) -> WritesWriter {
        let mut writes = WritesWriter::with_capacity(self.slots.len(), self.arena.len());
        for (key, slot) in self.slots.iter().enumerate() {
            if *slot != UNCHANGED {
                let row = self.row(rows, key as u32);
                if row != rows.row(key) {
                    writes.write(key as u32, row);
                }
            }
        }
        writes
    }
}
