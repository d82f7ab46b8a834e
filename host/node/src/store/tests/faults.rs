//! One call of a store fails: the store reports that, loses nothing that was written, and continues or is opened again.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::*;

const LAST: u64 = 16;

/// The promises of the store so far.
#[derive(Default)]
struct StorePromises {
    written: u64,
    /// States that were requested to be kept. `kept` has those that are.
    wanted: BTreeSet<u64>,
    kept: Arc<Mutex<BTreeSet<u64>>>,
}

fn shared(faults: &StoreFaults) -> StoreShared {
    StoreShared::new(1 << 20).with_faults(faults.clone())
}

fn open_with(dir: &Path, faults: &StoreFaults) -> Result<Store, StoreError> {
    // With such a small hot table, rows are read back from the disk.
    let options = StoreOptions { hot_bytes_max: 1 << 10, paranoid: true, ..StoreOptions::new(shared(faults)) };
    Store::open(&dir.join("state"), options)
}

fn writes(index: u64) -> Writes {
    let mut rng = StdRng::seed_from_u64(index);
    (0..6).map(|_| (key(&mut rng), rng.random_ratio(3, 4).then(|| vec![index as u8; 40]))).collect()
}

fn rows_at(index: u64) -> Rows {
    let mut rows = Rows::new();
    (1..=index).for_each(|index| write_to_model(&mut rows, &writes(index)));
    rows
}

fn kept_folder(dir: &Path, index: u64) -> PathBuf {
    dir.join(format!("kept-{index}"))
}

/// Repeats the work while only space is missing.
fn patiently<T>(mut work: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
    loop {
        match work() {
            Err(error) if error.is_passing() => std::thread::yield_now(),
            done => return done,
        }
    }
}

/// Reads, applies, writes, keeps, copies and replaces, as far as the disk allows.
fn work(dir: &Path, faults: &StoreFaults, promised: &mut StorePromises) -> Result<(), StoreError> {
    let store = patiently(|| open_with(dir, faults))?;
    for index in 1..=LAST {
        let (writes, rows) = (writes(index), rows_at(index - 1));
        let mut found = Vec::new();
        patiently(|| {
            found.clear();
            store.fetch(writes.iter().map(|(key, _)| &key[..]), |row| found.push(row.map(<[u8]>::to_vec)))
        })?;
        assert_eq!(found, writes.iter().map(|(key, _)| rows.get(key).cloned()).collect::<Vec<_>>());
        if index == LAST {
            let replacing = || {
                let mut file = store.begin_rows()?;
                let sorted: BTreeMap<_, _> = writes.iter().cloned().collect();
                sorted.iter().try_for_each(|(key, row)| file.put(key, row.as_deref()))?;
                file.finish()
            };
            let file = patiently(replacing)?.expect("rows were put");
            store.allow_write_up_to(LogIndex(index));
            patiently(|| store.replace(&file, &meta(index)))?;
            promised.written = index;
            break;
        }
        apply(&store, &writes, index);
        store.allow_write_up_to(LogIndex(index));
        if index % 5 == 0 {
            promised.wanted.insert(index);
            let kept = promised.kept.clone();
            store.keep(KeepWhat::Applied, kept_folder(dir, index), Box::new(move || _ = kept.lock().insert(index)));
        }
        if index % 3 == 0 {
            patiently(|| store.flush())?;
            // The flush does not write everything while an earlier state must still be kept.
            promised.written = store.meta_written().map_or(0, |meta| meta.applied.index.0);
        }
        let view = store.read();
        let mut seen = Rows::new();
        let mut visit = || {
            seen.clear();
            view.visit(&[], |key, row| {
                seen.insert(key.to_vec(), row.to_vec());
                ControlFlow::Continue(())
            })
        };
        patiently(&mut visit)?;
        assert_eq!(seen, rows_at(index));
        if index == 8 {
            patiently(|| match std::fs::remove_dir_all(dir.join("copy")) {
                Err(error) if error.kind() != ErrorKind::NotFound => panic!("the folder is ours: {error}"),
                _ => store.checkpoint(&dir.join("copy")),
            })?;
        }
    }
    store.close()
}

fn check_kept(dir: &Path, promised: &StorePromises, what: &str) {
    let store = open_with(dir, &StoreFaults::default()).unwrap_or_else(|error| panic!("{what}: {}", error.reason()));
    let found = store.meta_written().map_or(0, |meta| meta.applied.index.0);
    assert!(promised.written <= found, "{what}: {found} of {}", promised.written);
    assert_eq!(all_rows(&store.read()), rows_at(found), "{what}: the rows at {found}");
    for index in &promised.wanted {
        let folder = kept_folder(dir, *index);
        assert!(folder.exists() || !promised.kept.lock().contains(index), "{what}: {index} was kept");
        assert!(folder.exists() || found <= *index, "{what}: {index} was passed and is not kept");
        if folder.exists() {
            let view = open_kept(&folder, &shared(&StoreFaults::default())).expect("a kept state is whole");
            assert_eq!(all_rows(&view), rows_at(*index), "{what}: the state kept at {index}");
        }
    }
    // The store continues.
    apply(&store, &writes(found + 1), found + 1);
    store.allow_write_up_to(LogIndex(found + 1));
    store.flush().expect("nothing fails");
    assert_eq!(all_rows(&store.read()), rows_at(found + 1), "{what}");
}

/// The calls of one complete run of the work. The number of reads depends on when the writer writes.
fn calls() -> u64 {
    let (dir, faults) = (tempfile::tempdir().expect("a temporary folder"), StoreFaults::armed());
    let mut promised = StorePromises::default();
    work(dir.path(), &faults, &mut promised).expect("nothing fails");
    check_kept(dir.path(), &promised, "nothing failed");
    faults.calls()
}

#[test]
fn a_call_that_fails_is_reported_and_loses_nothing_that_was_written() {
    let calls = calls();
    let mut reported = 0;
    for failing in (0..calls).filter(|call| *call < 300 || call % 7 == 0) {
        let (dir, faults) = (tempfile::tempdir().expect("a temporary folder"), StoreFaults::armed());
        faults.fail_after(failing, ErrorKind::Other);
        let mut promised = StorePromises::default();
        if let Err(error) = work(dir.path(), &faults, &mut promised) {
            assert!(!error.reason().contains("panicked"), "call {failing}: {}", error.reason());
            reported += 1;
        } else {
            assert!(faults.calls() <= failing, "call {failing} failed, and nobody heard of it");
        }
        check_kept(dir.path(), &promised, &format!("call {failing} failed"));
    }
    assert!(0 < reported);
}

#[test]
fn a_call_that_finds_no_space_is_made_again() {
    let calls = calls();
    for failing in (0..calls).step_by(5) {
        let (dir, faults) = (tempfile::tempdir().expect("a temporary folder"), StoreFaults::armed());
        faults.fail_after(failing, ErrorKind::StorageFull);
        let mut promised = StorePromises::default();
        work(dir.path(), &faults, &mut promised).unwrap_or_else(|error| panic!("call {failing}: {}", error.reason()));
        assert_eq!(promised.written, LAST);
        assert_eq!(*promised.kept.lock(), promised.wanted, "call {failing}");
        check_kept(dir.path(), &promised, &format!("call {failing} found no space"));
    }
}

/// The folder used to be trusted: a process that was then killed had named it, the name was not durable, and later
/// deltas were written.
#[test]
fn a_state_that_is_kept_already_is_made_durable_before_anything_behind_it_is_written() {
    let (dir, faults) = (tempfile::tempdir().expect("a temporary folder"), StoreFaults::armed());
    let store = open_with(dir.path(), &faults).expect("nothing fails");
    apply(&store, &writes(1), 1);
    store.allow_write_up_to(LogIndex(1));
    store.flush().expect("nothing fails");
    std::fs::create_dir(kept_folder(dir.path(), 1)).expect("the folder is ours");
    faults.fail_after(0, ErrorKind::Other);
    let is_kept = Arc::new(Mutex::new(false));
    let kept = is_kept.clone();
    store.keep(KeepWhat::Applied, kept_folder(dir.path(), 1), Box::new(move || *kept.lock() = true));
    apply(&store, &writes(2), 2);
    store.allow_write_up_to(LogIndex(2));
    while store.check_writer().is_ok() {
        assert!(!*is_kept.lock(), "the folder cannot be synced");
        std::thread::yield_now();
    }
    drop(store);
    let store = open_with(dir.path(), &StoreFaults::default()).expect("nothing fails");
    assert_eq!(store.meta_written(), Some(meta(1)));
}

/// A checkpoint that failed used to be the executor's error.
#[test]
fn a_checkpoint_that_fails_is_given_up_and_the_writer_continues() {
    let (dir, faults) = (tempfile::tempdir().expect("a temporary folder"), StoreFaults::armed());
    let store = open_with(dir.path(), &faults).expect("nothing fails");
    let copy = |number: u64| dir.path().join(format!("copy-{number}"));
    apply(&store, &writes(1), 1);
    store.allow_write_up_to(LogIndex(1));
    store.flush().expect("nothing fails");
    faults.fail_after(0, ErrorKind::Other);
    store.checkpoint(&copy(0)).expect_err("the copy fails");
    store.check_writer().expect("it is only the copy that failed");
    apply(&store, &writes(2), 2);
    store.allow_write_up_to(LogIndex(2));
    assert_eq!(store.checkpoint(&copy(2)).expect("nothing fails"), Some(meta(2)));

    faults.fail_all(Some(ErrorKind::StorageFull));
    apply(&store, &writes(3), 3);
    store.allow_write_up_to(LogIndex(3));
    let refused = store.checkpoint(&copy(3)).expect_err("the rows before it cannot be written");
    assert!(matches!(refused, StoreError::NoSpace { .. }), "{refused}");
    faults.fail_all(None);
    assert_eq!(patiently(|| store.checkpoint(&copy(4))).expect("there is space"), Some(meta(3)));
    drop(store);
    for (number, index) in [(2, 2), (4, 3)] {
        let view = open_kept(&copy(number), &shared(&StoreFaults::default())).expect("a checkpoint is whole");
        assert_eq!(all_rows(&view), rows_at(index), "copy {number}");
    }
}
