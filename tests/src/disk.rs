//! A small file system in memory that can be filled up.
//!
//! It needs the permission to mount. Without it, [`Disk::mount`] says why, and the test is skipped with that reason.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::{TempDir, tempdir};

use crate::process::argument;

/// This is enough for a host at rest with its first segments, and is quickly filled.
const OPTIONS: &str = "size=256m";

/// The file system, unmounted when dropped.
pub struct Disk(TempDir);

impl Disk {
    /// # Errors
    /// Says why no file system can be mounted here.
    pub fn mount() -> Result<Self, String> {
        let folder = tempdir().map_err(|error| error.to_string())?;
        let path = argument(folder.path());
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", OPTIONS, "tmpfs", path]).output();
        let output = output.map_err(|error| error.to_string())?;
        if output.status.success() { Ok(Self(folder)) } else { Err(String::from_utf8_lossy(&output.stderr).into()) }
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the space that is left.
    pub fn fill(&self) {
        let mut file = File::create(self.ballast()).expect("the disk has room for a name");
        let copied = std::io::copy(&mut std::io::repeat(1), &mut file);
        assert!(copied.is_err_and(|error| error.kind() == std::io::ErrorKind::StorageFull), "the disk is full");
    }

    /// Gives the space back.
    pub fn free(&self) {
        std::fs::remove_file(self.ballast()).expect("the ballast can be removed");
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The unmount is lazy: a host that is being dropped may still have files open.
        Command::new("umount").arg("--lazy").arg(self.path()).status().ok();
    }
}
