//! A view: the rows of a partition at one moment, for any thread, while the view exists.
//!
//! It lays the deltas that were not yet written, newest first, over a snapshot of RocksDB. Taking a view holds a lock
//! for about a microsecond; reading from it takes no lock. It does not know the hot table, and never sees rows of
//! batches that are executed but not applied.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::StoreError;
use super::delta::Delta;
use super::disk::{DiskRows, DiskSnapshot};
use super::meta::Meta;
use crate::ids::Digest;

/// A key and its row.
pub type KeyRow = (Vec<u8>, Vec<u8>);

pub struct View {
    pub(super) disk: DiskSnapshot,
    /// The deltas, oldest first.
    pub(super) deltas: Vec<Arc<Delta>>,
    pub(super) meta: Option<Meta>,
}

impl View {
    /// The position of the rows; `None` if nothing was ever applied.
    pub fn meta(&self) -> Option<&Meta> {
        self.meta.as_ref()
    }

    pub fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        for delta in self.deltas.iter().rev() {
            if let Some(row) = delta.find(key) {
                return Ok(row.map(<[u8]>::to_vec));
            }
        }
        Ok(self.disk.row(key)?.map(|row| row.to_vec()))
    }

    /// At most `limit` rows whose key starts with `prefix` and is greater than `after`, in order of key.
    pub fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<KeyRow>, StoreError> {
        let mut start = prefix.to_vec();
        if let Some(after) = after.filter(|after| prefix <= *after) {
            // The smallest key above `after`.
            start = [after, &[0]].concat();
        }
        let mut found = Vec::new();
        if limit == 0 {
            return Ok(found);
        }
        self.visit(&start, |key, row| {
            if !key.starts_with(prefix) {
                return ControlFlow::Break(());
            }
            found.push((key.to_vec(), row.to_vec()));
            if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(found)
    }

    /// Visits every row in order of key, from the first whose key is not below `start`, until `each` breaks.
    pub fn visit(&self, start: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>) -> Result<(), StoreError> {
        let mut disk = self.disk.rows_from(start);
        let mut cursors: Vec<DeltaCursor<'_>> =
            self.deltas.iter().rev().map(|delta| DeltaCursor { delta, at: delta.lower_bound(start) }).collect();
        let mut key = Vec::new();
        loop {
            key.clear();
            match smallest_key(&disk, &cursors)? {
                Some(smallest) => key.extend_from_slice(smallest),
                None => return Ok(()),
            }
            // The newest delta that has the key decides. The disk is the oldest layer.
            let decided = cursors.iter().find_map(|cursor| cursor.current().filter(|(at, _)| *at == key));
            let on_disk = disk.current()?.filter(|(at, _)| *at == key);
            let row = decided.map_or(on_disk.map(|(_, row)| row), |(_, row)| row);
            if row.is_some_and(|row| each(&key, row).is_break()) {
                return Ok(());
            }
            if on_disk.is_some() {
                disk.step();
            }
            for cursor in &mut cursors {
                cursor.at += usize::from(cursor.current().is_some_and(|(at, _)| at == key));
            }
        }
    }

    /// blake3 over every row in order of key: `key len u32, key, row len u32, row`, little-endian.
    pub fn state_digest(&self) -> Result<Digest, StoreError> {
        let mut hasher = blake3::Hasher::new();
        self.visit(&[], |key, row| {
            for bytes in [key, row] {
                let len = u32::try_from(bytes.len()).expect("keys and rows are bounded by limits");
                hasher.update(&len.to_le_bytes()).update(bytes);
            }
            ControlFlow::Continue(())
        })?;
        Ok(Digest(*hasher.finalize().as_bytes()))
    }
}

struct DeltaCursor<'a> {
    delta: &'a Delta,
    at: usize,
}

impl<'a> DeltaCursor<'a> {
    fn current(&self) -> Option<(&'a [u8], Option<&'a [u8]>)> {
        self.delta.nth(self.at)
    }
}

fn smallest_key<'a>(disk: &'a DiskRows<'_>, cursors: &[DeltaCursor<'a>]) -> Result<Option<&'a [u8]>, StoreError> {
    let on_disk = disk.current()?.map(|(key, _)| key);
    Ok(cursors.iter().filter_map(|cursor| cursor.current().map(|(key, _)| key)).chain(on_disk).min())
}
