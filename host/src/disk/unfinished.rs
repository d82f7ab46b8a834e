//! A file that is written from its beginning to its end, aside, and has its name once it is whole.
//!
//! In: bytes in order. Out: a file of the name that it should have, durable, or none. It does not buffer: whoever writes little at a time puts
//! a buffer before it.

use std::io::{Result, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::durable;

/// Removed when it is dropped before it has its name, so that a failed attempt on a full disk leaves its space free.
pub struct Unfinished {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    end: u64,
    is_named: bool,
}

impl Unfinished {
    /// Begins a file, in place of one that was left there. A descriptor is waited for.
    pub fn create(disk: Arc<dyn Disk>, path: PathBuf) -> Result<Self> {
        let file = durable::open(&path, |path| disk.create(path))?;
        Ok(Self { disk, path, file, end: 0, is_named: false })
    }

    /// Where it is as long as it is not whole.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes so far.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Makes everything durable that was written. After an error nothing is known about any of it.
    pub fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    /// Gives it its name in the folder that it is in, in place of what has that name; the name is durable on return, the bytes are once they
    /// were synced. After an error it has the name or not.
    pub fn name(mut self, to: &Path) -> Result<Arc<dyn DiskFile>> {
        assert_eq!(self.path.parent(), to.parent(), "one folder is synced");
        self.disk.rename(&self.path, to)?;
        self.is_named = true;
        self.disk.sync_dir(to.parent().unwrap_or(Path::new(".")))?;
        Ok(self.file.clone())
    }
}

impl Write for Unfinished {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.file.write_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_named {
            // If it stays, whoever opens the folder next removes it.
            let _ = self.disk.remove(&self.path);
        }
    }
}
