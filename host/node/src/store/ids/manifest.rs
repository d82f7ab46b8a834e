//! The manifest: the runs that make up the index, oldest first, and the secret of its hash. It is replaced as a whole.
//!
//! Its bytes are a [`RunList`], whose format the journal's crate has: an auditor reads how far the index is. Files that
//! it does not name are removed when the index is opened. Without a readable manifest the index is empty: that is never
//! wrong, only slow. The manifest does not know what is in a run.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::super::StoreError;
use super::record::IdHasher;
use super::run::IdRun;
use crate::data_folder::RunList;
use crate::disk::{Disk, UnfinishedFile, read_whole};
use crate::ids::JournalIndex;

const NAME: &str = RunList::NAME;

fn empty() -> RunList {
    RunList { seed: IdHasher::random().seed, applied: JournalIndex(0), number_next: 1, spans: Vec::new() }
}

/// Replaces the manifest in `dir`. The new one is durable on return. After an error either the old or the new one is
/// there.
pub fn write(manifest: &RunList, disk: &Arc<dyn Disk>, dir: &Path) -> Result<(), StoreError> {
    let aside = dir.join("manifest.new");
    let written = || StoreError::io(&aside, "written");
    let mut file = UnfinishedFile::create(disk.clone(), aside.clone()).map_err(written())?;
    file.write_all(&manifest.encode()).map_err(written())?;
    file.sync().map_err(written())?;
    fail::fail_point!("ids::before_manifest_rename", |_| std::process::abort());
    file.name(&dir.join(NAME)).map_err(StoreError::io(&aside, "renamed"))?;
    fail::fail_point!("ids::after_manifest_rename", |_| std::process::abort());
    Ok(())
}

/// The manifest of a folder and its runs, up to the first that is missing or damaged. Everything else is removed.
pub fn open(disk: &Arc<dyn Disk>, dir: &Path) -> Result<(RunList, Vec<Arc<IdRun>>), StoreError> {
    let path = dir.join(NAME);
    let raw = match read_whole(&**disk, &path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        raw => raw.map_err(StoreError::io(&path, "read"))?,
    };
    if RunList::is_of_later_program(&raw) {
        return Err(StoreError::IdsFormat { path });
    }
    let mut manifest = RunList::decode(&raw).unwrap_or_else(|| {
        if !raw.is_empty() {
            tracing::error!(path = %path.display(), "id index: the manifest is damaged, all ids are recorded again");
        }
        empty()
    });
    let hasher = IdHasher { seed: manifest.seed };
    let mut runs: Vec<Arc<IdRun>> = Vec::new();
    for span in &manifest.spans {
        match IdRun::open(disk, dir, *span, &hasher) {
            Ok(run) => runs.push(Arc::new(run)),
            Err(error @ StoreError::IdsDamaged { .. }) => {
                tracing::error!(%error, "id index: a run is damaged, its ids and all newer ones are recorded again");
                break;
            }
            Err(StoreError::Io { source, path, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                tracing::error!(path = %path.display(), "id index: a run is missing, its ids are recorded again");
                break;
            }
            Err(error) => return Err(error),
        }
    }
    if runs.len() < manifest.spans.len() {
        manifest.applied = manifest.spans[runs.len()].after;
        manifest.spans.truncate(runs.len());
    }
    write(&manifest, disk, dir)?;
    remove_strangers(&**disk, dir, &manifest)?;
    Ok((manifest, runs))
}

/// Removes the leftovers of an unfinished write or of a removed run.
fn remove_strangers(disk: &dyn Disk, dir: &Path, manifest: &RunList) -> Result<(), StoreError> {
    let known: Vec<_> = manifest.spans.iter().map(|span| span.path(dir)).chain([dir.join(NAME)]).collect();
    for name in disk.list(dir).map_err(StoreError::io(dir, "read"))? {
        let path = dir.join(name);
        if !known.contains(&path) {
            disk.remove(&path).map_err(StoreError::io(&path, "removed"))?;
        }
    }
    Ok(())
}
