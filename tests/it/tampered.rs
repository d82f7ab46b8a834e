//! A history that somebody with all permissions has edited, with every checksum of the log recomputed: the audit finds
//! the change and says where.
//!
//! The forger here writes a whole new log with the host's own code, so frames, watermark and the log's chain are in
//! order. This file knows entries, and which bytes of them are an event.

use std::path::Path;
use std::sync::{Arc, mpsc};

use serde_json::Value;
use statehouse_journal::disk::RealDisk;
use statehouse_journal::log::{EntryId, Log, LogEntry, LogOptions, LogScan, Payload, StreamId};
use statehouse_kernel::ids::{LogIndex, PartitionId};
use statehouse_kernel::machine::entry::Entry;
use statehouse_tests::damage::Backup;
use statehouse_tests::host::{Host, argument, cli};
use statehouse_tests::oracle::{Ledger, check_audit};
use statehouse_tests::wallet;
use tempfile::tempdir;
use uuid::Uuid;

const TRANSFERS: usize = 12;

/// The log of the wallet's one partition, in order.
fn read(data: &Path) -> Vec<LogEntry> {
    let scan = LogScan::open(&RealDisk, &data.join("wallet/0/log")).expect("it is whole");
    scan.entries().map(|scanned| scanned.expect("it is whole").entry).collect()
}

/// Writes these entries as if they had always been the log.
fn forge(data: &Path, mut entries: Vec<LogEntry>) {
    let folder = data.join("wallet/0/log");
    std::fs::remove_dir_all(&folder).expect("it is there");
    for (index, entry) in (0..).zip(&mut entries) {
        entry.id = EntryId { index: LogIndex(index), ..entry.id };
    }
    let stream = StreamId::new("wallet", PartitionId(0)).expect("a good name");
    let log = Log::open(Arc::new(RealDisk), &folder, LogOptions::new(stream)).expect("a new log");
    let (done, durable) = mpsc::channel();
    log.append(entries, Box::new(move |result| drop(done.send(result)))).expect("they follow each other");
    durable.recv().expect("the log answers").expect("the disk has room");
}

/// The number in the log of the batch in the middle, and its journal index.
fn middle(entries: &[LogEntry]) -> (usize, u64) {
    let batches: Vec<(usize, u64)> = (0..)
        .zip(entries)
        .filter_map(|(at, entry)| Some((at, parse(entry)?)))
        .filter(|(_, entry)| entry.batch().is_some_and(|batch| 0 < batch.outcome.event_count()))
        .map(|(at, entry)| (at, entry.header().index.0))
        .collect();
    batches[batches.len() / 2]
}

fn parse(entry: &LogEntry) -> Option<Entry> {
    let Payload::Entry(bytes) = &entry.payload else { return None };
    Some(Entry::parse(bytes.clone()).expect("the host wrote it"))
}

/// The entry, with the last byte of one part of its payload changed.
fn edited(entry: &LogEntry, part: impl Fn(&Entry) -> (usize, usize)) -> LogEntry {
    let parsed = parse(entry).expect("it is an entry");
    let (start, size) = part(&parsed);
    let at = start - parsed.payload().as_ptr() as usize + size - 1;
    let mut bytes = parsed.payload().to_vec();
    bytes[at] ^= 1;
    Entry::parse(bytes.clone().into()).expect("it is still an entry");
    LogEntry { id: entry.id, payload: Payload::Entry(bytes.into()) }
}

fn place(bytes: &[u8]) -> (usize, usize) {
    (bytes.as_ptr() as usize, bytes.len())
}

/// The only fault that the audit finds: its kind, its entry, and the fault itself.
fn fault(data: &Path) -> (String, u64, Value) {
    let found = cli(["audit", "verify", "--data", argument(data), "--machine", "wallet", "--json"]);
    assert_eq!(found.code, Some(1), "it goes unnoticed: {found:?}");
    let report: Value = serde_json::from_str(&found.stdout).expect("it is JSON");
    let faults = report["partitions"][0]["faults"].as_array().expect("a list").clone();
    let located: Vec<&Value> = faults.iter().filter(|fault| fault["journal_index"].is_u64()).collect();
    assert_eq!(located.len(), 1, "{report:#}");
    let fault = located[0];
    assert!(fault["segment"].is_string() && fault["offset"].is_u64(), "{fault:#}");
    let kind = fault["kind"].as_str().expect("a kind").to_owned();
    (kind, fault["journal_index"].as_u64().expect("an index"), fault.clone())
}

/// Checks that everything that relies on the history refuses it as well.
fn check_nobody_believes_it(data: &Path) {
    for command in [&["audit", "balance", "--account", "account-0"][..], &["audit", "log"]] {
        let refused = cli([command, &["--data", argument(data)]].concat());
        assert_ne!(refused.code, Some(0), "{command:?}: {refused:?}");
    }
    let export = tempdir().expect("a temporary folder");
    let refused = cli(["audit", "log", "--data", argument(data), "--export", argument(export.path())]);
    assert!(refused.code != Some(0) && !export.path().join("journal.json").exists(), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_log_whose_checksums_are_right_is_found_and_located() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    let ledger = Ledger::open(&mut client, 2, 10_000).await;
    for _ in 0..TRANSFERS {
        let answer = wallet::transfer(&mut client, Uuid::new_v4(), &ledger.accounts[0], &ledger.accounts[1], 10).await;
        assert_eq!(answer.expect("the host answers").status, 200);
    }
    assert!(host.terminate().await.success());
    let good = read(data.path());
    let backup = Backup::of(data.path());
    // A log that the forger writes is as good as the host's own.
    forge(data.path(), good.clone());
    check_audit(data.path());
    let (at, index) = middle(&good);

    // The event is changed. A byte on which the rows depend shows at once, and any other at the next entry.
    let size = parse(&good[at]).expect("an entry").batch().expect("a batch").outcome.event(0).payload.len();
    let mut found_at_once = 0;
    for byte in [0, size / 3, 2 * size / 3, size - 1] {
        let mut bad = good.clone();
        bad[at] = edited(&good[at], |entry| place(&entry.batch().expect("a batch").outcome.event(0).payload[..=byte]));
        forge(data.path(), bad);
        let (_, found, detail) = fault(data.path());
        assert!((index..=index + 1).contains(&found), "byte {byte}: {detail:#}");
        found_at_once += usize::from(found == index);
    }
    assert!(0 < found_at_once, "another amount makes other rows");

    check_moved(data.path(), &good, at, index);
    backup.restore(data.path());
    check_audit(data.path());
}

/// A change that affects no row of its own entry shows at the next entry.
fn check_moved(data: &Path, good: &[LogEntry], at: usize, index: u64) {
    let mut bad = good.to_vec();
    bad[at] = edited(&good[at], |entry| place(entry.batch().expect("a batch").command(0).caller.as_bytes()));
    forge(data, bad);
    let (kind, found, detail) = fault(data);
    assert!((kind.as_str(), found) == ("chain", index + 1) && detail.to_string().contains("was changed"), "{detail:#}");
    check_nobody_believes_it(data);

    let mut bad = good.to_vec();
    bad.swap(at, at + 1);
    forge(data, bad);
    let (kind, found, detail) = fault(data);
    assert_eq!((kind.as_str(), found), ("chain", index + 1), "the later one comes first: {detail:#}");
    check_nobody_believes_it(data);

    let mut bad = good.to_vec();
    bad.remove(at);
    forge(data, bad);
    let (kind, found, detail) = fault(data);
    assert_eq!((kind.as_str(), found), ("chain", index + 1), "the one behind it: {detail:#}");
    check_nobody_believes_it(data);
}
