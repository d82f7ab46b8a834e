//! Replacing many rows at once: they are written to a file in order of key, then put into the state with the meta row.
//!
//! ```text
//! begin ─▶ put, put, … ─▶ finish ─▶ (a file beside the state)
//!       ─▶ replace: everything applied is written, then file and meta row are ingested
//! ```
//! A migration may change every row. This needs the memory of a few blocks, and no reader sees half a migration:
//! RocksDB ingests both files as one change of its manifest. A crash before that leaves a file that the next start
//! removes; a crash after it leaves nothing to do. This file does not know why rows are replaced.

use std::path::PathBuf;
use std::sync::Arc;

use rocksdb::{IngestExternalFileOptions, SstFileWriter};

use super::StoreError;
use super::disk::{META_KEY, ROW_PREFIX, StoreDisk, remove_if_there};
use super::meta::Meta;
use super::state::Store;

/// The rows of a replacement. There is one at a time.
pub(super) const ROWS_FILE: &str = "replace.sst";
/// The meta row beside them. It is known only after the last row.
pub(super) const META_FILE: &str = "replace-meta.sst";
/// The number of rows between two fail points.
const CHUNK_ROWS: u64 = 64;

/// Rows on their way into a file, in order of key.
pub struct RowsFile<'s> {
    disk: &'s Arc<StoreDisk>,
    writer: SstFileWriter<'s>,
    path: PathBuf,
    key: Vec<u8>,
    count: u64,
}

/// Rows in a complete file. Dropping this removes the file. The store cannot be opened again before that.
pub struct WrittenRows {
    path: PathBuf,
    count: u64,
    _disk: Arc<StoreDisk>,
}

impl Drop for WrittenRows {
    fn drop(&mut self) {
        // A leftover costs space until the next start, but never correctness.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl WrittenRows {
    pub fn count(&self) -> u64 {
        self.count
    }
}

impl RowsFile<'_> {
    /// Adds the next row, after all earlier ones in order of key; `None` deletes.
    ///
    /// # Errors
    /// The disk is full, or cannot be written. The rows written so far are then useless.
    pub fn put(&mut self, key: &[u8], row: Option<&[u8]>) -> Result<(), StoreError> {
        if self.count.is_multiple_of(CHUNK_ROWS) {
            fail::fail_point!("store-disk-full", |_| Err(StoreError::NoSpace { path: self.path.clone() }));
            fail::fail_point!("migration::chunk", |_| std::process::abort());
        }
        self.key.truncate(1);
        self.key.extend_from_slice(key);
        let put = match row {
            Some(row) => self.writer.put(&self.key, row),
            None => self.writer.delete(&self.key),
        };
        put.map_err(|source| self.disk.write_failed(source))?;
        self.count += 1;
        Ok(())
    }

    /// Completes the file; `None` if no row was put.
    ///
    /// # Errors
    /// The same as for [`Self::put`].
    pub fn finish(mut self) -> Result<Option<WrittenRows>, StoreError> {
        let rows = WrittenRows { path: self.path, count: self.count, _disk: self.disk.clone() };
        if rows.count == 0 {
            return Ok(None);
        }
        self.disk.check_fault("written")?;
        self.writer.finish().map_err(|source| self.disk.write_failed(source))?;
        Ok(Some(rows))
    }
}

impl Store {
    /// Begins to write rows that replace others. This gives up an earlier file that is not in the state yet.
    ///
    /// # Errors
    /// The disk is full, or cannot be written.
    pub fn begin_rows(&self) -> Result<RowsFile<'_>, StoreError> {
        let disk = &self.shared().disk;
        let path = disk.dir().join(ROWS_FILE);
        remove_if_there(&path)?;
        disk.check_fault("written")?;
        let writer = SstFileWriter::create(disk.options());
        writer.open(&path).map_err(|source| disk.write_failed(source))?;
        Ok(RowsFile { disk, writer, path, key: vec![ROW_PREFIX], count: 0 })
    }

    /// Puts the rows into the state, as the change of the entry of `meta`. It waits until everything before is written,
    /// all states to be kept are kept, and the log is durable up to that entry, because nothing else may be written.
    /// Nothing may be applied meanwhile. The change is durable on return.
    ///
    /// # Errors
    /// The disk is full: the caller must retry. Or the writer has stopped, or [`Store::end_waits`] was called.
    pub fn replace(&self, rows: &WrittenRows, meta: &Meta) -> Result<(), StoreError> {
        let shared = self.shared();
        let mut pending = shared.pending.lock();
        if let Some(before) = &pending.meta_applied {
            assert!(before.applied.index < meta.applied.index, "entries are applied in order of the log");
            assert!(before.journal <= meta.journal, "the journal only grows");
        }
        let seq = pending.seq_applied;
        pending.seq_wanted = pending.seq_wanted.max(seq);
        while pending.seq_written < seq || pending.durable < meta.applied.index || !pending.kept.is_empty() {
            shared.wait_for_writer(&mut pending)?;
        }
        assert_eq!(pending.seq_applied, seq, "only the executor applies, and it holds meanwhile");
        assert!(pending.deltas.is_empty(), "all of them are written");
        fail::fail_point!("migration::before_replace", |_| std::process::abort());
        // Under the lock, so that no view has rows of one state and the meta row of the other.
        shared.disk.replace(&rows.path, meta)?;
        fail::fail_point!("migration::after_replace", |_| std::process::abort());
        (pending.seq_applied, pending.seq_written) = (seq + 1, seq + 1);
        pending.meta_applied = Some(meta.clone());
        pending.meta_written = Some(meta.clone());
        drop(pending);
        self.forget_hot();
        Ok(())
    }
}

impl StoreDisk {
    fn replace(&self, rows: &std::path::Path, meta: &Meta) -> Result<(), StoreError> {
        let failed = |source| self.write_failed(source);
        fail::fail_point!("store-disk-full", |_| Err(StoreError::NoSpace { path: rows.to_owned() }));
        let meta_path = self.dir().join(META_FILE);
        remove_if_there(&meta_path)?;
        self.check_fault("written")?;
        let mut writer = SstFileWriter::create(self.options());
        writer.open(&meta_path).map_err(failed)?;
        writer.put(META_KEY, meta.encode()).map_err(failed)?;
        writer.finish().map_err(failed)?;
        let mut options = IngestExternalFileOptions::default();
        // A hard link costs no space. After a failure the rows are still here for a retry.
        options.set_move_files(true);
        let ingested = self.db().ingest_external_file_opts(&options, vec![rows.to_owned(), meta_path.clone()]);
        // A leftover costs space until the next start.
        let _ = std::fs::remove_file(&meta_path);
        ingested.map_err(failed)?;
        assert_eq!(self.meta()?.as_ref(), Some(meta), "what was ingested is there");
        Ok(())
    }
}
