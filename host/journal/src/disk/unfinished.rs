//! A file that is written from beginning to end under a temporary name, and gets its name once it is complete.
//!
//! Bytes in order go in. A durable file of the intended name comes out, or none. It does not buffer: a caller that
//! writes small pieces adds a buffer.

use std::io::{Result, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::durable;

/// The file is removed if this is dropped before the file has its name, so a failed attempt on a full disk frees its
/// space.
pub struct UnfinishedFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    end: u64,
    is_named: bool,
}

impl UnfinishedFile {
    /// Begins a file, and replaces one that was left there. It waits for a descriptor.
    pub fn create(disk: Arc<dyn Disk>, path: PathBuf) -> Result<Self> {
        let file = durable::open(&path, |path| disk.create(path))?;
        Ok(Self { disk, path, file, end: 0, is_named: false })
    }

    /// The place of the file until it is complete.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of bytes so far.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Makes everything durable that was written. After an error nothing is known about it.
    pub fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    /// Gives the file its name in its folder, and replaces the file of that name. The name is durable on return; the
    /// bytes are durable if they were synced. After an error the file may have the name or not.
    pub fn name(mut self, to: &Path) -> Result<Arc<dyn DiskFile>> {
        assert_eq!(self.path.parent(), to.parent(), "one folder is synced");
        self.disk.rename(&self.path, to)?;
        self.is_named = true;
        self.disk.sync_dir(to.parent().unwrap_or(Path::new(".")))?;
        Ok(self.file.clone())
    }
}

impl Write for UnfinishedFile {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.file.write_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        if !self.is_named {
            // If it stays, the next opening of the folder removes it.
            let _ = self.disk.remove(&self.path);
        }
    }
}
