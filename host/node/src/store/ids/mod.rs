//! The id index of a partition: which command ids were recorded, with what content, and where in the journal. It is
//! exact.
//!
//! ```text
//! record ─▶ recent table ─full─▶ frozen tables ─writer thread─▶ runs ─merger thread─▶ fewer, larger runs
//! ```
//! It is derived from the journal: after a crash or damage the caller records everything after [`IdIndex::applied`]
//! again. INVARIANT: all ids on disk are of entries that were locally durable in the log, as for the state: a log that
//! ends earlier has lost entries. A lookup asks every table, then every run's filter in memory (one cache line,
//! prefetched for the whole batch). It reads a page of a run's file only if the filter says "maybe". The index does not
//! know what a command is.

mod filter;
mod manifest;
mod merge;
mod recent;
mod record;
mod run;
#[cfg(test)]
mod tests;
mod work;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use self::recent::RecentIds;
pub use self::record::IdRecord;
use self::record::{IdHasher, StoredId};
use self::run::IdRun;
use super::StoreError;
use crate::data_folder::RunList;
use crate::disk::Disk;
use crate::ids::{CommandId, Fingerprint, JournalIndex, LogIndex};

/// With this many tables that wait to be written, the index says that its writer lags.
const FROZEN_MAX: u64 = 12;

pub struct IdOptions {
    /// Ids kept in one table in memory before they become a run. After a crash the caller must record these again.
    pub recent_max: usize,
}

impl Default for IdOptions {
    fn default() -> Self {
        Self { recent_max: 1 << 19 }
    }
}

/// Everything that is searched, in order of age.
struct Levels {
    runs: Vec<Arc<IdRun>>,
    frozen: Vec<Arc<RecentIds>>,
    recent: RecentIds,
    /// Everything up to this entry has been recorded.
    applied: JournalIndex,
}

struct IdIndexCore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    hasher: IdHasher,
    recent_max: usize,
    /// Locked before `progress`.
    levels: RwLock<Levels>,
    /// INVARIANT: names the same runs as `levels.runs` or, for a moment, is ahead of it. Locked before `levels`.
    manifest: Mutex<RunList>,
    progress: Mutex<IdWriterProgress>,
    /// The log is durable up to this index. No table with a later one is written.
    durable: AtomicU64,
    changed: Condvar,
    open: Arc<()>,
}

/// The state that the two threads share with those who wait for them.
#[derive(Default)]
struct IdWriterProgress {
    /// Tables written since the index was opened.
    tables_written: u64,
    tables_frozen: u64,
    is_closing: bool,
    /// The last write failed because space is missing. The writer retries until it succeeds.
    no_space: bool,
    /// Why nobody waits for the writer any more.
    ended: Option<String>,
    stopped: Option<String>,
    /// In the order in which they were asked for.
    copies: VecDeque<CopyWanted>,
}

/// A checkpoint that is to be made.
struct CopyWanted {
    /// It is made when exactly so many tables are written.
    tables: u64,
    dir: PathBuf,
    on_copied: OnIdsCopied,
}

/// Is told the last entry whose ids a checkpoint has, or why there is no checkpoint.
pub type OnIdsCopied = Box<dyn FnOnce(Result<JournalIndex, StoreError>) + Send>;

impl IdWriterProgress {
    fn is_behind(&self) -> bool {
        FROZEN_MAX <= self.tables_frozen - self.tables_written
    }
}

/// Figures for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdStats {
    pub ids: u64,
    pub runs: usize,
    pub frozen: usize,
    pub memory_bytes: usize,
    pub disk_bytes: u64,
}

pub struct IdIndex {
    shared: Arc<IdIndexCore>,
    threads: Vec<JoinHandle<()>>,
}

impl IdIndex {
    /// Opens or creates the index in a folder of its own. Runs that are missing or damaged are dropped together with
    /// all newer ones. The caller compares [`Self::applied`] with the journal and records what is missing.
    ///
    /// # Errors
    /// The folder cannot be read or written, or its manifest has a later format.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: IdOptions) -> Result<Self, StoreError> {
        disk.create_dir_all(dir).map_err(StoreError::io(dir, "created"))?;
        let (manifest, runs) = manifest::open(&disk, dir)?;
        let recent = RecentIds::new(options.recent_max, manifest.applied);
        let shared = Arc::new(IdIndexCore {
            disk,
            dir: dir.to_owned(),
            hasher: IdHasher { seed: manifest.seed },
            recent_max: options.recent_max,
            levels: RwLock::new(Levels { runs, frozen: Vec::new(), recent, applied: manifest.applied }),
            manifest: Mutex::new(manifest),
            progress: Mutex::default(),
            durable: AtomicU64::new(0),
            changed: Condvar::new(),
            open: Arc::default(),
        });
        let spawn = |name: &str, run: fn(&IdIndexCore)| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || work::run(&shared, run))
                .map_err(StoreError::io(dir, "given a thread"))
        };
        let threads = vec![spawn("ids-writer", work::write_tables)?, spawn("ids-merger", work::merge_runs)?];
        Ok(Self { shared, threads })
    }

    /// The log is durable on this machine's disk up to `index`. Nothing above it is written.
    pub fn allow_write_up_to(&self, index: LogIndex) {
        self.shared.durable.fetch_max(index.0, Ordering::AcqRel);
        // A thread that checks `durable` holds this lock, or checks again soon.
        drop(self.shared.progress.lock());
        self.shared.changed.notify_all();
    }

    /// Nobody waits for the writer any more, now and from now on, and all checkpoints are given up.
    pub fn end_waits(&self, reason: &str) {
        self.shared.progress.lock().ended.get_or_insert_with(|| reason.to_owned());
        self.shared.give_up_copies();
        self.shared.changed.notify_all();
    }

    /// The mark is gone once nothing is written any more. Only then may the folder be opened again.
    pub fn open_mark(&self) -> Weak<()> {
        Arc::downgrade(&self.shared.open)
    }

    /// The ids of the journal up to this entry are recorded. Recording continues with the next entry.
    pub fn applied(&self) -> JournalIndex {
        self.shared.levels.read().applied
    }

    /// The ids of the journal up to this entry would survive a crash now.
    pub fn written(&self) -> JournalIndex {
        self.shared.manifest.lock().applied
    }

    /// Records the ids of one journal entry, which is in the log at `log`, each with the number of its command in the
    /// entry. An entry that was already recorded is skipped, so a caller may record entries again. An entry without ids
    /// is recorded too. If an entry has an id twice, or one that is known, the caller must leave out the second: this
    /// is an index, not a guard.
    ///
    /// This never waits. A caller that records much asks [`Self::is_behind`] in between.
    ///
    /// # Errors
    /// [`StoreError::IdsGap`] if earlier entries are missing. Nothing is recorded then.
    pub fn record(
        &self,
        journal: JournalIndex,
        log: LogIndex,
        ids: &[(CommandId, Fingerprint, u32)],
    ) -> Result<(), StoreError> {
        let applied = self.applied();
        if journal <= applied {
            return Ok(());
        }
        if journal != applied.next() {
            return Err(StoreError::IdsGap { expected: applied.next(), found: journal });
        }
        let mut levels = self.shared.levels.write();
        let records = ids.iter().map(|(id, fingerprint, n)| StoredId::new(id, fingerprint, journal, *n));
        levels.recent.extend(&self.shared.hasher, records, journal, log);
        levels.applied = journal;
        if self.shared.recent_max <= levels.recent.count() {
            self.freeze(&mut levels);
        }
        Ok(())
    }

    /// Whether as many tables wait to be written as may. The executor should then record only what it has begun, until
    /// the writer has caught up. This never waits.
    ///
    /// # Errors
    /// It is so, and the disk is full or the writer has stopped.
    pub fn is_behind(&self) -> Result<bool, StoreError> {
        let progress = self.shared.progress.lock();
        if !progress.is_behind() {
            return Ok(false);
        }
        self.shared.check(&progress).map(|()| true)
    }

    /// Waits until the writer has caught up. This is for those who record much before anything else runs.
    ///
    /// # Errors
    /// The disk is full or cannot be written, or [`Self::end_waits`] was called.
    pub fn wait_while_behind(&self) -> Result<(), StoreError> {
        let mut progress = self.shared.progress.lock();
        while progress.is_behind() {
            self.shared.wait(&mut progress)?;
        }
        Ok(())
    }

    /// Looks up many ids. `out` gets one answer for each id, in order.
    ///
    /// # Errors
    /// A run cannot be read or is damaged. Then nothing is known about any id, and the index must be opened again.
    pub fn lookup_batch(&self, ids: &[CommandId], out: &mut Vec<Option<IdRecord>>) -> Result<(), StoreError> {
        let (runs, frozen) = {
            let levels = self.shared.levels.read();
            out.clear();
            out.resize(ids.len(), None);
            levels.recent.find_batch(&self.shared.hasher, ids, out);
            (levels.runs.clone(), levels.frozen.clone())
        };
        for table in frozen.iter().rev() {
            table.find_batch(&self.shared.hasher, ids, out);
        }
        run::find_batch(&runs, &self.shared.hasher, ids, out)
    }

    /// Like [`Self::lookup_batch`], for one id.
    pub fn lookup(&self, id: &CommandId) -> Result<Option<IdRecord>, StoreError> {
        let mut out = Vec::with_capacity(1);
        self.lookup_batch(std::slice::from_ref(id), &mut out)?;
        Ok(out[0])
    }

    /// Writes everything recorded so far, once the log is durable that far. It is durable on return.
    ///
    /// # Errors
    /// The disk is full or cannot be written, or [`Self::end_waits`] was called.
    pub fn flush(&self) -> Result<(), StoreError> {
        {
            let mut levels = self.shared.levels.write();
            if levels.recent.after() < levels.recent.last() {
                self.freeze(&mut levels);
            }
        }
        let wanted = self.shared.progress.lock().tables_frozen;
        self.wait_until_written(wanted)
    }

    /// Writes what the log allows now. It is durable on return. After the next opening the caller records the rest
    /// again.
    ///
    /// # Errors
    /// The same as for [`Self::flush`].
    pub fn flush_durable(&self) -> Result<(), StoreError> {
        let wanted = {
            let mut levels = self.shared.levels.write();
            if levels.recent.after() < levels.recent.last() && self.shared.allows(&levels.recent) {
                self.freeze(&mut levels);
            }
            let waiting = levels.frozen.iter().filter(|table| !self.shared.allows(table)).count();
            self.shared.progress.lock().tables_frozen - waiting as u64
        };
        self.wait_until_written(wanted)
    }

    fn wait_until_written(&self, wanted: u64) -> Result<(), StoreError> {
        let mut progress = self.shared.progress.lock();
        while progress.tables_written < wanted {
            self.shared.wait(&mut progress)?;
        }
        Ok(())
    }

    /// Arranges that everything recorded so far, and nothing later, is put into a new folder, which can be opened as an
    /// index. Runs are hard links, so the folder must be on the same file system. Once it is durable, the writer calls
    /// `on_copied` with the last entry whose ids the folder has, or with an error: the disk is full or cannot be
    /// written, [`Self::end_waits`] was called, or the folder already holds an index. It is never called if the process
    /// ends first, or the index is dropped. This never waits for a disk.
    pub fn begin_checkpoint(&self, dir: PathBuf, on_copied: OnIdsCopied) {
        let mut levels = self.shared.levels.write();
        let refused = self.shared.check_waits(&self.shared.progress.lock());
        if let Err(error) = refused {
            drop(levels);
            return on_copied(Err(error));
        }
        if levels.recent.after() < levels.recent.last() {
            self.freeze(&mut levels);
        }
        let mut progress = self.shared.progress.lock();
        let tables = progress.tables_frozen;
        progress.copies.push_back(CopyWanted { tables, dir, on_copied });
        drop(progress);
        self.shared.changed.notify_all();
    }

    /// Like [`Self::begin_checkpoint`], but waits until the checkpoint is made. Not for the executor.
    ///
    /// # Errors
    /// The same as there.
    pub fn checkpoint(&self, dir: &Path) -> Result<JournalIndex, StoreError> {
        let (made, wait) = std::sync::mpsc::channel();
        self.begin_checkpoint(dir.to_owned(), Box::new(move |result| drop(made.send(result))));
        wait.recv().unwrap_or_else(|_| Err(StoreError::Ended { reason: "the writer has ended".to_owned() }))
    }

    /// Writes what the log allows and closes. Dropping an index instead writes nothing more, as in a crash.
    ///
    /// # Errors
    /// The same as for [`Self::flush`]; the index is closed all the same.
    pub fn close(self) -> Result<(), StoreError> {
        self.flush_durable()
    }

    /// Reads and checks every page of every run.
    ///
    /// # Errors
    /// The first damage found.
    pub fn verify(&self) -> Result<(), StoreError> {
        let runs = self.shared.levels.read().runs.clone();
        runs.iter().try_for_each(|run| run.verify())
    }

    pub fn stats(&self) -> IdStats {
        let levels = self.shared.levels.read();
        let tables = || levels.frozen.iter().map(Arc::as_ref).chain([&levels.recent]);
        IdStats {
            ids: levels.runs.iter().map(|run| run.count()).sum::<u64>()
                + tables().map(|table| table.count() as u64).sum::<u64>(),
            runs: levels.runs.len(),
            frozen: levels.frozen.len(),
            memory_bytes: levels.runs.iter().map(|run| run.memory_size()).sum::<usize>()
                + tables().map(RecentIds::memory_size).sum::<usize>(),
            disk_bytes: levels.runs.iter().map(|run| run.disk_size()).sum(),
        }
    }

    /// Waits until the merger has nothing left to do. This is for tests and benchmarks.
    pub fn wait_until_merged(&self) -> Result<(), StoreError> {
        let mut progress = self.shared.progress.lock();
        // The lock is released, because `levels` must be locked before it.
        while MutexGuard::unlocked(&mut progress, || self.shared.next_merge().is_some()) {
            self.shared.check(&progress)?;
            self.shared.changed.wait_for(&mut progress, work::RETRY);
        }
        Ok(())
    }

    fn freeze(&self, levels: &mut Levels) {
        let next = RecentIds::new(self.shared.recent_max, levels.applied);
        let frozen = std::mem::replace(&mut levels.recent, next);
        levels.frozen.push(Arc::new(frozen));
        self.shared.progress.lock().tables_frozen += 1;
        self.shared.changed.notify_all();
    }
}

impl Drop for IdIndex {
    fn drop(&mut self) {
        self.shared.progress.lock().is_closing = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // The thread itself has reported a panic.
            let _ = thread.join();
        }
    }
}

impl IdIndexCore {
    fn allows(&self, table: &RecentIds) -> bool {
        table.last_in_log().0 <= self.durable.load(Ordering::Acquire)
    }

    fn check(&self, progress: &IdWriterProgress) -> Result<(), StoreError> {
        match &progress.stopped {
            Some(reason) => Err(StoreError::WriterStopped { reason: reason.clone() }),
            None if progress.no_space => Err(StoreError::NoSpace { path: self.dir.clone() }),
            None => Ok(()),
        }
    }

    /// Whether waiting for a thread may help.
    fn check_waits(&self, progress: &IdWriterProgress) -> Result<(), StoreError> {
        self.check(progress)?;
        match &progress.ended {
            Some(reason) => Err(StoreError::Ended { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Waits until a thread has advanced.
    fn wait(&self, progress: &mut MutexGuard<'_, IdWriterProgress>) -> Result<(), StoreError> {
        self.check_waits(progress)?;
        self.changed.wait(progress);
        Ok(())
    }
}
