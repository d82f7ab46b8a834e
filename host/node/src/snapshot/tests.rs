//! Snapshots on disk: complete ones are found again, others do not count, and a crash anywhere in an installation is
//! repaired.

mod faults;
mod transfer;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use super::install::{STEPS, install_folder};
use super::*;
use crate::disk::RealDisk;
use crate::ids::{CommandId, Fingerprint, Head, JournalIndex, LogIndex, Micros, ModuleId, NodeId, PartitionId, Term};
use crate::log::{EntryId, Log, LogEntry, LogOptions, Payload, StreamId};
use crate::store::{IdIndex, IdOptions, Meta, Store, StoreOptions, StoreShared};

const KEY: &[u8] = b"\x05alice";

fn stream() -> StreamId {
    StreamId::new("wallet", PartitionId(3)).expect("the name is short")
}

fn options() -> StoreOptions {
    StoreOptions::new(StoreShared::new(1 << 20))
}

fn id(index: u64) -> EntryId {
    EntryId { term: Term(1), node: NodeId(2), index: LogIndex(index) }
}

fn command(index: u64) -> CommandId {
    CommandId([index as u8; 16])
}

fn meta(index: u64) -> Meta {
    Meta {
        applied: id(index),
        journal: JournalIndex(index),
        head: Head([index as u8; 32]),
        time: Micros(index as i64),
        module: ModuleId([9; 32]),
        schema: 1,
        activation: 0,
        membership: None,
    }
}

/// State, ids and log of a partition. Each entry has one command and one row.
struct Replica {
    folder: TempDir,
    log: Log,
    store: Store,
    ids: IdIndex,
}

impl Replica {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = open_log(folder.path());
        let store = Store::open(&folder.path().join(STATE), options()).expect("a new store");
        let ids =
            IdIndex::open(Arc::new(RealDisk), &folder.path().join(IDS), IdOptions::default()).expect("a new index");
        Self { folder, log, store, ids }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Applies entries up to `last`. Each row ends with `row`.
    fn apply(&self, last: u64, row: &[u8]) {
        let first = self.log.last().map_or(0, |last| last.index.0 + 1);
        for index in first..=last {
            let entry = LogEntry { id: id(index), payload: Payload::Entry(Bytes::from(format!("entry {index}"))) };
            self.log.append(vec![entry], Box::new(drop)).expect("accepted");
            let row = [format!("row of {index} ").as_bytes(), row].concat();
            self.store.apply([(KEY, Some(row.as_slice()))], meta(index), 10);
            let ids = [(command(index), Fingerprint([1; 32]), 0)];
            self.ids.record(JournalIndex(index), LogIndex(index), &ids).expect("recorded");
        }
        self.store.allow_write_up_to(LogIndex(last));
        self.ids.allow_write_up_to(LogIndex(last));
    }

    fn snapshot(&self, snapshots: &Snapshots) -> Arc<KeptSnapshot> {
        let building = snapshots.begin().expect("a folder");
        let meta = self.store.checkpoint(&building.join(STATE)).expect("made").expect("something is applied");
        self.ids.checkpoint(&building.join(IDS)).expect("made");
        let last = EntryId { term: meta.applied.term, node: meta.applied.node, index: meta.applied.index };
        snapshots
            .finish(Manifest::new(&stream(), &meta, self.log.hash_of(last).expect("readable")))
            .expect("the disk is well")
    }

    /// The folder with everything closed.
    fn close(self) -> TempDir {
        self.store.close().expect("closes");
        self.ids.close().expect("closes");
        self.log.close().expect("closes");
        self.folder
    }
}

fn open_log(partition: &Path) -> Log {
    Log::open(Arc::new(RealDisk), &partition.join("log"), LogOptions::new(stream())).expect("the log is sound")
}

fn open(partition: &Path) -> Snapshots {
    Snapshots::open(Arc::new(RealDisk), partition, stream()).expect("the folder can be read")
}

fn indexes(snapshots: &Snapshots) -> Vec<u64> {
    (0..100).filter(|index| snapshots.find(LogIndex(*index)).is_some()).collect()
}

fn copy(from: &Path, to: &Path) {
    let (folders, found) = files::walk(&RealDisk, from).expect("it can be listed");
    let target = |path: &Path| to.join(path.strip_prefix(from).expect("below"));
    folders.iter().for_each(|folder| fs::create_dir_all(target(folder)).expect("a new folder"));
    for file in found {
        fs::copy(&file, target(&file)).expect("a copy");
    }
}

/// The row and the ids in a folder's state and ids.
fn content(partition: &Path) -> (Option<LogIndex>, Option<Vec<u8>>, JournalIndex, bool) {
    let store = Store::open(&partition.join(STATE), options()).expect("it is sound");
    let ids = IdIndex::open(Arc::new(RealDisk), &partition.join(IDS), IdOptions::default()).expect("it is sound");
    let applied = store.meta_written().map(|meta| meta.applied.index);
    let row = store.read().row(KEY).expect("it can be read");
    let known = ids.lookup(&command(ids.applied().0)).expect("it can be read");
    (applied, row, ids.applied(), known.is_some())
}

#[test]
fn the_two_newest_are_kept_and_found_again() {
    let replica = Replica::new();
    let snapshots = open(replica.path());
    assert!(snapshots.newest().is_none());
    for last in [3, 6, 9] {
        replica.apply(last, b"");
        assert_eq!(replica.snapshot(&snapshots).index(), LogIndex(last));
    }
    assert_eq!(indexes(&snapshots), [6, 9]);
    let newest = replica.snapshot(&snapshots);
    assert_eq!((newest.index(), indexes(&snapshots)), (LogIndex(9), vec![6, 9]), "nothing has happened since");
    assert_eq!(newest.manifest.log_hash, replica.log.hash_of(id(9)).expect("readable"));
    let again = open(replica.path());
    assert_eq!(indexes(&again), [6, 9]);
    let found = again.newest().expect("there are two");
    assert_eq!((&found.manifest, &found.offer), (&newest.manifest, &newest.offer));
    assert!(!again.is_lent());
    let lent = found.offer.clone();
    assert!(again.is_lent(), "somebody may be sending it");
    drop(lent);
    again.retain(|manifest| manifest.last().index < LogIndex(9)).expect("the disk is well");
    assert_eq!((indexes(&again), indexes(&open(replica.path()))), (vec![6], vec![6]));
}

#[test]
fn what_is_not_whole_is_no_snapshot() {
    let replica = Replica::new();
    let snapshots = open(replica.path());
    for last in [3, 6] {
        replica.apply(last, b"");
        replica.snapshot(&snapshots);
    }
    let folder = replica.path().join("snapshots");
    fs::create_dir_all(folder.join("building/state")).expect("a new folder");
    let manifest = folder.join("3/manifest");
    let mut bytes = fs::read(&manifest).expect("it is there");
    bytes[20] ^= 1;
    fs::write(&manifest, bytes).expect("it can be written");
    let kept = snapshots.find(LogIndex(6)).expect("it is there");
    fs::remove_file(folder.join("6").join(&kept.manifest.files[0].name)).expect("it is there");
    assert_eq!(indexes(&open(replica.path())), Vec::<u64>::new());
    assert_eq!(fs::read_dir(&folder).expect("it is there").count(), 0, "and takes no space");
}

#[test]
fn a_manifest_is_read_as_it_was_written_or_not_at_all() {
    let file = |name: &str| manifest::SnapshotFileFacts { name: name.to_owned(), size: 7, hash: [8; 32] };
    let of = |names: &[&str]| {
        let mut manifest = Manifest::new(&stream(), &meta(4), [5; 32]);
        manifest.files = names.iter().map(|name| file(name)).collect();
        manifest
    };
    let good = of(&["ids/manifest", "state/rocks/000001.sst"]);
    assert_eq!(Manifest::decode(&good.encode()).expect("what was just written"), good);
    assert_eq!((good.last(), good.size()), (id(4), 14));
    for place in 0..good.encode().len() {
        let mut bytes = good.encode().to_vec();
        bytes[place] ^= 4;
        assert!(Manifest::decode(&bytes).is_err(), "byte {place}");
    }
    for name in ["../x", "/etc/passwd", "state", "state/../../x", "log/seg", "state//x", "state/./x", "", "ids/"] {
        let error = Manifest::decode(&of(&[name]).encode()).expect_err(name).to_string();
        assert!(error.contains("that no snapshot has"), "{error}");
    }
    let error = good.check_stream("wallet/4").expect_err("another partition").to_string();
    assert_eq!(error, "the snapshot is of wallet/3, not of wallet/4");
}

/// A snapshot at 9 in the folder `install` of a replica that has applied up to `applied`.
fn install_at(applied: u64) -> TempDir {
    let source = Replica::new();
    source.apply(9, b"new");
    let kept = source.snapshot(&open(source.path()));
    let replica = Replica::new();
    replica.apply(applied, b"old");
    let folder = replica.close();
    copy(&kept.folder, &install_folder(folder.path()));
    folder
}

fn finish(partition: &Path) -> Option<EntryId> {
    let log = open_log(partition);
    let finished = finish_install(&RealDisk, partition, &log, &stream().to_string(), &options());
    finished.unwrap_or_else(|error| panic!("it is installed: {error}"))
}

#[track_caller]
fn check_installed(partition: &Path, what: &str) {
    let log = open_log(partition);
    assert_eq!((log.last(), log.last_purged()), (Some(id(9)), Some(id(9))), "{what}");
    let expected = (Some(LogIndex(9)), Some(b"row of 9 new".to_vec()), JournalIndex(9), true);
    assert_eq!(content(partition), expected, "{what}");
    for gone in ["install", "install.dropped", "state.replaced", "ids.replaced"] {
        assert!(!partition.join(gone).exists(), "{what}: {gone}");
    }
}

#[test]
fn an_installation_goes_on_after_a_crash_behind_any_step() {
    for done in 0..=STEPS.len() {
        let folder = install_at(4);
        {
            let log = open_log(folder.path());
            let raw = fs::read(install_folder(folder.path()).join(MANIFEST)).expect("it is there");
            let manifest = Manifest::decode(&raw).expect("it is whole");
            for step in &STEPS[..done] {
                step(&RealDisk, folder.path(), &log, &manifest).expect("the disk is well");
            }
        }
        let expected = (done < STEPS.len()).then_some(id(9));
        assert_eq!(finish(folder.path()), expected, "after {done} steps");
        check_installed(folder.path(), &format!("after {done} steps"));
        assert_eq!(finish(folder.path()), None, "once is enough");
    }
}

#[test]
fn an_installation_goes_on_after_a_crash_within_a_step() {
    for part in [STATE, IDS] {
        // The old part has lost its name, and the new one does not have it yet.
        let folder = install_at(4);
        let replaced = folder.path().join(format!("{part}.replaced"));
        fs::rename(folder.path().join(part), &replaced).expect("renamed");
        finish(folder.path());
        check_installed(folder.path(), part);
        // The new part has the name, and the old one is half removed.
        let folder = install_at(4);
        fs::rename(folder.path().join(part), folder.path().join(format!("{part}.replaced"))).expect("renamed");
        fs::rename(install_folder(folder.path()).join(part), folder.path().join(part)).expect("renamed");
        finish(folder.path());
        check_installed(folder.path(), part);
    }
    let folder = install_at(4);
    finish(folder.path());
    fs::create_dir_all(folder.path().join("install.dropped/state")).expect("a new folder");
    fs::create_dir_all(install_folder(folder.path())).expect("a new folder");
    assert_eq!(finish(folder.path()), None, "what is left of it is no snapshot");
    check_installed(folder.path(), "leftovers");
}

#[test]
fn a_snapshot_that_the_state_has_passed_is_dropped() {
    let folder = install_at(12);
    let before = content(folder.path());
    assert_eq!(finish(folder.path()), None);
    assert_eq!(content(folder.path()), before);
    assert_eq!(open_log(folder.path()).last(), Some(id(12)));
    assert!(!install_folder(folder.path()).exists());
}

#[test]
fn what_was_fetched_is_kept_only_as_long_as_it_is_of_use() {
    let source = Replica::new();
    source.apply(9, b"new");
    let kept = source.snapshot(&open(source.path()));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let incoming = folder.path().join("snapshots/incoming");
    drop(IncomingSnapshot::open(Arc::new(RealDisk), folder.path(), "wallet/3", &kept.offer).expect("it is an offer"));
    for (applied, is_kept) in [(None, true), (Some(LogIndex(8)), true), (Some(LogIndex(9)), false)] {
        IncomingSnapshot::drop_unless_ahead(&RealDisk, folder.path(), applied).expect("the disk is well");
        assert_eq!(incoming.exists(), is_kept, "{applied:?}");
    }
    IncomingSnapshot::drop_unless_ahead(&RealDisk, folder.path(), None).expect("nothing is there");
    let error = IncomingSnapshot::open(Arc::new(RealDisk), folder.path(), "wallet/4", &kept.offer)
        .err()
        .expect("another partition")
        .to_string();
    assert_eq!(error, "the snapshot is of wallet/3, not of wallet/4");
}

#[test]
fn a_damaged_state_is_replaced() {
    let folder = install_at(12);
    fs::write(folder.path().join("state/rocks/CURRENT"), b"nothing").expect("it can be written");
    assert_eq!(finish(folder.path()), Some(id(9)));
    let expected = (Some(LogIndex(9)), Some(b"row of 9 new".to_vec()), JournalIndex(9), true);
    assert_eq!(content(folder.path()), expected);
    assert_eq!(open_log(folder.path()).last(), Some(id(12)), "what follows the snapshot stays in the log");
}
