//! `statehouse dev --nodes 3 --processes`: a cluster to try things out on, in one command, gone when it is stopped.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use statehouse_tests::hold::{PATIENCE, within};
use statehouse_tests::http::Client;
use statehouse_tests::oracle::check_audit;
use statehouse_tests::process::{Process, argument, binary};
use statehouse_tests::wallet;
use tempfile::tempdir;
use tokio::net::TcpStream;

use crate::alone;

#[tokio::test(flavor = "multi_thread")]
async fn dev_starts_three_processes_and_stops_them_with_itself() {
    let _alone = alone().await;
    let data = tempdir().expect("a temporary folder");
    let mut command = Command::new(binary());
    command.args(["dev", "--nodes", "3", "--processes", "--http", "127.0.0.1:0", "--data", argument(data.path())]);
    let dev = Process::start("dev", command).await.expect("dev starts");
    let mut client = Client::to(dev.address());
    // Each child says where it listens before they are a cluster.
    let is_ready = async || client.get("/readyz").await.is_ok_and(|answer| answer.status == 200).then_some(());
    within(PATIENCE, "the cluster is ready", is_ready).await;
    wallet::open(&mut client, "alice").await;
    wallet::deposit(&mut client, "alice", 100).await;

    let nodes = nodes(data.path());
    assert_eq!(nodes.iter().map(|node| node.0).collect::<Vec<u64>>(), [1, 2, 3]);
    for (id, http) in &nodes {
        let balance = wallet::balance(&mut Client::to(*http), "alice").await;
        assert_eq!(balance, 100, "node {id} answers for all");
    }
    assert!(dev.terminate().await.success(), "SIGTERM ends it in order");
    for (id, http) in nodes {
        let is_gone = async || TcpStream::connect(http).await.is_err().then_some(());
        within(PATIENCE, &format!("node {id} ends with it"), is_gone).await;
        check_audit(&data.path().join(format!("node-{id}")));
    }
}

/// For three seconds nodes that were stopping were asked to lead, ten times a second, by others that were stopping as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_in_one_process_stops_without_moving_its_leaders_about() {
    let _alone = alone().await;
    let data = tempdir().expect("a temporary folder");
    let mut command = Command::new(binary());
    command.args(["dev", "--nodes", "3", "--http", "127.0.0.1:0", "--data", argument(data.path())]);
    let mut dev = Process::start("dev", command).await.expect("dev starts");
    let mut client = Client::to(dev.address());
    let is_ready = async || client.get("/readyz").await.is_ok_and(|answer| answer.status == 200).then_some(());
    within(PATIENCE, "the cluster is ready", is_ready).await;
    wallet::open(&mut client, "alice").await;
    wallet::deposit(&mut client, "alice", 100).await;
    dev.ask_to_end();
    let ended = within(PATIENCE, "SIGTERM ends it", async || dev.find_refusal()).await;
    assert!(ended.status.success(), "{}", ended.output);
    let (_, stopping) = ended.output.split_once("finishing the requests in hand").expect("it says that it stops");
    assert!(!stopping.contains("leadership is spread"), "{stopping}");
}

/// The nodes it says it started.
fn nodes(data: &Path) -> Vec<(u64, SocketAddr)> {
    let text = std::fs::read(data.join("nodes.json")).expect("dev says which nodes it started");
    let nodes: Vec<Value> = serde_json::from_slice(&text).expect("a list in JSON");
    let http = |node: &Value| node["http"].as_str().and_then(|http| http.parse().ok());
    let node = |node: &Value| Some((node["id"].as_u64()?, http(node)?));
    nodes.iter().map(|found| node(found).unwrap_or_else(|| panic!("no `id` and `http` in {found}"))).collect()
}
