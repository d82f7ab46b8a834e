//! Tests of the state store against a model, through crashes, and at its limits.
//!
//! A crash is a store that is dropped without `close`, or a child process that is killed. The model keeps every state
//! that ever existed, so that the state found after a restart can be compared with the state that it claims to be.

mod faults;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};

use expect_test::expect;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::ids::{EntryId, Head, JournalIndex, LogIndex, Micros, ModuleId, NodeId, Term};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
type Writes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

const CHILD_DIR: &str = "STATEHOUSE_TEST_STORE_CHILD";

fn meta(index: u64) -> Meta {
    Meta {
        applied: EntryId { term: Term(3), node: NodeId(1), index: LogIndex(index) },
        journal: JournalIndex(index),
        head: Head::of(&index.to_le_bytes()),
        time: Micros(index as i64 * 1_000),
        module: ModuleId::of(b"module"),
        schema: 7,
        activation: u64::from_le_bytes(*b"membersh"),
        membership: Some(bytes::Bytes::from_static(b"ip")),
    }
}

fn open(dir: &Path) -> Store {
    let options = StoreOptions {
        hot_bytes_max: 40 << 10,
        replay_bytes_max: 20_000,
        paranoid: true,
        ..StoreOptions::new(StoreShared::new(1 << 20))
    };
    Store::open(dir, options).expect("the folder is writable")
}

fn apply(store: &Store, writes: &Writes, index: u64) {
    let writes = writes.iter().map(|(key, row)| (&key[..], row.as_deref()));
    store.apply(writes, meta(index), 500);
}

fn key(rng: &mut StdRng) -> Vec<u8> {
    let number: u32 = rng.random_range(0..600);
    // Keys of every length, including one whose bytes look like the meta row's key.
    let mut key = vec![0; (number % 7) as usize];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn random_writes(rng: &mut StdRng) -> Writes {
    let count = rng.random_range(0..40);
    let row = |rng: &mut StdRng| {
        let len = if rng.random_ratio(1, 20) { 500 } else { rng.random_range(0..60) };
        (!rng.random_ratio(1, 4)).then(|| vec![rng.random(); len])
    };
    (0..count).map(|_| (key(rng), row(rng))).collect()
}

fn write_to_model(rows: &mut Rows, writes: &Writes) {
    for (key, row) in writes {
        match row {
            Some(row) => drop(rows.insert(key.clone(), row.clone())),
            None => drop(rows.remove(key)),
        }
    }
}

fn all_rows(view: &View) -> Rows {
    let mut rows = Rows::new();
    view.visit(&[], |key, row| {
        assert!(rows.insert(key.to_vec(), row.to_vec()).is_none(), "a key comes once");
        ControlFlow::Continue(())
    })
    .expect("the disk can be read");
    rows
}

fn check_fetch(store: &Store, rng: &mut StdRng, rows: &Rows) {
    let keys: Vec<Vec<u8>> = (0..rng.random_range(0..200)).map(|_| key(rng)).collect();
    let mut found = Vec::new();
    store.fetch(keys.iter().map(Vec::as_slice), |row| found.push(row.map(<[u8]>::to_vec))).expect("readable");
    let expected: Vec<_> = keys.iter().map(|key| rows.get(key).cloned()).collect();
    assert_eq!(found, expected);
}

fn check_view(view: &View, rng: &mut StdRng, rows: &Rows) {
    for _ in 0..20 {
        let key = key(rng);
        assert_eq!(view.row(&key).expect("readable").as_ref(), rows.get(&key));
    }
    let prefix = vec![0; rng.random_range(0..5)];
    let after = rng.random_ratio(1, 2).then(|| key(rng));
    let limit = rng.random_range(0..30);
    let expected: Vec<_> = rows
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix) && after.as_ref().is_none_or(|after| after < *key))
        .take(limit)
        .map(|(key, row)| (key.clone(), row.clone()))
        .collect();
    assert_eq!(view.scan(&prefix, after.as_deref(), limit).expect("readable"), expected);
}

/// The digest of the model, computed separately.
fn digest(rows: &Rows) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for bytes in rows.iter().flat_map(|(key, row)| [key, row]) {
        hasher.update(&(bytes.len() as u32).to_le_bytes()).update(bytes);
    }
    hasher.finalize()
}

#[test]
fn the_store_agrees_with_a_model_through_evictions_and_crashes() {
    for seed in 0..6 {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut states = vec![Rows::new()];
        let mut allowed = 0;
        for _ in 0..8 {
            let store = open(dir.path());
            let found = store.meta_written().map_or(0, |meta| meta.applied.index.0);
            assert!(found <= allowed, "seed {seed}: {found} was written, {allowed} was durable in the log");
            assert_eq!(store.meta_written(), (found != 0).then(|| meta(found)), "seed {seed}");
            states.truncate(found as usize + 1);
            assert_eq!(all_rows(&store.read()), states[found as usize], "seed {seed}: rows at {found}");
            for index in found + 1..found + 60 {
                let mut rows = states.last().expect("there is the empty state").clone();
                check_fetch(&store, &mut rng, &rows);
                let writes = random_writes(&mut rng);
                write_to_model(&mut rows, &writes);
                apply(&store, &writes, index);
                allowed = allowed.max(index - rng.random_range(0..5).min(index));
                store.allow_write_up_to(LogIndex(allowed));
                if rng.random_ratio(1, 10) {
                    store.flush().expect("the disk has space");
                }
                check_fetch(&store, &mut rng, &rows);
                let view = store.read();
                assert_eq!(view.meta(), Some(&meta(index)));
                check_view(&view, &mut rng, &rows);
                states.push(rows);
            }
            let rows = states.last().expect("there is the empty state");
            assert_eq!(store.read().state_digest().expect("readable").0, *digest(rows).as_bytes());
        }
    }
}

#[test]
fn a_closed_store_has_lost_nothing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = open(dir.path());
    apply(&store, &vec![(b"a".to_vec(), Some(b"1".to_vec())), (b"b".to_vec(), None)], 1);
    store.allow_write_up_to(LogIndex(1));
    store.close().expect("the disk has space");
    let store = open(dir.path());
    assert_eq!(store.meta_written(), Some(meta(1)));
    assert_eq!(all_rows(&store.read()), Rows::from([(b"a".to_vec(), b"1".to_vec())]));
}

#[test]
fn a_store_that_was_found_damaged_is_not_opened_again() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut rng = StdRng::seed_from_u64(5);
    let store = open(dir.path());
    let writes: Writes =
        (0..2000_u32).map(|key| (key.to_be_bytes().to_vec(), Some((0..100).map(|_| rng.random()).collect()))).collect();
    apply(&store, &writes, 1);
    store.allow_write_up_to(LogIndex(1));
    store.close().expect("the disk has space");
    let rocks = std::fs::read_dir(dir.path().join("rocks")).expect("there");
    let sst = rocks.map(|file| file.expect("listed").path()).find(|path| path.extension().is_some_and(|e| e == "sst"));
    let sst = sst.expect("something was written");
    let mut content = std::fs::read(&sst).expect("it can be read");
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(&sst, content).expect("it can be written");

    let store = open(dir.path());
    assert_eq!(store.meta_written(), Some(meta(1)), "the damage is in another block");
    let read = store.read();
    let failed = read.scan(&[], None, usize::MAX).expect_err("a block's checksum is wrong");
    assert!(failed.is_damage(), "{failed}");
    drop((read, store));
    let options = StoreOptions::new(StoreShared::new(1 << 20));
    assert!(matches!(Store::open(dir.path(), options).err(), Some(StoreError::Damaged { .. })));
}

#[test]
fn a_checkpoint_is_what_was_applied_and_stays_so() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (live, copy) = (dir.path().join("live"), dir.path().join("copy"));
    let store = open(&live);
    apply(&store, &vec![(b"a".to_vec(), Some(b"1".to_vec())), (b"b".to_vec(), Some(b"2".to_vec()))], 1);
    apply(&store, &vec![(b"b".to_vec(), Some(b"3".to_vec()))], 2);
    let made = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.checkpoint(&copy));
        store.allow_write_up_to(LogIndex(1));
        assert!(!waiting.is_finished(), "entry 2 is not durable in the log");
        store.allow_write_up_to(LogIndex(2));
        waiting.join().expect("it does not panic")
    });
    assert_eq!(made.expect("it is made"), Some(meta(2)));
    apply(&store, &vec![(b"a".to_vec(), None), (b"c".to_vec(), Some(b"4".to_vec()))], 3);
    store.allow_write_up_to(LogIndex(3));
    store.close().expect("the disk has space");
    let copy = open(&copy);
    assert_eq!(copy.meta_written(), Some(meta(2)));
    assert_eq!(all_rows(&copy.read()), Rows::from([(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), b"3".to_vec())]));
}

#[test]
fn a_checkpoint_is_begun_at_once_and_has_nothing_that_was_applied_later() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (live, copy) = (dir.path().join("live"), dir.path().join("copy"));
    let store = open(&live);
    apply(&store, &vec![(b"a".to_vec(), Some(b"1".to_vec()))], 1);
    let (made, wait) = std::sync::mpsc::channel();
    store.begin_checkpoint(copy.clone(), Box::new(move |result| made.send(result).expect("the test waits")));
    apply(&store, &vec![(b"a".to_vec(), Some(b"2".to_vec()))], 2);
    assert!(wait.try_recv().is_err(), "the log could lose the first");
    store.allow_write_up_to(LogIndex(2));
    assert_eq!(wait.recv().expect("the writer says so").expect("nothing fails"), Some(meta(1)));
    store.close().expect("the disk has space");
    assert_eq!(all_rows(&open(&live).read()), Rows::from([(b"a".to_vec(), b"2".to_vec())]));
    assert_eq!(all_rows(&open(&copy).read()), Rows::from([(b"a".to_vec(), b"1".to_vec())]));
}

#[test]
fn nothing_is_written_that_the_log_could_lose() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = open(dir.path());
    for index in 1..=20 {
        apply(&store, &vec![(vec![index as u8], Some(vec![1]))], index);
    }
    store.flush().expect("there is nothing to write");
    assert_eq!(store.meta_written(), None);
    store.allow_write_up_to(LogIndex(7));
    store.flush().expect("the disk has space");
    assert_eq!(store.meta_written(), Some(meta(7)));
    store.close().expect("the disk has space");
    assert_eq!(all_rows(&open(dir.path()).read()).len(), 7);
}

#[test]
fn a_view_does_not_see_what_comes_after_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = open(dir.path());
    let mut rng = StdRng::seed_from_u64(1);
    let mut rows = Rows::new();
    let mut views = Vec::new();
    for index in 1..=100 {
        let writes = random_writes(&mut rng);
        write_to_model(&mut rows, &writes);
        apply(&store, &writes, index);
        store.allow_write_up_to(LogIndex(index));
        if index % 9 == 0 {
            views.push((store.read(), rows.clone(), index));
        }
        if index % 25 == 0 {
            store.flush().expect("the disk has space");
        }
    }
    for (view, rows, index) in views {
        assert_eq!(all_rows(&view), rows, "view at {index}");
        assert_eq!(view.meta(), Some(&meta(index)));
    }
}

#[test]
fn a_store_that_is_behind_catches_up() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let options = StoreOptions { dirty_bytes_max: 50_000, ..StoreOptions::new(StoreShared::new(1 << 20)) };
    let store = Store::open(dir.path(), options).expect("the folder is writable");
    for index in 1..=20 {
        apply(&store, &vec![(vec![index as u8], Some(vec![0; 5_000]))], index);
    }
    assert!(store.is_behind().expect("the disk has space"));
    store.allow_write_up_to(LogIndex(20));
    store.wait_while_behind().expect("the disk has space");
    assert!(!store.is_behind().expect("the disk has space"));
}

#[test]
fn a_writer_that_cannot_write_stops_and_reads_go_on() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = open(dir.path());
    std::fs::create_dir(dir.path().join("ingest.sst")).expect("the folder is writable");
    apply(&store, &vec![(b"a".to_vec(), Some(b"1".to_vec()))], 1);
    store.allow_write_up_to(LogIndex(1));
    let error = store.flush().expect_err("a folder is in the way of the file");
    assert!(matches!(error, StoreError::WriterStopped { .. }), "{error}");
    assert_eq!(store.read().row(b"a").expect("readable"), Some(b"1".to_vec()));
    assert!(store.check_writer().is_err());
}

#[test]
fn the_format_of_the_meta_row_stays() {
    let raw = meta(0x0102).encode();
    let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
    expect![
        "\
        010000000300000000000000010000000000000002010000000000000201000000000000d0ef0300000000000700000001ea9168\
        4d240a2ea257ec160d11770631fa02893c8389a999bdcbf659295b12f42578c55d5c75569566e601ea5072c5a6d791e617aae2d1\
        674ea29cc70fb37a0a0000006d656d62657273686970"
    ]
    .assert_eq(&hex);
    assert_eq!(Meta::decode(&raw).expect("just encoded"), meta(0x0102));
    for len in 0..raw.len() {
        assert!(Meta::decode(&raw[..len]).is_err(), "cut at {len}");
    }
    let mut later = raw;
    later[0] = 2;
    let error = Meta::decode(&later).expect_err("a later format");
    assert!(matches!(error, StoreError::MetaFormat { found: 2, known: 1 }), "{error}");
}

/// State `index` of the child below. Each apply adds one to every counter that it names, so half an apply would be
/// visible.
fn child_writes(index: u64) -> Writes {
    let row = |counter: u64| Some((index + counter).to_le_bytes().to_vec());
    (0..100).map(|counter| ((counter as u32).to_be_bytes().to_vec(), row(counter))).collect()
}

/// Runs only as the child of the test below. Without it this does nothing.
#[test]
fn child_that_writes_until_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let store = open(Path::new(&dir));
    let first = store.meta_written().map_or(1, |meta| meta.applied.index.0 + 1);
    for index in first.. {
        apply(&store, &child_writes(index), index);
        store.allow_write_up_to(LogIndex(index));
        if index.is_multiple_of(20) {
            store.flush().expect("the disk has space");
            println!("flushed {index}");
        }
    }
}

#[test]
fn a_killed_process_leaves_the_state_after_some_apply() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut flushed = 0;
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().expect("tests run from a file"))
            .args(["--exact", "--nocapture", "store::tests::child_that_writes_until_killed"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test can run itself");
        let lines = BufReader::new(child.stdout.take().expect("it was piped")).lines();
        let progress =
            lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("flushed ")?.parse::<u64>().ok());
        flushed = progress.take(3 + round).last().expect("the child writes").max(flushed);
        child.kill().expect("the child runs");
        child.wait().expect("the child was killed");

        let store = open(dir.path());
        let found = store.meta_written().expect("something was flushed").applied.index.0;
        assert!(flushed <= found);
        let expected: Rows = child_writes(found).into_iter().filter_map(|(key, row)| Some((key, row?))).collect();
        assert_eq!(all_rows(&store.read()), expected, "rows at {found}");
    }
}

/// Fail points belong to the process, so these tests run one after the other, and not beside other tests.
#[cfg(feature = "failpoints")]
mod fail_points {
    use super::*;

    #[test]
    fn a_full_disk_is_waited_for() {
        let scenario = fail::FailScenario::setup();
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = open(dir.path());
        fail::cfg("store-disk-full", "return").expect("the point can be set");
        apply(&store, &vec![(b"a".to_vec(), Some(b"1".to_vec()))], 1);
        store.allow_write_up_to(LogIndex(1));
        let error = store.flush().expect_err("the disk is full");
        assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
        apply(&store, &vec![(b"b".to_vec(), Some(b"2".to_vec()))], 2);
        assert_eq!(store.read().row(b"b").expect("readable"), Some(b"2".to_vec()));
        assert_eq!(store.meta_written(), None);

        fail::remove("store-disk-full");
        store.allow_write_up_to(LogIndex(2));
        while store.meta_written() != Some(meta(2)) {
            // Each attempt of the writer has one of two outcomes: written, or still without space.
            if let Err(error) = store.flush() {
                assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
            }
        }
        store.check_writer().expect("there is space again");
        scenario.teardown();
    }

    /// A copy of the folder at each of the two moments is what a crash there leaves.
    #[test]
    fn a_crash_before_or_after_the_ingest_leaves_one_of_the_two_states() {
        let scenario = fail::FailScenario::setup();
        let dir = tempfile::tempdir().expect("a temporary folder");
        let live = dir.path().join("live");
        let store = open(&live);
        apply(&store, &child_writes(1), 1);
        store.allow_write_up_to(LogIndex(1));
        store.flush().expect("the disk has space");
        for (point, expected) in [("store::before_ingest", 1), ("store::after_ingest", 2)] {
            let (from, to) = (live.clone(), dir.path().join(expected.to_string()));
            fail::cfg_callback(point, move || copy_tree(&from, &to)).expect("the point can be set");
        }
        apply(&store, &child_writes(2), 2);
        store.allow_write_up_to(LogIndex(2));
        store.flush().expect("the disk has space");
        scenario.teardown();
        for index in [1, 2] {
            let store = open(&dir.path().join(index.to_string()));
            assert_eq!(store.meta_written(), Some(meta(index)));
            let expected: Rows = child_writes(index).into_iter().filter_map(|(key, row)| Some((key, row?))).collect();
            assert_eq!(all_rows(&store.read()), expected);
        }
    }

    fn copy_tree(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).expect("the folder is writable");
        for file in std::fs::read_dir(from).expect("the folder exists") {
            let path = file.expect("the folder can be read").path();
            let target = to.join(path.file_name().expect("it has a name"));
            if path.is_dir() {
                copy_tree(&path, &target);
            } else {
                std::fs::copy(&path, target).expect("readable");
            }
        }
    }
}

/// Something that the executor waits for, in a folder of its own.
type Wait = fn(&Store, &Path) -> Result<(), StoreError>;

/// A log that failed during a snapshot used to leave its partition waiting for ever, and the process with it.
#[test]
fn what_waits_for_the_log_ends_with_it() {
    let waits: [Wait; 3] = [
        |store, dir| store.checkpoint(&dir.join("checkpoint")).map(drop),
        |store, _| {
            let mut file = store.begin_rows()?;
            file.put(b"key", Some(b"row"))?;
            store.replace(&file.finish()?.expect("a row was put"), &meta(3))
        },
        |store, _| store.wait_while_behind(),
    ];
    for (number, wait) in waits.into_iter().enumerate() {
        let dir = tempfile::tempdir().expect("a folder");
        let options = StoreOptions { dirty_bytes_max: 0, ..StoreOptions::new(StoreShared::new(1 << 20)) };
        let store = Store::open(&dir.path().join("state"), options).expect("the folder is writable");
        store.allow_write_up_to(LogIndex(1));
        apply(&store, &vec![(b"a".to_vec(), Some(b"1".to_vec()))], 1);
        apply(&store, &vec![(b"a".to_vec(), Some(b"2".to_vec()))], 2);
        let waited = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| wait(&store, dir.path()));
            store.end_waits("planted");
            waiting.join().expect("it does not panic")
        });
        let error = waited.expect_err("the second apply is never durable");
        assert_eq!(error.to_string(), "state store: nothing more becomes durable: planted", "wait {number}");
        store.flush().expect("what is durable is written all the same");
        assert_eq!(store.meta_written(), Some(meta(1)));
    }
}
