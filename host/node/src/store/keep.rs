//! Keeping a state: a copy of exactly what is applied at one moment, in a folder of its own, without anybody waiting
//! for it.
//!
//! ```text
//! executor: keep ─▶ applies continue
//! writer:   writes up to that state ─▶ checkpoint ─▶ synced, renamed ─▶ writes later deltas
//! ```
//! Nothing after that moment is written before the folder has its name and is durable. So a restart finds the folder,
//! or a state that has not passed the moment: replaying the journal reaches the same moment again. This file does not
//! know what a state is kept for.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StoreError;
use super::disk::{DiskSnapshot, StoreDisk, StoreShared};
use super::state::{PendingWrites, Store};
use super::view::View;

const BUILDING: &str = "building";

/// A state to be kept.
pub(super) struct KeepRequest {
    /// The last apply in it.
    pub seq: u64,
    pub folder: PathBuf,
    pub on_kept: Box<dyn FnOnce() + Send>,
}

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
        let shared = self.shared();
        let mut pending = shared.pending.lock();
        let seq = match what {
            KeepWhat::Applied => pending.seq_applied,
            KeepWhat::Next => pending.seq_applied + 1,
        };
        assert!(
            pending.kept.back().is_none_or(|before| before.seq <= seq),
            "states are kept in the order of their applies"
        );
        pending.kept.push_back(KeepRequest { seq, folder, on_kept });
        pending.seq_wanted = pending.seq_wanted.max(seq);
        shared.work.notify_one();
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
