//! The canonical snapshots of a partition on a disk that loses its power, or fails, at any operation.

use std::sync::Arc;

use super::*;
use crate::disk::{Disk, SimDisk};

const PARTITION: &str = "/wallet/0";
const COUNT: u64 = 3;
/// The file in the folder of a kept state.
const STATE: &str = "CURRENT";

/// The promises of the folder so far, by the entry of each snapshot.
#[derive(Default)]
struct SnapshotPromises {
    /// Its state was kept.
    kept: Vec<u64>,
    /// Its file is complete.
    made: Vec<u64>,
    /// Its file may be gone.
    deleted: Vec<u64>,
}

fn due(index: u64) -> DueSnapshot {
    DueSnapshot { index: JournalIndex(index), days: None }
}

fn facts_at(index: u64) -> Facts {
    let mut facts = facts(None);
    facts.journal.index = JournalIndex(index);
    facts
}

fn open(disk: &SimDisk) -> Result<SnapshotFolder, CanonicalError> {
    SnapshotFolder::open(Arc::new(disk.clone()), Path::new(PARTITION))
}

fn make(folder: &SnapshotFolder, index: u64) -> Result<ListedFile, CanonicalError> {
    let mut writer = folder.begin_file(&facts_at(index))?;
    few().iter().try_for_each(|(key, row)| writer.put(key, row))?;
    writer.finish()
}

/// Makes files of kept states, takes over one from elsewhere and deletes one, as far as the disk allows.
fn work(disk: &SimDisk, from: &Path, promised: &mut SnapshotPromises) -> Result<(), CanonicalError> {
    let folder = open(disk)?;
    for index in 1..=COUNT {
        // As in the store, the folder is complete before it has its name.
        disk.put(&folder.due_folder(&due(index)).join(STATE), b"rows".to_vec());
        promised.kept.push(index);
        let made = make(&folder, index)?;
        promised.made.push(index);
        folder.made(&due(index), &made)?;
    }
    let mut writer = SnapshotWriter::begin(Arc::new(RealDisk), from, &facts_at(COUNT + 1))?;
    few().iter().try_for_each(|(key, row)| writer.put(key, row))?;
    let elsewhere = writer.finish()?;
    folder.take_in(&from.join(&elsewhere.name), &elsewhere)?;
    promised.made.push(COUNT + 1);
    promised.deleted.push(1);
    folder.delete(&folder.find(&due(1)).expect("it was made"))
}

/// Checks that each kept state or its file is there, that files that were made are complete, and that the rest can be
/// made.
fn check_kept(disk: &SimDisk, promised: &SnapshotPromises, what: &str) {
    let folder = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let states = folder.list_due().unwrap_or_else(|error| panic!("{what}: {error}"));
    let is_gone = |index: &u64| promised.deleted.contains(index);
    for index in promised.made.iter().filter(|index| !is_gone(index)) {
        assert!(folder.find(&due(*index)).is_some(), "{what}: {index} was made");
    }
    for index in promised.kept.iter().filter(|index| !is_gone(index)) {
        let is_there = folder.find(&due(*index)).is_some() || states.contains(&due(*index));
        assert!(is_there, "{what}: the state at {index} was kept");
    }
    for due in states {
        let state = disk.content(&folder.due_folder(&due).join(STATE));
        assert_eq!(state.as_deref(), Some(&b"rows"[..]), "{what}: a state has its name while it is whole");
        let made = folder.find(&due).map_or_else(|| make(&folder, due.index.0), Ok);
        folder.made(&due, &made.expect("nothing fails")).expect("nothing fails");
    }
    let listed = folder.list();
    for listed in &listed {
        let mut rows = Vec::new();
        let visited = folder
            .open_file(listed)
            .and_then(|mut file| file.visit(|key, row| rows.push((key.to_vec(), row.to_vec()))));
        visited.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(rows, few());
    }
    assert_eq!(folder.list_due().expect("nothing fails"), []);
    let left = disk.list(folder.path()).expect("nothing fails");
    assert_eq!(left.len(), listed.len(), "{what}: {left:?}");
}

#[test]
fn a_power_cut_at_any_operation_loses_no_snapshot_that_is_due_or_made() {
    let elsewhere = tempdir().expect("a temporary folder");
    let whole = SimDisk::new();
    work(&whole, elsewhere.path(), &mut SnapshotPromises::default()).expect("nothing fails");
    for operations in 0..=whole.operations() {
        let disk = SimDisk::new();
        disk.crash_after(operations);
        let mut promised = SnapshotPromises::default();
        assert_eq!(work(&disk, elsewhere.path(), &mut promised).is_err(), operations < whole.operations());
        for seed in 0..8 {
            check_kept(&disk.crash(seed), &promised, &format!("cut at operation {operations}, seed {seed}"));
        }
        let killed = disk.kill();
        check_kept(&killed, &promised, &format!("killed at operation {operations}"));
        check_kept(&killed.crash(operations), &promised, &format!("killed at operation {operations}, then cut"));
    }
}

#[test]
fn an_operation_that_fails_is_reported_and_loses_no_snapshot() {
    let elsewhere = tempdir().expect("a temporary folder");
    let whole = SimDisk::new();
    work(&whole, elsewhere.path(), &mut SnapshotPromises::default()).expect("nothing fails");
    for accesses in 0..whole.accesses() {
        let disk = SimDisk::new();
        disk.fail_after(accesses);
        let mut promised = SnapshotPromises::default();
        work(&disk, elsewhere.path(), &mut promised).expect_err("it is told to fail");
        for seed in 0..8 {
            check_kept(&disk.copy().crash(seed), &promised, &format!("access {accesses} failed, then seed {seed}"));
        }
        check_kept(&disk, &promised, &format!("access {accesses} failed"));
    }
}
