//! Replaces a partition's state and ids by a received snapshot, while the partition is closed.
//!
//! | step | after a crash after this step |
//! |---|---|
//! | the name `install` is made durable, as the process that accepted it may have been killed | nothing has changed |
//! | the log skips to the snapshot's last entry | the state is older than the purge, and `install` is still complete |
//! | `state` is replaced | `install/state` is gone, so only the ids are missing |
//! | `ids` are replaced | only the manifest is left |
//! | `install` is removed | done |
//!
//! Each step detects whether it was already done, so all of them may be repeated. A snapshot consists of committed
//! entries: it is always right to install one that is ahead of the state.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::manifest::Manifest;
use super::{IDS, MANIFEST, STATE, SnapshotError, files};
use crate::disk::{Disk, read_whole};
use crate::ids::LogIndex;
use crate::log::{EntryId, Log};
use crate::store::{Store, StoreError, StoreOptions};

const INSTALL: &str = "install";
const DROPPED: &str = "install.dropped";

pub(super) fn install_folder(partition: &Path) -> PathBuf {
    partition.join(INSTALL)
}

/// Finishes the installation that [`super::IncomingSnapshot::accept`] has begun, if there is one. Returns the entry
/// up to which the state then reaches. The partition's log is open; its state and ids are not.
pub fn finish_install(
    disk: &dyn Disk,
    partition: &Path,
    log: &Log,
    stream: &str,
    options: &StoreOptions,
) -> Result<Option<EntryId>, SnapshotError> {
    files::remove(disk, &partition.join(DROPPED))?;
    let install = install_folder(partition);
    if !files::exists(disk, &install)? {
        return Ok(None);
    }
    let path = install.join(MANIFEST);
    let raw = match read_whole(disk, &path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            drop_install(disk, partition)?;
            return Ok(None);
        }
        raw => raw.map_err(SnapshotError::io(&path, "read"))?,
    };
    let manifest = Manifest::decode(&raw)?;
    manifest.check_stream(stream)?;
    let last = manifest.last();
    if files::exists(disk, &install.join(STATE))? && Some(last.index) <= applied(&partition.join(STATE), options)? {
        drop_install(disk, partition)?;
        return Ok(None);
    }
    for step in STEPS {
        step(disk, partition, log, &manifest)?;
    }
    tracing::info!(partition = %partition.display(), %last, "a snapshot was installed");
    metrics::counter!("statehouse_snapshots_installed_total").increment(1);
    Ok(Some(last))
}

type InstallStep = fn(&dyn Disk, &Path, &Log, &Manifest) -> Result<(), SnapshotError>;

pub(super) const STEPS: [InstallStep; 5] = [
    |disk, partition, _, _| files::sync_folder(disk, partition),
    |_, _, log, manifest| Ok(log.skip_to(manifest.last(), manifest.log_hash)?),
    |disk, partition, _, _| replace(disk, partition, STATE),
    |disk, partition, _, _| replace(disk, partition, IDS),
    |disk, partition, _, _| drop_install(disk, partition),
];

/// The last entry in the state that is to be replaced. Opening it also makes sure that nobody else has it open.
fn applied(state: &Path, options: &StoreOptions) -> Result<Option<LogIndex>, SnapshotError> {
    match Store::open(state, options.clone()) {
        Ok(store) => Ok(store.meta_written().map(|meta| meta.applied.index)),
        // Any snapshot is better than a damaged state.
        Err(error) if error.is_damage() || matches!(error, StoreError::MetaFormat { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn replace(disk: &dyn Disk, partition: &Path, part: &str) -> Result<(), SnapshotError> {
    let (new, place) = (install_folder(partition).join(part), partition.join(part));
    let replaced = partition.join(format!("{part}.replaced"));
    if files::exists(disk, &new)? {
        files::remove(disk, &replaced)?;
        if files::exists(disk, &place)? {
            files::rename(disk, &place, &replaced)?;
        }
        files::rename(disk, &new, &place)?;
    }
    files::remove(disk, &replaced)
}

/// A folder cannot be removed at once, so it first loses the name that has a meaning.
fn drop_install(disk: &dyn Disk, partition: &Path) -> Result<(), SnapshotError> {
    let dropped = partition.join(DROPPED);
    if files::exists(disk, &install_folder(partition))? {
        files::rename(disk, &install_folder(partition), &dropped)?;
    }
    files::remove(disk, &dropped)
}
