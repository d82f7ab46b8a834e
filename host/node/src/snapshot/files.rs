//! Files and folders that get a name with a promise: they are synced before the rename, and the name is synced after
//! it.

use std::path::{Path, PathBuf};

use super::SnapshotError;
use crate::disk::{Disk, FileKind};

const READ_BYTES: usize = 1 << 20;

/// Removes a folder with everything in it. The folder need not exist.
pub fn remove(disk: &dyn Disk, path: &Path) -> Result<(), SnapshotError> {
    disk.remove_dir_all(path).map_err(SnapshotError::io(path, "removed"))
}

pub fn create(disk: &dyn Disk, path: &Path) -> Result<(), SnapshotError> {
    disk.create_dir_all(path).map_err(SnapshotError::io(path, "created"))
}

pub fn exists(disk: &dyn Disk, path: &Path) -> Result<bool, SnapshotError> {
    Ok(disk.kind(path).map_err(SnapshotError::io(path, "read"))?.is_some())
}

/// Makes a file durable, except for its name.
pub fn sync(disk: &dyn Disk, path: &Path) -> Result<(), SnapshotError> {
    disk.open(path).and_then(|file| file.sync()).map_err(SnapshotError::io(path, "synced"))
}

/// Makes the names in a folder durable.
pub fn sync_folder(disk: &dyn Disk, path: &Path) -> Result<(), SnapshotError> {
    disk.sync_dir(path).map_err(SnapshotError::io(path, "synced"))
}

/// Renames a synced file or folder within the same folder tree. The new name is durable on return.
pub fn rename(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), SnapshotError> {
    disk.rename(from, to).map_err(SnapshotError::io(from, "renamed"))?;
    let parents = [from.parent(), to.parent()];
    parents.into_iter().flatten().try_for_each(|parent| sync_folder(disk, parent))
}

/// Writes a whole small file. It is durable, except for its name.
pub fn write(disk: &dyn Disk, path: &Path, content: &[u8]) -> Result<(), SnapshotError> {
    let written = disk.create(path).and_then(|file| {
        file.write_at(content, 0)?;
        file.sync()
    });
    written.map_err(SnapshotError::io(path, "written"))
}

pub fn hash(disk: &dyn Disk, path: &Path) -> Result<[u8; 32], SnapshotError> {
    let failed = || SnapshotError::io(path, "read");
    let file = disk.open_to_read(path).map_err(failed())?;
    let size = file.size().map_err(failed())?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    while hasher.count() < size {
        let left = usize::try_from(size - hasher.count()).unwrap_or(READ_BYTES).min(READ_BYTES);
        file.read_at(&mut buffer[..left], hasher.count()).map_err(failed())?;
        hasher.update(&buffer[..left]);
    }
    Ok(*hasher.finalize().as_bytes())
}

/// The folders and the files below `folder`, as paths, each in order.
pub fn walk(disk: &dyn Disk, folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), SnapshotError> {
    let (mut folders, mut found) = (vec![folder.to_owned()], Vec::new());
    let mut next = 0;
    while let Some(folder) = folders.get(next).cloned() {
        next += 1;
        for name in disk.list(&folder).map_err(SnapshotError::io(&folder, "listed"))? {
            let path = folder.join(name);
            match disk.kind(&path).map_err(SnapshotError::io(&path, "listed"))? {
                Some(FileKind::Folder) => folders.push(path),
                Some(FileKind::File) => found.push(path),
                None => {}
            }
        }
    }
    folders.sort();
    found.sort();
    Ok((folders, found))
}
