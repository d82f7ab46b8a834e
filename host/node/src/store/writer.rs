//! The writer thread of a state store: it merges deltas, and writes the oldest of them to disk.
//!
//! Early writes gain nothing, since the log is the truth. The writer waits, so that a row that changed a thousand times
//! is written once, but never so long that a restart replays more than allowed. It writes nothing that the log could
//! still lose. It retries errors that pass, such as a full disk; any other error stops the writer for good. It does not
//! know the hot table.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::StoreError;
use super::delta::Delta;
use super::keep::{self, CopyKind};
use super::state::{PendingWrites, StoreCore, WriterState};
use super::tiers::neighbours_to_merge;

/// Deltas up to this size are merged as soon as there are a few; see `tiers.rs`.
const UNIT_BYTES: u64 = 64 << 10;
/// How often the writer checks for work when nobody wakes it. It is also the pause between attempts while there is no
/// room.
pub(super) const TICK: Duration = Duration::from_millis(250);
/// After this many attempts in a row, with [`TICK`] between them, the error counts as one that RocksDB remembers.
const REMEMBERED_MAX: u32 = 40;
/// Less log than this is not worth a write while the partition is quiet: replaying it takes milliseconds.
const QUIET_BYTES_MIN: u64 = 4 << 20;

#[derive(Debug, PartialEq, Eq)]
enum WriterStep {
    Stop,
    Wait,
    /// Merge these neighbours.
    Merge(std::ops::Range<usize>),
    /// Write this many of the oldest.
    Write(usize),
    /// Keep the state that is written.
    Keep,
}

pub fn run(shared: &StoreCore) {
    // After a panic nobody may be left waiting for the writer.
    let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(shared)));
    if stopped.is_err() {
        stop(shared, &mut shared.pending.lock(), "it panicked".to_owned());
    }
}

fn work(shared: &StoreCore) {
    let mut pending = shared.pending.lock();
    let mut is_quiet = false;
    loop {
        match next_step(shared, &pending, is_quiet) {
            WriterStep::Stop => return,
            WriterStep::Wait => {
                let seq_before = pending.seq_applied;
                let waited = shared.work.wait_for(&mut pending, TICK);
                is_quiet = waited.timed_out() && pending.seq_applied == seq_before;
            }
            WriterStep::Merge(range) => {
                let deltas = pending.deltas[range.clone()].to_vec();
                let merged = MutexGuard::unlocked(&mut pending, || Delta::merge(&deltas));
                // Only this thread removes deltas, and new ones are added at the end: the range still names the same
                // ones.
                pending.deltas.splice(range, [Arc::new(merged)]);
                // Freeing megabytes takes a while, so it is not done under the lock.
                MutexGuard::unlocked(&mut pending, || drop(deltas));
            }
            WriterStep::Write(count) => {
                let deltas = pending.deltas[..count].to_vec();
                let (delta, result) = MutexGuard::unlocked(&mut pending, || write(shared, &deltas));
                on_written(shared, &mut pending, count, &delta, result);
                MutexGuard::unlocked(&mut pending, || drop((deltas, delta)));
                if pending.state == WriterState::NoSpace {
                    shared.work.wait_for(&mut pending, TICK);
                }
            }
            WriterStep::Keep => {
                let keep = pending.kept.front().expect("one is due");
                let (folder, kind, is_wanted) = (keep.folder.clone(), keep.kind, keep.on_copied.is_some());
                let result = MutexGuard::unlocked(&mut pending, || match kind {
                    CopyKind::Kept => keep::put(&shared.disk, &folder),
                    CopyKind::Checkpoint if is_wanted => shared.disk.checkpoint(&folder),
                    CopyKind::Checkpoint => Ok(()),
                });
                on_copied(shared, &mut pending, kind, result);
                if pending.state == WriterState::NoSpace {
                    shared.work.wait_for(&mut pending, TICK);
                }
            }
        }
    }
}

fn next_step(shared: &StoreCore, pending: &PendingWrites, is_quiet: bool) -> WriterStep {
    let writable = pending.writable();
    let (bytes, log_bytes) = pending.deltas[..writable]
        .iter()
        .fold((0, 0), |(bytes, log), delta| (bytes + delta.size(), log + delta.log_bytes));
    let is_wanted = pending.seq_written < pending.seq_wanted
        || pending.state == WriterState::NoSpace
        || shared.dirty_bytes_max / 2 <= bytes
        || shared.replay_bytes_max <= log_bytes
        || (is_quiet && QUIET_BYTES_MIN <= log_bytes);
    if pending.is_closing || matches!(pending.state, WriterState::Stopped { .. }) {
        return WriterStep::Stop;
    }
    if keep::is_due(pending) {
        return WriterStep::Keep;
    }
    if is_wanted && 0 < writable {
        return WriterStep::Write(writable);
    }
    let sizes: Vec<u64> = pending.deltas[..writable].iter().map(|delta| delta.size() as u64).collect();
    neighbours_to_merge(&sizes, UNIT_BYTES).map_or(WriterStep::Wait, WriterStep::Merge)
}

fn write(shared: &StoreCore, deltas: &[Arc<Delta>]) -> (Arc<Delta>, Result<(), StoreError>) {
    let merged = match deltas {
        [only] => Arc::clone(only),
        several => Arc::new(Delta::merge(several)),
    };
    let result = shared.disk.write(&merged);
    (merged, result)
}

fn on_written(
    shared: &StoreCore,
    pending: &mut MutexGuard<'_, PendingWrites>,
    count: usize,
    delta: &Arc<Delta>,
    result: Result<(), StoreError>,
) {
    match result {
        Ok(()) => {
            assert!(delta.meta.applied.index <= pending.durable, "nothing is written that the log could lose");
            pending.deltas.drain(..count);
            pending.seq_written = delta.seq;
            pending.meta_written = Some(delta.meta.clone());
            pending.state = WriterState::Running;
            pending.remembered_count = 0;
        }
        Err(error) => {
            // The deltas that were merged for this attempt need not be merged again.
            pending.deltas.splice(..count, [Arc::clone(delta)]);
            on_failed(shared, pending, &error);
        }
    }
    shared.progress.notify_all();
}

fn on_copied(
    shared: &StoreCore,
    pending: &mut MutexGuard<'_, PendingWrites>,
    kind: CopyKind,
    result: Result<(), StoreError>,
) {
    match (kind, result) {
        (CopyKind::Kept, Err(error)) => on_failed(shared, pending, &error),
        (_, result) => {
            let keep = pending.kept.pop_front().expect("only this thread takes one away");
            assert_eq!(keep.seq, pending.seq_written, "nothing was written meanwhile");
            if kind == CopyKind::Kept {
                pending.state = WriterState::Running;
            }
            let copied = result.map(|()| pending.meta_written.clone());
            if let Some(on_copied) = keep.on_copied {
                MutexGuard::unlocked(pending, || on_copied(copied));
            }
        }
    }
    shared.progress.notify_all();
}

fn on_failed(shared: &StoreCore, pending: &mut MutexGuard<'_, PendingWrites>, error: &StoreError) {
    let reason = error.reason();
    // RocksDB remembers some errors until it is opened again, long after descriptors are available. Then only reopening
    // helps.
    let is_odd = error.is_scarcity() && has_descriptor();
    pending.remembered_count = if is_odd { pending.remembered_count + 1 } else { 0 };
    if error.is_passing() && pending.remembered_count < REMEMBERED_MAX {
        if pending.state == WriterState::Running {
            tracing::error!(dir = %shared.dir.display(), reason, "state store: will write when there is room again");
        }
        pending.state = WriterState::NoSpace;
        shared.give_up_checkpoints(pending);
    } else {
        stop(shared, pending, reason);
    }
}

/// Whether a file could be opened now.
fn has_descriptor() -> bool {
    std::fs::File::open("/dev/null").is_ok()
}

fn stop(shared: &StoreCore, pending: &mut MutexGuard<'_, PendingWrites>, reason: String) {
    tracing::error!(dir = %shared.dir.display(), reason, "state store: the writer has stopped");
    pending.state = WriterState::Stopped { reason };
    shared.give_up_checkpoints(pending);
    shared.progress.notify_all();
}
