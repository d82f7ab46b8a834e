//! What a projection reads and writes rows with: the rows of one partition, and what the batch has changed of them so far.
//!
//! A row that the host has not fetched yet stops the event, and the whole batch is run again with the row. It does not know which events
//! were before.

use std::collections::{BTreeMap, BTreeSet};

use borsh::{BorshDeserialize, BorshSerialize};
use statehouse_abi::cold::Row;
use statehouse_abi::key::key;

/// A row is not there yet. Made by [`ViewTx`] alone.
#[derive(Debug)]
pub struct Pending(pub(crate) ());

/// The rows that events of a batch will read.
#[derive(Default)]
pub struct Keys {
    pub(crate) keys: BTreeSet<Vec<u8>>,
}

impl Keys {
    pub fn key(&mut self, entity: impl AsRef<[u8]>, suffix: impl AsRef<[u8]>) -> &mut Self {
        self.keys.insert(key(entity.as_ref(), suffix.as_ref()));
        self
    }
}

/// The rows of one partition.
pub struct ViewTx<'a> {
    /// INVARIANT: in order of key, each once.
    fetched: &'a [Row],
    written: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    pub(crate) needed: Vec<Vec<u8>>,
}

impl<'a> ViewTx<'a> {
    pub(crate) fn new(fetched: &'a [Row]) -> Self {
        Self { fetched, written: BTreeMap::new(), needed: Vec::new() }
    }

    pub(crate) fn is_fetched(&self, key: &[u8]) -> bool {
        self.find(key).is_some()
    }

    fn find(&self, key: &[u8]) -> Option<&Row> {
        self.fetched.binary_search_by(|row| row.key.as_slice().cmp(key)).ok().map(|at| &self.fetched[at])
    }

    /// A row, or `None` when there is no such row.
    ///
    /// # Errors
    /// It is not there yet: hand it on with `?`.
    pub fn row(&mut self, entity: impl AsRef<[u8]>, suffix: impl AsRef<[u8]>) -> Result<Option<&[u8]>, Pending> {
        let key = key(entity.as_ref(), suffix.as_ref());
        if !self.written.contains_key(&key) && !self.is_fetched(&key) {
            self.needed.push(key);
            return Err(Pending(()));
        }
        match self.written.get(&key) {
            Some(row) => Ok(row.as_deref()),
            None => Ok(self.find(&key).and_then(|row| row.row.as_deref())),
        }
    }

    /// A row, decoded; a malformed one panics.
    ///
    /// # Errors
    /// It is not there yet: hand it on with `?`.
    pub fn read<T: BorshDeserialize>(
        &mut self,
        entity: impl AsRef<[u8]>,
        suffix: impl AsRef<[u8]>,
    ) -> Result<Option<T>, Pending> {
        let row = self.row(entity, suffix)?;
        Ok(row.map(|row| borsh::from_slice(row).expect("a view's row is one that it wrote itself")))
    }

    pub fn put(&mut self, entity: impl AsRef<[u8]>, suffix: impl AsRef<[u8]>, row: Vec<u8>) {
        self.written.insert(key(entity.as_ref(), suffix.as_ref()), Some(row));
    }

    pub fn write<T: BorshSerialize>(&mut self, entity: impl AsRef<[u8]>, suffix: impl AsRef<[u8]>, row: &T) {
        self.put(entity, suffix, borsh::to_vec(row).expect("memory takes all bytes"));
    }

    pub fn remove(&mut self, entity: impl AsRef<[u8]>, suffix: impl AsRef<[u8]>) {
        self.written.insert(key(entity.as_ref(), suffix.as_ref()), None);
    }

    pub(crate) fn into_writes(self) -> Vec<Row> {
        self.written.into_iter().map(|(key, row)| Row { key, row }).collect()
    }
}
