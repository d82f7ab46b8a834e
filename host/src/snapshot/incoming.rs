//! A snapshot on its way in: what of it is here, what is still to be fetched, and when it is whole.
//!
//! In: an offer, then bytes. Out: the folder `install`, once every file is what the offer says. What was fetched stays over a break and a
//! restart: the same offer goes on where it was, and any other begins anew. It does not know where the bytes come from.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::build::incoming_folder;
use super::install::install_folder;
use super::manifest::{FileFacts, Manifest};
use super::{MANIFEST, SnapshotError, files};
use crate::disk::{Disk, DiskFile, read_whole};
use crate::durable;
use crate::ids::LogIndex;

pub struct Incoming {
    disk: Arc<dyn Disk>,
    partition: PathBuf,
    folder: PathBuf,
    pub manifest: Manifest,
}

impl Incoming {
    /// Takes up an offer for the partition in this folder.
    pub fn open(disk: Arc<dyn Disk>, partition: &Path, stream: &str, offer: &[u8]) -> Result<Self, SnapshotError> {
        let manifest = Manifest::decode(offer)?;
        manifest.check_stream(stream)?;
        let folder = incoming_folder(partition);
        if read_whole(&*disk, &folder.join(MANIFEST)).ok().as_deref() != Some(offer) {
            files::remove(&*disk, &folder)?;
            files::create(&*disk, &folder)?;
            files::write(&*disk, &folder.join(MANIFEST), offer)?;
        }
        Ok(Self { disk, partition: partition.to_owned(), folder, manifest })
    }

    /// Removes what was fetched of a snapshot that the state has reached by itself meanwhile.
    pub fn drop_unless_ahead(
        disk: &dyn Disk,
        partition: &Path,
        applied: Option<LogIndex>,
    ) -> Result<(), SnapshotError> {
        let folder = incoming_folder(partition);
        let offered = read_whole(disk, &folder.join(MANIFEST)).ok().and_then(|raw| Manifest::decode(&raw).ok());
        let is_ahead = offered.is_some_and(|manifest| applied < Some(manifest.last().index));
        if is_ahead { Ok(()) } else { files::remove(disk, &folder) }
    }

    fn path(&self, file: &FileFacts) -> PathBuf {
        self.folder.join(&file.name)
    }

    /// From which byte on a file is missing; nothing if it is whole, what it should be, and durable but for its name: whoever fetched it may
    /// have been killed before it was synced.
    pub fn missing_from(&self, file: &FileFacts) -> Result<Option<u64>, SnapshotError> {
        let path = self.path(file);
        let found = match self.disk.open_to_read(&path).and_then(|found| found.size()) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            found => Some(found.map_err(SnapshotError::io(&path, "read"))?),
        };
        let size = found.unwrap_or(0);
        if size < file.size {
            return Ok(Some(size));
        }
        if size == file.size && found.is_some() && files::hash(&*self.disk, &path)? == file.hash {
            self.sync_or_drop(file)?;
            return Ok(None);
        }
        self.drop_file(file)?;
        Ok(Some(0))
    }

    /// Goes on with a file where it ends.
    pub fn append(&self, file: &FileFacts) -> Result<Appending, SnapshotError> {
        let path = self.path(file);
        files::create(&*self.disk, path.parent().expect("it lies in the snapshot's folder"))?;
        let open = |path: &Path| match self.disk.open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => self.disk.create(path),
            opened => opened,
        };
        let opened = durable::open(&path, open).map_err(SnapshotError::io(&path, "written"))?;
        let size = opened.size().map_err(SnapshotError::io(&path, "read"))?;
        Ok(Appending { facts: file.clone(), path, file: opened, size })
    }

    /// What a failed sync should have made durable is lost, although it can still be read: it must be fetched again.
    fn sync_or_drop(&self, file: &FileFacts) -> Result<(), SnapshotError> {
        let synced = files::sync(&*self.disk, &self.path(file));
        if synced.is_err() {
            self.drop_file(file)?;
        }
        synced
    }

    fn drop_file(&self, file: &FileFacts) -> Result<(), SnapshotError> {
        let path = self.path(file);
        match self.disk.remove(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(SnapshotError::io(&path, "removed")(error)),
            _ => Ok(()),
        }
    }

    /// A file that was fetched: synced, and what it should be, or else not there.
    pub fn check(&self, file: &FileFacts) -> Result<(), SnapshotError> {
        if self.missing_from(file)?.is_none() {
            return Ok(());
        }
        self.drop_file(file)?;
        Err(SnapshotError::FileDamaged { name: file.name.clone() })
    }

    /// Everything is here: from now on it takes the state's place when the partition is opened. Durable on return.
    pub fn accept(self) -> Result<(), SnapshotError> {
        let disk = &*self.disk;
        let (folders, found) = files::walk(disk, &self.folder)?;
        // The manifest is no file of the snapshot, and all others were checked one by one.
        assert_eq!(found.len(), self.manifest.files.len() + 1);
        folders.iter().try_for_each(|folder| files::sync_folder(disk, folder))?;
        let install = install_folder(&self.partition);
        files::remove(disk, &install)?;
        files::rename(disk, &self.folder, &install)
    }
}

/// A file that grows.
pub struct Appending {
    facts: FileFacts,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    size: u64,
}

impl Appending {
    pub fn write(&mut self, piece: &[u8]) -> Result<(), SnapshotError> {
        if self.facts.size < self.size + piece.len() as u64 {
            return Err(SnapshotError::FileDamaged { name: self.facts.name.clone() });
        }
        self.file.write_at(piece, self.size).map_err(SnapshotError::io(&self.path, "written"))?;
        self.size += piece.len() as u64;
        Ok(())
    }
}
