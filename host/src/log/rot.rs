//! Marks of sealed segments that were found to be damaged: `seg-<first lsn>.rot`, an empty file beside the segment.
//!
//! A start does not read what is sealed, so without a mark it would forget what was found, and say that all is well. In: which segments are
//! damaged, or whole again. Out: what was known before the start. A mark that cannot be written is found out once more by whoever reads.

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

/// Durable on return.
pub(super) fn mark(disk: &dyn Disk, dir: &Path, first_lsn: Lsn) -> io::Result<()> {
    disk.create(&dir.join(name(first_lsn)))?.sync()?;
    disk.sync_dir(dir)
}

/// The segment is whole again, or gone. A mark that comes back after a power cut is found not to be true.
pub(super) fn unmark(disk: &dyn Disk, dir: &Path, first_lsn: Lsn) -> io::Result<()> {
    match disk.remove(&dir.join(name(first_lsn))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The segments with a mark, of those that a start does not read. Any other mark says nothing any more, and goes.
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
