//! An activation that a partition cannot carry out: everybody sees it, nobody waits for it in vain, and a rollback
//! resolves it.
//!
//! The module is `modules/faulty`. Its successor traps when it migrates a row that was poisoned after the successor
//! was prepared. The other partition has no such row.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use statehouse_tests::hold::eventually;
use statehouse_tests::host::{Host, Start, argument, cli};
use statehouse_tests::http::{Answer, Client, Request};
use statehouse_tests::oracle::check_audit;
use tempfile::tempdir;
use uuid::Uuid;

const MODULES: &str = "/v1/machines/faulty/modules";

fn hostile(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("hostile").join(name)
}

async fn start(data: &Path) -> Host {
    let module = format!("faulty={}", argument(&hostile("faulty.wasm")));
    let arguments = vec!["--machine".to_owned(), module];
    Host::start_with(&Start { arguments, ..Start::on(data) }).await.expect("the host starts")
}

async fn act(client: &mut Client, what: &str) -> Answer {
    let body = json!({"account": "a", "what": what, "request_id": Uuid::new_v4().to_string()});
    client.post("/v1/faulty/acts", &body).await.expect("the host answers")
}

fn steps<'p>(page: &'p Value, name: &str) -> Vec<&'p Value> {
    let steps = page["steps"].as_array().expect("a list");
    steps.iter().filter(|step| step["step"] == name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_activated_is_seen_by_everybody_and_gone_back_from() {
    let data = tempdir().expect("a temporary folder");
    let host = start(data.path()).await;
    let mut client = host.client();
    assert_eq!(act(&mut client, "add").await.status, 200);
    let url = format!("http://{}", host.address());
    let next = hostile("faulty-next.wasm");
    let module = |step: &str, which: &str, more: &[&str]| {
        cli([&["module", step, which, "--machine", "faulty", "--url", &url][..], more].concat())
    };
    let staged = module("stage", argument(&next), &[]);
    assert_eq!(staged.code, Some(0), "{staged:?}");
    let prepared = module("prepare", "0.2.0", &[]);
    assert_eq!(prepared.code, Some(0), "nothing is wrong yet: {prepared:?}");
    assert_eq!(act(&mut client, "poison").await.status, 200);

    let activated = module("activate", "0.2.0", &["--without-proof"]);
    assert!(activated.code != Some(0), "{activated:?}");
    for expected in ["partition 0 cannot activate it", "a poisoned row", "module rollback"] {
        assert!(activated.stderr.contains(expected), "`{expected}` is missing: {activated:?}");
    }
    check_stuck(&mut client).await;
    host.kill();

    let host = start(data.path()).await;
    let mut client = host.client();
    check_stuck(&mut client).await;
    let url = format!("http://{}", host.address());
    let status = cli(["cluster", "status", "--url", &url]);
    assert!(status.stdout.contains("module not activated"), "{status:?}");
    // The module is named by its version, although nobody ever staged it.
    let back = cli(["module", "rollback", "0.1.0", "--machine", "faulty", "--url", &url]);
    assert_eq!(back.code, Some(0), "{back:?}");
    assert_eq!(act(&mut client, "add").await.status, 200);
    let page = client.get(MODULES).await.expect("the host answers").json();
    assert_eq!((steps(&page, "rolled_back").len(), steps(&page, "not_activated").len()), (1, 1), "{page}");
    let metrics = client.get("/metrics").await.expect("the host answers");
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.contains("statehouse_activation_failed{") && !has_failed(&metrics), "{metrics}");
    host.terminate().await;
    check_audit(data.path());
}

fn has_failed(metrics: &str) -> bool {
    metrics.lines().any(|line| line.starts_with("statehouse_activation_failed{") && line.ends_with(" 1"))
}

async fn check_stuck(client: &mut Client) {
    let refused = eventually("commands are refused with the reason", async || {
        // Until then commands wait for the activation.
        let headers = vec![("content-type", "application/json"), ("statehouse-deadline", "500")];
        let body =
            json!({"account": "a", "what": "add", "request_id": Uuid::new_v4().to_string()}).to_string().into_bytes();
        let answer = client.send(Request { method: "POST", path: "/v1/faulty/acts", headers, body }).await.ok()?;
        (answer.text("code") == "not_activated").then_some(answer)
    });
    let refused = refused.await;
    assert!(refused.status == 503 && refused.text("detail").contains("module rollback"), "{refused:?}");
    let page = client.get(MODULES).await.expect("the host answers").json();
    let failed = steps(&page, "not_activated");
    let detail = failed.first().and_then(|step| step["detail"].as_str()).unwrap_or_default();
    assert!(failed.len() == 1 && detail.contains("partition 0") && detail.contains("poisoned"), "{page}");
    let cluster = client.get("/v1/cluster").await.expect("the host answers").json();
    let machines = cluster["machines"].as_array().expect("a list");
    let faulty = machines.iter().find(|machine| machine["name"] == "faulty").expect("it is there");
    let state = faulty["partitions"][0]["state"].as_str().unwrap_or_default();
    assert!(state.starts_with("module not activated"), "{cluster}");
    eventually("the metric says so", async || {
        let metrics = client.get("/metrics").await.ok()?;
        has_failed(&String::from_utf8_lossy(&metrics.body)).then_some(())
    })
    .await;
}
