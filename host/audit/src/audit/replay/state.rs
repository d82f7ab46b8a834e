//! Rows of one partition under replay, and what a part of a batch has changed in them.
//!
//! In: writes. Out: rows of keys, as blocks. The rows are unordered, because nothing is read in order before the end.
//! It does not know who made a row.

use hashbrown::HashMap;
use statehouse_abi::key::split_key;
use statehouse_abi::ops::OpsBlock;
use statehouse_abi::rows::{RowsWriter, WritesBlock};

use crate::ids::CommandId;
use crate::machine::logic::Logic;
use crate::machine::migration::{Migration, MigrationChanges, MigrationError};
use crate::machine::table::Table;
use crate::saga::Saga;
use crate::saga::status::{ENTITY, row_key};

/// All rows of a partition.
#[derive(Clone, Debug, Default)]
pub struct PartitionRows(HashMap<Vec<u8>, Vec<u8>>);

impl PartitionRows {
    pub fn find(&self, key: &[u8]) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    /// Changes a row; `None` deletes it.
    pub fn put(&mut self, key: &[u8], row: Option<&[u8]>) {
        let Some(row) = row else {
            self.0.remove(key);
            return;
        };
        match self.0.get_mut(key) {
            Some(before) => {
                before.clear();
                before.extend_from_slice(row);
            }
            None => drop(self.0.insert(key.to_vec(), row.to_vec())),
        }
    }

    /// Carries out a WRITES block that was checked against its ops.
    pub fn write(&mut self, ops: &OpsBlock<'_>, writes: &[u8]) {
        for (key, row) in parse(ops, writes).writes() {
            self.put(ops.key(key as usize), row);
        }
    }

    /// The ROWS block of a block's keys.
    pub fn fetch(&self, ops: &OpsBlock<'_>) -> Vec<u8> {
        let mut rows = RowsWriter::default();
        ops.keys().for_each(|key| rows.row(self.find(key)));
        rows.finish(Vec::with_capacity(rows.size() + 64))
    }

    /// All rows, including those of the host, in no order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(key, row)| (key.as_slice(), row.as_slice()))
    }

    /// Commands that are not over, in no order.
    pub fn in_flight(&self) -> impl Iterator<Item = Saga> {
        // A row that cannot be read is detected by the digest of its entry.
        self.rows().filter(|(key, _)| is_of_host(key)).filter_map(|(_, row)| Saga::of_row(row).ok())
    }

    /// The module's own rows, in order of key.
    pub fn sorted(&self) -> Vec<(&[u8], &[u8])> {
        let rows = self.0.iter().map(|(key, row)| (key.as_slice(), row.as_slice()));
        let mut sorted: Vec<_> = rows.filter(|(key, _)| !is_of_host(key)).collect();
        sorted.sort_unstable();
        sorted
    }

    /// The rows that change when a module with another schema becomes active.
    pub fn migrate(&self, logic: &dyn Logic, from: u32) -> Result<MigrationChanges, MigrationError> {
        let mut migration = Migration::new(logic, from)?;
        if migration.is_needed() {
            for (key, row) in self.sorted() {
                migration.row(key, row)?;
            }
        }
        migration.finish()
    }
}

impl Table for PartitionRows {
    fn find(&self, command: CommandId) -> Option<Saga> {
        // No replica has written a row that cannot be read, so the digest of the entry detects it.
        Saga::of_row(self.0.get(&row_key(command))?).ok()
    }
}

/// Whether the row belongs to the phase status table.
pub fn is_of_host(key: &[u8]) -> bool {
    split_key(key).is_some_and(|(entity, _)| entity == ENTITY)
}

/// A state, and what the first groups of a batch have changed in it.
pub struct Overlay<'s> {
    base: &'s PartitionRows,
    changed: HashMap<Vec<u8>, Option<Vec<u8>>>,
}

impl<'s> Overlay<'s> {
    pub fn on(base: &'s PartitionRows) -> Self {
        Self { base, changed: HashMap::new() }
    }

    pub fn find(&self, key: &[u8]) -> Option<&[u8]> {
        match self.changed.get(key) {
            Some(row) => row.as_deref(),
            None => self.base.find(key),
        }
    }

    pub fn write(&mut self, ops: &OpsBlock<'_>, writes: &[u8]) {
        for (key, row) in parse(ops, writes).writes() {
            self.changed.insert(ops.key(key as usize).to_vec(), row.map(<[u8]>::to_vec));
        }
    }

    pub fn fetch(&self, ops: &OpsBlock<'_>) -> Vec<u8> {
        if self.changed.is_empty() {
            return self.base.fetch(ops);
        }
        let mut rows = RowsWriter::default();
        ops.keys().for_each(|key| rows.row(self.find(key)));
        rows.finish(Vec::with_capacity(rows.size() + 64))
    }
}

fn parse<'w>(ops: &OpsBlock<'_>, writes: &'w [u8]) -> WritesBlock<'w> {
    WritesBlock::parse(writes, ops.key_count()).expect("writes are checked when they are made")
}
