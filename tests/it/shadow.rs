//! A module decides beside the active one while clients continue. What it would decide differently is found, and
//! nothing is touched.
//!
//! One candidate decides everything alike; the other is the active module with a few letters of one message changed
//! in its bytes. This file knows the routes and commands of a shadow, but not how it follows.

use std::path::Path;

use serde_json::{Value, json};
use statehouse_tests::cluster::release;
use statehouse_tests::hold::eventually;
use statehouse_tests::host::{CommandOutput, Host, Start, argument, cli};
use statehouse_tests::http::Client;
use statehouse_tests::oracle::check_audit;
use statehouse_tests::wallet;
use tempfile::tempdir;
use uuid::Uuid;

const MODULES: &str = "/v1/machines/wallet/modules";
const ACCOUNTS: usize = 6;
const OPENING: i128 = 1_000;

async fn start(data: &Path) -> Host {
    let arguments = vec!["--partitions".to_owned(), "2".to_owned()];
    Host::start_with(&Start { arguments, ..Start::on(data) }).await.expect("the host starts")
}

fn name(number: usize) -> String {
    format!("account-{}", number % ACCOUNTS)
}

fn module(host: &Host, arguments: &[&str]) -> CommandOutput {
    let url = format!("http://{}", host.address());
    cli([&["module"][..], arguments, &["--url", &url]].concat())
}

fn done(host: &Host, arguments: &[&str]) {
    let finished = module(host, arguments);
    assert_eq!(finished.code, Some(0), "{finished:?}");
}

/// Makes transfers within and between partitions, and some that nobody can pay.
async fn transfers(client: &mut Client, count: usize) {
    for number in 0..count {
        let amount = if number % 4 == 0 { 100 * OPENING } else { 1 };
        let (from, to) = (name(number), name(number + 1 + number % 3));
        let answer = wallet::transfer(client, Uuid::new_v4(), &from, &to, amount).await.expect("the host answers");
        assert_eq!(answer.status == 200, amount == 1, "a shadow decides nothing: {answer:?}");
    }
}

/// What the shadow has found once it has caught up and has made this many decisions.
async fn found(client: &mut Client, id: &str, decisions: u64) -> Value {
    let path = format!("{MODULES}/{id}/shadow");
    eventually("the shadow catches up", async || {
        let page = client.get(&path).await.ok()?.json();
        let partitions = page["found"]["partitions"].as_array()?.clone();
        let is_level =
            partitions.iter().all(|partition| partition["lag_entries"] == 0 && partition["problem"].is_null());
        let is_enough = page["found"]["decisions"].as_u64().is_some_and(|found| decisions <= found);
        (is_level && is_enough).then_some(page)
    })
    .await
}

async fn active(client: &mut Client) -> String {
    client.get(MODULES).await.expect("the host answers").text("active")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_finds_what_would_be_decided_otherwise_and_touches_nothing() {
    let (data, files) = (tempdir().expect("a temporary folder"), tempdir().expect("a temporary folder"));
    let host = start(data.path()).await;
    let mut client = host.client();
    for number in 0..ACCOUNTS {
        wallet::open(&mut client, &name(number)).await;
        wallet::deposit(&mut client, &name(number), OPENING).await;
    }
    let refactored = argument(&release("wallet-1.1.0.wasm")).to_owned();
    done(&host, &["stage", &refactored]);
    let early = module(&host, &["shadow", "start", &refactored]);
    assert!(early.code != Some(0) && early.stderr.contains("module prepare"), "{early:?}");
    done(&host, &["prepare", &refactored]);
    done(&host, &["shadow", "start", &refactored, "--node", "1"]);
    let id = id_of(&refactored);
    found(&mut client, &id, 0).await;
    transfers(&mut client, 24).await;
    let page = found(&mut client, &id, 24).await;
    assert_eq!((&page["node"], &page["found"]["differences"]), (&json!(1), &json!({})), "{page:#}");
    done(&host, &["shadow", "status", &refactored]);

    let changed = changed(data.path(), &active(&mut client).await, files.path());
    done(&host, &["stage", &changed]);
    done(&host, &["prepare", &changed]);
    done(&host, &["shadow", "start", &changed]);
    let id = id_of(&changed);
    found(&mut client, &id, 0).await;
    transfers(&mut client, 24).await;
    check_differs(&found(&mut client, &id, 24).await);
    let status = module(&host, &["shadow", "status", &changed]);
    assert!(status.code == Some(2) && status.stdout.contains("reason_differs: 6"), "{status:?}");
    let metrics = client.get("/metrics").await.expect("the host answers");
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    let counted = "statehouse_shadow_differences{machine=\"wallet\",class=\"reason_differs\"} 6";
    assert!(metrics.contains(counted), "{metrics}");

    host.kill();
    let host = start(data.path()).await;
    let mut client = host.client();
    found(&mut client, &id, 0).await;
    transfers(&mut client, 24).await;
    check_differs(&found(&mut client, &id, 24).await);
    done(&host, &["shadow", "stop", &changed]);
    let over = module(&host, &["shadow", "status", &changed]);
    assert!(over.code != Some(0) && over.stderr.contains("shadow start"), "{over:?}");
    let log = module(&host, &["log"]);
    assert!(log.stdout.contains("shadow_stopped") && log.stdout.contains("node 1"), "{log:?}");
    host.terminate().await;
    check_audit(data.path());
}

/// Checks that only the transfers that could not be paid differ, and only in the words.
fn check_differs(page: &Value) {
    assert_eq!(page["found"]["differences"], json!({"reason_differs": 6}), "{page:#}");
    let first = &page["found"]["first"][0];
    assert_eq!(
        (&first["class"], &first["command"]),
        (&json!("reason_differs"), &json!("balance_transfer")),
        "{first:#}"
    );
    let detail = first["candidate"]["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("SEND LESS"), "{first:#}");
}

fn id_of(file: &str) -> String {
    let wasm = std::fs::read(file).expect("the module is there");
    statehouse_kernel::ids::ModuleId::of(&wasm).to_string()
}

/// The module with other words in the message about a payer who has too little.
fn changed(data: &Path, active: &str, folder: &Path) -> String {
    let (before, after) = (b"send less", b"SEND LESS");
    let mut wasm = std::fs::read(data.join("modules").join(format!("{active}.wasm"))).expect("the module is there");
    let found: Vec<usize> = (0..wasm.len() - before.len()).filter(|at| wasm[*at..].starts_with(before)).collect();
    assert!(!found.is_empty(), "the message is in the module");
    for at in found {
        wasm[at..at + after.len()].copy_from_slice(after);
    }
    let path = folder.join("changed.wasm");
    std::fs::write(&path, wasm).expect("the folder is ours");
    argument(&path).to_owned()
}
