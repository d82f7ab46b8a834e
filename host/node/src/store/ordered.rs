//! Rows in order of key that are written in batches: the rows of views, each view in a database of its own.
//!
//! A batch appears completely or not at all, and batches appear in order. Without a WAL a crash removes the newest
//! ones, but never one in the middle. So a writer that stores its progress in each batch can resume from there. This
//! file knows nothing of what keys and rows mean.

use std::path::{Path, PathBuf};

use rocksdb::{DB, Direction, IteratorMode, ReadOptions, SnapshotWithThreadMode, WriteBatch, WriteOptions};

use super::disk::options;
use super::{KeyRow, StoreError, StoreShared};
use crate::durable;

/// Rows in memory before they are written to a file. At most twice as many are in memory.
const WRITE_BUFFER_BYTES: usize = 16 << 20;

pub struct OrderedStore {
    db: DB,
    dir: PathBuf,
}

impl OrderedStore {
    /// Opens the folder, or makes it.
    ///
    /// # Errors
    /// The folder cannot be made, is already open, or is damaged.
    pub fn open(dir: &Path, shared: &StoreShared) -> Result<Self, StoreError> {
        durable::create_dir_all(dir).map_err(StoreError::io(dir, "created"))?;
        let mut options = options(shared);
        options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        let db = DB::open(&options, dir).map_err(|source| StoreError::Open { path: dir.to_owned(), source })?;
        Ok(Self { db, dir: dir.to_owned() })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes rows as one batch; a row without a value is removed. They are durable after [`flush`](Self::flush), or
    /// some time later.
    pub fn write(&self, rows: impl IntoIterator<Item = (Vec<u8>, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for (key, row) in rows {
            match row {
                Some(row) => batch.put(key, row),
                None => batch.delete(key),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(|source| StoreError::Write { source })
    }

    /// The rows of many keys; `None` for a key without a row.
    pub fn rows(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let rows = self.db.multi_get(keys).into_iter();
        rows.map(|row| row.map_err(|source| StoreError::Read { source })).collect()
    }

    /// Makes all earlier writes durable.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|source| StoreError::Write { source })
    }

    /// Reads as of one moment.
    pub fn read<T>(&self, read: impl FnOnce(&OrderedRows<'_>) -> T) -> T {
        read(&OrderedRows(self.db.snapshot()))
    }

    /// The approximate size on disk in bytes. Rows that are not flushed do not count.
    pub fn size(&self) -> u64 {
        let read = self.db.property_int_value("rocksdb.total-sst-files-size");
        read.ok().flatten().unwrap_or_default()
    }
}

/// The rows of one moment.
pub struct OrderedRows<'a>(SnapshotWithThreadMode<'a, DB>);

impl OrderedRows<'_> {
    pub fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.get(key).map_err(|source| StoreError::Read { source })
    }

    /// At most `limit` rows whose key begins with `prefix`, in order, after the key `after`.
    pub fn rising(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<KeyRow>, StoreError> {
        let start = after.filter(|after| prefix <= *after).unwrap_or(prefix);
        self.walk(prefix, IteratorMode::From(start, Direction::Forward), limit, |key| {
            after.is_none_or(|after| after < key)
        })
    }

    /// The same in falling order, before the key `before`.
    pub fn falling(&self, prefix: &[u8], before: Option<&[u8]>, limit: usize) -> Result<Vec<KeyRow>, StoreError> {
        let end = end_of(prefix);
        let mode = match (before.filter(|before| end.as_deref().is_none_or(|end| *before < end)), &end) {
            (Some(before), _) => IteratorMode::From(before, Direction::Reverse),
            (None, Some(end)) => IteratorMode::From(end, Direction::Reverse),
            (None, None) => IteratorMode::End,
        };
        let is_in = |key: &[u8]| before.is_none_or(|before| key < before) && end.as_deref().is_none_or(|end| key < end);
        self.walk(prefix, mode, limit, is_in)
    }

    fn walk(
        &self,
        prefix: &[u8],
        mode: IteratorMode<'_>,
        limit: usize,
        is_in: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<KeyRow>, StoreError> {
        let mut rows = Vec::new();
        for row in self.0.iterator_opt(mode, ReadOptions::default()) {
            let (key, row) = row.map_err(|source| StoreError::Read { source })?;
            // The first key may be the very one to leave out.
            if !is_in(&key) {
                continue;
            }
            if !key.starts_with(prefix) || rows.len() == limit {
                break;
            }
            rows.push((key.into(), row.into()));
        }
        Ok(rows)
    }
}

/// The first key after all keys that begin with `prefix`; `None` if there is none.
fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let at = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=at].to_vec();
    end[at] += 1;
    Some(end)
}
