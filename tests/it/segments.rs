//! History as files: what a node exports says the same as the node's folder, and any change to the files is found.
//!
//! It knows `audit log --export`, the commands that read what it writes, and the layout of the folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use statehouse_tests::host::{CommandOutput, Host, Start, argument, cli};
use statehouse_tests::wallet;
use tempfile::tempdir;

use crate::replay::make_history;

fn export(data: &Path, folder: &Path) -> CommandOutput {
    cli(["audit", "log", "--data", argument(data), "--export", argument(folder), "--json"])
}

/// Every file below the folder, by its path.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for file in std::fs::read_dir(&next).expect("the folder can be listed") {
            let path = file.expect("the folder can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("it is below").to_owned();
                found.insert(name, std::fs::read(&path).expect("it can be read"));
            }
        }
    }
    found
}

fn verify(data: &Path) -> CommandOutput {
    cli(["audit", "verify", "--data", argument(data), "--json"])
}

fn json(finished: &CommandOutput) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {finished:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn exported_journals_say_what_the_node_says_and_need_nothing_else() {
    let (data, copies) = (tempdir().expect("a temporary folder"), tempdir().expect("a temporary folder"));
    let arguments = vec!["--partitions".to_owned(), "3".to_owned()];
    let host = Host::start_with(&Start { arguments, ..Start::on(data.path()) }).await.expect("the host starts");
    make_history(&mut host.client()).await;
    // This exports from a running node, and a later export continues it.
    let early = copies.path().join("early");
    let exported = export(data.path(), &early);
    assert_eq!(exported.code, Some(0), "{exported:?}");
    assert_eq!(verify(&early).code, Some(0));
    wallet::deposit(&mut host.client(), "account-1", 5).await;
    assert!(host.terminate().await.success());
    let late = copies.path().join("late");
    for folder in [&early, &late] {
        let exported = export(data.path(), folder);
        assert_eq!((exported.code, json(&exported)["entries_left_out"].as_u64()), (Some(0), Some(0)), "{exported:?}");
    }
    assert!(files(&early) == files(&late), "what was exported before is completed to the same bytes");

    check_alike(data.path(), &late);
    check_replays_alike(data.path(), &late);
    check_damage(&late);
    check_refusals(data.path(), &late).await;
}

/// Checks that both folders give the same answers.
fn check_alike(data: &Path, exported: &Path) {
    let account = ["--account", "account-1"];
    for command in [
        &["audit", "log", "--json"][..],
        &["audit", "log", "--partition", "2"],
        &["audit", "balance", account[0], account[1], "--json"],
        &["audit", "history", account[0], account[1]],
        &["audit", "history", account[0], account[1], "--limit", "2", "--json"],
    ] {
        let [of_node, of_files] = [data, exported].map(|folder| cli([command, &["--data", argument(folder)]].concat()));
        assert_eq!(of_node.code, Some(0), "{command:?}: {of_node:?}");
        assert!(
            !of_node.stdout.is_empty() && of_node.stdout == of_files.stdout,
            "{command:?}: {of_node:?}\n{of_files:?}"
        );
    }
    let [of_node, of_files] = [data, exported].map(|folder| {
        let mut report = json(&verify(folder));
        for partition in report["partitions"].as_array_mut().expect("a list") {
            // Only a log has void entries, and other bytes around the entries that count.
            for member in ["log_bytes", "torn_bytes", "void_entries", "entries_not_known_committed"] {
                partition.as_object_mut().expect("an object").remove(member);
            }
        }
        report
    });
    assert_eq!(of_node, of_files);
    assert!(of_node["partitions"].as_array().is_some_and(|partitions| partitions.len() == 4), "{of_node:#}");
}

fn check_replays_alike(data: &Path, exported: &Path) {
    let id = json(&verify(data))["partitions"][3]["module"].as_str().expect("an id").to_owned();
    for mode in ["isolated", "cumulative"] {
        let [of_node, of_files] = [data, exported].map(|folder| {
            cli(["audit", "replay", "--data", argument(folder), "--candidate", &id, "--mode", mode, "--json"])
        });
        assert_eq!((of_node.code, of_files.code), (Some(0), Some(0)), "{of_files:?}");
        assert!(of_node.stdout == of_files.stdout);
    }
}

/// The first segment of a partition of the wallet.
fn segment(folder: &Path, partition: &str) -> PathBuf {
    let folder = folder.join("wallet").join(partition);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(&folder).expect("it is there").map(|file| file.expect("it can be listed").path()).collect();
    paths.sort();
    paths.remove(0)
}

/// Checks that damage is located by partition, file and entry, and that the other partitions are still verified.
fn check_damage(exported: &Path) {
    let path = segment(exported, "1");
    let name = path.file_name().and_then(|name| name.to_str()).expect("names are UTF-8").to_owned();
    let good = std::fs::read(&path).expect("it can be read");
    let check = |what: &str, bytes: Option<&[u8]>| {
        match bytes {
            Some(bytes) => std::fs::write(&path, bytes).expect("the folder is ours"),
            None => std::fs::remove_file(&path).expect("it is there"),
        }
        let found = verify(exported);
        assert_eq!(found.code, Some(1), "{what}: {found:?}");
        let report = json(&found);
        for partition in report["partitions"].as_array().expect("a list") {
            let faults = partition["faults"].as_array().expect("a list");
            let is_damaged = partition["machine"] == "wallet" && partition["partition"] == 1;
            assert_eq!(faults.len(), usize::from(is_damaged), "{what}: {partition:#}");
            for fault in faults {
                assert_eq!((&fault["kind"], &fault["segment"]), (&Value::from("segment"), &Value::from(name.as_str())));
                assert!(fault["journal_index"].as_u64().is_some() && fault["offset"].as_u64().is_some(), "{fault:#}");
            }
        }
        let text = cli(["audit", "verify", "--data", argument(exported)]);
        assert!(text.stdout.contains("FAULT wallet/1 segment at entry "), "{text:?}");
        std::fs::write(&path, &good).expect("the folder is ours");
    };
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    check("a flipped bit", Some(&bad));
    check("a cut file", Some(&good[..good.len() / 3]));
    check("a file of another partition", Some(&std::fs::read(segment(exported, "2")).expect("it can be read")));
    check("a missing file", None);
    assert_eq!(verify(exported).code, Some(0));
}

async fn check_refusals(data: &Path, exported: &Path) {
    // A module that is no longer there is asked for by name.
    let id = json(&verify(data))["partitions"][3]["module"].as_str().expect("an id").to_owned();
    let module = exported.join("modules").join(format!("{id}.wasm"));
    let wasm = std::fs::read(&module).expect("it is there");
    std::fs::remove_file(&module).expect("it is there");
    let without = verify(exported);
    assert!(without.code == Some(1) && without.stdout.contains(&id[..8]), "{without:?}");
    std::fs::write(&module, wasm).expect("the folder is ours");

    let other = tempdir().expect("a temporary folder");
    let host = Host::start(other.path()).await;
    assert!(host.terminate().await.success());
    let refused = export(other.path(), exported);
    assert!(refused.code != Some(0) && refused.stderr.contains("choose another folder"), "{refused:?}");
    let nothing = tempdir().expect("a temporary folder");
    let refused = verify(nothing.path());
    assert!(refused.code != Some(0) && refused.stderr.contains("journal.json"), "{refused:?}");
}
