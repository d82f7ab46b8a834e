//! A node replays its own history for any client of its API, and says the same as a replay of its folder.
//!
//! It knows the routes of replays and `audit replay --url`. What ends a replay in the middle is tested in
//! `tests/failpoints/`.

use std::path::Path;

use serde_json::{Value, json};
use statehouse_tests::hold::eventually;
use statehouse_tests::host::{CommandOutput, Host, Start, argument, cli};
use statehouse_tests::http::{Answer, Client, Request};
use tempfile::tempdir;
use uuid::Uuid;

use crate::replay::{changed_module, make_history, recorded_module};

const REPLAYS: &str = "/v1/machines/wallet/replays";

async fn start(data: &Path) -> Host {
    let arguments = vec!["--partitions".to_owned(), "3".to_owned()];
    Host::start_with(&Start { arguments, ..Start::on(data) }).await.expect("the host starts")
}

async fn send(client: &mut Client, method: &str, path: &str, headers: Vec<(&str, &str)>, body: Vec<u8>) -> Answer {
    client.send(Request { method, path, headers, body }).await.expect("the host answers")
}

fn replay(arguments: &[&str]) -> CommandOutput {
    cli([&["audit", "replay"], arguments].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_replays_its_history_and_keeps_what_it_came_to() {
    let (data, files) = (tempdir().expect("a temporary folder"), tempdir().expect("a temporary folder"));
    let host = start(data.path()).await;
    let mut client = host.client();
    let differences = make_history(&mut client).await.len();
    let (_, module) = recorded_module(data.path());
    let changed = changed_module(&module, files.path());

    // The candidate must be staged before the node can load it.
    let url = format!("http://{}", host.address());
    let early = replay(&["--url", &url, "--candidate", argument(&changed)]);
    assert!(early.code == Some(3) && early.stderr.contains("statehouse module stage"), "{early:?}");
    let wasm = std::fs::read(&changed).expect("it is there");
    let headers = vec![("content-type", "application/wasm")];
    assert_eq!(send(&mut client, "POST", "/v1/machines/wallet/modules", headers, wasm).await.status, 200);

    for mode in ["isolated", "cumulative"] {
        check_same_as_folder(data.path(), files.path(), &url, argument(&changed), mode, differences);
    }
    let id = check_routes(&mut client).await;
    check_refusals(&mut client, &id).await;
    assert!(host.terminate().await.success());

    let host = start(data.path()).await;
    let kept = host.client().get(&format!("{REPLAYS}/{id}")).await.expect("the host answers").json();
    assert_eq!((&kept["state"], &kept["exit_code"]), (&json!("done"), &json!(2)), "{kept:#}");
    check_deleted(&mut host.client(), &id).await;
}

/// Checks that the node gives the same page, files and exit codes as its folder.
fn check_same_as_folder(data: &Path, files: &Path, url: &str, candidate: &str, mode: &str, differences: usize) {
    let (report, page, certificate) = (files.join("r.json"), files.join("r.html"), files.join("c.json"));
    let local = replay(&["--data", argument(data), "--candidate", candidate, "--mode", mode, "--json"]);
    let outputs = ["--report", argument(&report), "--report", argument(&page), "--certificate", argument(&certificate)];
    let asked = ["--url", url, "--candidate", candidate, "--mode", mode, "--json"];
    let remote = replay(&[&asked[..], &outputs].concat());
    assert_eq!((local.code, remote.code), (Some(2), Some(2)), "{remote:?}");
    assert!(local.stdout == remote.stdout, "{mode}: another report");
    assert_eq!(std::fs::read_to_string(&report).expect("the report is written"), remote.stdout);
    assert!(std::fs::read_to_string(&page).expect("the page is written").contains("<svg"));
    let verified = cli(["audit", "certificate", "verify", argument(&certificate)]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let approve = format!("reason_differs={differences}");
    assert_eq!(replay(&[&asked[..], &["--approve", &approve]].concat()).code, Some(1));
    let partial = replay(&[&asked[..4], &["--partition", "0", "--certificate", argument(&certificate)]].concat());
    assert!(partial.code == Some(3) && partial.stderr.contains("covers all of a history"), "{partial:?}");
}

/// Uses the routes as another program would. Returns the id of a replay that is kept.
async fn check_routes(client: &mut Client) -> String {
    let listed = client.get(REPLAYS).await.expect("the host answers").json();
    let first = listed.as_array().expect("a list").first().expect("there are some").clone();
    let wanted =
        json!({"candidate": first["candidate"], "where": ["code=insufficient_funds"], "to": "2100-01-01T00:00:00Z"});
    let started = client.post(REPLAYS, &wanted).await.expect("the host answers");
    assert_eq!(started.status, 202, "{started:?}");
    let path = started.header("location").expect("it says where").to_owned();
    let done = eventually("the replay is done", async || {
        let page = client.get(&path).await.expect("the host answers").json();
        (page["state"] == "done").then_some(page)
    });
    let done = done.await;
    assert_eq!(
        (&done["exit_code"], &done["progress"]["percent"], &done["by"]),
        (&json!(2), &json!(100), &json!("anonymous"))
    );
    let report = done["report"].as_str().expect("it has a report").to_owned();
    let json = client.get(&report).await.expect("the host answers");
    assert_eq!(json.header("content-type"), Some("application/json"));
    assert_eq!(json.json()["is_whole"], false, "a filter leaves something out");
    let html = send(client, "GET", &report, vec![("accept", "text/html")], Vec::new()).await;
    assert!(html.header("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{html:?}");
    // A certificate covers all of a history, or there is none.
    let id = done["id"].as_str().expect("an id").to_owned();
    let refused = client.get(&format!("{REPLAYS}/{id}/certificate")).await.expect("the host answers");
    assert!(refused.status == 409 && refused.text("detail").contains("covers all"), "{refused:?}");
    id
}

async fn check_refusals(client: &mut Client, id: &str) {
    let candidate = client.get(&format!("{REPLAYS}/{id}")).await.expect("the host answers").json()["candidate"].clone();
    let nobody = "0".repeat(64);
    for (body, status, word) in [
        (json!({"candidate": nobody}), 409, "stage"),
        (json!({"candidate": "wallet"}), 422, "64 hexadecimal digits"),
        (json!({}), 400, "candidate"),
        (json!({"candidate": candidate, "mode": "both"}), 400, "cumulative"),
        (json!({"candidate": candidate, "where": ["colour=red"]}), 422, "account"),
        (json!({"candidate": candidate, "approve": ["same=1"]}), 422, "approved"),
        (json!({"candidate": candidate, "from": "yesterday"}), 422, "position"),
    ] {
        let refused = client.post(REPLAYS, &body).await.expect("the host answers");
        let text = String::from_utf8_lossy(&refused.body).into_owned();
        assert!(refused.status == status && text.contains(word), "{body}: {text}");
    }
    for path in [format!("{REPLAYS}/{}", Uuid::new_v4()), "/v1/machines/nobody/replays".to_owned()] {
        assert_eq!(client.get(&path).await.expect("the host answers").status, 404, "{path}");
    }
    // A replay that cannot be carried out says so in its record.
    let impossible = json!({"candidate": candidate, "mode": "cumulative", "partition": 1});
    let started = client.post(REPLAYS, &impossible).await.expect("the host answers").json();
    let path = format!("{REPLAYS}/{}", started["id"].as_str().expect("an id"));
    let failed = eventually("the replay has failed", async || {
        let page = client.get(&path).await.expect("the host answers").json();
        (page["state"] == "failed").then_some(page)
    });
    let failed = failed.await;
    assert!(failed["problem"].as_str().is_some_and(|problem| problem.contains("leave out")), "{failed:#}");
    let report = client.get(&format!("{path}/report")).await.expect("the host answers");
    assert!(report.status == 409 && report.text("detail").contains("leave out"), "{report:?}");
}

async fn check_deleted(client: &mut Client, id: &str) {
    let path = format!("{REPLAYS}/{id}");
    let deleted = send(client, "DELETE", &path, Vec::new(), Vec::new()).await;
    assert_eq!((deleted.status, deleted.text("state")), (200, "cancelled".to_owned()));
    assert_eq!(client.get(&path).await.expect("the host answers").status, 404);
    let listed: Value = client.get(REPLAYS).await.expect("the host answers").json();
    assert!(listed.as_array().expect("a list").iter().all(|replay| replay["id"] != *id));
}
