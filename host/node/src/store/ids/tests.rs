//! Tests of the id index against a hash map, through crashes, damage and merges.
//!
//! The feeder plays the journal: it can produce the ids of any entry again. After each crash it records what the index
//! has lost. Then every id ever recorded must be found, and no other.

mod faults;

use std::fs;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::record::{IdHasher, StoredId};
use super::run::{IdRun, RunWriter};
use super::*;
use crate::data_folder::Span;
use crate::disk::RealDisk;

type Entry = Vec<(CommandId, Fingerprint, u32)>;

fn real() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

fn open(dir: &Path) -> IdIndex {
    let index = IdIndex::open(real(), dir, IdOptions { recent_max: 200 }).expect("the folder is writable");
    index.allow_write_up_to(LogIndex(u64::MAX));
    index
}

/// The ids of entry `journal`, which are always the same.
fn entry(journal: u64) -> Entry {
    let mut rng = StdRng::seed_from_u64(journal);
    let count = if rng.random_ratio(1, 8) { 0 } else { rng.random_range(0..90) };
    (0..count).map(|n| (CommandId(rng.random()), Fingerprint(rng.random()), n)).collect()
}

fn feed(index: &IdIndex, last: u64) {
    for journal in index.applied().0 + 1..=last {
        index.record(JournalIndex(journal), LogIndex(journal), &entry(journal)).expect("the disk has space");
    }
}

/// Checks that every id of the entries up to `last` is found where it was recorded, and that no other id is found.
fn check(index: &IdIndex, last: u64) {
    let recorded: Vec<_> =
        (1..=last).flat_map(|journal| entry(journal).into_iter().map(move |id| (journal, id))).collect();
    let strangers = entry(1_000_000).into_iter().chain(entry(1_000_001)).chain(entry(1_000_002));
    let ids: Vec<CommandId> = recorded.iter().map(|(_, id)| id.0).chain(strangers.map(|id| id.0)).collect();
    let mut out = Vec::new();
    index.lookup_batch(&ids, &mut out).expect("nothing is damaged");
    assert_eq!(out.len(), ids.len());
    for ((journal, (id, fingerprint, n)), found) in recorded.iter().zip(&out) {
        let found = found.unwrap_or_else(|| panic!("{id} of entry {journal} was recorded"));
        assert_eq!((found.journal, found.n), (JournalIndex(*journal), *n));
        assert!(found.is_same_content(fingerprint));
        assert!(!found.is_same_content(&Fingerprint::ZERO));
    }
    assert!(out[recorded.len()..].iter().all(Option::is_none), "a stranger is not found");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder is writable");
    for file in fs::read_dir(from).expect("the folder exists") {
        let path = file.expect("the folder can be read").path();
        // A file that vanishes while the folder is copied no longer had a name.
        let _ = fs::copy(&path, to.join(path.file_name().expect("it is a file")));
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(dir).expect("the folder exists").map(|file| file.expect("readable").path()).collect();
    files.sort();
    files
}

/// An index of 60 entries, written and closed.
fn closed_index(dir: &Path) {
    let index = open(dir);
    for journal in 1..=60 {
        index.record(JournalIndex(journal), LogIndex(journal), &entry(journal)).expect("the disk has space");
        if journal % 15 == 0 {
            index.flush().expect("the disk has space");
        }
    }
    index.wait_until_merged().expect("the disk has space");
    index.close().expect("the disk has space");
}

#[test]
fn the_index_agrees_with_the_journal_through_merges_and_crashes() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut rng = StdRng::seed_from_u64(1);
    let mut last = 0;
    for round in 0..12 {
        let index = open(dir.path());
        assert!(index.applied() <= JournalIndex(last));
        feed(&index, last);
        check(&index, last);
        last += rng.random_range(0..60);
        feed(&index, last);
        check(&index, last);
        match round % 3 {
            0 => drop(index),
            1 => index.close().expect("the disk has space"),
            _ => {
                index.flush().expect("the disk has space");
                index.wait_until_merged().expect("the disk has space");
                index.verify().expect("nothing is damaged");
                check(&index, last);
                assert!(index.stats().runs <= 8, "{:?}", index.stats());
            }
        }
    }
}

#[test]
fn nothing_is_written_that_the_log_could_lose() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let index = IdIndex::open(real(), dir.path(), IdOptions { recent_max: 200 }).expect("the folder is writable");
    feed(&index, 20);
    index.allow_write_up_to(LogIndex(7));
    index.flush_durable().expect("the disk has space");
    assert!(index.written() <= JournalIndex(7), "{}", index.written());
    index.allow_write_up_to(LogIndex(19));
    index.flush_durable().expect("the disk has space");
    assert!(index.written() < JournalIndex(20), "the newest table has an entry that is not durable");
    std::thread::scope(|scope| {
        let flushing = scope.spawn(|| index.flush());
        index.allow_write_up_to(LogIndex(20));
        flushing.join().expect("no panic").expect("the disk has space");
    });
    assert_eq!(index.written(), JournalIndex(20));
    feed(&index, 25);
    index.end_waits("a test");
    assert!(index.flush().is_err(), "it never comes to that");
    drop(index);
    assert_eq!(open(dir.path()).applied(), JournalIndex(20));
}

#[test]
fn entries_are_recorded_once_and_in_order() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let index = open(dir.path());
    feed(&index, 5);
    index.record(JournalIndex(3), LogIndex(3), &entry(77)).expect("it was recorded before");
    assert_eq!(index.lookup(&entry(78)[0].0).expect("readable"), None);
    let error = index.record(JournalIndex(7), LogIndex(7), &entry(7)).expect_err("entry 6 is missing");
    assert!(matches!(error, StoreError::IdsGap { expected: JournalIndex(6), .. }), "{error}");
    check(&index, 5);
}

#[test]
fn a_closed_index_needs_nothing_from_the_journal() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    closed_index(dir.path());
    let index = open(dir.path());
    assert_eq!(index.applied(), JournalIndex(60));
    check(&index, 60);
}

/// Opens a folder in whatever state it is. Damage may show at once or when a page is read, but never as a wrong answer.
fn check_recovers(dir: &Path) {
    let index = open(dir);
    if index.verify().is_err() {
        drop(index);
        let index = open(dir);
        assert!(index.applied() < JournalIndex(60), "the damaged run is not used again");
        index.verify().expect("the damaged run is gone");
        feed(&index, 60);
        check(&index, 60);
        return;
    }
    feed(&index, 60);
    check(&index, 60);
}

#[test]
fn every_lost_or_cut_file_is_recorded_again() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    closed_index(&dir.path().join("whole"));
    for (number, file) in files(&dir.path().join("whole")).iter().enumerate() {
        let size = fs::metadata(file).expect("it exists").len();
        for keep in [None, Some(0), Some(1), Some(size / 2), Some(size - 1)] {
            let broken = dir.path().join(format!("broken-{number}-{keep:?}"));
            copy(&dir.path().join("whole"), &broken);
            let file = broken.join(file.file_name().expect("it is a file"));
            match keep {
                None => fs::remove_file(&file).expect("it exists"),
                Some(keep) => {
                    fs::File::options().write(true).open(&file).and_then(|f| f.set_len(keep)).expect("writable")
                }
            }
            check_recovers(&broken);
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed_before_it_is_believed() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    closed_index(&dir.path().join("whole"));
    let mut rng = StdRng::seed_from_u64(2);
    for (number, file) in files(&dir.path().join("whole")).iter().enumerate() {
        for attempt in 0..12 {
            let broken = dir.path().join(format!("broken-{number}-{attempt}"));
            copy(&dir.path().join("whole"), &broken);
            let file = broken.join(file.file_name().expect("it is a file"));
            let mut raw = fs::read(&file).expect("it exists");
            let at = rng.random_range(8..raw.len());
            raw[at] ^= 1 << rng.random_range(0..8);
            fs::write(&file, raw).expect("writable");
            check_recovers(&broken);
        }
    }
}

#[test]
fn a_damaged_page_fails_the_look_up_that_meets_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    closed_index(dir.path());
    let run = files(dir.path()).into_iter().find(|path| path.extension().is_some()).expect("there is a run");
    let mut raw = fs::read(&run).expect("it exists");
    raw[100] ^= 1;
    fs::write(&run, raw).expect("writable");
    let index = open(dir.path());
    let ids: Vec<CommandId> = (1..=60).flat_map(entry).map(|id| id.0).collect();
    let error = index.lookup_batch(&ids, &mut Vec::new()).expect_err("a page is damaged");
    assert!(matches!(error, StoreError::IdsDamaged { .. }), "{error}");
    drop(index);
    let index = open(dir.path());
    feed(&index, 60);
    check(&index, 60);
}

#[test]
fn equal_hashes_over_several_pages_are_told_apart() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // With this seed every id that starts with eight zero bytes has the same hash.
    let hasher = IdHasher { seed: [0; 3] };
    let span = Span { number: 1, after: JournalIndex(0), last: JournalIndex(1) };
    let id = |number: u64| CommandId([[0; 8], number.to_be_bytes()].concat().try_into().expect("sixteen bytes"));
    assert_eq!(hasher.hash(&id(1).0), hasher.hash(&id(2).0));
    let mut writer = RunWriter::create(&real(), dir.path(), span, &hasher, 500).expect("writable");
    for number in 0..500 {
        let record = StoredId::new(&id(number), &Fingerprint::ZERO, JournalIndex(1), number as u32);
        writer.push(hasher.hash(&record.id), &record).expect("writable");
    }
    let runs = [Arc::new(writer.finish(dir.path()).expect("writable"))];
    let ids: Vec<CommandId> = (0..501).map(id).collect();
    let mut out = vec![None; ids.len()];
    run::find_batch(&runs, &hasher, &ids, &mut out).expect("readable");
    assert!(out[..500].iter().zip(0..).all(|(found, n)| found.is_some_and(|found| found.n == n)));
    assert_eq!(out[500], None);
}

fn hex(raw: &[u8]) -> String {
    raw.chunks(32).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n").collect()
}

#[test]
fn the_format_of_a_run_stays() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let hasher = IdHasher { seed: [1, 2, 3] };
    let span = Span { number: 9, after: JournalIndex(4), last: JournalIndex(6) };
    let mut records: Vec<_> = (1..=3u8)
        .map(|n| StoredId::new(&CommandId([n; 16]), &Fingerprint([n + 16; 32]), JournalIndex(5), n.into()))
        .map(|record| (hasher.hash(&record.id), record))
        .collect();
    records.sort_by_key(|(hash, _)| *hash);
    let mut writer = RunWriter::create(&real(), dir.path(), span, &hasher, 3).expect("writable");
    records.iter().for_each(|(hash, record)| writer.push(*hash, record).expect("writable"));
    let path = writer.finish(dir.path()).expect("writable").path().to_owned();
    expect_file!["golden/run.hex"].assert_eq(&hex(&fs::read(&path).expect("it was written")));

    let run = IdRun::open(&real(), dir.path(), span, &hasher).expect("just written");
    let mut out = [None];
    run::find_batch(&[Arc::new(run)], &hasher, &[CommandId([2; 16])], &mut out).expect("readable");
    assert_eq!(out, [Some(IdRecord { fingerprint_half: [18; 16], journal: JournalIndex(5), n: 2 })]);
}

#[test]
fn a_checkpoint_is_an_index_that_later_merges_leave_alone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (live, made) = (dir.path().join("live"), dir.path().join("made"));
    let index = open(&live);
    feed(&index, 40);
    assert_eq!(index.checkpoint(&made).expect("it is made"), JournalIndex(40));
    feed(&index, 200);
    index.flush().expect("the disk has space");
    index.wait_until_merged().expect("nothing is damaged");
    drop(index);
    let made = open(&made);
    assert_eq!(made.applied(), JournalIndex(40));
    made.verify().expect("nothing is damaged");
    check(&made, 40);
}

/// Fail points belong to the process, so these tests run one after the other, and not beside other tests.
#[cfg(feature = "failpoints")]
mod fail_points {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// An image of the folder is taken at every step of writing and merging. Each must open like the folder after a
    /// crash there.
    #[test]
    fn a_crash_between_any_two_steps_loses_only_what_is_recorded_again() {
        let scenario = fail::FailScenario::setup();
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (live, images) = (dir.path().join("live"), dir.path().to_owned());
        let taken = Arc::new(AtomicU32::new(0));
        let points = [
            "ids::before_run_rename",
            "ids::after_run_rename",
            "ids::before_manifest_rename",
            "ids::after_manifest_rename",
            "ids::after_removal",
        ];
        for point in points {
            let (live, images, taken) = (live.clone(), images.clone(), Arc::clone(&taken));
            let image = move || {
                let number = taken.fetch_add(1, Ordering::SeqCst);
                copy(&live, &images.join(format!("image-{number}-{point}")));
            };
            fail::cfg_callback(point, image).expect("the point can be set");
        }
        closed_index(&live);
        scenario.teardown();
        let images: Vec<_> = files(dir.path()).into_iter().filter(|path| *path != live).collect();
        for point in points {
            let count = images.iter().filter(|path| path.to_string_lossy().ends_with(point)).count();
            assert!(0 < count, "no image was taken at {point}");
        }
        images.iter().for_each(|image| check_recovers(image));
    }
}
