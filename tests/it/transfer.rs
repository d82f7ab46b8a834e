//! The path of a transfer when nothing is wrong; it is still there after the host has been away.
//!
//! It knows the wallet's routes, and nothing of failures.

use serde_json::{Value, json};
use statehouse_tests::host::Host;
use statehouse_tests::http::Client;
use statehouse_tests::oracle::{Ledger, check_audit};
use statehouse_tests::wallet::{self, BANK, TransactionRecord};
use tempfile::tempdir;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_moves_money_and_is_there_after_a_restart() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    let ledger = Ledger::open(&mut client, 2, 10_000).await;
    let id = Uuid::new_v4();
    let answer = wallet::transfer(&mut client, id, &ledger.accounts[0], &ledger.accounts[1], 1_234).await;
    let answer = answer.expect("the host answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.text("Status"), "success");
    assert_eq!(answer.text("Transaction_id"), id.to_string());
    assert_position(&answer.json()["position"]);
    assert!(answer.json()["balances"].is_object(), "{answer:?}");

    let status = host.terminate().await;
    assert!(status.success(), "SIGTERM ends the host in order: {status}");
    check_audit(data.path());

    let host = Host::start(data.path()).await;
    let mut client = host.client();
    assert_eq!(balances(&mut client, &ledger).await, [8_766, 11_234]);
    assert_eq!(wallet::balance(&mut client, BANK).await, -20_000);
    assert_eq!(wallet::recorded(&mut client, id).await, TransactionRecord::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_shows_its_status_versions_and_history() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    let ledger = Ledger::open(&mut client, 2, 10_000).await;
    let account = &ledger.accounts[0];
    let before = wallet::account(&mut client, account).await.json();
    wallet::transfer(&mut client, Uuid::new_v4(), account, &ledger.accounts[1], 500).await.expect("the host answers");
    let after = wallet::account(&mut client, account).await.json();
    assert_eq!(before["account"], account.as_str());
    assert_eq!(before["balances"], json!({"USD": "100.00"}));
    assert_eq!(after["balances"], json!({"USD": "95.00"}));
    assert_ne!(before["version"], after["version"], "a change of the account changes its version");
    assert_ne!(before["position"], after["position"], "a change moves the position");

    let at = before["position"].as_str().expect("a read names its position");
    let past = client.get(&format!("/v1/wallet/accounts/{account}?at={at}")).await.expect("the host answers");
    assert_eq!(past.json()["balances"], json!({"USD": "100.00"}), "a balance of the past is the one of then");

    // It used to be answered like the past, with what is now.
    let future = format!("/v1/wallet/accounts/{account}?at=2999-01-01T00:00:00Z");
    for path in [format!("{future}&consistency=stale"), format!("{future}&at_least={at}"), future] {
        let future = client.get(&path).await.expect("the host answers");
        assert_eq!((future.status, future.problem().as_str()), (400, "bad_parameter"), "{future:?}");
        assert!(future.text("detail").contains("lies in the future"), "{future:?}");
    }

    wallet::change(&mut client, account, "freeze").await;
    assert_ne!(wallet::account(&mut client, account).await.json()["status"], before["status"]);
    wallet::change(&mut client, account, "unfreeze").await;
    assert_eq!(wallet::account(&mut client, account).await.json()["status"], before["status"]);

    let history =
        client.get(&format!("/v1/wallet/accounts/{account}/history?limit=2")).await.expect("the host answers");
    assert_eq!(history.status, 200, "{history:?}");
    assert!(history.json().to_string().contains("position"), "postings have positions: {history:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_answers_each_command_in_order() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    let ledger = Ledger::open(&mut client, 2, 1_000).await;
    let line = |amount: &str| {
        let body = wallet::transfer_body(&Uuid::new_v4().to_string(), &ledger.accounts[0], &ledger.accounts[1], amount);
        json!({"command": "balance_transfer", "body": body}).to_string()
    };
    let body = [line("4.00"), line("7.00"), line("-1"), line("6.00")].join("\n");
    let headers = vec![("content-type", "application/x-ndjson")];
    let request =
        statehouse_tests::http::Request { method: "POST", path: "/v1/wallet/batch", headers, body: body.into_bytes() };
    let answer = client.send(request).await.expect("the host answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = String::from_utf8(answer.body.to_vec()).expect("answers are UTF-8");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    let success: Vec<bool> = lines.iter().map(|line| line["status"] == 200).collect();
    assert_eq!(success, [true, false, false, true], "{text}");
    assert_eq!(lines[1]["body"]["Status"], "rejected", "{text}");
    assert_eq!(balances(&mut client, &ledger).await, [0, 2_000]);
}

async fn balances(client: &mut Client, ledger: &Ledger) -> [i128; 2] {
    [wallet::balance(client, &ledger.accounts[0]).await, wallet::balance(client, &ledger.accounts[1]).await]
}

/// Asserts the form `partition.index.n~head8`.
fn assert_position(value: &Value) {
    let text = value.as_str().unwrap_or_else(|| panic!("no position: {value}"));
    let position: Result<statehouse_kernel::ids::Position, _> = text.parse();
    assert!(position.is_ok(), "`{text}` is no position");
}
