//! Snapshots on a disk that loses its power, or fails, at any operation: they are received, and replace the existing
//! state.
//!
//! The state is a folder with ordinary files here: RocksDB is not involved.

use std::io::ErrorKind;

use super::*;
use crate::disk::{Disk, SimDisk, read_whole};

const PARTITION: &str = "/wallet/3";
/// Names of files in the state and the ids of a snapshot.
const NAMES: [&str; 3] = ["state/rocks/1.sst", "state/rocks/CURRENT", "ids/manifest"];

fn partition() -> &'static Path {
    Path::new(PARTITION)
}

/// The content of a file in the snapshot at an entry. It is larger than a block of the disk.
fn content_of(name: &str, index: u64) -> Vec<u8> {
    format!("{name} at {index} ").into_bytes().repeat(80)
}

/// Writes like the store and the ids, but without syncs.
fn fill(disk: &SimDisk, folder: &Path, index: u64) -> Result<(), SnapshotError> {
    for name in NAMES {
        let path = folder.join(name);
        files::create(disk, path.parent().expect("it is in a folder"))?;
        let written = disk.create(&path).and_then(|file| file.write_at(&content_of(name, index), 0));
        written.map_err(SnapshotError::io(&path, "written"))?;
    }
    Ok(())
}

#[track_caller]
fn check_whole(disk: &SimDisk, folder: &Path, index: u64, what: &str) {
    for name in NAMES {
        let found = read_whole(disk, &folder.join(name)).ok();
        assert!(found == Some(content_of(name, index)), "{what}: {name} of {index} in {}", folder.display());
    }
}

/// Runs work on a new disk: once completely, then cut before every operation, then with every access failed. `check`
/// gets the disk after the work, and the promises made by then.
fn at_every_operation<P: Default>(
    begin: impl Fn() -> SimDisk,
    work: impl Fn(&SimDisk, &mut P) -> Result<(), SnapshotError>,
    check: impl Fn(&SimDisk, &P, &str),
) {
    let whole = begin();
    let (operations, accesses) = (whole.operations(), whole.accesses());
    work(&whole, &mut P::default()).expect("nothing fails");
    let (operations, accesses) = (whole.operations() - operations, whole.accesses() - accesses);
    check(&whole, &P::default(), "nothing failed");
    for operation in 0..=operations {
        let (disk, mut promised) = (begin(), P::default());
        disk.crash_after(operation);
        assert_eq!(work(&disk, &mut promised).is_err(), operation < operations);
        for seed in 0..6 {
            check(&disk.crash(seed), &promised, &format!("cut at operation {operation}, seed {seed}"));
        }
        check(&disk.kill(), &promised, &format!("killed at operation {operation}"));
    }
    for access in 0..accesses {
        let (disk, mut promised) = (begin(), P::default());
        disk.fail_after(access);
        // A late removal, or an unnecessary read, is no reason to give up.
        drop(work(&disk, &mut promised));
        for seed in 0..6 {
            check(&disk.copy().crash(seed), &promised, &format!("access {access} failed, then seed {seed}"));
        }
        check(&disk, &promised, &format!("access {access} failed"));
    }
}

/// The offer of a node with a snapshot at 9.
fn offer() -> (Manifest, Bytes) {
    let mut manifest = Manifest::new(&stream(), &meta(9), [0; 32]);
    let facts = |name: &str| {
        let content = content_of(name, 9);
        let hash = *blake3::hash(&content).as_bytes();
        manifest::SnapshotFileFacts { name: name.to_owned(), size: content.len() as u64, hash }
    };
    manifest.files = NAMES.map(facts).to_vec();
    manifest.files.sort_by(|one, other| one.name.cmp(&other.name));
    let offer = manifest.encode();
    (manifest, offer)
}

/// Fetches like `receive`, in pieces of some hundred bytes.
fn fetch(disk: &SimDisk) -> Result<(), SnapshotError> {
    let incoming = IncomingSnapshot::open(Arc::new(disk.clone()), partition(), "wallet/3", &offer().1)?;
    for file in incoming.manifest.files.clone() {
        let Some(from) = incoming.missing_from(&file)? else { continue };
        let mut appending = incoming.append(&file)?;
        let content = content_of(&file.name, 9);
        content[from as usize..].chunks(700).try_for_each(|piece| appending.write(piece))?;
        incoming.check(&file)?;
    }
    incoming.accept()
}

/// Bytes that a killed process had fetched, or whose sync had failed, used to be taken for durable when they were
/// found.
#[test]
fn what_is_accepted_is_whole_and_durable_however_often_it_was_begun() {
    at_every_operation(
        SimDisk::new,
        |disk, _: &mut ()| fetch(disk),
        |disk, (), what| {
            let install = install_folder(partition());
            let is_accepted = |disk: &SimDisk| disk.kind(&install).expect("nothing fails").is_some();
            let was_accepted = is_accepted(disk);
            if was_accepted {
                check_whole(disk, &install, 9, what);
            } else {
                // A file that is not correct is fetched again.
                while let Err(error) = fetch(disk) {
                    assert!(matches!(error, SnapshotError::FileDamaged { .. }), "{what}: {error}");
                }
            }
            for seed in 0..6 {
                let disk = disk.copy().crash(seed);
                if is_accepted(&disk) {
                    check_whole(&disk, &install, 9, &format!("{what}, accepted, then seed {seed}"));
                } else {
                    // It was renamed, and nobody was told so.
                    assert!(was_accepted, "{what}: what is accepted is durable");
                }
            }
        },
    );
}

#[test]
fn state_and_ids_are_replaced_by_whole_ones_after_a_cut_or_a_failure_at_any_operation() {
    let begin = || {
        let disk = SimDisk::new();
        fill(&disk, partition(), 4).expect("nothing fails");
        fetch(&disk).expect("nothing fails");
        // All of it is durable.
        let (folders, found) = files::walk(&disk, Path::new("/")).expect("nothing fails");
        found.iter().for_each(|file| files::sync(&disk, file).expect("nothing fails"));
        folders.iter().for_each(|folder| files::sync_folder(&disk, folder).expect("nothing fails"));
        disk
    };
    let log_folder = tempfile::tempdir().expect("a temporary folder");
    let log = open_log(log_folder.path());
    // The log's own step has separate tests.
    let install = |disk: &SimDisk| -> Result<(), SnapshotError> {
        let raw = read_whole(disk, &install_folder(partition()).join(MANIFEST));
        let manifest = match raw {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            raw => Manifest::decode(&raw.map_err(SnapshotError::io(partition(), "read"))?)?,
        };
        STEPS[2..].iter().try_for_each(|step| step(disk, partition(), &log, &manifest))
    };
    at_every_operation(
        begin,
        |disk, _: &mut ()| install(disk),
        |disk, (), what| {
            install(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
            check_whole(disk, partition(), 9, what);
            check_whole(&disk.copy().crash(1), partition(), 9, &format!("{what}, then cut"));
        },
    );
}

/// The log used to skip the entries before the name of the folder was durable, so their state was lost with the name.
#[test]
fn what_is_to_be_installed_has_its_name_for_good_before_the_log_skips_to_it() {
    let whole = SimDisk::new();
    fetch(&whole).expect("nothing fails");
    let disk = SimDisk::new();
    // Everything except the syncs of two folders.
    disk.crash_after(whole.operations() - 2);
    fetch(&disk).expect_err("the power is off");
    let disk = disk.kill();
    check_whole(&disk, &install_folder(partition()), 9, "it has its name");
    let log_folder = tempfile::tempdir().expect("a temporary folder");
    STEPS[0](&disk, partition(), &open_log(log_folder.path()), &offer().0).expect("nothing fails");
    for seed in 0..16 {
        check_whole(&disk.copy().crash(seed), &install_folder(partition()), 9, "it has its name for good");
    }
}
