//! Files and folders on the way to a name that promises something: synced before, and the name synced after.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use super::SnapshotError;
use crate::durable;

const READ_BYTES: usize = 1 << 20;

/// Removes a folder with all that is in it; it need not be there.
pub fn remove(path: &Path) -> Result<(), SnapshotError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(SnapshotError::io(path, "removed")(error)),
        _ => Ok(()),
    }
}

pub fn create(path: &Path) -> Result<(), SnapshotError> {
    durable::create_dir_all(path).map_err(SnapshotError::io(path, "created"))
}

pub fn sync(path: &Path) -> Result<(), SnapshotError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(SnapshotError::io(path, "synced"))
}

/// Gives what is synced another name in the same folder tree; durable on return.
pub fn rename(from: &Path, to: &Path) -> Result<(), SnapshotError> {
    fs::rename(from, to).map_err(SnapshotError::io(from, "renamed"))?;
    let parents = [from.parent(), to.parent()];
    parents.into_iter().flatten().try_for_each(sync)
}

/// Writes a whole small file, durably but for its name.
pub fn write(path: &Path, content: &[u8]) -> Result<(), SnapshotError> {
    let written = durable::create(path).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.map_err(SnapshotError::io(path, "written"))
}

pub fn hash(path: &Path) -> Result<[u8; 32], SnapshotError> {
    let failed = || SnapshotError::io(path, "read");
    let mut file = File::open(path).map_err(failed())?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer).map_err(failed())? {
            0 => return Ok(*hasher.finalize().as_bytes()),
            count => hasher.update(&buffer[..count]),
        };
    }
}

/// The folders and the files below `folder`, as paths, each in order.
pub fn walk(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), SnapshotError> {
    let (mut folders, mut found) = (vec![folder.to_owned()], Vec::new());
    let mut next = 0;
    while let Some(folder) = folders.get(next).cloned() {
        next += 1;
        let failed = || SnapshotError::io(&folder, "listed");
        for entry in fs::read_dir(&folder).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let kind = entry.file_type().map_err(failed())?;
            if kind.is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    folders.sort();
    found.sort();
    Ok((folders, found))
}
