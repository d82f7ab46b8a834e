//! The machine's own file system, over `std::fs` and `memmap2`.
//!
//! Writing through a map is impossible by construction: maps only return copies. A file that became shorter, or that
//! the disk cannot read, is an error for its reader, even through a map.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Advice, Mmap};

use crate::disk::{Disk, DiskFile, DiskMap, FileIdentity, FileKind};
use crate::durable;
use crate::regular;

/// The machine's own file system.
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        durable::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in durable::open(dir, |dir| std::fs::read_dir(dir))? {
            // None of our files has a name that is not Unicode.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        // The callers that create files can retry later.
        let file =
            File::options().read(true).write(true).create(true).truncate(true).mode(durable::PRIVATE).open(path)?;
        Ok(RealFile::of(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = durable::open(path, |path| File::options().read(true).write(true).open(path))?;
        Ok(RealFile::of(file))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(RealFile::of(durable::open(path, regular::open)?))
    }

    fn read_with_mode(&self, path: &Path) -> io::Result<(Vec<u8>, u32)> {
        let mode = std::fs::metadata(path)?.permissions().mode() & 0o777;
        Ok((std::fs::read(path)?, mode))
    }

    fn kind(&self, path: &Path) -> io::Result<Option<FileKind>> {
        match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(metadata) => Ok(Some(if metadata.is_dir() { FileKind::Folder } else { FileKind::File })),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
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

struct RealFile(Arc<File>);

impl RealFile {
    fn of(file: File) -> Arc<dyn DiskFile> {
        Arc::new(Self(Arc::new(file)))
    }
}

impl DiskFile for RealFile {
    fn identity(&self) -> io::Result<FileIdentity> {
        let metadata = self.0.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

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
        // SAFETY: only this process writes mapped files, and it never makes them shorter. `RealMap::read` copies only
        // ranges that no writer touches any more, so no reference ever covers memory that changes.
        let map = unsafe { Mmap::map(&*self.0)? };
        Ok(Arc::new(RealMap { map, file: self.0.clone() }))
    }
}

struct RealMap {
    map: Mmap,
    file: Arc<File>,
}

impl DiskMap for RealMap {
    fn read(&self, offset: u64, size: usize) -> io::Result<Bytes> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(size).filter(|&end| end <= self.map.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        assert!(start <= end);
        if !self.has_pages(start, size)? {
            let mut bytes = vec![0; size];
            self.file.read_exact_at(&mut bytes, offset)?;
            return Ok(Bytes::from(bytes));
        }
        // SAFETY: the range lies inside the map, as checked above. A slice of the whole map would also cover bytes that
        // the writer thread is changing. This one covers only finished bytes, by the contract of the method.
        let bytes = unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(start), size) };
        Ok(Bytes::copy_from_slice(bytes))
    }
}

impl RealMap {
    /// Asks the kernel to load the pages of a range. If a page cannot be loaded (the file became shorter, a sector is
    /// bad), this returns an error. Touching the page through the map would raise a signal that ends the process. A
    /// window of some microseconds remains between this call and the copy, in which somebody may truncate the file, or
    /// the kernel may drop the page and fail to read it again. `false` means that this kernel does not know the call
    /// (Linux before 5.14, some sandboxes), so the map must not be touched.
    fn has_pages(&self, start: usize, size: usize) -> io::Result<bool> {
        let end = (start + size) as u64;
        match self.map.advise_range(Advice::PopulateRead, start, size) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
            Err(_) if self.file.metadata()?.len() < end => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(error),
        }
    }
}
