//! Snapshots of a running partition, and the release of the log that they make dispensable.
//!
//! ```text
//! enough log since the last one? ─▶ executor: names the entry ─▶ writers: copy state and ids as of it
//!                                 ─▶ hash, sync ─▶ adopt ─▶ purge ─▶ delete segments
//! ```
//! In: how much of the log is to be kept. Out: a log that is not much longer. A crash may follow each step, and each
//! step looks only at what is on disk. This file does not know how often it is called, nor which other node may need
//! what is released.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::ids::{JournalIndex, LogIndex, Micros};
use crate::log::{EntryId, Log, LogHealth};
use crate::partition::base::Base;
use crate::partition::error::PartitionError;
use crate::partition::handle::Partition;
use crate::partition::journal_lookup::find_last_before;
use crate::partition::message::Input;
use crate::partition::requests::CheckpointRequest;
use crate::snapshot::{IDS, Manifest, STATE, SnapshotError, Snapshots};
use crate::store::{IdIndex, Meta, Store, StoreError};

/// From which time on entries may still be needed; `None` if nobody needs any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needed {
    /// These entries stay, whatever that costs.
    pub since: Option<Micros>,
    /// Needed by a reader that follows the journal on this node and can read it nowhere else. These entries stay until
    /// the log has reached so many bytes.
    pub followed: Option<(Micros, u64)>,
}

/// Puts state and ids into a folder, both as of the last applied entry. It waits, so nothing else may run yet.
pub fn checkpoint(store: &Store, ids: &IdIndex, folder: &Path) -> Result<Option<Meta>, StoreError> {
    let Some(meta) = store.checkpoint(&folder.join(STATE))? else { return Ok(None) };
    let recorded = ids.checkpoint(&folder.join(IDS))?;
    check_level(&meta, recorded);
    Ok(Some(meta))
}

fn check_level(meta: &Meta, recorded: JournalIndex) {
    assert!(meta.journal <= recorded, "a node that installs this has no journal to read ids from");
}

impl Base {
    /// Has the writers of rows and ids put both into a folder, as of the last applied entry, and reply. Nothing waits.
    pub(super) fn begin_checkpoint(&self, request: CheckpointRequest) {
        let CheckpointRequest { folder, state, ids } = request;
        // The receiver may have stopped waiting.
        self.store.begin_checkpoint(folder.join(STATE), Box::new(move |made| drop(state.send(made))));
        self.ids.begin_checkpoint(folder.join(IDS), Box::new(move |made| drop(ids.send(made))));
    }
}

/// Makes a snapshot of what [`checkpoint`] has put there.
pub fn finish(snapshots: &Snapshots, log: &Log, meta: &Meta) -> Result<(), SnapshotError> {
    let manifest = Manifest::new(snapshots.stream(), meta, log.hash_of(meta.applied)?);
    let made = snapshots.finish(manifest)?;
    metrics::counter!("statehouse_snapshots_built_total").increment(1);
    tracing::info!(
        stream = %snapshots.stream(), last = %made.manifest.last(), bytes = made.manifest.size(), "made a snapshot"
    );
    Ok(())
}

impl Partition {
    /// Finds a part of the state or ids that is not as it was written: the name of a file, or of the folder.
    pub fn find_damaged(&self) -> Option<String> {
        self.parts.snapshots.find_damaged().or_else(|| self.parts.store.is_damaged().then(|| STATE.to_owned()))
    }

    pub fn snapshots(&self) -> &Arc<Snapshots> {
        &self.parts.snapshots
    }

    /// Makes sure that the newest snapshot has the entry at `at_least`, if that is applied. It continues even if the
    /// caller stops waiting.
    pub async fn snapshot_of(self: &Arc<Self>, at_least: LogIndex) -> Result<(), PartitionError> {
        let building = self.building.clone().lock_owned().await;
        let has_it = self.parts.snapshots.newest().is_some_and(|newest| at_least <= newest.manifest.last().index);
        if has_it || self.log_index_applied() < at_least {
            return Ok(());
        }
        let partition = self.clone();
        let taking = tokio::spawn(async move {
            let _building = building;
            partition.take_snapshot_alone().await
        });
        taking.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// Makes a snapshot of what is applied.
    pub async fn take_snapshot(&self) -> Result<(), PartitionError> {
        let _building = self.building.lock().await;
        self.take_snapshot_alone().await
    }

    async fn take_snapshot_alone(&self) -> Result<(), PartitionError> {
        let snapshots = self.parts.snapshots.clone();
        let ((state, state_made), (ids, ids_made)) = (oneshot::channel(), oneshot::channel());
        self.send(Input::Checkpoint(CheckpointRequest { folder: snapshots.begin()?, state, ids }))?;
        // Both are waited for, also if one fails: the folder is removed before the next attempt.
        let (state, ids) = (state_made.await, ids_made.await);
        let (state, ids) = (state.map_err(|_| self.not_running())?, ids.map_err(|_| self.not_running())?);
        let Some(meta) = state? else { return Ok(()) };
        check_level(&meta, ids?);
        let log = self.parts.log.clone();
        blocking(move || Ok(finish(&snapshots, &log, &meta)?)).await?;
        Ok(self.parts.group.adopt_snapshot().await?)
    }

    /// Releases the log down to about `keep_bytes`. What is not in a snapshot yet stays, and so does what is needed,
    /// which is determined only if there is something to release. It must be called repeatedly: each call continues
    /// what the last began.
    pub async fn release_log<N>(&self, keep_bytes: u64, needed: N) -> Result<(), PartitionError>
    where
        N: AsyncFnOnce() -> Result<Needed, PartitionError>,
    {
        let (log, snapshots) = (&self.parts.log, &self.parts.snapshots);
        // A node that is being sent a snapshot next needs the log after it.
        if snapshots.is_lent() || log.health() != LogHealth::Ok {
            return Ok(());
        }
        let last = snapshots.newest().map(|newest| newest.manifest.last());
        if keep_bytes < log.bytes_after(last) {
            self.take_snapshot().await?;
        }
        if let Some(upto) = self.find_releasable(keep_bytes) {
            let needed = needed().await?;
            let log = log.clone();
            if let Some(upto) = blocking(move || find_last_unneeded(&log, upto, needed)).await? {
                self.parts.group.purge(upto).await?;
            }
        }
        let log = log.clone();
        let freed = blocking(move || Ok(log.release()?)).await?;
        if 0 < freed {
            tracing::info!(stream = %snapshots.stream(), freed, "released log that is in a snapshot");
            metrics::counter!("statehouse_log_released_bytes_total").increment(freed);
        }
        Ok(())
    }

    /// Up to where the log may be purged, if that is worth a record in it.
    fn find_releasable(&self, keep_bytes: u64) -> Option<LogIndex> {
        let log = &self.parts.log;
        let in_snapshot: EntryId = self.parts.snapshots.newest()?.manifest.last();
        let before_kept = log.find_before_last(keep_bytes)?;
        let upto = if in_snapshot.index < before_kept.index { in_snapshot } else { before_kept };
        let freed = log.bytes_after(None).saturating_sub(log.bytes_after(Some(upto)));
        (keep_bytes / 2 <= freed).then_some(upto.index)
    }
}

/// The last index up to `upto` such that nobody needs anything up to it.
fn find_last_unneeded(log: &Log, upto: LogIndex, needed: Needed) -> Result<Option<LogIndex>, PartitionError> {
    let unneeded = match needed.since {
        Some(since) => find_last_before(log, upto, since)?,
        None => Some(upto),
    };
    let (Some(unneeded), Some((since, bytes_max))) = (unneeded, needed.followed) else { return Ok(unneeded) };
    // Otherwise a stuck reader would fill the disk.
    let too_much = log.find_before_last(bytes_max).map(|last| last.index.min(unneeded));
    Ok(find_last_before(log, unneeded, since)?.max(too_much))
}

/// Runs work that waits for a disk, on a thread that may block.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PartitionError> + Send + 'static,
) -> Result<T, PartitionError> {
    let working = tokio::task::spawn_blocking(work).await;
    working.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
