//! A whole batch that is already recorded is sent again. That costs one read for each entry, and no other client
//! waits for it.
//!
//! It counts what was read and what was answered. `statehouse bench http` measures how long a retry takes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use statehouse_tests::hold::eventually;
use statehouse_tests::host::Host;
use statehouse_tests::http::{Client, Request};
use statehouse_tests::oracle::Ledger;
use statehouse_tests::wallet::{self, TRANSFER};
use tempfile::tempdir;
use tokio::sync::watch;
use uuid::Uuid;

/// As many commands as a batch may have.
const COMMANDS: usize = 8_192;
const CLIENTS: usize = 4;
/// Far longer than a transfer takes on a busy machine, and far shorter than such a retry took when it read once for
/// each id.
const DEADLINE_MS: &str = "10000";
const A: &str = "account-0";
const B: &str = "account-1";

/// Sends the batch and returns the answer to each command.
async fn send(client: &mut Client, body: &str) -> Vec<Value> {
    let headers = vec![("content-type", "application/x-ndjson"), ("statehouse-deadline", "30000")];
    let request = Request { method: "POST", path: "/v1/wallet/batch", headers, body: body.as_bytes().to_vec() };
    let answer = client.send(request).await.expect("the host answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    let lines = std::str::from_utf8(&answer.body).expect("JSON is UTF-8").lines();
    lines.map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// The number of entries that were needed for ids sent again and were not in memory.
async fn recalled(client: &mut Client) -> usize {
    let metrics = client.get("/metrics").await.expect("the host answers");
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("statehouse_recalled_entries_total "));
    line.map_or(0, |count| count.trim().parse().expect("a count"))
}

/// Sends transfers one by one until it is told to stop; each must be done in time. Returns how many there were.
async fn pay(mut client: Client, is_over: Arc<AtomicBool>, paid: watch::Sender<usize>) -> usize {
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) {
        let body = wallet::transfer_body(&Uuid::new_v4().to_string(), B, A, "0.01");
        let answer = client.post_with(TRANSFER, &body, vec![("statehouse-deadline", DEADLINE_MS)]).await;
        let answer = answer.expect("the host answers");
        assert_eq!(answer.status, 200, "a transfer beside a retry: {answer:?}");
        count += 1;
        paid.send_modify(|paid| *paid += 1);
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_batch_sent_again_costs_a_read_for_each_entry_and_nobody_else_any_time() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    Ledger::open(&mut client, 2, 1_000_000).await;
    let line = |_| {
        let body = wallet::transfer_body(&Uuid::new_v4().to_string(), A, B, "0.01");
        format!("{}\n", json!({"command": "balance_transfer", "body": body}))
    };
    let body: String = (0..COMMANDS).map(line).collect();
    let first = send(&mut client, &body).await;
    assert!(first.iter().all(|line| line["status"] == 200) && first.len() == COMMANDS, "{:?}", first.first());
    let entry = |line: &Value| {
        let position = line["body"]["position"].as_str().expect("a success has its position");
        position.split('.').nth(1).expect("a position has three numbers").to_owned()
    };
    let entries: BTreeSet<String> = first.iter().map(entry).collect();
    assert!(entries.len() < COMMANDS / 100, "a batch is few entries");
    assert_eq!(send(&mut client, &body).await, first);
    assert_eq!(recalled(&mut client).await, 0, "what was just applied is in memory");
    assert!(host.terminate().await.success());

    let host = Host::start(data.path()).await;
    let mut client = host.client();
    let (is_over, paid) = (Arc::new(AtomicBool::new(false)), watch::Sender::new(0));
    let payer = |_| tokio::spawn(pay(host.client(), is_over.clone(), paid.clone()));
    let payers: Vec<_> = (0..CLIENTS).map(payer).collect();
    eventually("transfers are made", async || (CLIENTS < *paid.borrow()).then_some(())).await;
    let before = recalled(&mut client).await;
    assert_eq!(send(&mut client, &body).await, first, "the same answers after a restart");
    let read = recalled(&mut client).await - before;
    assert_eq!(read, entries.len(), "each entry was read once, for all of its ids");
    is_over.store(true, Ordering::Relaxed);
    let mut beside = 0;
    for payer in payers {
        beside += payer.await.expect("each transfer was made in time");
    }
    println!("{beside} transfers beside a retry of {COMMANDS} ids, for which {read} entries were read");
    let paid = i128::try_from(COMMANDS).expect("a small number") - i128::try_from(beside).expect("a small number");
    assert_eq!(wallet::balance(&mut client, A).await, 1_000_000 - paid, "nothing was executed twice");
}
