//! Only the account that the node runs as may read the data folder, which has every balance, and what may have been
//! signed.
//!
//! In: a folder, perhaps one that an earlier release left open to all. Out: the same folder, closed to other users, and
//! a line in the log if that changed anything. New files are private from the start (`durable.rs`). It does not know
//! what the files are.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Result};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// The permissions of the group and of all others.
const OTHERS: u32 = 0o077;
/// The mode bit of a folder that everybody uses, like `/tmp`.
const STICKY: u32 = 0o1000;
/// The extension of key files. A key that others could read keeps the node from starting (`key.rs` says so), and is not
/// silently fixed here.
const KEY: &str = "key";
/// What a folder of ours may have in it before its mark exists.
const NEW: [&str; 4] = ["lock", "modules", "artefacts", "artefacts.key"];

/// From now on only this process's account can read what the process creates. Call it before there is a second thread.
pub fn keep_new_files_private() {
    rustix::process::umask(Mode::from_raw_mode(OTHERS));
}

/// Closes a folder and all that is in it to other users. `mark` is the name of a file that only our folders have. If it
/// is missing and others keep things in the folder too, nothing is closed; only what is created in it later is private.
///
/// # Errors
/// The folder cannot be read. A file that cannot be closed is only a warning, because some file systems have no modes.
pub fn close_to_others(folder: &Path, mark: &str) -> Result<()> {
    let mode = std::fs::metadata(folder)?.permissions().mode();
    // The folder itself is closed last, so a closed folder has nothing open in it.
    if mode & OTHERS == 0 {
        return Ok(());
    }
    let is_new =
        |entry: Result<std::fs::DirEntry>| entry.is_ok_and(|entry| NEW.iter().any(|name| entry.file_name() == *name));
    let is_ours = folder.join(mark).exists() || std::fs::read_dir(folder)?.all(is_new);
    if !is_ours || mode & STICKY != 0 {
        tracing::warn!(
            folder = %folder.display(),
            "other users may look into the data folder, which is not ours alone; use one that is"
        );
        return Ok(());
    }
    let (mut folders, mut next, mut closed) = (vec![folder.to_owned()], 0, 0);
    while let Some(folder) = folders.get(next).cloned() {
        next += 1;
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && entry.path().extension().is_none_or(|extension| extension != KEY) {
                closed += close(&entry.path());
            }
        }
    }
    closed += folders.iter().rev().map(close).sum::<u64>();
    tracing::warn!(
        folder = %folder.display(),
        closed,
        "other users could read the data folder; it is closed to them now, so run audits as this user, or on an export"
    );
    Ok(())
}

/// Takes away the permissions of others. Returns 1 if that changed anything, else 0. It does not follow a link, because
/// the target may belong to anybody.
fn close(path: &PathBuf) -> u64 {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let close = |file: File| {
        let mode = file.metadata()?.permissions().mode();
        let is_open = mode & OTHERS != 0;
        if is_open {
            file.set_permissions(Permissions::from_mode(mode & !OTHERS & 0o7777))?;
        }
        Ok(u64::from(is_open))
    };
    let closed = OpenOptions::new().read(true).custom_flags(flags).open(path).and_then(close);
    closed.unwrap_or_else(|error: std::io::Error| {
        if error.kind() != ErrorKind::NotFound {
            tracing::warn!(
                path = %path.display(), %error,
                "the access of other users cannot be removed here; remove it yourself"
            );
        }
        0
    })
}
