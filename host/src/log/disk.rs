//! The disk as the log sees it: two small traits, and the real implementation over `std::fs` and `memmap2`.
//!
//! The simulated one is in `disk_sim.rs`. Nothing here knows segments or frames. Writing through a map is impossible by
//! construction: maps only give out copies.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::durable;
use crate::regular;

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
    /// Of a file or a folder; an existing file or empty folder of that name is replaced. Atomic; durable after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Durable after [`Disk::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder with everything in it, which may be there by half after a crash; nothing if there is none.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file. Usable from several threads; it stays readable after its name was changed or removed.
pub trait DiskFile: Send + Sync {
    /// Bytes.
    fn size(&self) -> io::Result<u64>;
    /// Fills `bytes`; an `UnexpectedEof` when the file is shorter.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes`, or fails with any part of them written. Not durable.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes all earlier writes durable. After an error nothing is known about any of them, and trying again would lie.
    fn sync(&self) -> io::Result<()>;
    /// A read-only memory map of the file at its present size. The file must never become shorter.
    fn map(&self) -> io::Result<Arc<dyn DiskMap>>;
}

/// A read-only memory map.
pub trait DiskMap: Send + Sync {
    /// A copy of a range that no writer touches any more. `None` beyond the end.
    fn read(&self, offset: u64, size: usize) -> Option<Bytes>;
}

/// The machine's own file system.
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        durable::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in durable::open(dir, |dir| std::fs::read_dir(dir))? {
            // Nothing of ours has a name that is not Unicode.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        // Whoever makes files can try again later.
        let file =
            File::options().read(true).write(true).create(true).truncate(true).mode(durable::PRIVATE).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = durable::open(path, |path| File::options().read(true).write(true).open(path))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(durable::open(path, regular::open)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        durable::sync_dir(dir)
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn map(&self) -> io::Result<Arc<dyn DiskMap>> {
        // SAFETY: segments are written by this process only, are never made shorter, and `RealMap::read` copies only ranges
        // whose bytes no writer touches any more, so no reference ever covers memory that changes.
        let map = unsafe { memmap2::Mmap::map(&self.0)? };
        Ok(Arc::new(RealMap(map)))
    }
}

struct RealMap(memmap2::Mmap);

impl DiskMap for RealMap {
    fn read(&self, offset: u64, size: usize) -> Option<Bytes> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(size).filter(|&end| end <= self.0.len())?;
        assert!(offset <= end);
        // SAFETY: the range lies inside the map, checked above. A slice of the whole map would also cover bytes that the
        // writer thread is changing; this one covers only finished ones, by the contract of the method.
        let bytes = unsafe { std::slice::from_raw_parts(self.0.as_ptr().add(offset), size) };
        Some(Bytes::copy_from_slice(bytes))
    }
}
