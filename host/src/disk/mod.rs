//! The disk as everything that keeps files sees it: three small traits, the machine's own file system, and one in memory that forgets.
//!
//! ```text
//! log, ids, snapshots, small files ─▶ Disk ─▶ RealDisk   std::fs, memmap2
//!                                          └▶ SimDisk    loses what was not synced, fails where it is told to
//! ```
//! In: whole paths. Out: files and names. Nothing here knows what is in a file. What RocksDB itself writes (its tables, its own log, the hard
//! links of its checkpoints) goes past this seam to the real file system: a folder of it is never looked at through a `Disk` that is simulated.

mod real;
mod sim;
#[cfg(test)]
mod tests;
mod tree;
mod unfinished;

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

pub use real::RealDisk;
pub use sim::{SimDisk, SimOp};
pub use unfinished::Unfinished;

/// A file system. Paths are given whole. Everything blocks.
pub trait Disk: Send + Sync + 'static {
    /// Creates the folder and its parents; durable on return.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// The names of the files and folders in a folder, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// An empty file, open for reading and writing; an existing one is emptied. Its name is durable after [`Disk::sync_dir`].
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// An existing file, open for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// An existing regular file, open for reading only: works on a folder one may not write, and may not trust.
    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// The bytes of a small file, and its mode as of `chmod`; a link is followed, so the folder must be one that is trusted.
    fn read_with_mode(&self, path: &Path) -> io::Result<(Vec<u8>, u32)>;
    /// What has that name; nothing if there is nothing.
    fn kind(&self, path: &Path) -> io::Result<Option<Kind>>;
    /// Of a file or a folder; an existing file or empty folder of that name is replaced. Atomic; durable after [`Disk::sync_dir`] of both
    /// parents.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Durable after [`Disk::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Another name for a file; an `AlreadyExists` where there is something of that name. Durable after [`Disk::sync_dir`].
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a folder with everything in it, which may be there by half after a crash; nothing if there is none.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
}

/// An open file. Usable from several threads; it stays readable after its name was changed or removed.
pub trait DiskFile: Send + Sync {
    /// What tells this file from all others, by whatever name it was opened.
    fn identity(&self) -> io::Result<Identity>;
    /// Bytes.
    fn size(&self) -> io::Result<u64>;
    /// Fills `bytes`; an `UnexpectedEof` when the file is shorter.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes`, or fails with any part of them written. Not durable.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes all earlier writes durable. After an error nothing is known about any of them, and trying again would lie.
    fn sync(&self) -> io::Result<()>;
    /// A read-only memory map of the file at its present size. Nobody but somebody from outside makes the file shorter.
    fn map(&self) -> io::Result<Arc<dyn DiskMap>>;
}

/// A number of a device, and one of a file on it.
pub type Identity = (u64, u64);

/// A read-only memory map.
pub trait DiskMap: Send + Sync {
    /// A copy of a range that no writer touches any more; an `UnexpectedEof` when the file is shorter.
    fn read(&self, offset: u64, size: usize) -> io::Result<Bytes>;
}

/// All bytes of a file.
pub fn read_whole(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open_to_read(path)?;
    let mut bytes = vec![0; usize::try_from(file.size()?).map_err(io::Error::other)?];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// All bytes of a file that may have at most so many.
pub fn read_bounded(disk: &dyn Disk, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = disk.open_to_read(path)?;
    let size = file.size()?;
    if bytes_max < size {
        let text = format!("it has more than the {bytes_max} bytes that such a file may have");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Writes or replaces a file, which has the old bytes or the new ones at any time; durable on return. By way of a file beside it, so one at a time.
pub fn write_whole(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("tmp");
    let file = disk.create(&unfinished)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    disk.rename(&unfinished, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    disk.sync_dir(folder.unwrap_or(Path::new(".")))
}
