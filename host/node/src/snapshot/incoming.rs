//! A snapshot that is being received: which parts are here, which must still be fetched, and when it is complete.
//!
//! An offer goes in, then bytes. The folder `install` comes out, once every file is what the offer says. Fetched bytes
//! survive a broken connection and a restart: the same offer resumes where it was, and any other starts again. This
//! file does not know where the bytes come from.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::build::incoming_folder;
use super::install::install_folder;
use super::manifest::{Manifest, SnapshotFileFacts};
use super::{MANIFEST, SnapshotError, files};
use crate::disk::{Disk, DiskFile, read_whole};
use crate::durable;
use crate::ids::LogIndex;

pub struct IncomingSnapshot {
    disk: Arc<dyn Disk>,
    partition: PathBuf,
    folder: PathBuf,
    pub manifest: Manifest,
}

impl IncomingSnapshot {
    /// Accepts an offer for the partition in this folder.
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

    /// Removes the fetched parts of a snapshot if the state has meanwhile reached it on its own.
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

    fn path(&self, file: &SnapshotFileFacts) -> PathBuf {
        self.folder.join(&file.name)
    }

    /// The offset from which a file is missing. `None` if it is complete, correct, and durable except for its name: the
    /// process that fetched it may have been killed before it was synced, so it is synced here.
    pub fn missing_from(&self, file: &SnapshotFileFacts) -> Result<Option<u64>, SnapshotError> {
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

    /// Continues a file at its end.
    pub fn append(&self, file: &SnapshotFileFacts) -> Result<IncomingFile, SnapshotError> {
        let path = self.path(file);
        files::create(&*self.disk, path.parent().expect("it lies in the snapshot's folder"))?;
        let open = |path: &Path| match self.disk.open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => self.disk.create(path),
            opened => opened,
        };
        let opened = durable::open(&path, open).map_err(SnapshotError::io(&path, "written"))?;
        let size = opened.size().map_err(SnapshotError::io(&path, "read"))?;
        Ok(IncomingFile { facts: file.clone(), path, file: opened, size })
    }

    /// After a failed sync the bytes are lost although they can still be read, so the file must be fetched again.
    fn sync_or_drop(&self, file: &SnapshotFileFacts) -> Result<(), SnapshotError> {
        let synced = files::sync(&*self.disk, &self.path(file));
        if synced.is_err() {
            self.drop_file(file)?;
        }
        synced
    }

    fn drop_file(&self, file: &SnapshotFileFacts) -> Result<(), SnapshotError> {
        let path = self.path(file);
        match self.disk.remove(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(SnapshotError::io(&path, "removed")(error)),
            _ => Ok(()),
        }
    }

    /// Checks a file that was fetched. Afterwards it is synced and correct, or it is removed.
    pub fn check(&self, file: &SnapshotFileFacts) -> Result<(), SnapshotError> {
        if self.missing_from(file)?.is_none() {
            return Ok(());
        }
        self.drop_file(file)?;
        Err(SnapshotError::FileDamaged { name: file.name.clone() })
    }

    /// Everything is here: the snapshot replaces the state when the partition is next opened. This is durable on
    /// return.
    pub fn accept(self) -> Result<(), SnapshotError> {
        let disk = &*self.disk;
        let (folders, found) = files::walk(disk, &self.folder)?;
        // The manifest is not a file of the snapshot. All other files were checked one by one.
        assert_eq!(found.len(), self.manifest.files.len() + 1);
        folders.iter().try_for_each(|folder| files::sync_folder(disk, folder))?;
        let install = install_folder(&self.partition);
        files::remove(disk, &install)?;
        files::rename(disk, &self.folder, &install)
    }
}

/// A file that is being fetched.
pub struct IncomingFile {
    facts: SnapshotFileFacts,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    size: u64,
}

impl IncomingFile {
    pub fn write(&mut self, piece: &[u8]) -> Result<(), SnapshotError> {
        if self.facts.size < self.size + piece.len() as u64 {
            return Err(SnapshotError::FileDamaged { name: self.facts.name.clone() });
        }
        self.file.write_at(piece, self.size).map_err(SnapshotError::io(&self.path, "written"))?;
        self.size += piece.len() as u64;
        Ok(())
    }
}
