//! The program `statehouse-audit` needs no server, and says what `statehouse audit` says, byte for byte.
//!
//! In: a history with all that clients cause, its folder, its export and its archive. Out: the same text, files and
//! exit codes of both programs; and what the auditor says where only the other program can help.

use std::path::Path;

use statehouse_kernel::ids::ModuleId;
use statehouse_tests::host::{CommandOutput, Host, Start, argument, cli};
use statehouse_tests::process::auditor;
use tempfile::tempdir;

use crate::archived::until_archived;
use crate::replay::{changed_module, make_history, recorded_module};

/// The line of a replay's page that tells how long it took.
const OF_TIME: &str = " decisions/s";

fn host_audits(arguments: &[&str]) -> CommandOutput {
    cli(std::iter::once(&"audit").chain(arguments))
}

/// Runs both programs, which must say the same. Returns what they said.
fn check_same(arguments: &[&str]) -> CommandOutput {
    let (ours, theirs) = (host_audits(arguments), auditor(arguments));
    let lines = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.contains(OF_TIME)).map(str::to_owned).collect()
    };
    assert_eq!(ours.code, theirs.code, "{arguments:?}: {ours:?}\n{theirs:?}");
    assert_eq!(lines(&ours.stdout), lines(&theirs.stdout), "{arguments:?}");
    assert_eq!(ours.stderr, theirs.stderr, "{arguments:?}");
    theirs
}

/// Replays with both programs. Reports and certificates must be the same bytes.
fn check_same_replay(data: &Path, folder: &Path, candidate: &str, mode: &str) -> Vec<u8> {
    let mut written = Vec::new();
    for (program, run) in [("host", host_audits as fn(&[&str]) -> CommandOutput), ("auditor", auditor)] {
        let place = |ending: &str| folder.join(format!("{program}.{ending}"));
        let (certificate, json, html) = (place("certificate"), place("json"), place("html"));
        let replayed = run(&[
            "replay",
            "--data",
            argument(data),
            "--candidate",
            candidate,
            "--mode",
            mode,
            "--certificate",
            argument(&certificate),
            "--report",
            argument(&json),
            "--report",
            argument(&html),
            "--json",
        ]);
        let files = [certificate, json, html].map(|path| std::fs::read(path).expect("it was written"));
        written.push((replayed.code, replayed.stdout, replayed.stderr, files));
    }
    assert_eq!(written[0], written[1], "{candidate}, {mode}");
    let [certificate, ..] = written.remove(1).3;
    certificate
}

#[tokio::test(flavor = "multi_thread")]
async fn the_auditor_says_what_the_host_says() {
    let around = tempdir().expect("a temporary folder");
    let place = |name: &str| around.path().join(name);
    let (data, archive, export) = (place("data"), place("archive"), place("export"));
    let arguments =
        ["--partitions", "2", "--archive", argument(&archive), "--archive-every", "1"].map(str::to_owned).to_vec();
    let host = Host::start_with(&Start { arguments, ..Start::on(&data) }).await.expect("the host starts");
    make_history(&mut host.client()).await;
    let (_, file) = recorded_module(&data);
    until_archived(&host, 2).await;
    assert!(host.terminate().await.success());

    for folder in [argument(&data), argument(&archive)] {
        let said = check_same(&["verify", "--data", folder]);
        assert!(said.code == Some(0) && said.stdout.contains("verified: "), "{said:?}");
        check_same(&["verify", "--data", folder, "--json"]);
        check_same(&["log", "--data", folder]);
        check_same(&["log", "--data", folder, "--json"]);
        check_same(&["log", "--data", folder, "--machine", "system", "--json"]);
        let history = check_same(&["history", "--data", folder, "--account", "account-1"]);
        assert!(history.stdout.lines().count() > 3, "{history:?}");
        let balance = check_same(&["balance", "--data", folder, "--account", "account-1"]);
        assert!(balance.code == Some(0) && balance.stdout.contains("USD"), "{balance:?}");
        check_same(&["balance", "--data", folder, "--account", "account-1", "--json"]);
    }
    check_same(&["log", "--data", argument(&data), "--export", argument(&export)]);
    let said = check_same(&["verify", "--data", argument(&export)]);
    assert_eq!(said.code, Some(0), "{said:?}");
    check_export(&export, &file, &place("certificate"));

    let changed = changed_module(&file, around.path());
    for (candidate, mode) in [(&file, "isolated"), (&changed, "isolated"), (&changed, "cumulative")] {
        let certificate = check_same_replay(&data, around.path(), argument(candidate), mode);
        let path = place("certificate");
        std::fs::write(&path, certificate).expect("the folder is ours");
        let said = check_same(&["certificate", "verify", argument(&path), "--data", argument(&data)]);
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    let page = check_same(&["replay", "--data", argument(&data), "--candidate", argument(&changed)]);
    assert!(page.code == Some(2) && page.stdout.contains("insufficient_funds"), "{page:?}");
    let position = position_of_refusal(&data);
    let (folder, candidate) = (argument(&data), argument(&changed));
    let explained = check_same(&["replay", "--data", folder, "--candidate", candidate, "--at", &position, "--explain"]);
    assert!(explained.code == Some(0) && explained.stdout.contains("SEND LESS"), "{explained:?}");
}

/// What an auditor asks of a folder that was handed over, with nothing else at hand.
fn check_export(export: &Path, recorded: &Path, certificate: &Path) {
    let folder = argument(export);
    let nobody = check_same(&["history", "--data", folder, "--account", "acount-1"]);
    assert!(nobody.code == Some(2) && nobody.stderr.contains("`acount-1`"), "a typo is no empty history: {nobody:?}");
    let id = ModuleId::of(&std::fs::read(recorded).expect("it can be read")).to_string();
    for candidate in ["1.0.1", &id[..8], &id] {
        let replayed = check_same(&["replay", "--data", folder, "--candidate", candidate]);
        assert_eq!(replayed.code, Some(0), "{candidate}: {replayed:?}");
    }
    let unknown = check_same(&["replay", "--data", folder, "--candidate", "9.9.9"]);
    assert!(unknown.code == Some(3) && unknown.stderr.contains("by its version or id"), "{unknown:?}");
    let certified = argument(certificate);
    let unsigned = check_same(&["replay", "--data", folder, "--candidate", &id, "--certificate", certified]);
    assert!(unsigned.code == Some(3) && unsigned.stderr.contains("--key-file"), "{unsigned:?}");
    assert!(!certificate.exists() && !export.join("node.key").exists(), "nothing is written");
}

/// The position of a transfer that was refused for lack of money.
fn position_of_refusal(data: &Path) -> String {
    let log = auditor(&["log", "--data", argument(data), "--json"]);
    let line = log.stdout.lines().find(|line| line.contains("insufficient_funds")).expect("the history has one");
    let line: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
    line["position"].as_str().expect("a line has a position").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_wrong_for_both_and_the_network_is_named() {
    let around = tempdir().expect("a temporary folder");
    let data = around.path().join("data");
    let nowhere = check_same(&["verify", "--data", argument(&around.path().join("nowhere"))]);
    assert_eq!(nowhere.code, Some(2), "{nowhere:?}");
    let host = Host::start(&data).await;
    make_history(&mut host.client()).await;
    host.kill();
    let unknown = check_same(&["balance", "--data", argument(&data), "--machine", "purse", "--account", "a"]);
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    // A module of a stranger is compiled by a child of the auditor, and its refusal is a message.
    let stranger = around.path().join("stranger.wasm");
    std::fs::write(&stranger, wat::parse_str("(module (memory 1))").expect("valid text")).expect("a new file");
    let refused = check_same(&["replay", "--data", argument(&data), "--candidate", argument(&stranger)]);
    assert!(refused.code == Some(3) && refused.stderr.starts_with("inconclusive: "), "{refused:?}");
    // A flipped byte in the middle of what is recorded.
    let log = data.join("wallet").join("0").join("log");
    let segment = std::fs::read_dir(&log).expect("a log").map(|entry| entry.expect("an entry").path());
    let segment = segment.filter(|path| argument(path).ends_with(".log")).min().expect("it has a segment");
    let mut bytes = std::fs::read(&segment).expect("it can be read");
    bytes[5_000] ^= 1;
    std::fs::write(&segment, bytes).expect("it is ours");
    let damaged = check_same(&["verify", "--data", argument(&data)]);
    assert!(damaged.code == Some(1) && damaged.stdout.contains("FAULT wallet/0"), "{damaged:?}");

    let fetched = auditor(&["verify", "--data", "s3://bucket/prefix"]);
    assert!(fetched.code == Some(2) && fetched.stderr.contains("run `statehouse audit`"), "{fetched:?}");
    let url = auditor(&["replay", "--candidate", "1.0.1", "--url", "http://127.0.0.1:1"]);
    assert!(url.code == Some(3) && url.stderr.contains("run `statehouse audit replay`"), "{url:?}");
}
