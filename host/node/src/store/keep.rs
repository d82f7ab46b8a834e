//! Keeping a state: a copy of exactly what is applied at one moment, in a folder of its own, without the executor
//! waiting for it.
//!
//! ```text
//! executor: keep ─▶ applies continue
//! writer:   writes up to that state ─▶ copy ─▶ synced, renamed ─▶ writes later deltas
//! ```
//! A state that is *kept* is never passed: nothing later is written before the folder has its name and is durable, so a
//! restart finds the folder, or replays the journal up to the same moment. A *checkpoint* is given up if it fails.
//! This file does not know what a state is kept for.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StoreError;
use super::disk::{DiskSnapshot, StoreDisk, StoreShared};
use super::meta::Meta;
use super::state::{PendingWrites, Store};
use super::view::View;

const BUILDING: &str = "building";

/// A state that is to be copied into a folder.
pub(super) struct KeepRequest {
    /// The last apply in it.
    pub seq: u64,
    pub folder: PathBuf,
    pub kind: CopyKind,
    /// `None` once a checkpoint is given up.
    pub on_copied: Option<OnCopied>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyKind {
    /// Nothing later is written before the copy is made, however many attempts that takes.
    Kept,
    /// If anything fails, there is no copy.
    Checkpoint,
}

/// Is told where the copied state stands, or why there is no copy.
pub type OnCopied = Box<dyn FnOnce(Result<Option<Meta>, StoreError>) + Send>;

/// The state to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepWhat {
    /// The state that is applied now.
    Applied,
    /// The state after the next apply, which must not be a replacement of rows.
    Next,
}

impl Store {
    /// Arranges that the state is kept in `folder`, which gets that name once it is complete. A folder that already
    /// exists is left as it is. The writer then calls `on_kept`, or never if the process or the writer ends first. Only
    /// the executor calls this, and it never waits for a disk.
    pub fn keep(&self, what: KeepWhat, folder: PathBuf, on_kept: Box<dyn FnOnce() + Send>) {
        let mut pending = self.shared().pending.lock();
        let seq = match what {
            KeepWhat::Applied => pending.seq_applied,
            KeepWhat::Next => pending.seq_applied + 1,
        };
        pending.keep(KeepRequest { seq, folder, kind: CopyKind::Kept, on_copied: Some(Box::new(move |_| on_kept())) });
        self.shared().work.notify_one();
    }

    /// Arranges that the applied state is copied into a new folder on the same file system, which can be opened as a
    /// store. The writer then calls `on_copied`, with `None` if nothing was ever applied, or with an error: the disk is
    /// full, the writer has stopped, [`Self::end_waits`] was called, or the folder cannot be made. It is never called
    /// if the process ends first, or the store is dropped. Only the executor calls this, and it never waits for a disk.
    pub fn begin_checkpoint(&self, folder: PathBuf, on_copied: OnCopied) {
        let shared = self.shared();
        let mut pending = shared.pending.lock();
        let refused = match shared.check_waits(&pending) {
            Err(error) => Err(error),
            Ok(()) if pending.meta_applied.is_none() => Ok(None),
            Ok(()) => {
                let seq = pending.seq_applied;
                pending.keep(KeepRequest { seq, folder, kind: CopyKind::Checkpoint, on_copied: Some(on_copied) });
                shared.work.notify_one();
                return;
            }
        };
        drop(pending);
        on_copied(refused);
    }

    /// Like [`Self::begin_checkpoint`], but waits until the checkpoint is made. Not for the executor.
    ///
    /// # Errors
    /// The same as there.
    pub fn checkpoint(&self, folder: &Path) -> Result<Option<Meta>, StoreError> {
        let (made, wait) = std::sync::mpsc::channel();
        self.begin_checkpoint(folder.to_owned(), Box::new(move |result| drop(made.send(result))));
        wait.recv().unwrap_or_else(|_| Err(StoreError::Ended { reason: "the writer has ended".to_owned() }))
    }
}

impl PendingWrites {
    fn keep(&mut self, keep: KeepRequest) {
        let is_ordered = self.kept.back().is_none_or(|before| before.seq <= keep.seq);
        assert!(is_ordered, "states are kept in the order of their applies");
        self.seq_wanted = self.seq_wanted.max(keep.seq);
        self.kept.push_back(keep);
    }

    /// Those who wait for checkpoints, which are given up. Their places stay until the writer passes them.
    pub fn give_up_checkpoints(&mut self) -> Vec<OnCopied> {
        let checkpoints = self.kept.iter_mut().filter(|keep| keep.kind == CopyKind::Checkpoint);
        checkpoints.filter_map(|keep| keep.on_copied.take()).collect()
    }
}

/// Whether the state on disk is exactly the oldest state to be kept.
pub(super) fn is_due(pending: &PendingWrites) -> bool {
    let Some(keep) = pending.kept.front() else { return false };
    assert!(pending.seq_written <= keep.seq, "nothing behind a state to be kept is written");
    keep.seq == pending.seq_written
}

/// Copies what is on disk now into the folder. The folder is durable on return.
pub(super) fn put(disk: &StoreDisk, folder: &Path) -> Result<(), StoreError> {
    let parent = folder.parent().expect("a folder in a partition's");
    if folder.exists() {
        // A process may have made it and been killed before the name was durable.
        disk.check_fault("synced")?;
        return sync(parent);
    }
    let building = folder.with_extension(BUILDING);
    match std::fs::remove_dir_all(&building) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StoreError::io(&building, "removed")(error));
        }
        _ => {}
    }
    disk.checkpoint(&building)?;
    disk.check_fault("synced")?;
    sync_all(&building)?;
    fail::fail_point!("canonical::keep", |_| std::process::abort());
    disk.check_fault("renamed")?;
    std::fs::rename(&building, folder).map_err(StoreError::io(folder, "renamed"))?;
    disk.check_fault("synced")?;
    sync(parent)?;
    fail::fail_point!("canonical::kept", |_| std::process::abort());
    Ok(())
}

/// The rows of a kept state.
///
/// # Errors
/// The state cannot be read, or is damaged.
pub fn open_kept(folder: &Path, shared: &StoreShared) -> Result<View, StoreError> {
    let disk = Arc::new(StoreDisk::open_to_read(folder, shared)?);
    let meta = disk.meta()?;
    Ok(View { disk: DiskSnapshot::new(disk), deltas: Vec::new(), meta })
}

fn sync_all(folder: &Path) -> Result<(), StoreError> {
    let listed = || StoreError::io(folder, "listed");
    for entry in std::fs::read_dir(folder).map_err(listed())? {
        let entry = entry.map_err(listed())?;
        let path = entry.path();
        if entry.file_type().map_err(listed())?.is_dir() { sync_all(&path)? } else { sync(&path)? }
    }
    sync(folder)
}

fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(StoreError::io(path, "synced"))
}
