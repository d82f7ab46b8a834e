//! SIGHUP: nodes take new certificates, and then a new authority in two steps, while money is moved. A broken file
//! changes nothing.
//!
//! In: files, and the signal. Out: transfers that are all carried out, once each, and who is let in at the peer port
//! after each step. It does not know what becomes of single connections: the host's own tests cover that.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use statehouse_tests::hold::{PATIENCE, hold, within};
use statehouse_tests::http::Client;
use statehouse_tests::members::{make, pair, speaks_with};
use statehouse_tests::secure::Trust;
use statehouse_tests::wallet;
use tempfile::tempdir;
use uuid::Uuid;

use crate::alone;
use crate::dev::{DevNode, nodes, start};

const IDS: [u64; 3] = [1, 2, 3];
/// The transfers that must have been answered well after each step.
const ENOUGH: u64 = 30;
/// Far more tries than a cluster without a leader needs to elect one.
const TRIES_MAX: usize = 1_000;
const PAUSE: Duration = Duration::from_millis(20);

/// How many reloads of a node have ended with this result.
async fn reloads(node: &DevNode, result: &str) -> f64 {
    let answer = Client::to(node.http).get("/metrics").await.expect("the node answers");
    let text = String::from_utf8(answer.body.to_vec()).expect("metrics are text");
    let is_asked = |line: &&str| line.starts_with("statehouse_reloads_total") && line.contains(result);
    let value = text.lines().find(is_asked).and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or(0.0)
}

/// Has a node read its files again, and waits until it has taken or refused them.
async fn reload(node: &DevNode, result: &str) {
    let before = reloads(node, result).await;
    let status = Command::new("kill").args(["-HUP", &node.pid.to_string()]).status();
    assert!(status.expect("kill can be run").success(), "node {} runs", node.id);
    let is_over = async || (before < reloads(node, result).await).then_some(());
    within(PATIENCE, &format!("node {} reads its files: {result}", node.id), is_over).await;
}

/// Sends transfers through all nodes in turn. Each is sent again under its id until it is answered well.
async fn load(nodes: Arc<Vec<DevNode>>, done: Arc<AtomicU64>, again: Arc<AtomicU64>, is_over: Arc<AtomicBool>) {
    let mut clients: Vec<Client> = nodes.iter().map(|node| Client::to(node.http)).collect();
    for at in (0..clients.len()).cycle() {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        let (id, mut tries) = (Uuid::new_v4(), 0);
        loop {
            let client = &mut clients[(at + tries) % nodes.len()];
            let answer = wallet::transfer(client, id, "alice", "bob", 1).await.expect("the node answers");
            if answer.status == 200 {
                break;
            }
            tries += 1;
            assert!(tries < TRIES_MAX, "{answer:?}");
            hold(PAUSE).await;
        }
        done.fetch_add(1, Ordering::Relaxed);
        again.fetch_add(tries as u64, Ordering::Relaxed);
    }
}

fn copy(from: &Path, to: &Path, names: impl Iterator<Item = String>) {
    for name in names {
        std::fs::copy(from.join(&name), to.join(&name)).expect("it is there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_take_new_certificates_while_money_is_moved() {
    let _alone = alone().await;
    let (data, elsewhere) = (tempdir().expect("a temporary folder"), tempdir().expect("a temporary folder"));
    let (dev, mut client) = start(data.path(), &["--processes"]).await;
    wallet::open(&mut client, "alice").await;
    wallet::open(&mut client, "bob").await;
    wallet::deposit(&mut client, "alice", 10_000_000).await;
    let nodes = Arc::new(nodes(data.path()));
    let [done, again] = [0; 2].map(|_| Arc::new(AtomicU64::new(0)));
    let is_over = Arc::new(AtomicBool::new(false));
    let loading = tokio::spawn(load(nodes.clone(), done.clone(), again.clone(), is_over.clone()));
    let progress = async |step: &str| {
        let wanted = done.load(Ordering::Relaxed) + ENOUGH;
        within(PATIENCE, step, async || (wanted <= done.load(Ordering::Relaxed)).then_some(())).await;
    };
    let all_reload = async |step: &str| {
        for node in nodes.iter() {
            reload(node, "done").await;
        }
        progress(step).await;
    };
    progress("before").await;

    let (folder, other) = (data.path().join("peers"), elsewhere.path().join("peers"));
    let first = std::fs::read(folder.join("node-1.pem")).expect("it is there");
    make(&folder, &IDS, true);
    assert_ne!(first, std::fs::read(folder.join("node-1.pem")).expect("it is there"));
    all_reload("certificates were renewed").await;

    let node_2 = || ["pem", "key"].map(|ending| format!("node-2.{ending}")).into_iter();
    // First a file that is no key, then a certificate that the others would not take: the node keeps what it has.
    std::fs::write(folder.join("node-1.key"), "no key").expect("it can be written");
    reload(&nodes[0], "refused").await;
    make(&folder, &IDS, true);
    copy(&folder, elsewhere.path(), node_2());
    std::fs::copy(folder.join("node-3.pem"), folder.join("node-2.pem")).expect("it is there");
    std::fs::copy(folder.join("node-3.key"), folder.join("node-2.key")).expect("it is there");
    reload(&nodes[1], "refused").await;
    for words in ["the configuration was refused", "node-1.key", "it is not valid for the name `node-2`"] {
        within(PATIENCE, words, async || dev.output().contains(words).then_some(())).await;
    }
    copy(elsewhere.path(), &folder, node_2());
    all_reload("files were mended").await;

    // First both authorities are trusted, then all certificates are the new one's, and then that one alone is trusted.
    make(&other, &IDS, false);
    copy(&folder, elsewhere.path(), node_2());
    let [old, new] = [elsewhere.path(), &other].map(|folder| pair(folder, 2));
    let text = |path: &Path| std::fs::read_to_string(path.join("ca.pem")).expect("it is there");
    let both = text(&folder) + &text(&other);
    std::fs::write(folder.join("ca.pem"), both).expect("it can be written");
    all_reload("both are trusted").await;
    let names = IDS.iter().flat_map(|id| ["pem", "key"].map(|ending| format!("node-{id}.{ending}")));
    copy(&other, &folder, names);
    all_reload("certificates are the new authority's").await;
    let trust = Trust::of(&other.join("ca.pem"));
    assert!(speaks_with(&trust.clone().showing(old.clone()), nodes[0].peer, 1).await, "both are trusted");
    copy(&other, &folder, ["ca.pem".to_owned()].into_iter());
    all_reload("the new one alone is trusted").await;
    assert!(!speaks_with(&trust.clone().showing(old.clone()), nodes[0].peer, 1).await, "the old one is not");
    assert!(speaks_with(&trust.clone().showing(new.clone()), nodes[0].peer, 1).await, "the new one is");

    is_over.store(true, Ordering::Relaxed);
    loading.await.expect("every transfer was carried out");
    let (done, again) = (done.load(Ordering::Relaxed), again.load(Ordering::Relaxed));
    println!("{done} transfers while files were replaced, {again} of them sent again");
    assert_eq!(wallet::balance(&mut client, "bob").await, i128::from(done), "each of them once");
    assert!(dev.terminate().await.success(), "SIGTERM ends it in order");
}
