//! Another module becomes active while clients continue: it is staged, prepared, activated and migrated to, and it is
//! rolled back.
//!
//! In: released modules. Out: what the steps answer, what is refused and why, and books that an audit finds in order.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use statehouse_tests::cluster::release;
use statehouse_tests::hold::eventually;
use statehouse_tests::host::{Host, Start, argument, cli};
use statehouse_tests::http::{Answer, Client, Request};
use statehouse_tests::oracle::check_audit;
use statehouse_tests::wallet;
use tempfile::tempdir;
use uuid::Uuid;

const MODULES: &str = "/v1/machines/wallet/modules";
const ACCOUNTS: usize = 8;
const OPENING: i128 = 100_000;

async fn start(data: &Path) -> Host {
    let arguments = vec!["--partitions".to_owned(), "3".to_owned()];
    Host::start_with(&Start { arguments, ..Start::on(data) }).await.expect("the host starts")
}

/// Stages a released wallet, and returns its id.
async fn stage(client: &mut Client, version: &str) -> String {
    let wasm = std::fs::read(release(&format!("wallet-{version}.wasm"))).expect("it is released");
    let headers = vec![("content-type", "application/wasm")];
    let staged = client.send(Request { method: "POST", path: MODULES, headers, body: wasm }).await;
    let page = done(staged.expect("the host answers"));
    let module = page["modules"].as_array().expect("a list").iter().find(|module| module["version"] == version);
    module.expect("it is staged")["id"].as_str().expect("an id").to_owned()
}

async fn step(client: &mut Client, id: &str, step: &str, body: &Value) -> Answer {
    client.post(&format!("{MODULES}/{id}/{step}"), body).await.expect("the host answers")
}

fn done(answer: Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn upgrade(client: &mut Client, version: &str) -> String {
    let id = stage(client, version).await;
    let prepared = done(step(client, &id, "prepare", &json!({})).await);
    let module = prepared["modules"].as_array().expect("a list").iter().find(|module| module["id"] == *id);
    let said = &module.expect("it is staged")["prepared"];
    assert_eq!((said.as_array().map(Vec::len), &said[0]["problem"]), (Some(1), &Value::Null), "{prepared}");
    let page = done(step(client, &id, "activate", &json!({"without_proof": true})).await);
    assert_eq!(page["active"], *id);
    for partition in page["partitions"].as_array().expect("a list") {
        assert_eq!(partition["module"], *id, "every partition has it: {page}");
    }
    id
}

/// Sends transfers of a cent until it is over; returns how many there were.
async fn pay(mut client: Client, names: Vec<String>, number: usize, is_over: Arc<AtomicBool>) -> usize {
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) {
        let (from, to) = (&names[(number + count) % ACCOUNTS], &names[(number + 3 * count + 1) % ACCOUNTS]);
        if from != to {
            let answer = wallet::transfer(&mut client, Uuid::new_v4(), from, to, 1).await.expect("the host answers");
            assert_eq!(answer.status, 200, "no client notices another module: {answer:?}");
        }
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn modules_follow_each_other_under_load_and_a_migration_is_not_gone_back_behind() {
    let data = tempdir().expect("a temporary folder");
    let host = start(data.path()).await;
    let mut client = host.client();
    let names: Vec<String> = (0..ACCOUNTS).map(|number| format!("account-{number}")).collect();
    for name in &names {
        wallet::open(&mut client, name).await;
        wallet::deposit(&mut client, name, OPENING).await;
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> =
        (0..4).map(|number| tokio::spawn(pay(host.client(), names.clone(), number, is_over.clone()))).collect();

    let first = client.get(MODULES).await.expect("the host answers").text("active");
    let second = stage(&mut client, "1.1.0").await;
    let early = step(&mut client, &second, "activate", &json!({"without_proof": true})).await;
    assert!(early.status == 409 && early.text("detail").contains("statehouse module prepare"), "{early:?}");
    let second = upgrade(&mut client, "1.1.0").await;
    let unproved = step(&mut client, &first, "activate", &json!({})).await;
    assert!(unproved.status == 409 && unproved.text("detail").contains("audit replay"), "{unproved:?}");
    let never = stage(&mut client, "2.0.0").await;
    let never = step(&mut client, &never, "rollback", &json!({})).await;
    assert!(never.status == 409 && never.text("detail").contains("never active"), "{never:?}");

    let back = done(step(&mut client, &first, "rollback", &json!({})).await);
    assert_eq!(back["active"], *first, "both have the same schema");

    let third = upgrade(&mut client, "2.0.0").await;
    let refused = step(&mut client, &second, "rollback", &json!({})).await;
    assert!(refused.status == 409 && refused.text("detail").contains("schema"), "{refused:?}");
    // Only the new module knows this command.
    let limit = json!({"currency": wallet::CURRENCY, "limit": "1.00"});
    let limited = client.post("/v1/wallet/accounts/account-0/daily_limit", &limit).await.expect("the host answers");
    assert_eq!(limited.status, 200, "{limited:?}");
    is_over.store(true, Ordering::Relaxed);
    for load in loads {
        assert!(0 < load.await.expect("no client was refused"));
    }
    let over = wallet::transfer(&mut client, Uuid::new_v4(), &names[0], &names[1], 101).await.expect("it answers");
    assert_eq!(over.text("code"), "daily_limit_exceeded", "{over:?}");

    host.kill();
    let host = start(data.path()).await;
    let mut client = host.client();
    assert_eq!(client.get(MODULES).await.expect("the host answers").text("active"), third);
    let mut sum = wallet::balance(&mut client, wallet::BANK).await;
    for name in &names {
        sum += wallet::balance(&mut client, name).await;
    }
    assert_eq!(sum, 0, "the books balance");
    check_log_by_cli(&host, &third);
    host.terminate().await;
    check_audit(data.path());
    // The last module replays as itself, over a history of which it has not decided all, and over its migration.
    let candidate = argument(&release("wallet-2.0.0.wasm")).to_owned();
    let replayed = cli(["audit", "replay", "--data", argument(data.path()), "--candidate", &candidate]);
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
}

fn check_log_by_cli(host: &Host, active: &str) {
    let url = format!("http://{}", host.address());
    let shown = cli(["module", "log", "--url", &url]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    for expected in [&active[..12], "rolled_back", "activated", "prepared", "staged", "without_proof"] {
        assert!(shown.stdout.contains(expected), "`{expected}` is missing:\n{}", shown.stdout);
    }
    let refused = cli(["module", "activate", "nowhere", "--without-proof", "--url", &url]);
    assert!(refused.stderr.contains("module log"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_opens_the_gate_only_by_the_key_of_a_node() {
    let (data, files) = (tempdir().expect("a temporary folder"), tempdir().expect("a temporary folder"));
    let host = start(data.path()).await;
    let mut client = host.client();
    for name in ["a", "b"] {
        wallet::open(&mut client, name).await;
        wallet::deposit(&mut client, name, OPENING).await;
    }
    let id = stage(&mut client, "1.1.0").await;
    done(step(&mut client, &id, "prepare", &json!({})).await);
    let keys = eventually("the node has recorded its key", async || {
        let page = client.get("/v1/cluster").await.ok()?.json();
        page["keys"].as_array().filter(|keys| !keys.is_empty()).cloned()
    });
    let keys = keys.await;
    assert_eq!((keys.len(), &keys[0]["node"]), (1, &json!(1)), "{keys:?}");
    let key = keys[0]["key"].as_str().expect("hexadecimal");

    let (stranger, own) = (files.path().join("stranger.json"), files.path().join("own.json"));
    let key_file = files.path().join("stranger.key");
    std::fs::write(&key_file, "5a".repeat(32)).expect("the folder is ours");
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).expect("the file is ours");
    let folder = argument(data.path());
    let replay = ["audit", "replay", "--data", folder, "--candidate", &id, "--certificate"];
    let by_stranger = cli([&replay[..], &[argument(&stranger), "--key-file", argument(&key_file)]].concat());
    assert_eq!(by_stranger.code, Some(0), "{by_stranger:?}");
    assert_eq!(cli([&replay[..], &[argument(&own)]].concat()).code, Some(0));

    let read = |path: &Path| std::fs::read_to_string(path).expect("the certificate is written");
    let refused = step(&mut client, &id, "activate", &json!({"certificate": read(&stranger)})).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    let detail = refused.text("detail");
    for expected in ["no node of this cluster", &key[..16], "of node 1", "--key-file"] {
        assert!(detail.contains(expected), "`{expected}` is missing: {detail}");
    }
    let page = done(step(&mut client, &id, "activate", &json!({"certificate": read(&own)})).await);
    let last = page["steps"].as_array().and_then(|steps| steps.last()).expect("steps");
    assert!(last["detail"].as_str().is_some_and(|detail| detail.contains("by node 1, key ")), "{last}");

    host.terminate().await;
    let verify = |file: &Path, more: &[&str]| {
        cli([&["audit", "certificate", "verify", argument(file), "--data", folder][..], more].concat())
    };
    let verified = verify(&own, &["--node", "1"]);
    assert!(verified.code == Some(0) && verified.stdout.contains("that of node 1"), "{verified:?}");
    assert_eq!(verify(&own, &["--node", "2"]).code, Some(1));
    let forged = verify(&stranger, &[]);
    assert!(forged.code == Some(1) && forged.stdout.contains("of no node"), "{forged:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_module_or_no_successor_is_not_staged() {
    let data = tempdir().expect("a temporary folder");
    let host = start(data.path()).await;
    let mut client = host.client();
    let headers = || vec![("content-type", "application/wasm")];
    let garbage = Request { method: "POST", path: MODULES, headers: headers(), body: b"\0asm garbage".to_vec() };
    let garbage = client.send(garbage).await.expect("the host answers");
    assert!((400..500).contains(&garbage.status) && garbage.text("detail").contains("no module"), "{garbage:?}");
    let other = std::fs::read(release("counter-0.1.0.wasm")).expect("it is released");
    let other = client.send(Request { method: "POST", path: MODULES, headers: headers(), body: other }).await;
    let other = other.expect("the host answers");
    assert!((400..500).contains(&other.status) && other.text("detail").contains("wallet"), "{other:?}");
    let old = argument(&release("wallet-1.0.0.wasm")).to_owned();
    let url = format!("http://{}", host.address());
    let old = cli(["module", "stage", &old, "--url", &url]);
    assert!(old.code != Some(0) && old.stderr.contains("schema"), "{old:?}");
    let unknown = client.get("/v1/machines/nothing/modules").await.expect("the host answers");
    assert_eq!(unknown.status, 404, "{unknown:?}");
    let page = client.get(MODULES).await.expect("the host answers").json();
    let others = page["modules"].as_array().expect("a list").iter().filter(|module| module["id"] != page["active"]);
    assert_eq!(others.count(), 0, "nothing was recorded but what the machine was created with: {page}");
    eventually("the host is well", async || (client.get("/readyz").await.ok()?.status == 200).then_some(())).await;
}
