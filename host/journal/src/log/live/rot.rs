//! Marks of sealed segments that were found to be damaged: `seg-<first lsn>.rot`, an empty file beside the segment.
//!
//! A start does not read sealed segments. Without a mark it would forget known damage and report that all is well. It
//! is told which segments are damaged, or whole again, and returns what was known before the start. If a mark cannot be
//! written, the next reader finds the damage again.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::disk::Disk;
use crate::ids::Lsn;
use crate::log::LogError;
use crate::log::seal::Seal;
use crate::log::segment::file_name;

const SUFFIX: &str = ".rot";

/// The mark is durable on return.
pub(super) fn mark(disk: &dyn Disk, dir: &Path, first_lsn: Lsn) -> io::Result<()> {
    disk.create(&dir.join(name(first_lsn)))?.sync()?;
    disk.sync_dir(dir)
}

/// The segment is whole again, or gone. If the mark returns after a power cut, it is found to be wrong.
pub(super) fn unmark(disk: &dyn Disk, dir: &Path, first_lsn: Lsn) -> io::Result<()> {
    match disk.remove(&dir.join(name(first_lsn))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The marked segments among those that a start does not read. Any other mark is out of date and is deleted.
pub(super) fn found(disk: &dyn Disk, dir: &Path, seals: &[Arc<Seal>]) -> Result<BTreeMap<Lsn, String>, LogError> {
    let on_disk = |error| LogError::disk(dir.display().to_string(), error);
    let mut rot = BTreeMap::new();
    for marked in disk.list(dir).map_err(on_disk)?.iter().filter(|name| name.ends_with(SUFFIX)) {
        match seals.iter().find(|seal| name(seal.first_lsn()) == **marked) {
            Some(seal) => {
                let segment = file_name(seal.first_lsn());
                let how = format!("{segment} was found to be damaged before this start");
                _ = rot.insert(seal.first_lsn(), how);
            }
            None => disk.remove(&dir.join(marked)).map_err(on_disk)?,
        }
    }
    Ok(rot)
}

pub(super) fn is_any(disk: &dyn Disk, dir: &Path) -> bool {
    disk.list(dir).is_ok_and(|names| names.iter().any(|name| name.ends_with(SUFFIX)))
}

fn name(first_lsn: Lsn) -> String {
    format!("seg-{:016x}{SUFFIX}", first_lsn.0)
}
