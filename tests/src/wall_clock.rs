//! A wall clock of a process's own, which a test moves while the process runs. The monotonic clock stays right.
//!
//! It needs libfaketime, a library that is loaded into the process. If it is missing, [`WallClock::new`] says so.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::{TempDir, tempdir};

use crate::process::argument;

/// Where distributions put the library, with and without a folder for the architecture in between.
const FOLDERS: [&str; 3] = ["/usr/lib", "/usr/lib64", "/usr/local/lib"];
const LIBRARY: &str = "faketime/libfaketime.so.1";
const FILE: &str = "offset";

/// The clock, which is right at first.
pub struct WallClock {
    library: PathBuf,
    /// Holds the file that says how far the clock is ahead. The process reads it at every look at the clock.
    folder: TempDir,
}

impl WallClock {
    /// # Errors
    /// Says what to install.
    pub fn new() -> Result<Self, String> {
        let library = find_library().ok_or("libfaketime is not installed: the package of Debian is `libfaketime`")?;
        let folder = tempdir().map_err(|error| error.to_string())?;
        let clock = Self { library, folder };
        clock.set_ahead(0);
        Ok(clock)
    }

    /// Sets the clock this many seconds ahead of the right time.
    pub fn set_ahead(&self, seconds: i64) {
        // The file is renamed into place, so the process reads either the old or the new one.
        let new = self.folder.path().join("new");
        fs::write(&new, format!("{seconds:+}")).expect("a new file");
        fs::rename(new, self.folder.path().join(FILE)).expect("the file can be replaced");
    }

    /// The environment with which the process is started.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", argument(&self.library).to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", argument(&self.folder.path().join(FILE)).to_owned()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}

/// Makes a stopped node forget how its clock went, as if its machine had started again. It then believes the next look.
pub fn forget_clock(data: &Path) {
    drop(fs::remove_file(data.join("clock")));
}

fn find_library() -> Option<PathBuf> {
    let below = |folder: &str| {
        let inner = fs::read_dir(folder).ok().into_iter().flatten().flatten().map(|entry| entry.path());
        std::iter::once(PathBuf::from(folder)).chain(inner).collect::<Vec<_>>()
    };
    FOLDERS.into_iter().flat_map(below).map(|folder| folder.join(LIBRARY)).find(|path| path.exists())
}
