//! Files and folders that are there whole or not at all, after a kill and after a power cut.
//!
//! The bytes of a file are durable once the file was synced, its name once its folder was; the name of a folder lies in its parent.
//! Everything blocks.

use std::io::{Error, ErrorKind, Result, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::NamedTempFile;

/// The mode of what is for this node alone.
pub const PRIVATE: u32 = 0o600;
/// The mode of what others may read, as an archive.
pub const SHARED: u32 = 0o644;

/// Creates the folder and its parents; durable on return, also those that a process made which was killed before it synced them.
pub fn create_dir_all(dir: &Path) -> Result<()> {
    let dir = std::path::absolute(dir)?;
    let made = dir.ancestors().take_while(|folder| !folder.exists()).count();
    std::fs::create_dir_all(&dir)?;
    for (depth, parent) in dir.ancestors().skip(1).enumerate() {
        match sync_dir(parent) {
            // Whoever may not read a folder, or only that, is not the one whose folders are new in it.
            Err(error) if made <= depth && is_of_others(&error) => {}
            other => other?,
        }
    }
    Ok(())
}

fn is_of_others(error: &Error) -> bool {
    use ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | InvalidInput | Unsupported)
}

/// Makes the names in a folder durable.
pub fn sync_dir(dir: &Path) -> Result<()> {
    std::fs::File::open(dir)?.sync_all()
}

/// Writes or replaces a file, which has the old bytes or the new ones at any time; durable on return.
pub fn write(folder: &Path, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    Unnamed::write(folder, mode, bytes)?.name(folder, name)
}

/// A file whose bytes are durable and that has no name yet; it is gone when dropped.
pub struct Unnamed(NamedTempFile);

impl Unnamed {
    pub fn write(folder: &Path, mode: u32, bytes: &[u8]) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        let mut file = builder.permissions(std::fs::Permissions::from_mode(mode)).tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        Ok(Self(file))
    }

    /// Durable on return. The folder is the one that the file was written in.
    pub fn name(self, folder: &Path, name: &str) -> Result<()> {
        self.0.persist(folder.join(name))?;
        sync_dir(folder)
    }
}
