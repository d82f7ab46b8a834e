//! A snapshot on its way in: what of it is here, what is still to be fetched, and when it is whole.
//!
//! In: an offer, then bytes. Out: the folder `install`, once every file is what the offer says. What was fetched stays over a break and a
//! restart: the same offer goes on where it was, and any other begins anew. It does not know where the bytes come from.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::build::incoming_folder;
use super::install::install_folder;
use super::manifest::{FileFacts, Manifest};
use super::{MANIFEST, SnapshotError, files};
use crate::durable;
use crate::ids::LogIndex;

pub struct Incoming {
    partition: PathBuf,
    folder: PathBuf,
    pub manifest: Manifest,
}

impl Incoming {
    /// Takes up an offer for the partition in this folder.
    pub fn open(partition: &Path, stream: &str, offer: &[u8]) -> Result<Self, SnapshotError> {
        let manifest = Manifest::decode(offer)?;
        manifest.check_stream(stream)?;
        let folder = incoming_folder(partition);
        if fs::read(folder.join(MANIFEST)).ok().as_deref() != Some(offer) {
            files::remove(&folder)?;
            files::create(&folder)?;
            files::write(&folder.join(MANIFEST), offer)?;
        }
        Ok(Self { partition: partition.to_owned(), folder, manifest })
    }

    /// Removes what was fetched of a snapshot that the state has reached by itself meanwhile.
    pub fn drop_unless_ahead(partition: &Path, applied: Option<LogIndex>) -> Result<(), SnapshotError> {
        let folder = incoming_folder(partition);
        let offered = fs::read(folder.join(MANIFEST)).ok().and_then(|raw| Manifest::decode(&raw).ok());
        let is_ahead = offered.is_some_and(|manifest| applied < Some(manifest.last().index));
        if is_ahead { Ok(()) } else { files::remove(&folder) }
    }

    fn path(&self, file: &FileFacts) -> PathBuf {
        self.folder.join(&file.name)
    }

    /// From which byte on a file is missing; nothing if it is whole and what it should be.
    pub fn missing_from(&self, file: &FileFacts) -> Result<Option<u64>, SnapshotError> {
        let size = fs::metadata(self.path(file)).map_or(0, |metadata| metadata.len());
        if size < file.size {
            return Ok(Some(size));
        }
        if size == file.size && self.path(file).exists() && files::hash(&self.path(file))? == file.hash {
            return Ok(None);
        }
        self.drop_file(file)?;
        Ok(Some(0))
    }

    /// Goes on with a file where it ends.
    pub fn append(&self, file: &FileFacts) -> Result<Appending, SnapshotError> {
        let path = self.path(file);
        files::create(path.parent().expect("it lies in the snapshot's folder"))?;
        let opened = durable::append(&path);
        let opened = opened.map_err(SnapshotError::io(&path, "written"))?;
        let size = opened.metadata().map_err(SnapshotError::io(&path, "read"))?.len();
        Ok(Appending { facts: file.clone(), path, file: opened, size })
    }

    fn drop_file(&self, file: &FileFacts) -> Result<(), SnapshotError> {
        let path = self.path(file);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(SnapshotError::io(&path, "removed")(error))
            }
            _ => Ok(()),
        }
    }

    /// A file that was fetched: synced, and what it should be, or else not there.
    pub fn check(&self, file: &FileFacts) -> Result<(), SnapshotError> {
        files::sync(&self.path(file))?;
        if self.missing_from(file)?.is_none() {
            return Ok(());
        }
        self.drop_file(file)?;
        Err(SnapshotError::FileDamaged { name: file.name.clone() })
    }

    /// Everything is here: from now on it takes the state's place when the partition is opened. Durable on return.
    pub fn accept(self) -> Result<(), SnapshotError> {
        let (folders, found) = files::walk(&self.folder)?;
        // The manifest is no file of the snapshot, and all others were checked one by one.
        assert_eq!(found.len(), self.manifest.files.len() + 1);
        folders.iter().try_for_each(|folder| files::sync(folder))?;
        let install = install_folder(&self.partition);
        files::remove(&install)?;
        files::rename(&self.folder, &install)
    }
}

/// A file that grows.
pub struct Appending {
    facts: FileFacts,
    path: PathBuf,
    file: File,
    size: u64,
}

impl Appending {
    pub fn write(&mut self, piece: &[u8]) -> Result<(), SnapshotError> {
        if self.facts.size < self.size + piece.len() as u64 {
            return Err(SnapshotError::FileDamaged { name: self.facts.name.clone() });
        }
        self.file.write_all(piece).map_err(SnapshotError::io(&self.path, "written"))?;
        self.size += piece.len() as u64;
        Ok(())
    }
}
