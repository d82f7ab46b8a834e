//! Canonical snapshots of a running host: they are taken, listed, verified, copied, and made again from the journal;
//! and any change to them is found.
//!
//! It knows `statehouse snapshot`, `audit verify`, `audit log --export`, and where the files lie.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use statehouse_journal::canonical::{SnapshotFile, SnapshotWriter};
use statehouse_journal::disk::RealDisk;
use statehouse_tests::hold::eventually;
use statehouse_tests::host::{CommandOutput, Host, Start, argument, cli};
use statehouse_tests::skipped::skipped;
use statehouse_tests::wall_clock::{WallClock, forget_clock};
use statehouse_tests::wallet;
use tempfile::tempdir;

use crate::replay::make_history;

const DAY: i64 = 86_400;

fn json(finished: &CommandOutput) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {finished:?}"))
}

/// The snapshots in the folder of a partition, in a node's folder or in one of exported files.
fn files(folder: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(folder).expect("the folder can be listed").map(|file| file.expect("it is listed").path());
    let mut found: Vec<PathBuf> = listed.filter(|path| path.extension().is_some_and(|it| it == "snapshot")).collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_taken_verified_and_made_again_from_the_journal() {
    let (data, copies) = (tempdir().expect("a temporary folder"), tempdir().expect("a temporary folder"));
    let arguments = vec!["--partitions".to_owned(), "2".to_owned()];
    let host = Host::start_with(&Start { arguments, ..Start::on(data.path()) }).await.expect("the host starts");
    make_history(&mut host.client()).await;
    let url = format!("http://{}", host.address());
    let taken = cli(["snapshot", "take", "--url", &url, "--json"]);
    assert_eq!(taken.code, Some(0), "{taken:?}");
    assert_eq!(json(&taken).as_array().map(Vec::len), Some(2), "one of each partition: {taken:?}");
    let again = cli(["snapshot", "take", "--url", &url, "--json"]);
    assert_eq!(json(&again), json(&taken), "nothing has happened since");
    let listed = cli(["snapshot", "list", "--url", &url, "--json"]);
    assert_eq!(json(&listed), json(&taken));
    let system = cli(["snapshot", "take", "--url", &url, "--machine", "system"]);
    assert_eq!(system.code, Some(0), "{system:?}");
    let unknown = cli(["snapshot", "take", "--url", &url, "--machine", "purse"]);
    assert!(unknown.code == Some(2) && unknown.stderr.contains("there is no machine `purse`"), "{unknown:?}");
    wallet::deposit(&mut host.client(), "account-1", 5).await;
    assert!(host.terminate().await.success());

    let listed = cli(["snapshot", "list", "--data", argument(data.path()), "--json"]);
    assert_eq!(json(&listed), json(&taken));
    let verified = cli(["snapshot", "verify", "--data", argument(data.path())]);
    assert!(verified.code == Some(0) && verified.stdout.contains("verified: every byte"), "{verified:?}");
    let audited = cli(["audit", "verify", "--data", argument(data.path())]);
    let words = "3 canonical snapshots agree with the journal";
    assert!(audited.code == Some(0) && audited.stdout.contains(words), "{audited:?}");

    // At the same entries, the journal alone gives the same bytes.
    for page in json(&taken).as_array().expect("a list") {
        let partition = page["partition"].to_string();
        let own = files(&data.path().join("wallet").join(&partition).join("canonical")).remove(0);
        let into = copies.path().join("made").join(&partition);
        let position = page["position"].as_str().expect("a position");
        let made =
            cli(["snapshot", "take", "--data", argument(data.path()), "--into", argument(&into), "--at", position]);
        assert_eq!(made.code, Some(0), "{made:?}");
        let whole = into.join(own.file_name().expect("a file"));
        assert!(fs::read(whole).expect("it was made") == fs::read(own).expect("the node's"), "{position}");
    }
    let exported = copies.path().join("exported");
    let export = cli(["audit", "log", "--data", argument(data.path()), "--export", argument(&exported), "--json"]);
    assert_eq!((export.code, json(&export)["snapshots_copied"].as_u64()), (Some(0), Some(3)), "{export:?}");
    let audited = cli(["audit", "verify", "--data", argument(&exported)]);
    assert!(audited.code == Some(0) && audited.stdout.contains(words), "{audited:?}");
    check_damage(&exported);
}

/// Flips a bit, and then changes rows and recomputes all hashes. Both must be found.
fn check_damage(exported: &Path) {
    let folder = exported.join("wallet/1");
    let file = files(&folder).remove(0);
    let name = file.file_name().expect("a file").to_string_lossy().into_owned();
    let whole = fs::read(&file).expect("it can be read");
    let mut changed = whole.clone();
    changed[100] ^= 4;
    fs::write(&file, changed).expect("it can be written");
    let audited = cli(["audit", "verify", "--data", argument(exported)]);
    let fault = format!("FAULT wallet/1 snapshot in {name} at byte 16: chunk 0 has the hash");
    assert!(audited.code == Some(1) && audited.stdout.contains(&fault), "{audited:?}");
    let alone = cli(["snapshot", "verify", argument(&file)]);
    assert!(alone.code == Some(1) && alone.stdout.contains("chunk 0 has the hash"), "{alone:?}");
    fs::write(&file, whole).expect("it can be written");

    let mut opened = SnapshotFile::open(&RealDisk, &file).expect("it is whole again");
    let mut rows: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    opened.visit(|key, row| rows.push((key.to_vec(), row.to_vec()))).expect("it is whole again");
    let mut writer =
        SnapshotWriter::begin(Arc::new(RealDisk), &folder, &opened.listed().facts).expect("it can be written");
    rows[0].1[0] ^= 1;
    rows.iter().for_each(|(key, row)| writer.put(key, row).expect("it can be written"));
    let forged = writer.finish().expect("it can be written").name;
    fs::remove_file(&file).expect("it is there");
    let alone = cli(["snapshot", "verify", argument(&folder.join(&forged))]);
    assert_eq!(alone.code, Some(0), "its own hashes are right: {alone:?}");
    let audited = cli(["audit", "verify", "--data", argument(exported)]);
    let fault = format!("in {forged}: its {} rows have the digest", rows.len());
    assert!(audited.code == Some(1) && audited.stdout.contains(&fault), "{audited:?}");
    let compared = cli(["snapshot", "verify", argument(&folder.join(&forged)), "--data", argument(exported)]);
    assert!(compared.code == Some(1) && compared.stdout.contains(&fault), "{compared:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_idle_or_was_down_at_midnight_has_the_snapshot_of_the_day() {
    let clock = match WallClock::new() {
        Ok(clock) => clock,
        Err(reason) => return skipped(&reason),
    };
    let (data, copies) = (tempdir().expect("a temporary folder"), tempdir().expect("a temporary folder"));
    let environment = clock.environment().map(|(name, value)| (name.to_owned(), value)).to_vec();
    let start = Start { environment, ..Start::on(data.path()) };
    let host = Host::start_with(&start).await.expect("the host starts");
    make_history(&mut host.client()).await;
    clock.set_ahead(DAY);
    let first = wait_for(&host, 1).await;
    host.kill();
    clock.set_ahead(4 * DAY);
    forget_clock(data.path());
    let host = Host::start_with(&start).await.expect("the host starts again");
    let found = wait_for(&host, 2).await;
    assert_eq!(found[0], first[0]);
    let days = |page: &Value| page["days"].as_array().expect("a list").len();
    assert_eq!((days(&found[0]), days(&found[1])), (1, 3), "{found:#?}");
    // The clock goes back an hour and forward again, which is neither another day nor the same one again.
    clock.set_ahead(4 * DAY - 3600);
    assert_eq!(wait_for(&host, 2).await, found);
    clock.set_ahead(4 * DAY);
    wallet::deposit(&mut host.client(), "account-1", 5).await;
    assert_eq!(wait_for(&host, 2).await, found);
    host.kill();
    // The auditor makes the same file for that moment.
    let last = found[1]["days"].as_array().and_then(|days| days.last()).and_then(Value::as_str).expect("a date");
    let at = format!("{last}T00:00:00Z");
    let made =
        cli(["snapshot", "take", "--data", argument(data.path()), "--into", argument(copies.path()), "--at", &at]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let own = files(&data.path().join("wallet/0/canonical")).remove(1);
    let same = copies.path().join(own.file_name().expect("a file"));
    assert!(fs::read(same).expect("it has the same name") == fs::read(own).expect("the node's"));
    let audited = cli(["audit", "verify", "--data", argument(data.path())]);
    assert_eq!(audited.code, Some(0), "{audited:?}");
}

/// The wallet's snapshots, once there are this many.
async fn wait_for(host: &Host, count: usize) -> Vec<Value> {
    let mut client = host.client();
    eventually("there are as many snapshots", async || {
        let page = client.get("/v1/machines/wallet/snapshots").await.ok()?.json();
        page.as_array().filter(|listed| listed.len() == count).cloned()
    })
    .await
}
