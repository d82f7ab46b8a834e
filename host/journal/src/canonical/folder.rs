//! The canonical snapshots of a partition in its folder, and the kept states from which one must still be made.
//!
//! ```text
//! <partition>/canonical/<index>[-<day>]-<hash>.snapshot     complete
//!                       due-<index>[-<first>-<last>]        a kept state, complete: a file is made from it
//!                       due-….building, ….gone, writing-…   of a process that has ended: removed
//! ```
//! The content of the folder when the partition is opened goes in. The listed files and the due ones come out; a kept
//! state stays due after a restart. This file does not know which of them are to be kept.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::days::Days;
use super::error::CanonicalError;
use super::manifest::{EXTENSION, Facts, ListedFile, parse_name};
use super::read::SnapshotFile;
use super::write::{SnapshotWriter, WRITING, begin_file};
use crate::disk::Disk;
use crate::ids::JournalIndex;
use crate::regular;

const FOLDER: &str = "canonical";
const DUE: &str = "due-";
const BUILDING: &str = ".building";
const GONE: &str = "gone";

/// A snapshot that must be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DueSnapshot {
    /// The index of the last entry in it.
    pub index: JournalIndex,
    /// The midnights for which it stands.
    pub days: Option<Days>,
}

/// The snapshots of one partition.
pub struct SnapshotFolder {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// The complete files, in order of index.
    files: Mutex<Vec<ListedFile>>,
}

impl DueSnapshot {
    fn name(&self) -> String {
        let days = self.days.map_or_else(String::new, |days| format!("-{}-{}", days.first, days.last));
        format!("{DUE}{:012}{days}", self.index.0)
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(DUE)?.split('-');
        let index = JournalIndex(parts.next()?.parse().ok()?);
        let days = match (parts.next(), parts.next()) {
            (None, None) => None,
            (Some(first), Some(last)) => Some(Days { first: first.parse().ok()?, last: last.parse().ok()? }),
            _ => return None,
        };
        Some(Self { index, days }).filter(|due| due.name() == name)
    }
}

impl SnapshotFolder {
    /// Opens the folder of a partition and removes what an earlier process has left unfinished.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub fn open(disk: Arc<dyn Disk>, partition: &Path) -> Result<Self, CanonicalError> {
        let path = partition.join(FOLDER);
        disk.create_dir_all(&path).map_err(CanonicalError::io(&path))?;
        for name in names_in(&*disk, &path)? {
            let at = path.join(&name);
            let removed = if name.ends_with(BUILDING) || name.ends_with(&format!(".{GONE}")) {
                disk.remove_dir_all(&at)
            } else if name.starts_with(WRITING) {
                disk.remove(&at)
            } else {
                continue;
            };
            removed.map_err(CanonicalError::io(&at))?;
        }
        let mut files = Vec::new();
        for file in list_files(&*disk, &path)? {
            match SnapshotFile::open(&*disk, &file) {
                Ok(found) => files.push(found.listed().clone()),
                Err(error) => tracing::error!(path = %file.display(), %error, "a canonical snapshot is not listed"),
            }
        }
        files.sort_by_key(order);
        Ok(Self { disk, path, files: Mutex::new(files) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All complete snapshots, oldest first.
    pub fn list(&self) -> Vec<ListedFile> {
        self.files.lock().clone()
    }

    pub fn find(&self, due: &DueSnapshot) -> Option<ListedFile> {
        let is_it = |file: &&ListedFile| file.facts.journal.index == due.index && file.facts.days == due.days;
        self.files.lock().iter().find(is_it).cloned()
    }

    /// Opens a listed file.
    ///
    /// # Errors
    /// The file cannot be read, or is not what was written.
    pub fn open_file(&self, listed: &ListedFile) -> Result<SnapshotFile, CanonicalError> {
        SnapshotFile::open(&*self.disk, &self.path.join(&listed.name))
    }

    /// Begins a file. It is listed once it is [`Self::made`].
    ///
    /// # Errors
    /// An error of the disk.
    pub fn begin_file(&self, facts: &Facts) -> Result<SnapshotWriter, CanonicalError> {
        SnapshotWriter::begin(self.disk.clone(), &self.path, facts)
    }

    /// The folder of the kept state from which a snapshot is to be made.
    pub fn due_folder(&self, due: &DueSnapshot) -> PathBuf {
        self.path.join(due.name())
    }

    /// The kept states in the folder.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list_due(&self) -> Result<Vec<DueSnapshot>, CanonicalError> {
        let mut found: Vec<DueSnapshot> =
            names_in(&*self.disk, &self.path)?.iter().filter_map(|name| DueSnapshot::parse(name)).collect();
        found.sort();
        Ok(found)
    }

    /// Takes over an identical file from elsewhere, once it was read and found to be complete.
    ///
    /// # Errors
    /// The file cannot be copied.
    pub fn take_in(&self, file: &Path, listed: &ListedFile) -> Result<(), CanonicalError> {
        copy_file(file, self.disk.clone(), &self.path)?;
        self.add(listed);
        Ok(())
    }

    /// Deletes a file. Readers that have it open can continue.
    ///
    /// # Errors
    /// The file cannot be deleted, and is still listed.
    pub fn delete(&self, listed: &ListedFile) -> Result<(), CanonicalError> {
        let file = self.path.join(&listed.name);
        match self.disk.remove(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(CanonicalError::io(&file)(error)),
            _ => {}
        }
        self.files.lock().retain(|known| known.name != listed.name);
        Ok(())
    }

    fn add(&self, listed: &ListedFile) {
        let mut files = self.files.lock();
        if files.iter().all(|known| known.name != listed.name) {
            files.push(listed.clone());
            files.sort_by_key(order);
        }
    }

    /// Lists a file that was made, and removes the state from which it was made.
    ///
    /// # Errors
    /// The kept state cannot be removed; the file is listed all the same.
    pub fn made(&self, due: &DueSnapshot, listed: &ListedFile) -> Result<(), CanonicalError> {
        if self.find(due).is_none() {
            self.add(listed);
        }
        let folder = self.due_folder(due);
        // The folder is removed file by file, so first it gets a name that nobody takes for a kept state.
        let going = folder.with_extension(GONE);
        let disk = &self.disk;
        let remove = || disk.remove_dir_all(&going);
        match remove().and_then(|()| disk.rename(&folder, &going)).and_then(|()| remove()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(CanonicalError::io(&folder)(error)),
            _ => Ok(()),
        }
    }
}

/// The files in a folder whose names are those of snapshots, in order of name.
///
/// # Errors
/// The folder cannot be read. A folder that does not exist has no files.
pub fn list_files(disk: &dyn Disk, folder: &Path) -> Result<Vec<PathBuf>, CanonicalError> {
    let paths = names_if_any(disk, folder)?.into_iter().map(|name| folder.join(name));
    let mut found: Vec<PathBuf> = paths.filter(|path| path.extension() == Some(OsStr::new(EXTENSION))).collect();
    found.sort();
    Ok(found)
}

/// The entries for which the folder of a partition has a file or a kept state, by their names alone.
///
/// # Errors
/// The folder cannot be read. A folder that does not exist has none.
pub fn indexes_in(disk: &dyn Disk, partition: &Path) -> Result<Vec<(JournalIndex, PathBuf)>, CanonicalError> {
    let folder = folder_of(partition);
    let index = |name: &str| match parse_name(name) {
        Some((index, _)) => Some(index),
        None => DueSnapshot::parse(name).map(|due| due.index),
    };
    let names = names_if_any(disk, &folder)?.into_iter();
    Ok(names.filter_map(|name| Some((index(&name)?, folder.join(name)))).collect())
}

/// Copies the same file into another folder, which is made if necessary. The copy is durable on return. The file is on
/// the machine's own file system, where files from elsewhere are received.
///
/// # Errors
/// The file or the folder cannot be read or written.
pub fn copy_file(file: &Path, disk: Arc<dyn Disk>, folder: &Path) -> Result<(), CanonicalError> {
    let io = || CanonicalError::io(folder);
    disk.create_dir_all(folder).map_err(io())?;
    let mut copy = begin_file(disk, folder).map_err(io())?;
    let mut original = regular::open(file).map_err(CanonicalError::io(file))?;
    std::io::copy(&mut original, &mut copy).map_err(io())?;
    copy.sync().map_err(io())?;
    let name = file.file_name().expect("a file has a name");
    copy.name(&folder.join(name)).map(drop).map_err(io())
}

/// The place of a partition's snapshots in its folder.
pub fn folder_of(partition: &Path) -> PathBuf {
    partition.join(FOLDER)
}

fn order(listed: &ListedFile) -> (JournalIndex, Option<Days>) {
    (listed.facts.journal.index, listed.facts.days)
}

fn names_in(disk: &dyn Disk, path: &Path) -> Result<Vec<String>, CanonicalError> {
    disk.list(path).map_err(CanonicalError::io(path))
}

fn names_if_any(disk: &dyn Disk, path: &Path) -> Result<Vec<String>, CanonicalError> {
    match disk.list(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        names => names.map_err(CanonicalError::io(path)),
    }
}
