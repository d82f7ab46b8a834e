//! The disk as all code that keeps files sees it: three small traits, the machine's file system, and a disk in memory
//! that forgets.
//!
//! ```text
//! log, ids, snapshots, small files ─▶ Disk ─▶ RealDisk   std::fs, memmap2
//!                                          └▶ SimDisk    loses what was not synced, fails where it is told to
//! ```
//! Full paths go in. Files and names come out. Nothing here knows what is in a file. The files that RocksDB writes (its
//! tables, its own log, the hard links of its checkpoints) bypass these traits and use the real file system. A folder
//! of RocksDB is never read through a simulated `Disk`.

mod real;
#[cfg(any(test, feature = "testing"))]
mod sim;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "testing"))]
mod tree;
mod unfinished;

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

pub use real::RealDisk;
#[cfg(any(test, feature = "testing"))]
pub use sim::{SimDisk, SimOp};
pub use unfinished::UnfinishedFile;

/// A file system. Paths are given in full. Every call blocks.
pub trait Disk: Send + Sync + 'static {
    /// Creates the folder and its parents. They are durable on return.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// The names of the files and folders in a folder, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Creates an empty file, open for reading and writing. An existing file is emptied. The name is durable after
    /// [`Disk::sync_dir`].
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing regular file for reading only. This works on a folder that may not be written, or is not
    /// trusted.
    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// The bytes of a small file, and its mode as in `chmod`. A link is followed, so the folder must be trusted.
    fn read_with_mode(&self, path: &Path) -> io::Result<(Vec<u8>, u32)>;
    /// The kind of the thing with that name; `None` if there is nothing.
    fn kind(&self, path: &Path) -> io::Result<Option<FileKind>>;
    /// Renames a file or a folder, and replaces an existing file or empty folder of the new name. The rename is atomic,
    /// and durable after [`Disk::sync_dir`] of both parents.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. This is durable after [`Disk::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Gives a file another name. Returns `AlreadyExists` if the name is taken. The name is durable after
    /// [`Disk::sync_dir`].
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a folder and everything in it, if it exists. After a crash a part of it may be left.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The kind of thing that a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    File,
    Folder,
}

/// An open file. Several threads may use it. It stays readable after its name was changed or removed.
pub trait DiskFile: Send + Sync {
    /// An identity that no other file has, by whatever name the file was opened.
    fn identity(&self) -> io::Result<FileIdentity>;
    /// The size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Fills `bytes`. Returns `UnexpectedEof` if the file is shorter.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes`, or fails after any part of them was written. The bytes are not durable yet.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes all earlier writes durable. After an error nothing is known about any of them, and a retry could falsely
    /// succeed.
    fn sync(&self) -> io::Result<()>;
    /// A read-only memory map of the file at its present size. This process never makes a mapped file shorter; others
    /// might.
    fn map(&self) -> io::Result<Arc<dyn DiskMap>>;
}

/// The number of a device, and the number of a file on it.
pub type FileIdentity = (u64, u64);

/// A read-only memory map.
pub trait DiskMap: Send + Sync {
    /// A copy of a range that no writer touches any more. Returns `UnexpectedEof` if the file is shorter.
    fn read(&self, offset: u64, size: usize) -> io::Result<Bytes>;
}

/// All bytes of a file.
pub fn read_whole(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open_to_read(path)?;
    let mut bytes = vec![0; usize::try_from(file.size()?).map_err(io::Error::other)?];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// All bytes of a file that may have at most `bytes_max`.
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

/// Writes or replaces a file. At any time it has the old bytes or the new ones; the new ones are durable on return. It
/// writes a temporary file beside the file, so only one caller may do this at a time.
pub fn write_whole(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("tmp");
    let file = disk.create(&unfinished)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    disk.rename(&unfinished, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    disk.sync_dir(folder.unwrap_or(Path::new(".")))
}
