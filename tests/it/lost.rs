//! A node that is alone and whose disk has forgotten acknowledged entries. It serves nothing of that partition until
//! an operator has given them up. It says what is missing and what giving up would mean, and the operator's word is
//! never forgotten.
//!
//! It knows where the log of a partition is in the data folder, but not what is in it.

use std::path::{Path, PathBuf};

use statehouse_tests::hold::eventually;
use statehouse_tests::host::{CommandOutput, Host, Start, argument, cli};
use statehouse_tests::oracle::{Ledger, check_audit};
use statehouse_tests::wallet;
use tempfile::tempdir;
use uuid::Uuid;

const TRANSFERS: usize = 10;
const SIZE: i128 = 10;
const DEPOSIT: u32 = 10_000;

/// What the disk forgets of the wallet's only partition.
#[derive(Clone, Copy, Debug, PartialEq)]
enum ForgottenPart {
    NewestSegment,
    /// The log goes back to an earlier copy.
    LogSince,
    Folder,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_its_newest_segment_is_not_opened_before_somebody_gives_it_up() {
    check(ForgottenPart::NewestSegment).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_log_is_not_opened_before_somebody_gives_up_what_it_lacks() {
    check(ForgottenPart::LogSince).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_folder_is_not_born_again_before_somebody_gives_it_up() {
    check(ForgottenPart::Folder).await;
}

async fn check(forgotten: ForgottenPart) {
    let data = tempdir().expect("a temporary folder");
    let partition = data.path().join("wallet").join("0");
    let earlier = data.path().join("earlier");

    let host = Host::start(data.path()).await;
    let ledger = Ledger::open(&mut host.client(), 2, DEPOSIT.into()).await;
    transfers(&host, &ledger).await;
    assert!(host.terminate().await.success());
    copy(&partition.join("log"), &earlier);
    let host = Host::start(data.path()).await;
    let last = transfers(&host, &ledger).await;
    assert!(host.terminate().await.success());
    check_audit(data.path());
    match forgotten {
        ForgottenPart::NewestSegment => std::fs::remove_file(newest_segment(&partition)).expect("it is removed"),
        ForgottenPart::LogSince => {
            std::fs::remove_dir_all(partition.join("log")).expect("it is removed");
            copy(&earlier, &partition.join("log"));
        }
        ForgottenPart::Folder => std::fs::remove_dir_all(&partition).expect("it is removed"),
    }
    std::fs::remove_dir_all(&earlier).expect("it is removed");

    check_audit_misses(data.path());

    // The refusal does not wear off at the next start.
    for _ in 0..2 {
        let host = start_unready(data.path()).await;
        check_refuses(&host, &ledger, last).await;
        host.kill();
        check_audit_misses(data.path());
    }
    let host = start_unready(data.path()).await;
    check_refuses(&host, &ledger, last).await;
    let nothing = accept(&host, "system", "it is a mistake");
    assert_ne!(nothing.code, Some(0), "{nothing:?}");
    assert!(nothing.stderr.contains("there is nothing to give up"), "{nothing:?}");
    let accepted = accept(&host, "wallet", "the disk was replaced");
    assert_eq!(accepted.code, Some(0), "{accepted:?}");
    is_ready(&host).await;
    check_goes_on(&host, &ledger, forgotten).await;
    assert!(host.terminate().await.success());

    let host = Host::start(data.path()).await;
    let status = status(&host);
    let said = status.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for word in ["loss accepted on node 1", "the disk was replaced", "wallet/0", "has lost acknowledged entries"] {
        assert!(said.contains(word), "`{word}` is said for ever: {status:?}");
    }
    assert!(host.terminate().await.success());
    check_audit(data.path());
}

fn check_audit_misses(data: &Path) {
    let audit = cli(["audit", "verify", "--data", argument(data)]);
    assert_eq!(audit.code, Some(1), "the folder shows that there was more: {audit:?}");
    assert!(audit.stdout.contains("wallet") && audit.stdout.contains("missing"), "{audit:?}");
}

/// Sends some transfers, all of which must be acknowledged, and returns the id of the last.
async fn transfers(host: &Host, ledger: &Ledger) -> Uuid {
    let mut client = host.client();
    let mut last = Uuid::nil();
    for _ in 0..TRANSFERS {
        last = Uuid::new_v4();
        let answer = wallet::transfer(&mut client, last, &ledger.accounts[0], &ledger.accounts[1], 10).await;
        assert_eq!(answer.expect("the host answers").status, 200);
    }
    last
}

async fn check_refuses(host: &Host, ledger: &Ledger, last: Uuid) {
    let mut client = host.client();
    let reasons = eventually("the host says what it waits for", async || {
        let answer = client.get("/readyz").await.expect("the host answers");
        assert_eq!(answer.status, 503, "{answer:?}");
        let reasons = answer.text("detail");
        reasons.contains("accept-loss").then_some(reasons)
    })
    .await;
    for word in ["wallet/0", "has lost acknowledged entries", "no other node has them", "executed if it is sent again"]
    {
        assert!(reasons.contains(word), "`{word}` is missing: {reasons}");
    }
    let again = wallet::transfer(&mut client, last, &ledger.accounts[0], &ledger.accounts[1], 10).await;
    assert_eq!(again.expect("the host answers").status, 503, "it is not executed a second time");
    let read = wallet::account(&mut client, &ledger.accounts[0]).await;
    assert_eq!(read.status, 503, "what it does not know it does not deny: {read:?}");
}

async fn check_goes_on(host: &Host, ledger: &Ledger, forgotten: ForgottenPart) {
    let mut client = host.client();
    if forgotten == ForgottenPart::LogSince {
        let balance = wallet::balance(&mut client, &ledger.accounts[0]).await;
        assert_eq!(balance, i128::from(DEPOSIT) - SIZE * TRANSFERS as i128, "what the log has is there");
        transfers(host, ledger).await;
    } else {
        let read = wallet::account(&mut client, &ledger.accounts[0]).await;
        assert_eq!(read.status, 404, "{read:?}");
        Ledger::open(&mut client, 2, DEPOSIT.into()).await;
    }
}

async fn start_unready(data: &Path) -> Host {
    Host::start_unready(&Start::on(data)).await.unwrap_or_else(|refused| panic!("the host runs: {refused:?}"))
}

async fn is_ready(host: &Host) {
    let mut client = host.client();
    eventually("the host becomes ready", async || {
        client.get("/readyz").await.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
}

fn accept(host: &Host, machine: &str, why: &str) -> CommandOutput {
    let url = format!("http://{}", host.address());
    cli(["cluster", "accept-loss", machine, "0", "--why", why, "--url", &url])
}

fn status(host: &Host) -> CommandOutput {
    cli(["cluster", "status", "--url", &format!("http://{}", host.address())])
}

fn newest_segment(partition: &Path) -> PathBuf {
    let files = std::fs::read_dir(partition.join("log")).expect("the partition has a log");
    let paths = files.map(|file| file.expect("the folder can be listed").path());
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "log");
    paths.filter(is_segment).max().expect("the log has a segment")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a new folder");
    for file in std::fs::read_dir(from).expect("it can be listed") {
        let path = file.expect("it can be listed").path();
        std::fs::copy(&path, to.join(path.file_name().expect("a file has a name"))).expect("it can be copied");
    }
}
