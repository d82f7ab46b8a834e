//! A node that ends while its views follow, or while one takes over from another: afterwards the views say what the
//! wallet says.
//!
//! It knows the routes of views, and that a view which is built again writes its rows before it takes over.

use std::path::Path;

use serde_json::Value;
use statehouse_tests::hold::eventually;
use statehouse_tests::host::{Host, Start};
use statehouse_tests::http::Client;
use statehouse_tests::oracle::Ledger;
use statehouse_tests::wallet;
use statehouse_tests::workload::Workload;
use tempfile::tempdir;

use crate::{ACCOUNTS, OPENING, PASSES, start};

pub const POINTS: &str = "views::";
/// Few enough that a view catches up with them even where the host is slow.
const CLIENTS: usize = 2;
const REBUILD: &str = "/v1/machines/wallet/views/statements/rebuild";

pub async fn check(point: &str) {
    let data = tempdir().expect("a temporary folder");
    let with_views = |data: &Path, ending| Start { has_views: true, ..start(data, ending) };
    let mut host = Host::start_with(&with_views(data.path(), None)).await.expect("the host starts");
    let ledger = Ledger::open(&mut host.client(), ACCOUNTS, OPENING).await;
    let workload = Workload::start(host.address(), &ledger.accounts, CLIENTS, 1);
    for passes in PASSES.into_iter().take(if point.ends_with("serving") { 1 } else { PASSES.len() }) {
        live(&mut host.client()).await;
        host.kill();
        let ending = format!("{point}={passes}*off->return");
        if let Ok(mut cut) = Host::start_with(&with_views(data.path(), Some(ending))).await {
            workload.moved_to(cut.address());
            // The host may end before it answers.
            drop(cut.client().post(REBUILD, &Value::Null).await);
            eventually("the point is reached", async || cut.has_ended().then_some(())).await;
        }
        host = Host::start_with(&with_views(data.path(), None)).await.expect("the host starts again");
        workload.moved_to(host.address());
    }
    let attempts = workload.stop().await;
    let mut client = host.client();
    ledger.check(&mut client, &attempts).await;
    live(&mut client).await;
    let followed = statements(&mut client, &ledger).await;
    let asked = client.post(REBUILD, &Value::Null).await.expect("the host answers");
    assert_eq!(asked.status, 200, "{asked:?}");
    live(&mut client).await;
    assert_eq!(statements(&mut client, &ledger).await, followed, "what is made again is what was followed");
}

/// Waits until the view serves and nothing is built beside it.
async fn live(client: &mut Client) {
    eventually("the view serves", async || {
        let page = client.get("/v1/machines/wallet/views/statements").await.expect("the host answers").json();
        (page["state"] == "live").then_some(())
    })
    .await;
}

async fn statements(client: &mut Client, ledger: &Ledger) -> Vec<Value> {
    let mut found = Vec::new();
    for account in &ledger.accounts {
        let path = format!("/v1/wallet/accounts/{account}/statement?limit=1000&consistency=linearizable");
        let answer = client.get(&path).await.expect("the host answers");
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut statement = answer.json();
        let now = wallet::account(client, account).await.json();
        assert_eq!(statement["closing"], now["balances"], "{account}");
        // The view may have moved on since it was read.
        statement.as_object_mut().expect("an object").remove("position");
        found.push(statement);
    }
    found
}
