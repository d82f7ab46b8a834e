//! The snapshots that a partition keeps: the two newest that were finished, and the one being built.
//!
//! In: a folder into which state and ids were put. Out: a snapshot under its index, or nothing. It does not know how they are put there.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::manifest::{FileFacts, Manifest};
use super::{IDS, MANIFEST, STATE, SnapshotError, files};
use crate::ids::LogIndex;
use crate::log::StreamId;

const FOLDER: &str = "snapshots";
const BUILDING: &str = "building";
const INCOMING: &str = "incoming";
/// A transfer that has begun may go on with the older one.
const KEPT_MAX: usize = 2;

/// A finished snapshot.
pub struct Kept {
    pub manifest: Manifest,
    /// The encoded manifest. As long as somebody else holds a clone, the snapshot is being sent.
    pub offer: Arc<Bytes>,
    pub folder: PathBuf,
}

pub struct Snapshots {
    stream: StreamId,
    folder: PathBuf,
    /// Oldest first.
    kept: Mutex<Vec<Arc<Kept>>>,
}

/// Where a snapshot is received, below a partition's folder.
pub(super) fn incoming_folder(partition: &Path) -> PathBuf {
    partition.join(FOLDER).join(INCOMING)
}

impl Snapshots {
    /// Finds those in the folder of a partition. What is damaged or was left unfinished is removed.
    pub fn open(partition: &Path, stream: StreamId) -> Result<Self, SnapshotError> {
        let folder = partition.join(FOLDER);
        files::create(&folder)?;
        files::remove(&folder.join(BUILDING))?;
        let mut kept = Vec::new();
        for entry in fs::read_dir(&folder).map_err(SnapshotError::io(&folder, "listed"))? {
            let path = entry.map_err(SnapshotError::io(&folder, "listed"))?.path();
            if path.ends_with(INCOMING) {
                continue;
            }
            match Kept::read(&path).and_then(|kept| kept.manifest.check_stream(&stream.to_string()).map(|()| kept)) {
                Ok(found) => kept.push(Arc::new(found)),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "an unusable snapshot is removed");
                    files::remove(&path)?;
                }
            }
        }
        kept.sort_by_key(|kept| kept.index());
        Ok(Self { stream, folder, kept: Mutex::new(kept) })
    }

    pub fn stream(&self) -> &StreamId {
        &self.stream
    }

    pub fn newest(&self) -> Option<Arc<Kept>> {
        self.kept.lock().last().cloned()
    }

    pub fn find(&self, index: LogIndex) -> Option<Arc<Kept>> {
        self.kept.lock().iter().find(|kept| kept.index() == index).cloned()
    }

    /// Whether one is being sent.
    pub fn is_lent(&self) -> bool {
        self.kept.lock().iter().any(|kept| 1 < Arc::strong_count(&kept.offer))
    }

    /// Removes those that are of no use.
    pub fn retain(&self, is_of_use: impl Fn(&Manifest) -> bool) -> Result<(), SnapshotError> {
        let mut kept = self.kept.lock();
        let useless: Vec<_> = kept.extract_if(.., |kept| !is_of_use(&kept.manifest)).collect();
        drop(kept);
        useless.iter().try_for_each(|kept| files::remove(&kept.folder))
    }

    /// An empty folder to put `state` and `ids` into. One snapshot is built at a time.
    pub fn begin(&self) -> Result<PathBuf, SnapshotError> {
        let building = self.folder.join(BUILDING);
        files::remove(&building)?;
        files::create(&building)?;
        Ok(building)
    }

    /// Makes what was put into the folder a snapshot that stands where `manifest` says. On return it is durable and the newest, and no
    /// more than two are kept.
    pub fn finish(&self, manifest: Manifest) -> Result<Arc<Kept>, SnapshotError> {
        let building = self.folder.join(BUILDING);
        let before = self.newest();
        if let Some(before) = before.clone().filter(|before| manifest.last().index <= before.index()) {
            // Nothing has happened since.
            files::remove(&building)?;
            return Ok(before);
        }
        let mut manifest = manifest;
        manifest.files = facts_of(&building, before.as_deref())?;
        let offer = manifest.encode();
        files::write(&building.join(MANIFEST), &offer)?;
        files::sync(&building)?;
        let folder = self.folder.join(manifest.last().index.to_string());
        files::remove(&folder)?;
        files::rename(&building, &folder)?;
        let made = Arc::new(Kept { manifest, offer: Arc::new(offer), folder });
        let old: Vec<Arc<Kept>> = {
            let mut kept = self.kept.lock();
            kept.push(made.clone());
            let old = kept.len().saturating_sub(KEPT_MAX);
            kept.drain(..old).collect()
        };
        assert!(self.kept.lock().is_sorted_by_key(|kept| kept.index()));
        // What cannot be removed costs space until the next start, and is no reason not to have the new one.
        for kept in old {
            if let Err(error) = files::remove(&kept.folder) {
                tracing::warn!(%error, "an old snapshot was not removed");
            }
        }
        Ok(made)
    }
}

impl Kept {
    fn read(folder: &Path) -> Result<Self, SnapshotError> {
        let path = folder.join(MANIFEST);
        let offer = fs::read(&path).map_err(SnapshotError::io(&path, "read"))?;
        let manifest = Manifest::decode(&offer)?;
        let is_there = |file: &FileFacts| fs::metadata(folder.join(&file.name)).is_ok_and(|it| it.len() == file.size);
        if let Some(file) = manifest.files.iter().find(|file| !is_there(file)) {
            return Err(SnapshotError::FileDamaged { name: file.name.clone() });
        }
        Ok(Self { manifest, offer: Arc::new(offer.into()), folder: folder.to_owned() })
    }

    pub fn index(&self) -> LogIndex {
        self.manifest.last().index
    }
}

/// Syncs all files and folders of a snapshot and hashes the files. What it has in common with the one before, by hard links, was hashed then.
fn facts_of(folder: &Path, before: Option<&Kept>) -> Result<Vec<FileFacts>, SnapshotError> {
    let mut facts = Vec::new();
    for part in [IDS, STATE] {
        let (folders, found) = files::walk(&folder.join(part))?;
        for path in found {
            files::sync(&path)?;
            let metadata = fs::metadata(&path).map_err(SnapshotError::io(&path, "read"))?;
            let name = path.strip_prefix(folder).expect("it was found below").to_string_lossy().into_owned();
            let hash = match before.and_then(|before| known_hash(before, &name, &metadata)) {
                Some(hash) => hash,
                None => files::hash(&path)?,
            };
            facts.push(FileFacts { name, size: metadata.len(), hash });
        }
        folders.iter().try_for_each(|folder| files::sync(folder))?;
    }
    assert!(!facts.is_empty(), "a database has files");
    facts.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(facts)
}

fn known_hash(before: &Kept, name: &str, metadata: &Metadata) -> Option<[u8; 32]> {
    let known = before.manifest.files.iter().find(|file| file.name == name)?;
    let same = fs::metadata(before.folder.join(name)).ok()?;
    ((same.dev(), same.ino(), same.len()) == (metadata.dev(), metadata.ino(), known.size)).then_some(known.hash)
}
