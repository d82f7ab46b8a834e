//! Real history is replayed under other modules: the recorded one, one whose words differ, and one that cannot read it.
//!
//! It knows the CLI's arguments, exit codes and reports. The changed module is the recorded one with a few letters of
//! one message changed in its bytes, so nothing needs to be compiled here.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use statehouse_tests::host::{CommandOutput, Host, Start, argument, cli};
use statehouse_tests::http::Client;
use statehouse_tests::oracle::check_audit;
use statehouse_tests::wallet::{self, CURRENCY};
use tempfile::tempdir;
use uuid::Uuid;

const ACCOUNTS: usize = 12;
const OPENING: i128 = 10_000;

/// Makes a history with transfers within and between partitions, by both protocols, and with rejections of every code
/// that a client can cause on purpose. Returns the ids that were rejected for lack of money, in order.
pub async fn make_history(client: &mut Client) -> Vec<Uuid> {
    let accounts: Vec<String> = (0..ACCOUNTS).map(|number| format!("account-{number}")).collect();
    for account in &accounts {
        wallet::open(client, account).await;
        wallet::deposit(client, account, OPENING).await;
    }
    let mut poor = Vec::new();
    for (number, from) in accounts.iter().enumerate() {
        let to = &accounts[(number + 5) % ACCOUNTS];
        let by = if number % 2 == 0 { "saga" } else { "tcc" };
        send(client, Uuid::new_v4(), from, to, 1_000 + number as i128, by).await;
        if number % 4 == 0 {
            let id = Uuid::new_v4();
            let code = send(client, id, from, to, 50 * OPENING, by).await;
            assert_eq!(code.as_deref(), Some("insufficient_funds"));
            poor.push(id);
        }
    }
    let mut codes: Vec<Option<String>> = Vec::new();
    wallet::change(client, &accounts[0], "freeze").await;
    for by in ["saga", "tcc"] {
        // The payer refuses at once, and the payee refuses after the debit.
        codes.push(send(client, Uuid::new_v4(), &accounts[0], &accounts[1], 1, by).await);
        for account in &accounts[1..5] {
            codes.push(send(client, Uuid::new_v4(), account, &accounts[0], 1, by).await);
        }
        codes.push(send(client, Uuid::new_v4(), "nobody", &accounts[1], 1, by).await);
    }
    codes.push(refused(client, &accounts[0], "freeze").await);
    codes.push(refused(client, &accounts[1], "unfreeze").await);
    codes.push(refused(client, &accounts[1], "close").await);
    let open = json!({"account": accounts[1], "currency": CURRENCY});
    codes.push(code_of(client, "/v1/wallet/accounts", &open).await);
    wallet::open(client, "empty").await;
    wallet::change(client, "empty", "close").await;
    codes.push(send(client, Uuid::new_v4(), &accounts[1], "empty", 1, "saga").await);
    let mut euro = wallet::transfer_body(&Uuid::new_v4().to_string(), &accounts[1], &accounts[2], "1.00");
    euro["currency"] = Value::from("EUR");
    codes.push(code_of(client, wallet::TRANSFER, &euro).await);
    wallet::change(client, &accounts[0], "unfreeze").await;
    for expected in [
        "account_frozen",
        "account_not_found",
        "already_frozen",
        "account_not_frozen",
        "account_not_empty",
        "account_exists",
        "account_closed",
        "currency_not_held",
    ] {
        assert!(codes.iter().flatten().any(|code| code == expected), "no `{expected}` in {codes:?}");
    }
    poor
}

/// The code of the rejection, if there was one.
async fn code_of(client: &mut Client, path: &str, body: &Value) -> Option<String> {
    let answer = client.post(path, body).await.expect("the host answers");
    (answer.status >= 400).then(|| answer.problem())
}

async fn send(client: &mut Client, id: Uuid, from: &str, to: &str, minor: i128, by: &str) -> Option<String> {
    let mut body = wallet::transfer_body(&id.to_string(), from, to, &wallet::amount(minor));
    body["coordination"] = Value::from(by);
    code_of(client, wallet::TRANSFER, &body).await
}

async fn refused(client: &mut Client, account: &str, verb: &str) -> Option<String> {
    code_of(client, &format!("/v1/wallet/accounts/{account}/{verb}"), &json!({})).await
}

fn replay(data: &Path, candidate: &str, arguments: &[&str]) -> CommandOutput {
    let mut all = vec!["audit", "replay", "--data", argument(data), "--candidate", candidate, "--json"];
    all.extend(arguments);
    cli(all)
}

fn report(finished: &CommandOutput) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {finished:?}"))
}

/// The id of the module that decides, and its file.
pub fn recorded_module(data: &Path) -> (String, PathBuf) {
    let verified = report(&cli(["audit", "verify", "--data", argument(data), "--machine", "wallet", "--json"]));
    let id = verified["partitions"][0]["module"].as_str().expect("a partition names its module").to_owned();
    let file = data.join("modules").join(format!("{id}.wasm"));
    (id, file)
}

/// The module with other words in the message about a payer who has too little.
pub fn changed_module(file: &Path, folder: &Path) -> PathBuf {
    let (before, after) = (b"send less", b"SEND LESS");
    let mut wasm = std::fs::read(file).expect("the module is there");
    let found: Vec<usize> = (0..wasm.len() - before.len()).filter(|at| wasm[*at..].starts_with(before)).collect();
    assert!(!found.is_empty(), "the message is in the module");
    for at in found {
        wasm[at..at + after.len()].copy_from_slice(after);
    }
    let path = folder.join("changed.wasm");
    std::fs::write(&path, wasm).expect("the folder is ours");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn history_replays_as_itself_and_a_changed_module_is_caught() {
    let data = tempdir().expect("a temporary folder");
    let files = tempdir().expect("a temporary folder");
    let arguments = vec!["--partitions".to_owned(), "4".to_owned()];
    let host = Host::start_with(&Start { arguments, ..Start::on(data.path()) }).await.expect("the host starts");
    let poor = make_history(&mut host.client()).await;
    let (id, file) = recorded_module(data.path());
    check_same(data.path(), &id);
    host.terminate().await;
    check_same(data.path(), &id);
    check_changed(data.path(), &changed_module(&file, files.path()), files.path(), &poor);
    check_explained(data.path(), &changed_module(&file, files.path()));
    check_unreadable(data.path());
    check_audit(data.path());
}

/// Checks the folder of a running node as well as that of a stopped one.
fn check_same(data: &Path, id: &str) {
    for mode in ["isolated", "cumulative"] {
        let finished = replay(data, id, &["--mode", mode]);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let report = report(&finished);
        let classes = report["classes"].as_object().expect("classes by name");
        assert_eq!(classes.keys().collect::<Vec<_>>(), ["same"], "{classes:?}");
        assert!(report["counts"]["calls"].as_u64().is_some_and(|calls| 0 < calls), "there are calls: {report:#}");
    }
}

fn check_changed(data: &Path, changed: &Path, files: &Path, poor: &[Uuid]) {
    let (json, html, certificate) = (files.join("r.json"), files.join("r.html"), files.join("c.json"));
    let outputs = ["--report", argument(&json), "--report", argument(&html), "--certificate", argument(&certificate)];
    for mode in ["isolated", "cumulative"] {
        let finished = replay(data, argument(changed), &[&["--mode", mode][..], &outputs].concat());
        assert_eq!(finished.code, Some(2), "{finished:?}");
        let text = std::fs::read_to_string(&json).expect("the report is written");
        let report: Value = serde_json::from_str(&text).expect("it is JSON");
        let count = report["classes"]["reason_differs"]["count"].as_u64();
        assert_eq!(count, Some(poor.len() as u64), "{}", report["classes"]);
        let first = &report["first"][0];
        assert_eq!(first["id"], poor[0].to_string(), "the first one that was too poor: {first:#}");
        let details = [&first["recorded"]["detail"], &first["candidate"]["detail"]];
        assert!(details[0].as_str().is_some_and(|detail| detail.contains("send less")), "{first:#}");
        assert!(details[1].as_str().is_some_and(|detail| detail.contains("SEND LESS")), "{first:#}");
    }
    let approved = format!("reason_differs={}", poor.len());
    assert_eq!(replay(data, argument(changed), &["--approve", &approved]).code, Some(1));
    assert_eq!(replay(data, argument(changed), &["--approve", "reason_differs=1000"]).code, Some(2));
    let one = format!("id={}", poor[1]);
    let filtered = report(&replay(data, argument(changed), &["--where", &one]));
    assert_eq!(filtered["classes"]["reason_differs"]["count"], 1, "{}", filtered["classes"]);
    check_page(&std::fs::read_to_string(&html).expect("the page is written"));
    check_certificate(&certificate, poor.len());
}

/// The page fetches nothing from anywhere.
fn check_page(page: &str) {
    assert!(page.starts_with("<!doctype html>") && page.contains("<svg") && page.contains("reason_differs"), "{page}");
    for outside in ["http://", "https://", "<script", "<link", "<img", "url("] {
        assert!(!page.contains(outside), "the page has `{outside}`");
    }
}

fn check_certificate(file: &Path, differences: usize) {
    let verified = cli(["audit", "certificate", "verify", argument(file), "--json"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let read = report(&verified);
    assert_eq!(read["facts"]["classes"]["reason_differs"], differences, "{read:#}");
    let key = read["key"].as_str().expect("it names its key").to_owned();
    let with_key = |key: &str| cli(["audit", "certificate", "verify", argument(file), "--key", key]).code;
    assert_eq!(with_key(&key), Some(0));
    assert_eq!(with_key(&"0".repeat(64)), Some(1));
    let text = std::fs::read_to_string(file).expect("the certificate is there");
    let changed = text.replace(&format!("\"reason_differs\":{differences}"), "\"reason_differs\":0");
    assert_ne!(text, changed);
    std::fs::write(file, changed).expect("the folder is ours");
    let verified = cli(["audit", "certificate", "verify", argument(file)]);
    assert_eq!(verified.code, Some(1), "{verified:?}");
}

fn check_explained(data: &Path, changed: &Path) {
    let first = report(&replay(data, argument(changed), &[]))["first"][0].clone();
    let position = first["position"].as_str().expect("a difference has a position").to_owned();
    let explained = replay(data, argument(changed), &["--at", &position, "--explain"]);
    assert_eq!(explained.code, Some(0), "{explained:?}");
    let explained = report(&explained);
    assert_eq!((&explained["id"], &explained["class"]), (&first["id"], &first["class"]));
    assert_eq!(explained["control"]["detail"], first["recorded"]["detail"]);
    assert!(explained["candidate"]["rows"].as_array().is_some_and(|rows| !rows.is_empty()), "{explained:#}");
}

/// Version 1.0.0 does not know what later versions record.
fn check_unreadable(data: &Path) {
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("../modules/releases/wallet-1.0.0.wasm");
    let finished = replay(data, argument(&old), &[]);
    assert_eq!(finished.code, Some(3), "{finished:?}");
    assert!(finished.stderr.contains("schema"), "{finished:?}");
    assert_eq!(replay(data, "no-such-module", &[]).code, Some(3));
}
