//! Aborts that arrive while a step is on its way to another partition: each transfer happens whole or not at all.
//!
//! The coordinator pauses before it makes a call. Meanwhile the operator's order arrives, so it is recorded before
//! anybody knows whether the step was done. The participant has to cancel a step that comes later, or undo one that
//! came first.

use serde_json::json;
use statehouse_tests::hold::eventually;
use statehouse_tests::host::Host;
use statehouse_tests::http::Client;
use statehouse_tests::oracle::check_audit;
use statehouse_tests::wallet::{balance, deposit, open, transfer_body};
use tempfile::tempdir;
use uuid::Uuid;

use crate::start;

/// This is no point of the source: here the points before a call do not end the process but do something else.
pub const POINT: &str = "orders::abort";
const PAUSE: &str = "partition::calling=sleep(150)";
const TRANSFERS: usize = 8;
const OPENING: i128 = 10_000;

pub async fn check() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start_with(&start(data.path(), Some(PAUSE.to_owned()))).await.expect("the host starts");
    let mut client = host.client();
    let [payer, payee] = two_partitions(&mut client).await;
    deposit(&mut client, &payer, OPENING).await;
    let (mut aborted, mut moved) = (0, 0);
    for number in 0..TRANSFERS {
        let id = Uuid::new_v4().to_string();
        let mut body = transfer_body(&id, &payer, &payee, "1.00");
        if number % 2 == 1 {
            body["coordination"] = json!("tcc");
        }
        let mut sender = host.client();
        let sending = tokio::spawn(async move { sender.post("/v1/wallet/balance_transfer", &body).await });
        abort(&mut client, &id).await;
        let answer = sending.await.expect("no client panics").expect("the host answers");
        match answer.status {
            200 => moved += 100,
            status => {
                assert_eq!((status, answer.problem().as_str()), (422, "aborted"), "{answer:?}");
                aborted += 1;
            }
        }
    }
    println!("{aborted} of {TRANSFERS} transfers were aborted in time");
    assert!(0 < aborted, "no abort came in time");
    eventually("nothing is in flight", async || {
        let listed = client.get("/v1/wallet/commands?state=in_flight").await.ok()?;
        listed.json()["items"].as_array()?.is_empty().then_some(())
    })
    .await;
    assert_eq!(balance(&mut client, &payer).await, OPENING - moved);
    assert_eq!(balance(&mut client, &payee).await, moved);
    host.kill();
    check_audit(data.path());
}

/// Two accounts in different partitions.
async fn two_partitions(client: &mut Client) -> [String; 2] {
    let mut found: Vec<(String, String)> = Vec::new();
    for number in 0..16 {
        let account = format!("account-{number}");
        open(client, &account).await;
        let position = statehouse_tests::wallet::account(client, &account).await.text("position");
        let partition = position.split('.').next().expect("a partition").to_owned();
        if found.iter().all(|(_, other)| *other != partition) {
            found.push((account, partition));
        }
    }
    let accounts: Vec<String> = found.into_iter().map(|(account, _)| account).take(2).collect();
    accounts.try_into().expect("sixteen accounts lie in two partitions at least")
}

/// Orders the abort as soon as the command is in flight. The command may be over by then.
async fn abort(client: &mut Client, id: &str) {
    eventually("the abort is recorded, or too late", async || {
        let answer = client.post(&format!("/v1/wallet/commands/{id}/abort"), &json!({"why": "to see"})).await.ok()?;
        if answer.status == 200 {
            return Some(());
        }
        match (answer.status, answer.problem().as_str()) {
            (409, "order_refused") => Some(()),
            (409, "not_in_flight") => {
                let page = client.get(&format!("/v1/wallet/commands/{id}")).await.ok()?.json();
                (page["state"] == "recorded").then_some(())
            }
            (status, code) => panic!("{status} {code}: {answer:?}"),
        }
    })
    .await;
}
