//! The two threads of an id index: one writes frozen tables as runs, the other merges runs.
//!
//! Each first makes a file, then names it in the manifest, then shows it to lookups, then drops what it replaces. So a
//! crash between any two steps leaves a complete index and at most a file that nobody names. Errors that pass, such as
//! a full disk, are retried; any other error is logged and stops the thread for good. This file does not know how a run
//! is made.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::super::StoreError;
use super::super::tiers::neighbours_to_merge;
use super::manifest;
use super::run::IdRun;
use super::{CopyWanted, IdIndexCore, IdWriterProgress, merge};
use crate::ids::JournalIndex;

/// The pause between attempts while there is no room.
pub const RETRY: Duration = Duration::from_millis(250);

/// Runs the loop of one thread. After a panic nobody may be left waiting for the thread.
pub fn run(shared: &IdIndexCore, work: fn(&IdIndexCore)) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(shared))).is_err() {
        shared.stop("a thread of the id index panicked".to_owned());
    }
}

pub fn write_tables(shared: &IdIndexCore) {
    while shared.wait_until(|| shared.is_copy_due() || shared.has_writable()) {
        // A checkpoint has nothing that was recorded later, so it is made before the next table is written.
        if let Some(copy) = shared.take_due_copy() {
            (copy.on_copied)(shared.copy_into(&copy.dir));
            continue;
        }
        let table = shared.levels.read().frozen.first().map(Arc::clone).expect("only this thread removes tables");
        let written = shared.new_number().and_then(|number| {
            let run = merge::write_table(&shared.disk, &shared.dir, number, &shared.hasher, &table)?;
            shared.show_written(run)
        });
        shared.on_result(written, |progress| progress.tables_written += 1);
    }
}

pub fn merge_runs(shared: &IdIndexCore) {
    while shared.wait_until(|| shared.next_merge().is_some()) {
        let Some(range) = shared.next_merge() else { continue };
        let runs = shared.levels.read().runs[range].to_vec();
        let is_closing = || shared.progress.lock().is_closing;
        let merged = shared.new_number().and_then(|number| {
            let merged = merge::merge(&shared.disk, &shared.dir, number, &shared.hasher, &runs, is_closing)?;
            merged.map_or(Ok(()), |run| shared.show_merged(run, &runs))
        });
        shared.on_result(merged, |_| ());
    }
}

impl IdIndexCore {
    /// Whether a table may be written.
    fn has_writable(&self) -> bool {
        self.levels.read().frozen.first().is_some_and(|table| self.allows(table))
    }

    fn is_copy_due(&self) -> bool {
        let progress = self.progress.lock();
        progress.copies.front().is_some_and(|copy| copy.tables == progress.tables_written)
    }

    fn take_due_copy(&self) -> Option<CopyWanted> {
        let mut progress = self.progress.lock();
        let written = progress.tables_written;
        assert!(progress.copies.front().is_none_or(|copy| written <= copy.tables), "none is passed");
        progress.copies.pop_front_if(|copy| copy.tables == written)
    }

    /// Puts everything that is written into a folder. It is durable on return.
    fn copy_into(&self, dir: &Path) -> Result<JournalIndex, StoreError> {
        self.disk.create_dir_all(dir).map_err(StoreError::io(dir, "created"))?;
        // A run is removed only after a manifest without it has replaced this one.
        let manifest = self.manifest.lock();
        for span in &manifest.spans {
            let to = span.path(dir);
            self.disk.link(&span.path(&self.dir), &to).map_err(StoreError::io(&to, "linked"))?;
        }
        manifest::write(&manifest, &self.disk, dir)?;
        Ok(manifest.applied)
    }

    /// Tells those who wait for checkpoints that there will be none, and why; unless there may be some again.
    pub(super) fn give_up_copies(&self) {
        let mut progress = self.progress.lock();
        while let Err(why) = self.check_waits(&progress)
            && let Some(copy) = progress.copies.pop_front()
        {
            MutexGuard::unlocked(&mut progress, || (copy.on_copied)(Err(why)));
        }
    }

    /// The runs that the merger would merge now.
    pub(super) fn next_merge(&self) -> Option<Range<usize>> {
        let sizes: Vec<u64> = self.levels.read().runs.iter().map(|run| run.count()).collect();
        neighbours_to_merge(&sizes, self.recent_max as u64)
    }

    /// Waits for work. Returns false if the index is closing or a thread has stopped.
    fn wait_until(&self, is_work: impl Fn() -> bool) -> bool {
        let mut progress = self.progress.lock();
        loop {
            if progress.no_space && !progress.is_closing {
                self.changed.wait_for(&mut progress, RETRY);
            }
            // Asked with the lock released, because the answer takes a lock that must be locked before this one.
            let is_work = MutexGuard::unlocked(&mut progress, &is_work);
            if progress.is_closing || progress.stopped.is_some() {
                return false;
            }
            if is_work {
                return true;
            }
            // Work may have arrived while the lock was released, so the wait is bounded.
            self.changed.wait_for(&mut progress, RETRY);
        }
    }

    fn new_number(&self) -> Result<u64, StoreError> {
        let mut manifest = self.manifest.lock();
        manifest.number_next += 1;
        Ok(manifest.number_next - 1)
    }

    fn show_written(&self, run: IdRun) -> Result<(), StoreError> {
        let mut manifest = self.manifest.lock();
        assert_eq!(manifest.applied, run.span.after, "tables are written in order");
        let mut next = manifest.clone();
        next.spans.push(run.span);
        next.applied = run.span.last;
        manifest::write(&next, &self.disk, &self.dir)?;
        *manifest = next;
        let mut levels = self.levels.write();
        levels.runs.push(Arc::new(run));
        levels.frozen.remove(0);
        Ok(())
    }

    fn show_merged(&self, run: IdRun, replaced: &[Arc<IdRun>]) -> Result<(), StoreError> {
        let mut manifest = self.manifest.lock();
        let mut next = manifest.clone();
        let first = next.spans.iter().position(|span| *span == replaced[0].span);
        let range = first.expect("only this thread removes runs");
        let range = range..range + replaced.len();
        next.spans.splice(range.clone(), [run.span]);
        manifest::write(&next, &self.disk, &self.dir)?;
        *manifest = next;
        self.levels.write().runs.splice(range, [Arc::new(run)]);
        drop(manifest);
        // Lookups that are under way keep the files open. A file that stays is removed at the next start.
        replaced.iter().for_each(|run| self.remove(run.path()));
        fail::fail_point!("ids::after_removal", |_| std::process::abort());
        Ok(())
    }

    fn on_result(&self, result: Result<(), StoreError>, on_ok: impl FnOnce(&mut IdWriterProgress)) {
        match result {
            Ok(()) => {
                let mut progress = self.progress.lock();
                progress.no_space = false;
                on_ok(&mut progress);
            }
            Err(error) if error.is_passing() => {
                if !std::mem::replace(&mut self.progress.lock().no_space, true) {
                    let reason = error.reason();
                    tracing::error!(dir = %self.dir.display(), reason, "id index: will write when there is room again");
                }
                self.give_up_copies();
            }
            Err(error) => {
                self.stop(error.reason());
            }
        }
        self.changed.notify_all();
    }

    fn stop(&self, reason: String) {
        tracing::error!(dir = %self.dir.display(), reason, "id index: it cannot be written any more");
        self.progress.lock().stopped = Some(reason);
        self.give_up_copies();
        self.changed.notify_all();
    }

    fn remove(&self, path: &Path) {
        if let Err(error) = self.disk.remove(path) {
            tracing::warn!(path = %path.display(), %error, "id index: a replaced run could not be removed");
        }
    }
}
