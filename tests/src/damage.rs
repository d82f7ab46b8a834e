//! Damage to the folder of a stopped node: bits flipped, everything removed, or an earlier state restored.
//!
//! This file knows where a partition's log, state and id index are, and that the unwritten rest of a segment is zero.
//! It knows no frame layout.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::{TempDir, tempdir};

/// Where a bit is flipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Half way through what was written to the oldest segment.
    LogMiddle,
    /// In the first bytes of the oldest segment.
    SegmentHeader,
    /// Half way through the largest file of rows.
    State,
    /// Half way through the largest file of the id index.
    Ids,
}

/// Flips one bit in a file of a partition and returns the file; `None` when there is no such file yet.
pub fn flip_bit(partition: &Path, place: Place) -> Option<PathBuf> {
    let (file, offset) = match place {
        Place::LogMiddle => {
            let file = segments(partition).into_iter().next()?;
            let bytes = fs::read(&file).expect("a segment can be read");
            let written = bytes.iter().rposition(|byte| *byte != 0).expect("a segment has a header") + 1;
            (file, written / 2)
        }
        // The bit is after the magic number, which every format keeps: this is a damaged header, and not another kind
        // of file.
        Place::SegmentHeader => (segments(partition).into_iter().next()?, 16),
        Place::State => middle_of_largest(&partition.join("state/rocks"), "sst")?,
        Place::Ids => middle_of_largest(&partition.join("ids"), "ids")?,
    };
    let mut bytes = fs::read(&file).expect("the file can be read");
    bytes[offset] ^= 1;
    fs::write(&file, &bytes).expect("the file can be written");
    Some(file)
}

/// The segments of a partition's log, oldest first.
pub fn segments(partition: &Path) -> Vec<PathBuf> {
    let mut found = files_in(&partition.join("log"), "log");
    found.sort();
    found
}

fn middle_of_largest(folder: &Path, ending: &str) -> Option<(PathBuf, usize)> {
    let size = |path: &PathBuf| fs::metadata(path).expect("the file is there").len();
    let file = files_in(folder, ending).into_iter().max_by_key(size)?;
    let middle = size(&file) as usize / 2;
    Some((file, middle))
}

fn files_in(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let Ok(files) = fs::read_dir(folder) else { return Vec::new() };
    let paths = files.map(|file| file.expect("the folder can be listed").path());
    paths.filter(|path| path.extension().is_some_and(|found| found == ending)).collect()
}

/// Removes everything that a node has kept.
pub fn wipe(folder: &Path) {
    fs::remove_dir_all(folder).expect("the folder can be removed");
    fs::create_dir(folder).expect("the folder can be made again");
}

/// A copy of a folder, to go back to.
pub struct Backup(TempDir);

impl Backup {
    pub fn of(folder: &Path) -> Self {
        let copy = tempdir().expect("a temporary folder");
        copy_all(folder, copy.path());
        Self(copy)
    }

    /// Makes the folder what it was, as a restored virtual machine would.
    pub fn restore(&self, folder: &Path) {
        wipe(folder);
        copy_all(self.0.path(), folder);
    }
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("the folder can be listed") {
        let entry = entry.expect("the folder can be listed");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("an entry has a type").is_dir() {
            fs::create_dir(&target).expect("the folder can be made");
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("the file can be copied");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A partition folder with one segment of 100 written bytes, and rows.
    fn partition() -> TempDir {
        let folder = tempdir().expect("a temporary folder");
        for name in ["log", "state/rocks"] {
            fs::create_dir_all(folder.path().join(name)).expect("a new folder");
        }
        let segment = [vec![1; 100], vec![0; 900]].concat();
        fs::write(folder.path().join("log/seg-0.log"), segment).expect("a new file");
        fs::write(folder.path().join("state/rocks/000001.sst"), [2; 50]).expect("a new file");
        folder
    }

    #[test]
    fn one_bit_is_flipped_where_it_was_asked_for() {
        for (place, file, offset) in [
            (Place::LogMiddle, "log/seg-0.log", 50),
            (Place::SegmentHeader, "log/seg-0.log", 16),
            (Place::State, "state/rocks/000001.sst", 25),
        ] {
            let folder = partition();
            let before = fs::read(folder.path().join(file)).expect("the file is there");
            assert_eq!(flip_bit(folder.path(), place), Some(folder.path().join(file)));
            let after = fs::read(folder.path().join(file)).expect("the file is there");
            let changed: Vec<usize> = (0..before.len()).filter(|at| before[*at] != after[*at]).collect();
            assert_eq!(changed, [offset], "{place:?}");
            assert_eq!((before[offset] ^ after[offset]).count_ones(), 1);
        }
        assert_eq!(flip_bit(partition().path(), Place::Ids), None, "there is no id index");
    }

    #[test]
    fn a_folder_goes_back_to_what_it_was() {
        let folder = partition();
        let backup = Backup::of(folder.path());
        fs::write(folder.path().join("log/seg-1.log"), [3; 10]).expect("a new file");
        flip_bit(folder.path(), Place::LogMiddle).expect("there is a log");
        backup.restore(folder.path());
        assert_eq!(segments(folder.path()), [folder.path().join("log/seg-0.log")]);
        assert_eq!(fs::read(folder.path().join("log/seg-0.log")).expect("the file is there")[50], 1);
    }
}
