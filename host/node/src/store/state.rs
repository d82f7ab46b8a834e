//! The state store of one partition: apply, fetch, view, and when to write.
//!
//! The executor applies and fetches through the hot table, which nobody else touches. Every apply also becomes a
//! *delta*. Views are made of deltas over RocksDB, and a writer thread (`writer.rs`) merges and writes the deltas
//! later.
//!
//! INVARIANT: RocksDB holds the state after some applied entry that was locally durable in the log, and its meta row
//! says which. The store does not know where the journal is: after a restart the caller replays from `meta_written` on.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::StoreError;
use super::delta::Delta;
use super::disk::{DiskSnapshot, StoreDisk, StoreShared};
use super::hot::{FoundSlot, HotTable, ROUND};
use super::keep::KeepRequest;
use super::meta::Meta;
use super::tiers;
use super::view::View;
use super::writer;
use crate::ids::LogIndex;
use crate::limits;

#[derive(Clone)]
pub struct StoreOptions {
    pub shared: StoreShared,
    /// Clean rows leave the hot table above this size.
    pub hot_bytes_max: usize,
    /// Above this size of rows not yet written, the store says that its writer lags.
    pub dirty_bytes_max: usize,
    /// The writer writes when a restart would have to replay this much log.
    pub replay_bytes_max: u64,
    /// Reads back everything that was written.
    pub paranoid: bool,
}

impl StoreOptions {
    /// The limits of `limits.rs`.
    pub fn new(shared: StoreShared) -> Self {
        Self {
            shared,
            hot_bytes_max: limits::HOT_TABLE_BYTES_MAX,
            dirty_bytes_max: limits::DIRTY_BYTES_MAX,
            replay_bytes_max: limits::REPLAY_BYTES_MAX,
            paranoid: false,
        }
    }
}

/// The state of the writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WriterState {
    Running,
    /// The writer retries until space returns.
    NoSpace,
    /// The writer has stopped for good.
    Stopped {
        reason: String,
    },
}

/// The state that the executor, the readers and the writer share. The lock is held for microseconds.
pub(super) struct PendingWrites {
    /// Deltas applied and not yet written, oldest first. Each is newer in `seq` and log index than the one before.
    pub deltas: Vec<Arc<Delta>>,
    pub seq_applied: u64,
    /// INVARIANT: at most `seq_applied`. Rows that no later apply changed are on disk.
    pub seq_written: u64,
    pub meta_applied: Option<Meta>,
    pub meta_written: Option<Meta>,
    /// The log is locally durable up to this index.
    pub durable: LogIndex,
    /// Why `durable` will not grow any more. Nobody then waits for anything.
    pub ended: Option<String>,
    /// A caller waits until this apply is written.
    pub seq_wanted: u64,
    /// States to be copied, in the order of their applies. Each is copied when exactly that state is written.
    pub kept: VecDeque<KeepRequest>,
    pub state: WriterState,
    /// How often in a row the writer got an error about descriptors although there was one.
    pub remembered_count: u32,
    pub is_closing: bool,
}

impl PendingWrites {
    pub fn dirty_bytes(&self) -> usize {
        self.deltas.iter().map(|delta| delta.size()).sum()
    }

    /// How many of the oldest deltas may be written: those that the log cannot lose, and none after a state to be kept.
    pub fn writable(&self) -> usize {
        let last = self.kept.front().map_or(u64::MAX, |keep| keep.seq);
        self.deltas.partition_point(|delta| delta.meta.applied.index <= self.durable && delta.seq <= last)
    }
}

pub(super) struct StoreCore {
    pub disk: Arc<StoreDisk>,
    pub dir: PathBuf,
    pub pending: Mutex<PendingWrites>,
    /// The writer waits here for work.
    pub work: Condvar,
    /// All others wait here for the writer.
    pub progress: Condvar,
    pub dirty_bytes_max: usize,
    pub replay_bytes_max: u64,
}

/// Figures for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    pub hot_rows: usize,
    pub hot_bytes: usize,
    pub dirty_bytes: usize,
    pub deltas: usize,
    pub log_index_written: LogIndex,
    pub replay_bytes: u64,
}

pub struct Store {
    shared: Arc<StoreCore>,
    /// The executor locks it, and `stats` for a moment.
    hot: Mutex<HotTable>,
    writer: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens or creates the store in a folder of its own and starts its writer.
    ///
    /// # Errors
    /// The folder cannot be opened, or a later program wrote it.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let disk = Arc::new(StoreDisk::open(dir, &options.shared, options.paranoid)?);
        let meta = disk.meta()?;
        let pending = PendingWrites {
            deltas: Vec::new(),
            seq_applied: 0,
            seq_written: 0,
            meta_applied: meta.clone(),
            meta_written: meta,
            durable: LogIndex(0),
            ended: None,
            seq_wanted: 0,
            kept: VecDeque::new(),
            state: WriterState::Running,
            remembered_count: 0,
            is_closing: false,
        };
        let shared = Arc::new(StoreCore {
            disk,
            dir: dir.to_owned(),
            pending: Mutex::new(pending),
            work: Condvar::new(),
            progress: Condvar::new(),
            dirty_bytes_max: options.dirty_bytes_max,
            replay_bytes_max: options.replay_bytes_max,
        });
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || writer::run(&shared)
            })
            .map_err(StoreError::io(dir, "given a writer thread"))?;
        Ok(Self { shared, hot: Mutex::new(HotTable::new(options.hot_bytes_max)), writer: Some(writer) })
    }

    /// The position of the rows on disk, from which a restart would replay. `None` if nothing was ever written.
    pub fn meta_written(&self) -> Option<Meta> {
        self.shared.pending.lock().meta_written.clone()
    }

    /// The position of the rows; `None` if nothing was ever applied.
    pub fn meta_applied(&self) -> Option<Meta> {
        self.shared.pending.lock().meta_applied.clone()
    }

    /// Makes the writes of one entry visible to views, atomically and together with `meta`. If a key occurs twice, the
    /// last write wins. `log_bytes` is the size of the entry in the log. Only the executor calls this. It never waits
    /// for a disk, and nothing is durable on return.
    pub fn apply<'k>(
        &self,
        writes: impl IntoIterator<Item = (&'k [u8], Option<&'k [u8]>)>,
        meta: Meta,
        log_bytes: u64,
    ) {
        let (seq, seq_written) = {
            let pending = self.shared.pending.lock();
            if let Some(before) = &pending.meta_applied {
                assert!(before.applied.index < meta.applied.index, "entries are applied in order of the log");
                assert!(before.journal <= meta.journal, "the journal only grows");
            }
            (pending.seq_applied + 1, pending.seq_written)
        };
        let mut writes = writes.into_iter();
        let mut delta = Delta::new(meta.clone(), seq, log_bytes);
        delta.reserve(writes.size_hint().0);
        let mut hot = self.hot.lock();
        let mut round: Vec<(&[u8], Option<&[u8]>)> = Vec::with_capacity(ROUND);
        loop {
            round.clear();
            round.extend(writes.by_ref().take(ROUND));
            if round.is_empty() {
                break;
            }
            hot.put_dirty_round(&round, seq, seq_written);
            round.iter().for_each(|(key, row)| delta.push(key, *row));
        }
        drop(hot);
        let mut pending = self.shared.pending.lock();
        pending.deltas.push(Arc::new(delta));
        pending.seq_applied = seq;
        pending.meta_applied = Some(meta);
        if tiers::COUNT_MAX <= pending.deltas.len() {
            self.shared.work.notify_one();
        }
    }

    /// Gives `each` the rows of all keys in their order, as of the last apply; `None` for a key that has no row. Rows
    /// come from the hot table where possible, and from one read of the disk for all others. Only the executor calls
    /// this.
    ///
    /// # Errors
    /// The disk cannot be read. `each` may have been called for some of the keys.
    pub fn fetch<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k [u8]>,
        mut each: impl FnMut(Option<&[u8]>),
    ) -> Result<(), StoreError> {
        let mut keys = keys.into_iter();
        let mut hot = self.hot.lock();
        let mut round: Vec<&[u8]> = Vec::with_capacity(ROUND);
        let mut found: [FoundSlot; ROUND] = [None; ROUND];
        loop {
            round.clear();
            round.extend(keys.by_ref().take(ROUND));
            if round.is_empty() {
                return Ok(());
            }
            hot.find_round(&round, &mut found);
            if found[..round.len()].iter().any(Option::is_none) {
                round.extend(keys);
                return self.fetch_cold(&mut hot, &round, each);
            }
            for slot in &found[..round.len()] {
                each(hot.row(slot.expect("checked above")));
            }
        }
    }

    /// The rest of a fetch, from the first round that has keys which are not in memory.
    fn fetch_cold(
        &self,
        hot: &mut HotTable,
        keys: &[&[u8]],
        mut each: impl FnMut(Option<&[u8]>),
    ) -> Result<(), StoreError> {
        let mut slots = Vec::with_capacity(keys.len());
        for round in keys.chunks(ROUND) {
            let mut found: [FoundSlot; ROUND] = [None; ROUND];
            hot.find_round(round, &mut found);
            slots.extend_from_slice(&found[..round.len()]);
        }
        let is_cold = |at: &usize| slots[*at].is_none();
        let cold: Vec<&[u8]> = (0..keys.len()).filter(is_cold).map(|at| keys[at]).collect();
        // A key that is not in the hot table has no dirty row, so the newest row on disk is the current one.
        let rows = self.shared.disk.rows(&cold).collect::<Result<Vec<_>, _>>()?;
        let mut cold_rows = rows.iter();
        for slot in &slots {
            match slot {
                Some(slot) => each(hot.row(*slot)),
                None => each(cold_rows.next().expect("one row per cold key").as_deref()),
            }
        }
        let seq_written = self.shared.pending.lock().seq_written;
        for (key, row) in cold.iter().zip(&rows) {
            hot.put_clean(key, row.as_deref(), seq_written);
        }
        Ok(())
    }

    pub(super) fn shared(&self) -> &StoreCore {
        &self.shared
    }

    /// Forgets all rows in memory, because each may have been replaced on disk. None may be dirty.
    pub(super) fn forget_hot(&self) {
        self.hot.lock().clear();
    }

    /// The rows and the meta row as of the last apply.
    pub fn read(&self) -> View {
        let pending = self.shared.pending.lock();
        // Both under the lock: a delta that is gone is in the snapshot, and nothing newer is.
        let deltas = pending.deltas.clone();
        let disk = DiskSnapshot::new(Arc::clone(&self.shared.disk));
        View { disk, deltas, meta: pending.meta_applied.clone() }
    }

    /// The log is durable on this machine's disk up to `index`. Nothing above it is written.
    pub fn allow_write_up_to(&self, index: LogIndex) {
        let mut pending = self.shared.pending.lock();
        pending.durable = pending.durable.max(index);
        self.shared.progress.notify_all();
        if pending.seq_written < pending.seq_wanted {
            self.shared.work.notify_one();
        }
    }

    /// The log will not become durable any further, or the partition is closed. This ends all waits and gives up all
    /// checkpoints, now and from now on. What the log has already made durable is still written.
    pub fn end_waits(&self, reason: &str) {
        let mut pending = self.shared.pending.lock();
        pending.ended.get_or_insert_with(|| reason.to_owned());
        self.shared.give_up_checkpoints(&mut pending);
        drop(pending);
        self.shared.progress.notify_all();
    }

    /// Whether more is dirty than allowed. The executor should then apply only what it has begun, until the writer has
    /// caught up. This never waits.
    ///
    /// # Errors
    /// Too much is dirty, and the disk is full or the writer has stopped.
    pub fn is_behind(&self) -> Result<bool, StoreError> {
        let pending = self.shared.pending.lock();
        if pending.dirty_bytes() <= self.shared.dirty_bytes_max {
            return Ok(false);
        }
        self.shared.check(&pending).map(|()| true)
    }

    /// Waits until the writer has caught up. This is for benchmarks; the thread that calls `allow_write_up_to` must not
    /// call it.
    ///
    /// # Errors
    /// The writer has stopped, the disk is full, or [`Self::end_waits`] was called. Waiting here would not help it
    /// catch up.
    pub fn wait_while_behind(&self) -> Result<(), StoreError> {
        let mut pending = self.shared.pending.lock();
        while self.shared.dirty_bytes_max < pending.dirty_bytes() {
            self.shared.wait_for_writer(&mut pending)?;
        }
        Ok(())
    }

    /// Whether the writer can write. An error names the obstacle.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] while it waits for space; [`StoreError::WriterStopped`] for good.
    pub fn check_writer(&self) -> Result<(), StoreError> {
        self.shared.check(&self.shared.pending.lock())
    }

    /// Writes everything applied so far that the log allows. It is durable on return.
    ///
    /// # Errors
    /// The writer has stopped, or the disk is full.
    pub fn flush(&self) -> Result<(), StoreError> {
        let mut pending = self.shared.pending.lock();
        let Some(last) = pending.writable().checked_sub(1) else { return self.shared.check(&pending) };
        let seq = pending.deltas[last].seq;
        pending.seq_wanted = pending.seq_wanted.max(seq);
        while pending.seq_written < seq {
            self.shared.check(&pending)?;
            self.shared.work.notify_one();
            self.shared.progress.wait(&mut pending);
        }
        Ok(())
    }

    /// Flushes and closes. Dropping a store instead writes nothing more, as in a crash.
    ///
    /// # Errors
    /// The same as for [`Self::flush`]; the store is closed all the same.
    pub fn close(self) -> Result<(), StoreError> {
        self.flush()
    }

    /// Whether a checksum has failed: the disk does not have what was written, and only a rebuild helps.
    pub fn is_damaged(&self) -> bool {
        self.shared.disk.is_damaged()
    }

    /// The mark is gone once RocksDB is closed. Only then may the folder be opened again. Views keep it open.
    pub fn open_mark(&self) -> Weak<()> {
        self.shared.disk.open_mark()
    }

    pub fn stats(&self) -> StoreStats {
        let pending = self.shared.pending.lock();
        let (dirty_bytes, deltas) = (pending.dirty_bytes(), pending.deltas.len());
        let replay_bytes = pending.deltas.iter().map(|delta| delta.log_bytes).sum();
        let log_index_written = pending.meta_written.as_ref().map_or(LogIndex(0), |meta| meta.applied.index);
        drop(pending);
        let hot = self.hot.lock();
        let (hot_rows, hot_bytes) = (hot.rows(), hot.size());
        StoreStats { hot_rows, hot_bytes, dirty_bytes, deltas, log_index_written, replay_bytes }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shared.pending.lock().is_closing = true;
        self.shared.work.notify_one();
        if let Some(writer) = self.writer.take() {
            // The writer's own thread has reported its panic.
            let _ = writer.join();
        }
    }
}

impl StoreCore {
    /// Waits until the writer or the log has advanced.
    pub fn wait_for_writer(&self, pending: &mut MutexGuard<'_, PendingWrites>) -> Result<(), StoreError> {
        self.check_waits(pending)?;
        self.work.notify_one();
        // If the writer stops without having had work, it does not wake this thread.
        self.progress.wait_for(pending, writer::TICK);
        Ok(())
    }

    /// Tells those who wait for checkpoints that there will be none, and why.
    pub fn give_up_checkpoints(&self, pending: &mut MutexGuard<'_, PendingWrites>) {
        for on_copied in pending.give_up_checkpoints() {
            let why = self.check_waits(pending).map(|()| None);
            assert!(why.is_err(), "a checkpoint is given up for a reason");
            MutexGuard::unlocked(pending, || on_copied(why));
        }
    }

    /// Whether waiting for the writer may help.
    pub fn check_waits(&self, pending: &PendingWrites) -> Result<(), StoreError> {
        self.check(pending)?;
        match &pending.ended {
            Some(reason) => Err(StoreError::Ended { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    pub fn check(&self, pending: &PendingWrites) -> Result<(), StoreError> {
        match &pending.state {
            WriterState::Running => Ok(()),
            WriterState::NoSpace => Err(StoreError::NoSpace { path: self.dir.clone() }),
            WriterState::Stopped { reason } => Err(StoreError::WriterStopped { reason: reason.clone() }),
        }
    }
}
