//! An operator's orders about commands in flight. What is refused for ever is settled by the module's last resort, and
//! what the protocol does not allow is refused with a message.
//!
//! The module is `modules/toll`, whose purses can be sealed. A sealed purse takes nothing in any more, not even what
//! was agreed before.

use std::path::Path;

use serde_json::{Value, json};
use statehouse_tests::cluster::release;
use statehouse_tests::hold::eventually;
use statehouse_tests::host::{Host, Start, argument, cli};
use statehouse_tests::http::{Client, Request};
use statehouse_tests::oracle::check_audit;
use tempfile::tempdir;
use uuid::Uuid;

const PARTITIONS: u32 = 4;
const PURSES: usize = 12;
const COINS: i64 = 100;

async fn start(data: &Path) -> Host {
    let machine = format!("toll={}", argument(&release("toll-1.1.0.wasm")));
    let arguments = vec!["--partitions".to_owned(), PARTITIONS.to_string(), "--machine".to_owned(), machine];
    Host::start_with(&Start { arguments, ..Start::on(data) }).await.expect("the host starts")
}

/// Three purses in three partitions: a payer, a payee, a keeper of the toll.
async fn open_purses(client: &mut Client) -> [String; 3] {
    let mut found: Vec<(String, String)> = Vec::new();
    for number in 0..PURSES {
        let purse = format!("purse-{number}");
        let body = json!({"purse": purse, "coins": COINS, "request_id": Uuid::new_v4().to_string()});
        let answer = client.post("/v1/toll/purses", &body).await.expect("the host answers");
        assert_eq!(answer.status, 201, "{answer:?}");
        let partition = answer.text("position").split('.').next().expect("a partition").to_owned();
        if found.iter().all(|(_, other)| *other != partition) {
            found.push((purse, partition));
        }
    }
    let purses: Vec<String> = found.into_iter().map(|(purse, _)| purse).take(3).collect();
    purses.try_into().expect("twelve purses lie in three partitions at least")
}

async fn seal(client: &mut Client, purse: &str) {
    let answer = client.post(&format!("/v1/toll/purses/{purse}/seal"), &json!({})).await.expect("the host answers");
    assert_eq!(answer.status, 200, "{answer:?}");
}

async fn coins(client: &mut Client, purse: &str) -> i64 {
    let answer = client.get(&format!("/v1/toll/purses/{purse}")).await.expect("the host answers");
    answer.json()["coins"].as_i64().unwrap_or_else(|| panic!("{answer:?}"))
}

/// Sends a payment that does not end, with a deadline that passes soon; returns its id.
async fn pay_stuck(client: &mut Client, from: &str, to: &str, keeper: &str, is_tcc: bool) -> String {
    let id = Uuid::new_v4().to_string();
    let mut body = json!({"from": from, "to": to, "amount": 10, "keeper": keeper, "toll": 1, "request_id": id});
    if is_tcc {
        body["coordination"] = json!("tcc");
    }
    let headers = vec![("content-type", "application/json"), ("statehouse-deadline", "300")];
    let body = body.to_string().into_bytes();
    let request = Request { method: "POST", path: "/v1/toll/payments", headers, body };
    let answer = client.send(request).await.expect("the host answers");
    assert_eq!(answer.status, 504, "{answer:?}");
    id
}

/// Waits until a command in flight waits for a refusal, and returns the refusal.
async fn refused(client: &mut Client, id: &str) -> Value {
    eventually("the command waits for a refusal", async || {
        let page = client.get(&format!("/v1/toll/commands/{id}")).await.ok()?.json();
        let refused = page["waits_for"].as_array()?.iter().find(|waits| waits["reason"] == "refused")?.clone();
        Some(json!({"what": refused["what"], "code": refused["code"], "orders": page["orders"]}))
    })
    .await
}

fn order(host: &Host, order: &str, id: &str) -> statehouse_tests::host::CommandOutput {
    let url = format!("http://{}", host.address());
    cli(["command", order, "toll", id, "--why", "the purse is sealed for ever", "--url", &url])
}

async fn state(client: &mut Client, id: &str) -> Value {
    eventually("the command is over", async || {
        let page = client.get(&format!("/v1/toll/commands/{id}")).await.ok()?.json();
        (page["state"] == "recorded").then_some(page)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_ever_is_settled_and_never_aborted_against_the_protocol() {
    let data = tempdir().expect("a temporary folder");
    let host = start(data.path()).await;
    let mut client = host.client();
    let [payer, payee, keeper] = open_purses(&mut client).await;

    // A confirm is refused for ever: everything was agreed, so the command can no longer be undone.
    seal(&mut client, &payee).await;
    let confirm = pay_stuck(&mut client, &payer, &payee, &keeper, true).await;
    let expected = json!({"what": "confirm", "code": "sealed", "orders": ["settle"]});
    assert_eq!(refused(&mut client, &confirm).await, expected);
    let url = format!("http://{}", host.address());
    let listed = cli(["command", "list", "toll", "--url", &url]);
    assert!(listed.code == Some(1) && listed.stdout.contains("confirm refused"), "{listed:?}");
    let aborted = order(&host, "abort", &confirm);
    assert!(aborted.code == Some(2) && aborted.stderr.contains("settle"), "{aborted:?}");
    let settled = order(&host, "settle", &confirm);
    assert_eq!(settled.code, Some(0), "{settled:?}");
    assert_eq!(state(&mut client, &confirm).await["outcome"], "done");
    assert_eq!(coins(&mut client, &payer).await, COINS - 11);
    assert_eq!(coins(&mut client, &payee).await, COINS, "the last resort parks what the purse refuses");
    assert_eq!(coins(&mut client, &keeper).await, COINS + 1);

    // An undo is refused for ever; it stays so through a restart.
    seal(&mut client, &payer).await;
    let undo = pay_stuck(&mut client, &payer, "nobody-has-this", &keeper, false).await;
    let expected = json!({"what": "undo", "code": "sealed", "orders": ["settle"]});
    assert_eq!(refused(&mut client, &undo).await, expected);
    let aborted = order(&host, "abort", &undo);
    assert!(aborted.code == Some(2) && aborted.stderr.contains("being undone already"), "{aborted:?}");
    host.kill();
    let host = start(data.path()).await;
    let mut client = host.client();
    let settled = order(&host, "settle", &undo);
    assert_eq!(settled.code, Some(0), "{settled:?}");
    let page = state(&mut client, &undo).await;
    assert_eq!((&page["outcome"], &page["rejection"]["code"]), (&json!("rejected"), &json!("no_such_purse")), "{page}");
    let phases: Vec<&str> =
        page["phases"].as_array().expect("a list").iter().filter_map(|it| it["name"].as_str()).collect();
    assert!(phases.contains(&"settlement ordered"), "{page}");
    assert_eq!(coins(&mut client, &payer).await, COINS - 22);
    assert_eq!(coins(&mut client, &keeper).await, COINS + 1);

    // A command that is over takes no orders, nor does one that nobody sent.
    for (id, order_name) in [(&confirm, "abort"), (&undo, "settle"), (&Uuid::new_v4().to_string(), "abort")] {
        let refused = order(&host, order_name, id);
        assert!(refused.code == Some(2) && refused.stderr.contains("in flight"), "{refused:?}");
    }
    let listed = client.get("/v1/toll/commands?state=in_flight").await.expect("the host answers");
    assert_eq!(listed.json()["items"], json!([]), "nothing is left under way");
    host.terminate().await;
    check_audit(data.path());
    let mut log = String::new();
    for partition in 0..PARTITIONS {
        let partition = partition.to_string();
        let of = cli(["audit", "log", "--data", argument(data.path()), "--machine", "toll", "--partition", &partition]);
        log.push_str(&of.stdout);
    }
    for id in [&confirm, &undo] {
        let line = format!("settle of {id} ordered by anonymous (says node 1): the purse is sealed for ever");
        assert!(log.contains(&line), "`{line}` is missing:\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_says_what_is_wrong_with_it() {
    let data = tempdir().expect("a temporary folder");
    let host = start(data.path()).await;
    let mut client = host.client();
    let id = Uuid::new_v4();
    let path = |rest: &str| format!("/v1/toll/commands/{rest}");
    let why = json!({"why": "to see"});
    let cases = [
        (path("no-uuid/abort"), why.clone(), 400, "bad_path"),
        (path(&format!("{id}/abort")), json!({}), 400, "missing_field"),
        (path(&format!("{id}/abort")), json!({"why": ""}), 400, "bad_length"),
        (path(&format!("{id}/settle?where=here")), why.clone(), 400, "unknown_parameter"),
        (path(&format!("{id}/settle")), why.clone(), 409, "not_in_flight"),
        (path(&format!("{id}/abort?home=purse-1")), why, 409, "not_in_flight"),
    ];
    for (path, body, status, code) in cases {
        let answer = client.post(&path, &body).await.expect("the host answers");
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{path}: {answer:?}");
    }
    host.kill();
}
