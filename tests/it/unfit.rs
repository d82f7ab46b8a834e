//! A module that decides by what is not in the log is found out when it is prepared, and never becomes active.
//!
//! The active module is `modules/faulty`, which has such commands. The candidate is the same with other letters in a
//! message, so it decides again the commands that clients have sent. This file knows the routes of a module's life
//! and what a refusal names.

use std::path::Path;

use serde_json::{Value, json};
use statehouse_tests::host::{Host, Start};
use statehouse_tests::http::{Client, Request};
use statehouse_tests::oracle::check_audit;
use tempfile::tempdir;
use uuid::Uuid;

const MODULES: &str = "/v1/machines/faulty/modules";

async fn act(client: &mut Client, what: &str) -> String {
    act_on(client, "a", what).await
}

async fn act_on(client: &mut Client, account: &str, what: &str) -> String {
    let id = Uuid::new_v4().to_string();
    let body = json!({"account": account, "what": what, "request_id": id});
    let done = client.post("/v1/faulty/acts", &body).await.expect("the host answers");
    let is_rejected = || ["asked", "module_trap", "module_inconsistent"].contains(&done.text("code").as_str());
    assert!(done.status == 200 || is_rejected(), "{done:?}");
    id
}

fn hostile(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("hostile").join(name)).expect("it is there")
}

/// The active module with other letters in a message.
fn other_letters() -> Vec<u8> {
    let mut wasm = hostile("faulty.wasm");
    let (before, after) = (b"asked to panic", b"ASKED to panic");
    let at = wasm.windows(before.len()).position(|bytes| bytes == before).expect("the message is in the module");
    wasm[at..at + after.len()].copy_from_slice(after);
    wasm
}

/// Stages the candidate, and returns its id.
async fn stage(client: &mut Client, wasm: Vec<u8>) -> String {
    let headers = vec![("content-type", "application/wasm")];
    let staged = client.send(Request { method: "POST", path: MODULES, headers, body: wasm }).await;
    let staged = staged.expect("the host answers");
    assert_eq!(staged.status, 200, "{staged:?}");
    let page = staged.json();
    let other = |module: &&Value| module["id"] != page["active"];
    let candidate = page["modules"].as_array().and_then(|modules| modules.iter().find(other));
    candidate.expect("it is staged")["id"].as_str().expect("an id").to_owned()
}

/// Prepares the candidate, and returns the problem that the only node reports, if there is one.
async fn problem(client: &mut Client, id: &str) -> Option<String> {
    let headers = vec![("content-type", "application/json"), ("statehouse-deadline", "30000")];
    let path = format!("{MODULES}/{id}/prepare");
    let request = Request { method: "POST", path: &path, headers, body: b"{}".to_vec() };
    let prepared = client.send(request).await.expect("the host answers");
    assert_eq!(prepared.status, 200, "{prepared:?}");
    let page = prepared.json();
    let module = page["modules"].as_array().and_then(|modules| modules.iter().find(|module| module["id"] == *id));
    let said = &module.expect("it is staged")["prepared"][0];
    assert_eq!(said["node"], 1, "{page}");
    said["problem"].as_str().map(str::to_owned)
}

async fn start(data: &Path) -> Host {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("hostile/faulty.wasm");
    let arguments = vec!["--machine".to_owned(), format!("faulty={}", module.display())];
    Host::start_with(&Start { arguments, ..Start::on(data) }).await.expect("the host starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_migrates_by_what_it_has_migrated_before_is_not_prepared() {
    let data = tempdir().expect("a temporary folder");
    let host = start(data.path()).await;
    let mut client = host.client();
    let id = stage(&mut client, hostile("faulty-next.wasm")).await;
    for account in ["a", "b", "c"] {
        act_on(&mut client, account, "add").await;
    }
    assert_eq!(problem(&mut client, &id).await, None, "each of these rows is one more");
    // The first of several such rows also grows by one. Each of the others grows by the rows migrated before it as
    // well.
    act_on(&mut client, "b", "grow").await;
    assert_eq!(problem(&mut client, &id).await, None, "nobody can see it yet");
    for account in ["a", "c"] {
        act_on(&mut client, account, "grow").await;
    }
    let problem = problem(&mut client, &id).await.expect("it is found out");
    assert!(problem.contains("not deterministic") && problem.contains("with its entity alone"), "{problem}");
    host.terminate().await;
    check_audit(data.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_decides_by_what_is_not_in_the_log_is_not_prepared() {
    let data = tempdir().expect("a temporary folder");
    let host = start(data.path()).await;
    let mut client = host.client();
    for _ in 0..3 {
        act(&mut client, "add").await;
    }
    act(&mut client, "reject").await;
    let id = stage(&mut client, other_letters()).await;
    assert_eq!(problem(&mut client, &id).await, None, "in this history it does nothing wrong");

    // The commands come one after the other, because only the first problem that is found is named.
    for (what, named) in
        [("deep", "on another engine"), ("count", "one by one"), ("drift", "execute and apply disagree")]
    {
        let (first, second) = (act(&mut client, what).await, act(&mut client, what).await);
        let problem = problem(&mut client, &id).await.unwrap_or_else(|| panic!("`{what}` is not found out"));
        assert!(problem.contains("not deterministic") && problem.contains(named), "{what}: {problem}");
        assert!(problem.contains("`act`") && (problem.contains(&first) || problem.contains(&second)), "{problem}");
        let body = json!({"without_proof": true});
        let refused = client.post(&format!("{MODULES}/{id}/activate"), &body).await.expect("the host answers");
        assert!(refused.status == 409 && refused.text("detail").contains("not prepared on 1"), "{refused:?}");
    }
    let page = client.get(MODULES).await.expect("the host answers").json();
    let steps = page["steps"].as_array().expect("a list");
    let refused = steps.iter().filter(|step| step["step"] == "not_prepared").collect::<Vec<&Value>>();
    assert_eq!(refused.len(), 3, "each is recorded for ever: {page}");
    host.terminate().await;
    check_audit(data.path());
}
