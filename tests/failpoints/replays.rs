//! Replays that end with the process that runs them, on the command line and in a node: they are resumed and give the
//! same report.
//!
//! It knows `--resume`, the routes of replays, and that a point is passed at least at the end of each partition.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use statehouse_tests::hold::eventually;
use statehouse_tests::host::{Host, argument};
use statehouse_tests::http::Request;
use statehouse_tests::oracle::Ledger;
use statehouse_tests::workload::Workload;
use tempfile::tempdir;

use crate::{ACCOUNTS, CLIENTS, OPENING, start};

pub const POINTS: [&str; 2] = ["replay::", "replays::"];
const REPLAYS: &str = "/v1/machines/wallet/replays";

pub async fn check(point: &str) {
    let (data, files) = (tempdir().expect("a temporary folder"), tempdir().expect("a temporary folder"));
    let host = Host::start_with(&start(data.path(), None)).await.expect("the host starts");
    let ledger = Ledger::open(&mut host.client(), ACCOUNTS, OPENING).await;
    let workload = Workload::start(host.address(), &ledger.accounts, CLIENTS, 1);
    eventually("some transfers are done", async || (300 < workload.done_count()).then_some(())).await;
    workload.stop().await;
    let page = host.client().get("/v1/machines/wallet/modules").await.expect("the host answers").json();
    let module = page["active"].as_str().expect("an id").to_owned();
    assert!(host.terminate().await.success());
    for mode in ["isolated", "cumulative"] {
        let whole = replay(data.path(), &module, mode, None, None);
        assert_eq!(whole.status.code(), Some(0), "{whole:?}");
        if point.starts_with("replay::") {
            check_command(point, data.path(), &module, mode, &files.path().join(mode), &whole.stdout);
        }
        check_node(point, data.path(), &module, mode, &whole.stdout).await;
    }
}

/// Runs the replay with this binary, which may end at a point.
fn replay(data: &Path, module: &str, mode: &str, resume: Option<&Path>, ending: Option<&str>) -> Output {
    let mut command = Command::new(std::env::current_exe().expect("a test knows its own path"));
    command.args(["audit", "replay", "--json", "--data", argument(data), "--candidate", module, "--mode", mode]);
    // With more jobs, two partitions could be over before the first one ends the process.
    command.args(["--jobs", "1"]);
    command.args(resume.iter().flat_map(|folder| ["--resume", argument(folder)]));
    command.envs(ending.map(|ending| ("FAILPOINTS", ending)));
    command.output().expect("the binary runs")
}

fn check_command(point: &str, data: &Path, module: &str, mode: &str, folder: &Path, expected: &[u8]) {
    // One more partition is over after each run.
    let ending = format!("{point}=return");
    for _ in 0..2 {
        let ended = replay(data, module, mode, Some(folder), Some(&ending));
        assert!(!ended.status.success() && folder.exists(), "{ending} was not reached: {ended:?}");
    }
    let resumed = replay(data, module, mode, Some(folder), None);
    assert_eq!(resumed.status.code(), Some(0), "{resumed:?}");
    assert!(resumed.stdout == expected, "{mode}: another report");
    assert!(!folder.exists(), "nothing is left of a replay that is over");
}

async fn check_node(point: &str, data: &Path, module: &str, mode: &str, expected: &[u8]) {
    let ending = format!("{point}=return");
    let mut host = Host::start_with(&start(data, Some(ending))).await.expect("the host starts");
    let wanted = json!({"candidate": module, "mode": mode});
    // The host may end before it has answered.
    let started = host.client().post(REPLAYS, &wanted).await;
    assert!(started.as_ref().map_or(true, |answer| answer.status == 202), "{started:?}");
    eventually("the host ends", async || host.has_ended().then_some(())).await;
    drop(host);

    let host = Host::start_with(&start(data, None)).await.expect("the host starts again");
    let mut client = host.client();
    let done = eventually("the replay is gone on with", async || {
        let listed = client.get(REPLAYS).await.expect("the host answers").json();
        let replay = listed.as_array().expect("a list").last().expect("it is kept").clone();
        (replay["state"] != "running" && replay["state"] != "queued").then_some(replay)
    });
    let done = done.await;
    assert_eq!(
        (&done["state"], &done["resumed"], &done["exit_code"]),
        (&json!("done"), &json!(1), &json!(0)),
        "{done:#}"
    );
    let path = |file: &str| format!("{REPLAYS}/{}/{file}", done["id"].as_str().expect("an id"));
    let report = client.get(&path("report")).await.expect("the host answers");
    let [found, expected]: [Value; 2] =
        [&report.body[..], expected].map(|bytes| serde_json::from_slice(bytes).expect("it is JSON"));
    // Ticks and activations of a restart are not decisions.
    assert_eq!(
        (&found["classes"], &found["counts"]["decisions"]),
        (&expected["classes"], &expected["counts"]["decisions"])
    );
    let own = format!("{REPLAYS}/{}", done["id"].as_str().expect("an id"));
    let request = Request { method: "DELETE", path: &own, headers: Vec::new(), body: Vec::new() };
    let deleted = client.send(request).await.expect("the host answers");
    assert_eq!(deleted.status, 200, "{deleted:?}");
    host.kill();
}
