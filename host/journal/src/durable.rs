//! Files and folders that exist completely or not at all, after a kill and after a power cut, and that only their owner
//! may read.
//!
//! The bytes of a file are durable once the file was synced, and its name once its folder was. The name of a folder
//! lies in its parent. Every call blocks. Opening a file waits, within a limit, for a resource that is exhausted
//! ([`is_passing`]).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Error, ErrorKind, Result, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tempfile::NamedTempFile;

/// The mode of every file, also in an archive, because each has balances, names or keys in it.
pub const PRIVATE: u32 = 0o600;
/// The mode of every folder.
pub const PRIVATE_FOLDER: u32 = 0o700;

/// Creates or empties a file, for writing.
pub fn create(path: &Path) -> Result<File> {
    open(path, |path| OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE).open(path))
}

/// Creates or opens a file, for writing at its end.
pub fn append(path: &Path) -> Result<File> {
    open(path, |path| OpenOptions::new().append(true).create(true).mode(PRIVATE).open(path))
}

/// How long to wait for a descriptor, or for memory for a map, before the file counts as one that cannot be opened.
/// Within that time connections are shed and searches end.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// Whether a resource is exhausted that becomes available again on its own: space, a quota, descriptors, memory.
/// Nothing is damaged then, and a later retry can succeed.
pub fn is_passing(error: &Error) -> bool {
    use ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded) || is_scarcity(error)
}

/// Whether the process or the machine has no descriptor or no memory left.
pub fn is_scarcity(error: &Error) -> bool {
    let scarce = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    error.raw_os_error().is_some_and(|found| scarce.iter().any(|errno| errno.raw_os_error() == found))
}

/// Like [`is_passing`], for errors that are text and end with the system's message, such as those of RocksDB.
pub fn says_passing(text: &str) -> bool {
    ["No space left on device", "Disk quota exceeded"].iter().any(|known| text.contains(known)) || says_scarcity(text)
}

/// Like [`is_scarcity`], for such a text.
pub fn says_scarcity(text: &str) -> bool {
    ["Too many open files", "Cannot allocate memory"].iter().any(|known| text.contains(known))
}

/// Does work that needs a descriptor or memory, and repeats it while there is none. `is_scarce` says whether a result
/// failed for that reason. After the longest wait the last result is returned as it is. It must be safe to repeat the
/// work.
pub fn patiently<T>(what: &str, mut work: impl FnMut() -> T, is_scarce: impl Fn(&T) -> bool) -> T {
    let mut since = None;
    loop {
        let done = work();
        if !is_scarce(&done) {
            return done;
        }
        if since.is_none() {
            tracing::warn!(what, "waiting for a file descriptor or for memory: there is none left; see `ulimit -n`");
        }
        if PATIENCE <= since.get_or_insert_with(Instant::now).elapsed() {
            return done;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Opens a file, [patiently].
pub fn open<T>(path: &Path, mut open: impl FnMut(&Path) -> Result<T>) -> Result<T> {
    patiently(&path.display().to_string(), || open(path), |opened| opened.as_ref().is_err_and(is_scarcity))
}

/// Creates the folder and its parents. All are durable on return, even those made by a process that was killed before
/// it synced them.
pub fn create_dir_all(dir: &Path) -> Result<()> {
    let dir = std::path::absolute(dir)?;
    let made = dir.ancestors().take_while(|folder| !folder.exists()).count();
    DirBuilder::new().recursive(true).mode(PRIVATE_FOLDER).create(&dir)?;
    for (depth, parent) in dir.ancestors().skip(1).enumerate() {
        match sync_dir(parent) {
            // A process that may not read or write this folder cannot have made a new folder in it.
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

/// Moves a file or folder aside, to its name with `.damaged`, and replaces an earlier one there. It need not exist. The
/// move is durable on return; returns the new place.
pub fn set_aside(path: &Path) -> Result<PathBuf> {
    let unless_missing = |done: Result<()>| match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    };
    let mut aside = path.as_os_str().to_owned();
    aside.push(".damaged");
    let aside = PathBuf::from(aside);
    unless_missing(std::fs::remove_dir_all(&aside))?;
    unless_missing(std::fs::rename(path, &aside))?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))?;
    Ok(aside)
}

/// Makes the names in a folder durable.
pub fn sync_dir(dir: &Path) -> Result<()> {
    // Only the opening is repeated: after a failed sync nothing is known about what it should have made durable.
    open(dir, |dir| File::open(dir))?.sync_all()
}

/// Writes or replaces a file. At any time it has the old bytes or the new ones; the new ones are durable on return.
pub fn write(folder: &Path, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    UnnamedFile::write(folder, mode, bytes)?.name(folder, name)
}

/// A file whose bytes are durable and that has no name yet. It is removed when dropped.
pub struct UnnamedFile(NamedTempFile);

impl UnnamedFile {
    pub fn write(folder: &Path, mode: u32, bytes: &[u8]) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        let builder = builder.permissions(std::fs::Permissions::from_mode(mode));
        let mut file = open(folder, |folder| builder.tempfile_in(folder))?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        Ok(Self(file))
    }

    /// Gives the file its name, in the folder in which it was written. The name is durable on return.
    pub fn name(self, folder: &Path, name: &str) -> Result<()> {
        self.0.persist(folder.join(name))?;
        sync_dir(folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_run_out_comes_back_and_what_is_broken_does_not() {
        for (errno, is_passing_expected, is_scarcity_expected) in [
            (Errno::NOSPC, true, false),
            (Errno::DQUOT, true, false),
            (Errno::MFILE, true, true),
            (Errno::NFILE, true, true),
            (Errno::NOMEM, true, true),
            (Errno::IO, false, false),
            (Errno::NOENT, false, false),
            (Errno::ROFS, false, false),
        ] {
            let error = Error::from_raw_os_error(errno.raw_os_error());
            assert_eq!(
                (is_passing(&error), is_scarcity(&error)),
                (is_passing_expected, is_scarcity_expected),
                "{error}"
            );
            // The same error as RocksDB writes it.
            let text = format!(
                "IO error: While opening a file: {}",
                error.to_string().split(" (os").next().unwrap_or_default()
            );
            assert_eq!(
                (says_passing(&text), says_scarcity(&text)),
                (is_passing_expected, is_scarcity_expected),
                "{text}"
            );
        }
    }

    #[test]
    fn a_descriptor_is_waited_for_and_nothing_else_is() {
        let file = Path::new("/dev/null");
        let failing = |errno: Errno, times: usize| {
            let mut left = times;
            let mut tried = 0;
            let opened = open(file, |path| {
                tried += 1;
                match left.checked_sub(1) {
                    Some(rest) => {
                        left = rest;
                        Err(Error::from_raw_os_error(errno.raw_os_error()))
                    }
                    None => std::fs::File::open(path),
                }
            });
            (opened.is_ok(), tried)
        };
        assert_eq!(failing(Errno::MFILE, 3), (true, 4));
        assert_eq!(failing(Errno::NFILE, 1), (true, 2));
        assert_eq!(failing(Errno::NOSPC, 1), (false, 1));
        assert_eq!(failing(Errno::ACCESS, 1), (false, 1));
    }

    #[test]
    fn files_and_folders_are_for_their_owner_alone() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let folder = data.path().join("a/b");
        create_dir_all(&folder).expect("it can be made");
        drop((create(&folder.join("created")), append(&folder.join("appended"))));
        write(&folder, "written", PRIVATE, b"whole").expect("it can be written");
        let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!([mode(&data.path().join("a")), mode(&folder)], [PRIVATE_FOLDER; 2]);
        let files = ["created", "appended", "written"].map(|name| mode(&folder.join(name)));
        assert_eq!(files, [PRIVATE; 3]);
    }
}
