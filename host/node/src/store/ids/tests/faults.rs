//! An index on a disk that loses its power, or fails, at any operation: acknowledged ids are there, and the rest is
//! recorded again.

use super::*;
use crate::disk::{SimDisk, SimOp};

const DIR: &str = "/ids";
const COPY: &str = "/copy";
const LAST: u64 = 30;

/// The promises of the index so far.
#[derive(Default)]
struct IdPromises {
    written: u64,
    copied: Option<u64>,
}

fn open_on(disk: &SimDisk, dir: &str) -> Result<IdIndex, StoreError> {
    let index = IdIndex::open(Arc::new(disk.clone()), Path::new(dir), IdOptions { recent_max: 200 })?;
    index.allow_write_up_to(LogIndex(u64::MAX));
    Ok(index)
}

/// Records, merges, reads and copies, as far as the disk allows.
fn work(disk: &SimDisk, promised: &mut IdPromises) -> Result<(), StoreError> {
    let index = open_on(disk, DIR)?;
    for journal in 1..=LAST {
        index.record(JournalIndex(journal), LogIndex(journal), &entry(journal))?;
        if journal % 6 == 0 {
            index.flush()?;
            promised.written = journal;
            index.lookup_batch(&entry(journal / 2).iter().map(|id| id.0).collect::<Vec<_>>(), &mut Vec::new())?;
        }
        if journal == LAST / 2 {
            promised.copied = Some(index.checkpoint(Path::new(COPY))?.0);
        }
    }
    index.wait_until_merged()?;
    index.verify()?;
    index.close()
}

/// Checks that all promised ids are there, and that the index is complete once the rest is recorded, even after another
/// power cut.
fn check_kept(disk: &SimDisk, promised: &IdPromises, what: &str) {
    let index = open_on(disk, DIR).unwrap_or_else(|error| panic!("{what}: {}", error.reason()));
    let found = index.applied().0;
    assert!(promised.written <= found, "{what}: {found} of {}", promised.written);
    index.verify().unwrap_or_else(|error| panic!("{what}: {}", error.reason()));
    drop(index);
    let disk = disk.crash(found);
    let index = open_on(&disk, DIR).unwrap_or_else(|error| panic!("{what}: {}", error.reason()));
    assert_eq!(index.applied().0, found, "{what}: what was found once is durable");
    feed(&index, LAST);
    check(&index, LAST);
    index.close().expect("nothing fails");
    let disk = disk.crash(found);
    assert_eq!(open_on(&disk, DIR).expect("nothing fails").applied().0, LAST, "{what}");
    if let Some(copied) = promised.copied {
        let copy = open_on(&disk, COPY).unwrap_or_else(|error| panic!("{what}: {}", error.reason()));
        assert_eq!(copy.applied().0, copied, "{what}: a checkpoint is durable");
        check(&copy, copied);
    }
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_that_was_written() {
    let mut operations = 0;
    loop {
        let disk = SimDisk::new();
        disk.crash_after(operations);
        let mut promised = IdPromises::default();
        let is_over = work(&disk, &mut promised).is_ok();
        for seed in 0..2 {
            check_kept(&disk.crash(seed), &promised, &format!("cut at operation {operations}, seed {seed}"));
        }
        check_kept(&disk.kill(), &promised, &format!("killed at operation {operations}"));
        // The number of operations depends on which runs exist when the merger looks.
        if is_over {
            break;
        }
        operations += 1;
    }
    assert!(50 < operations, "it was over after {operations} operations");
}

#[test]
fn an_operation_that_fails_is_reported_and_loses_nothing_that_was_written() {
    let (mut accesses, mut reported) = (0, 0);
    loop {
        let disk = SimDisk::new();
        disk.fail_after(accesses);
        let mut promised = IdPromises::default();
        let worked = work(&disk, &mut promised);
        let is_over = disk.accesses() <= accesses;
        if let Err(error) = worked {
            assert!(!error.reason().contains("panicked"), "access {accesses}: {}", error.reason());
            reported += 1;
        }
        for seed in 0..2 {
            check_kept(&disk.copy().crash(seed), &promised, &format!("access {accesses} failed, then seed {seed}"));
        }
        check_kept(&disk.copy(), &promised, &format!("access {accesses} failed"));
        if is_over {
            break;
        }
        accesses += 1;
    }
    // A replaced run that cannot be removed is not reported as an error.
    assert!(50 < reported && accesses <= reported + 20, "{reported} of {accesses}");
}

#[test]
fn a_checkpoint_that_cannot_be_synced_is_given_up_and_the_writer_continues() {
    let disk = SimDisk::new();
    let index = open_on(&disk, DIR).expect("nothing fails");
    feed(&index, 10);
    index.flush().expect("nothing fails");
    disk.set_failing(Some(SimOp::Sync));
    index.checkpoint(Path::new(COPY)).expect_err("its manifest is not durable");
    disk.set_failing(None);
    let (made, wait) = std::sync::mpsc::channel();
    feed(&index, 20);
    let on_copied = Box::new(move |result| made.send(result).expect("the test waits"));
    index.begin_checkpoint(Path::new("/second").to_owned(), on_copied);
    feed(&index, LAST);
    assert_eq!(wait.recv().expect("the writer says so").expect("nothing fails"), JournalIndex(20));
    index.close().expect("nothing fails");
    let copy = open_on(&disk.crash(1), "/second").expect("a checkpoint is durable");
    assert_eq!(copy.applied(), JournalIndex(20), "it has nothing that was recorded later");
    check(&copy, 20);
}
