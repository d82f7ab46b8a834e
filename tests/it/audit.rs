//! What an auditor asks about the data folder, while the host runs and when it is stopped.
//!
//! It knows the CLI's arguments, exit codes and `--json`, and compares answers with what clients were told at the time.

use serde_json::Value;
use statehouse_tests::host::{CommandOutput, Host, argument, cli};
use statehouse_tests::oracle::{Ledger, check_audit};
use statehouse_tests::wallet;
use std::path::Path;
use tempfile::tempdir;
use uuid::Uuid;

const A: &str = "account-0";
const B: &str = "account-1";

#[tokio::test(flavor = "multi_thread")]
async fn every_past_balance_is_the_one_that_clients_saw() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    Ledger::open(&mut client, 2, 10_000).await;
    let mut seen: Vec<(String, i128)> = Vec::new();
    for minor in [1, 20, 300, 4_000] {
        let answer = wallet::transfer(&mut client, Uuid::new_v4(), A, B, minor).await.expect("the host answers");
        assert_eq!(answer.status, 200, "{answer:?}");
        seen.push((answer.text("position"), wallet::balance(&mut client, A).await));
    }
    check_past(data.path(), &seen);
    check_audit(data.path());
    host.kill();
    check_past(data.path(), &seen);
    check_audit(data.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_lists_every_command_with_its_caller_and_outcome() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    Ledger::open(&mut client, 2, 10_000).await;
    let (done, rejected) = (Uuid::new_v4(), Uuid::new_v4());
    wallet::transfer(&mut client, done, A, B, 100).await.expect("the host answers");
    wallet::transfer(&mut client, rejected, A, B, 1_000_000).await.expect("the host answers");

    let log = cli(["audit", "log", "--data", argument(data.path()), "--json"]);
    assert_eq!(log.code, Some(0), "{log:?}");
    for word in [done.to_string(), rejected.to_string(), "insufficient_funds".to_owned(), "anonymous".to_owned()] {
        assert!(log.stdout.contains(&word), "the log shows `{word}`:\n{}", log.stdout);
    }
}

fn check_past(data: &Path, seen: &[(String, i128)]) {
    for (position, expected) in seen {
        let data = argument(data);
        let balance =
            ["audit", "balance", "--data", data, "--account", A, "--currency", "USD", "--at", position, "--json"];
        let CommandOutput { code, stdout, stderr } = cli(balance);
        assert_eq!(code, Some(0), "{stdout}\n{stderr}");
        let report: Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {stdout}"));
        let balance = report["balance"].as_str().unwrap_or_else(|| panic!("no `balance` in {report}"));
        assert_eq!(wallet::minor(balance), *expected, "at {position}");
    }
}
