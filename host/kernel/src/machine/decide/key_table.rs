//! The numbers of a batch's keys, found by the key.
//!
//! In: keys. Out: for each key the number that it got when it was seen first. This is the only hash table of the
//! kernel: a leader looks up tens of thousands of keys a batch. It does not know what keys mean.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

// INVARIANT: nothing walks the table, so that neither its order nor the hasher's seed shows in a result; tidy checks
// it.
#[derive(Default)]
pub struct KeyTable {
    table: HashTable<u32>,
    /// The full keys, one after the other, and where each ends.
    key_bytes: Vec<u8>,
    key_ends: Vec<u32>,
    key_hashes: Vec<u64>,
    hasher: DefaultHashBuilder,
}

impl KeyTable {
    /// The number of a key. `add` gives a number to a key that is new; numbers are counted from 0.
    pub fn number(&mut self, key: &[u8], add: impl FnOnce(&[u8]) -> u32) -> u32 {
        let hash = self.hasher.hash_one(key);
        let is_same = |at: &u32| self.key_hashes[*at as usize] == hash && self.key_at(*at) == key;
        if let Some(at) = self.table.find(hash, is_same) {
            return *at;
        }
        let at = add(key);
        assert!(at as usize == self.key_ends.len(), "numbers are counted from 0");
        self.key_bytes.extend_from_slice(key);
        self.key_ends.push(self.key_bytes.len() as u32);
        self.key_hashes.push(hash);
        let hashes = &self.key_hashes;
        self.table.insert_unique(hash, at, |at| hashes[*at as usize]);
        at
    }

    fn key_at(&self, at: u32) -> &[u8] {
        let start = if at == 0 { 0 } else { self.key_ends[at as usize - 1] };
        &self.key_bytes[start as usize..self.key_ends[at as usize] as usize]
    }
}
