//! A request that runs out of time gets *unknown* and a place to resolve it, and is never executed later.
//!
//! Deadlines of a millisecond make both outcomes happen. The test does not predict which one, only that it becomes
//! definite and stays so.

use statehouse_tests::hold::eventually;
use statehouse_tests::host::Host;
use statehouse_tests::http::{Answer, Client};
use statehouse_tests::oracle::{Ledger, check_audit};
use statehouse_tests::wallet::{self, TRANSFER, TransactionRecord};
use tempfile::tempdir;
use uuid::Uuid;

const DEADLINE: &str = "statehouse-deadline";
const REQUESTS: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_out_of_time_is_resolved_and_never_executed_later() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    let ledger = Ledger::open(&mut client, 2, 100_000).await;
    let mut executed = Vec::new();
    let mut not_executed = Vec::new();
    for _ in 0..REQUESTS {
        let id = Uuid::new_v4();
        let body = wallet::transfer_body(&id.to_string(), &ledger.accounts[0], &ledger.accounts[1], "0.01");
        let answer = client.post_with(TRANSFER, &body, vec![(DEADLINE, "1")]).await.expect("the host answers");
        let is_executed = match answer.status {
            200 => true,
            504 => resolve(&mut client, &answer).await,
            503 if answer.problem() == "expired" => false,
            _ => panic!("done, unknown or expired: {answer:?}"),
        };
        if is_executed { executed.push(id) } else { not_executed.push(id) }
    }
    println!("{} executed, {} not", executed.len(), not_executed.len());
    check_definite(&mut client, &ledger, &executed, &not_executed).await;

    host.kill();
    check_audit(data.path());
    let host = Host::start(data.path()).await;
    check_definite(&mut host.client(), &ledger, &executed, &not_executed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_is_no_number_or_too_long_is_refused() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    let ledger = Ledger::open(&mut client, 2, 1_000).await;
    for deadline in ["soon", "-1", "0", "30001"] {
        let id = Uuid::new_v4();
        let body = wallet::transfer_body(&id.to_string(), &ledger.accounts[0], &ledger.accounts[1], "1.00");
        let answer = client.post_with(TRANSFER, &body, vec![(DEADLINE, deadline)]).await.expect("the host answers");
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad_header"), "`{deadline}`");
        assert_eq!(wallet::recorded(&mut client, id).await, TransactionRecord::Absent, "`{deadline}`");
    }
}

/// Follows `resolve` until it is definite; returns whether the command was executed.
async fn resolve(client: &mut Client, unknown: &Answer) -> bool {
    let url = unknown.text("resolve");
    eventually("the outcome becomes definite", async || {
        let answer = client.get(&url).await.expect("the host answers");
        assert_eq!(answer.status, 200, "{answer:?}");
        match answer.text("state").as_str() {
            "recorded" => Some(answer.text("outcome") == "done"),
            "not_executed" => Some(false),
            "in_flight" | "undecided" => None,
            _ => panic!("a command has one of four states: {answer:?}"),
        }
    })
    .await
}

async fn check_definite(client: &mut Client, ledger: &Ledger, executed: &[Uuid], not_executed: &[Uuid]) {
    for id in executed {
        assert_eq!(wallet::recorded(client, *id).await, TransactionRecord::Success, "{id}");
    }
    for id in not_executed {
        assert_eq!(wallet::recorded(client, *id).await, TransactionRecord::Absent, "{id} was executed after all");
    }
    let expected = 100_000 - executed.len() as i128;
    assert_eq!(wallet::balance(client, &ledger.accounts[0]).await, expected);
}
