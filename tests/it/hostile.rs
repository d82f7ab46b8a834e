//! A module that misbehaves on demand, on a real host: it harms the one command that asked for it, and nothing else.
//!
//! The module is `modules/faulty`, compiled. How its commands are decided is tested next to the sequencer.

use std::path::Path;

use serde_json::{Value, json};
use statehouse_tests::host::{Host, Start};
use statehouse_tests::http::Request;
use statehouse_tests::oracle::{Ledger, check_audit};
use statehouse_tests::wallet;
use tempfile::tempdir;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn only_the_command_that_misbehaves_is_rejected() {
    let data = tempdir().expect("a temporary folder");
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("hostile/faulty.wasm");
    let mut start = Start::on(data.path());
    start.arguments = vec!["--machine".to_owned(), format!("faulty={}", module.display())];
    let host = Host::start_with(&start).await.expect("the host starts");
    let mut client = host.client();
    let ledger = Ledger::open(&mut client, 2, 10_000).await;

    let acts = ["add", "panic", "loop", "add", "bomb", "recurse", "drift", "wander", "reject", "add"];
    let ids: Vec<String> = acts.iter().map(|_| Uuid::new_v4().to_string()).collect();
    let lines = acts.iter().zip(&ids).map(|(what, id)| {
        let body = json!({"account": "a", "what": what, "request_id": id});
        json!({"command": "act", "body": body}).to_string() + "\n"
    });
    // The watchdog stops the endless loop first, and then its budget stops it.
    let headers = vec![("content-type", "application/x-ndjson"), ("statehouse-deadline", "30000")];
    let body = lines.collect::<String>().into_bytes();
    let request = Request { method: "POST", path: "/v1/faulty/batch", headers, body };
    let answer = client.send(request).await.expect("the host answers");
    let text = String::from_utf8(answer.body.to_vec()).expect("answers are UTF-8");
    let found: Vec<(u64, String)> = text
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).expect("each line is JSON");
            let code = line["body"]["code"].as_str().unwrap_or("ok").to_owned();
            (line["status"].as_u64().expect("every line has its status"), code)
        })
        .collect();
    let expected = [
        (200, "ok"),
        (422, "module_trap"),
        (422, "budget"),
        (200, "ok"),
        // Filling its memory costs more than the budget before the memory is full.
        (422, "budget"),
        (422, "module_trap"),
        (422, "module_inconsistent"),
        (200, "ok"),
        (409, "asked"),
        (200, "ok"),
    ];
    assert_eq!(found, expected.map(|(status, code)| (status, code.to_owned())));

    let panicked = client.get(&format!("/v1/faulty/commands/{}", ids[1])).await.expect("the host answers");
    let text = panicked.json()["panic"].as_str().unwrap_or_default().to_owned();
    assert!(text.contains("asked to panic"), "a developer sees the guest's words: {panicked:?}");
    assert!(text.contains("validate"), "and which function called which: {text}");

    // The other machine on the same host has not noticed.
    let done = wallet::transfer(&mut client, Uuid::new_v4(), &ledger.accounts[0], &ledger.accounts[1], 100).await;
    assert_eq!(done.expect("the host answers").status, 200);
    host.kill();
    let host = Host::start_with(&start).await.expect("the host starts again");
    let after = host.client().get(&format!("/v1/faulty/commands/{}", ids[1])).await.expect("the host answers");
    assert_eq!(after.json()["panic"], text, "they are kept beside");
    assert!(host.terminate().await.success());
    check_audit(data.path());
}
