//! The snapshots that a partition keeps: the two newest finished ones, and the one that is being built.
//!
//! A folder with state and ids goes in. A snapshot under its index comes out, or nothing. This file does not know how
//! state and ids are put there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::manifest::{Manifest, SnapshotFileFacts};
use super::{IDS, MANIFEST, STATE, SnapshotError, files};
use crate::disk::{Disk, DiskFile, FileIdentity, read_whole};
use crate::ids::LogIndex;
use crate::log::StreamId;

const FOLDER: &str = "snapshots";
const BUILDING: &str = "building";
const INCOMING: &str = "incoming";
/// A transfer that has begun may continue with the older one.
const KEPT_MAX: usize = 2;

/// A finished snapshot.
pub struct KeptSnapshot {
    pub manifest: Manifest,
    /// The encoded manifest. While somebody else holds a clone, the snapshot is being sent.
    pub offer: Arc<Bytes>,
    pub folder: PathBuf,
}

pub struct Snapshots {
    disk: Arc<dyn Disk>,
    stream: StreamId,
    folder: PathBuf,
    /// The kept snapshots, oldest first.
    kept: Mutex<Vec<Arc<KeptSnapshot>>>,
    /// The first file of the partition itself that was found damaged, because a snapshot shares it.
    damaged: Mutex<Option<String>>,
}

/// The place below a partition's folder where a snapshot is received.
pub(super) fn incoming_folder(partition: &Path) -> PathBuf {
    partition.join(FOLDER).join(INCOMING)
}

impl Snapshots {
    /// Finds the snapshots in the folder of a partition. It removes damaged and unfinished ones.
    pub fn open(disk: Arc<dyn Disk>, partition: &Path, stream: StreamId) -> Result<Self, SnapshotError> {
        let folder = partition.join(FOLDER);
        files::create(&*disk, &folder)?;
        // A process may have named a snapshot and been killed before it synced the folder.
        files::sync_folder(&*disk, &folder)?;
        files::remove(&*disk, &folder.join(BUILDING))?;
        let mut kept = Vec::new();
        for name in disk.list(&folder).map_err(SnapshotError::io(&folder, "listed"))? {
            let path = folder.join(name);
            if path.ends_with(INCOMING) {
                continue;
            }
            match KeptSnapshot::read(&*disk, &path)
                .and_then(|kept| kept.manifest.check_stream(&stream.to_string()).map(|()| kept))
            {
                Ok(found) => kept.push(Arc::new(found)),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "an unusable snapshot is removed");
                    files::remove(&*disk, &path)?;
                }
            }
        }
        kept.sort_by_key(|kept| kept.index());
        Ok(Self { disk, stream, folder, kept: Mutex::new(kept), damaged: Mutex::default() })
    }

    pub fn stream(&self) -> &StreamId {
        &self.stream
    }

    pub fn newest(&self) -> Option<Arc<KeptSnapshot>> {
        self.kept.lock().last().cloned()
    }

    pub fn find(&self, index: LogIndex) -> Option<Arc<KeptSnapshot>> {
        self.kept.lock().iter().find(|kept| kept.index() == index).cloned()
    }

    pub(super) fn open_file(
        &self,
        kept: &KeptSnapshot,
        file: &SnapshotFileFacts,
    ) -> Result<Arc<dyn DiskFile>, SnapshotError> {
        let path = kept.folder.join(&file.name);
        self.disk.open_to_read(&path).map_err(SnapshotError::io(&path, "read"))
    }

    /// Whether any snapshot is being sent.
    pub fn is_lent(&self) -> bool {
        self.kept.lock().iter().any(|kept| 1 < Arc::strong_count(&kept.offer))
    }

    /// A file of a snapshot has changed since it was made. No snapshot that shares the file is offered any more. If the
    /// partition shares it, the partition is damaged.
    pub(super) fn on_damaged(&self, name: &str, file: FileIdentity) {
        let identity = |other: &Path| self.disk.open_to_read(other).and_then(|other| other.identity());
        let is_same = |other: &Path| identity(other).is_ok_and(|other| other == file);
        let dropped: Vec<_> = self.kept.lock().extract_if(.., |kept| is_same(&kept.folder.join(name))).collect();
        for kept in dropped {
            tracing::error!(
                stream = %self.stream, last = %kept.manifest.last(), name, "a snapshot is damaged, and dropped"
            );
            if let Err(error) = files::remove(&*self.disk, &kept.folder) {
                tracing::warn!(%error, "a damaged snapshot was not removed");
            }
        }
        metrics::counter!("statehouse_snapshots_damaged_total").increment(1);
        let partition = self.folder.parent().expect("it lies in the partition's folder");
        if is_same(&partition.join(name)) {
            self.damaged.lock().get_or_insert_with(|| name.to_owned());
        }
    }

    /// A file of the partition's state or ids that differs from what was written.
    pub fn find_damaged(&self) -> Option<String> {
        self.damaged.lock().clone()
    }

    /// Removes the snapshots that are no longer needed.
    pub fn retain(&self, is_of_use: impl Fn(&Manifest) -> bool) -> Result<(), SnapshotError> {
        let mut kept = self.kept.lock();
        let useless: Vec<_> = kept.extract_if(.., |kept| !is_of_use(&kept.manifest)).collect();
        drop(kept);
        useless.iter().try_for_each(|kept| files::remove(&*self.disk, &kept.folder))
    }

    /// An empty folder for `state` and `ids`. One snapshot is built at a time.
    pub fn begin(&self) -> Result<PathBuf, SnapshotError> {
        let building = self.folder.join(BUILDING);
        files::remove(&*self.disk, &building)?;
        files::create(&*self.disk, &building)?;
        Ok(building)
    }

    /// Turns the contents of the folder into a snapshot with the position in `manifest`. On return it is durable and
    /// the newest, and at most two snapshots are kept.
    pub fn finish(&self, manifest: Manifest) -> Result<Arc<KeptSnapshot>, SnapshotError> {
        let disk = &*self.disk;
        let building = self.folder.join(BUILDING);
        let before = self.newest();
        if let Some(before) = before.clone().filter(|before| manifest.last().index <= before.index()) {
            // Nothing has happened since the last snapshot.
            files::remove(&*self.disk, &building)?;
            return Ok(before);
        }
        let mut manifest = manifest;
        manifest.files = facts_of(disk, &building, before.as_deref())?;
        let offer = manifest.encode();
        files::write(disk, &building.join(MANIFEST), &offer)?;
        files::sync_folder(disk, &building)?;
        let folder = self.folder.join(manifest.last().index.to_string());
        files::remove(disk, &folder)?;
        files::rename(disk, &building, &folder)?;
        let made = Arc::new(KeptSnapshot { manifest, offer: Arc::new(offer), folder });
        let old: Vec<Arc<KeptSnapshot>> = {
            let mut kept = self.kept.lock();
            kept.push(made.clone());
            let old = kept.len().saturating_sub(KEPT_MAX);
            kept.drain(..old).collect()
        };
        assert!(self.kept.lock().is_sorted_by_key(|kept| kept.index()));
        // A folder that cannot be removed costs space until the next start. That does not invalidate the new snapshot.
        for kept in old {
            if let Err(error) = files::remove(&*self.disk, &kept.folder) {
                tracing::warn!(%error, "an old snapshot was not removed");
            }
        }
        Ok(made)
    }
}

impl KeptSnapshot {
    fn read(disk: &dyn Disk, folder: &Path) -> Result<Self, SnapshotError> {
        let path = folder.join(MANIFEST);
        let offer = read_whole(disk, &path).map_err(SnapshotError::io(&path, "read"))?;
        let manifest = Manifest::decode(&offer)?;
        let size = |file: &SnapshotFileFacts| disk.open_to_read(&folder.join(&file.name)).and_then(|file| file.size());
        let is_there = |file: &SnapshotFileFacts| size(file).is_ok_and(|size| size == file.size);
        if let Some(file) = manifest.files.iter().find(|file| !is_there(file)) {
            return Err(SnapshotError::FileDamaged { name: file.name.clone() });
        }
        Ok(Self { manifest, offer: Arc::new(offer.into()), folder: folder.to_owned() })
    }

    pub fn index(&self) -> LogIndex {
        self.manifest.last().index
    }
}

/// Syncs all files and folders of a snapshot and hashes the files. Files that the snapshot shares with the one before
/// it, by hard links, were hashed then.
fn facts_of(
    disk: &dyn Disk,
    folder: &Path,
    before: Option<&KeptSnapshot>,
) -> Result<Vec<SnapshotFileFacts>, SnapshotError> {
    let mut facts = Vec::new();
    for part in [IDS, STATE] {
        let (folders, found) = files::walk(disk, &folder.join(part))?;
        for path in found {
            files::sync(disk, &path)?;
            let file = disk.open_to_read(&path).map_err(SnapshotError::io(&path, "read"))?;
            let size = file.size().map_err(SnapshotError::io(&path, "read"))?;
            let name = path.strip_prefix(folder).expect("it was found below").to_string_lossy().into_owned();
            let hash = match before.and_then(|before| known_hash(disk, before, &name, &*file)) {
                Some(hash) => hash,
                None => files::hash(disk, &path)?,
            };
            facts.push(SnapshotFileFacts { name, size, hash });
        }
        folders.iter().try_for_each(|folder| files::sync_folder(disk, folder))?;
    }
    assert!(!facts.is_empty(), "a database has files");
    facts.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(facts)
}

fn known_hash(disk: &dyn Disk, before: &KeptSnapshot, name: &str, file: &dyn DiskFile) -> Option<[u8; 32]> {
    let known = before.manifest.files.iter().find(|file| file.name == name)?;
    let same = disk.open_to_read(&before.folder.join(name)).ok()?;
    let is_same = same.identity().ok()? == file.identity().ok()? && file.size().ok()? == known.size;
    is_same.then_some(known.hash)
}
