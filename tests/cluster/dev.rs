//! `statehouse dev --nodes 3 --processes`: a cluster to try things out on, in one command, gone when it is stopped.
//!
//! In: the command line. Out: nodes that answer, certificates that are made once, and refusals of strangers. It knows
//! the files of the data folder, but not what nodes say to each other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use statehouse_tests::hold::{PATIENCE, within};
use statehouse_tests::http::Client;
use statehouse_tests::members::{pair, speaks_in_clear, speaks_with};
use statehouse_tests::oracle::check_audit;
use statehouse_tests::process::{Process, argument, binary};
use statehouse_tests::secure::{Authority, Trust};
use statehouse_tests::wallet;
use tempfile::tempdir;
use tokio::net::TcpStream;

use crate::alone;

/// A node as `nodes.json` lists it.
pub struct DevNode {
    pub id: u64,
    pub pid: u64,
    pub http: SocketAddr,
    pub peer: SocketAddr,
}

/// Starts `dev`, and waits until it serves.
pub async fn start(data: &Path, more: &[&str]) -> (Process, Client) {
    let mut command = Command::new(binary());
    command.args(["dev", "--nodes", "3", "--http", "127.0.0.1:0", "--data", argument(data)]).args(more);
    let dev = Process::start("dev", command).await.expect("dev starts");
    let mut client = Client::to(dev.address());
    // Each child says where it listens before the nodes are a cluster.
    let is_ready = async || client.get("/readyz").await.is_ok_and(|answer| answer.status == 200).then_some(());
    within(PATIENCE, "the cluster is ready", is_ready).await;
    (dev, client)
}

/// The nodes that `dev` says it has started.
pub fn nodes(data: &Path) -> Vec<DevNode> {
    let text = std::fs::read(data.join("nodes.json")).expect("dev says which nodes it started");
    let nodes: Vec<Value> = serde_json::from_slice(&text).expect("a list in JSON");
    let address = |node: &Value, key: &str| node[key].as_str().and_then(|address| address.parse().ok());
    let node = |node: &Value| {
        let (id, pid) = (node["id"].as_u64()?, node["pid"].as_u64()?);
        Some(DevNode { id, pid, http: address(node, "http")?, peer: address(node, "peer")? })
    };
    nodes.iter().map(|found| node(found).unwrap_or_else(|| panic!("something is missing in {found}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_starts_three_processes_and_stops_them_with_itself() {
    let _alone = alone().await;
    let data = tempdir().expect("a temporary folder");
    let (dev, mut client) = start(data.path(), &["--processes"]).await;
    wallet::open(&mut client, "alice").await;
    wallet::deposit(&mut client, "alice", 100).await;

    let nodes = nodes(data.path());
    assert_eq!(nodes.iter().map(|node| node.id).collect::<Vec<u64>>(), [1, 2, 3]);
    for DevNode { id, http, .. } in &nodes {
        let balance = wallet::balance(&mut Client::to(*http), "alice").await;
        assert_eq!(balance, 100, "node {id} answers for all");
    }
    assert!(dev.terminate().await.success(), "SIGTERM ends it in order");
    for DevNode { id, http, .. } in nodes {
        let is_gone = async || TcpStream::connect(http).await.is_err().then_some(());
        within(PATIENCE, &format!("node {id} ends with it"), is_gone).await;
        check_audit(&data.path().join(format!("node-{id}")));
    }
}

/// The files in the folder of certificates, by name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("it can be read"));
    let read = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().expect("a name in ASCII");
        let mode = entry.metadata().expect("it has some").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name} is for its owner alone");
        (name, std::fs::read(entry.path()).expect("it can be read"))
    };
    entries.map(read).collect()
}

/// Anybody who could connect to the peer port of a node used to be able to vote, read and append in its cluster.
async fn check_strangers_are_refused(data: &Path) {
    let (folder, elsewhere) = (data.join("peers"), tempdir().expect("a temporary folder"));
    let trust = Trust::of(&folder.join("ca.pem"));
    let foreign = Authority::make(elsewhere.path(), "ca").issue("node-2");
    for node in nodes(data) {
        let (id, peer) = (node.id, node.peer);
        assert!(!speaks_in_clear(peer).await, "node {id} speaks in clear");
        assert!(!speaks_with(&trust, peer, id).await, "node {id} asks for no certificate");
        assert!(
            !speaks_with(&trust.clone().showing(foreign.clone()), peer, id).await,
            "node {id} takes any certificate"
        );
        let member = pair(&folder, id % 3 + 1);
        assert!(speaks_with(&trust.clone().showing(member), peer, id).await, "node {id} speaks with no node");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_of_dev_make_certificates_once_and_speak_with_nobody_else() {
    let _alone = alone().await;
    for more in [&["--processes"][..], &[]] {
        let data = tempdir().expect("a temporary folder");
        let mut first = BTreeMap::new();
        for _ in 0..2 {
            let (dev, _) = start(data.path(), more).await;
            check_strangers_are_refused(data.path()).await;
            let now = files(&data.path().join("peers"));
            assert_eq!(now.keys().filter(|name| name.starts_with("node-")).count(), 6);
            assert!(first.is_empty() || first == now, "what was made at the first start is kept");
            first = now;
            assert!(dev.terminate().await.success(), "SIGTERM ends it in order");
        }
        if !more.is_empty() {
            let config = std::fs::read_to_string(data.path().join("node-1.toml")).expect("it was written");
            assert!(!config.contains("plaintext") && !config.contains("ca.key"), "{config}");
        }
    }
}

/// For three seconds, nodes that were stopping used to be asked to lead, ten times a second, by others that were
/// stopping as well.
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
    assert!(!stopping.contains("leadership is transferred to balance"), "{stopping}");
    assert!(!stopping.contains(" ERROR "), "{stopping}");
}

/// The views that were not compiled any more used to be logged as errors.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_stopped_as_soon_as_it_listens_logs_no_error() {
    let _alone = alone().await;
    let data = tempdir().expect("a temporary folder");
    let mut command = Command::new(binary());
    command.args(["dev", "--nodes", "3", "--http", "127.0.0.1:0", "--data", argument(data.path())]);
    let mut dev = Process::start("dev", command).await.expect("dev starts");
    dev.ask_to_end();
    let ended = within(PATIENCE, "SIGTERM ends it", async || dev.find_refusal()).await;
    assert!(ended.status.success() && !ended.output.contains(" ERROR "), "{}", ended.output);
}
