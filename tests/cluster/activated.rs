//! Another module becomes active under the load of 64 clients, and a leader is killed meanwhile. No command fails,
//! all replicas switch at the same entry, and the chains stay the same.
//!
//! The last module migrates every row. It is the only one in `make test`; in `make chaos` there are many rounds of
//! both. How long nobody was served is printed; no test judges it.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use statehouse_kernel::ids::NodeId;
use statehouse_tests::cluster::{Cluster, release};
use statehouse_tests::hold::{eventually, hold};
use statehouse_tests::process::{argument, cli};
use statehouse_tests::trial::{SHAPE, Trial, partitions, seed};

use crate::{alone, rounds};

const CLIENTS: usize = 64;
const VERSIONS: [&str; 2] = ["1.1.0", "2.0.0"];

/// Runs a step of a module through one node. It may take the whole time of a request; if that is not enough, somebody
/// looks later.
async fn step(url: String, step: &'static str, version: &'static str) -> Option<i32> {
    let file = release(&format!("wallet-{version}.wasm"));
    let proof: &[&str] = if step == "activate" { &["--without-proof"] } else { &[] };
    let asked = [&["module", step, argument(&file), "--url", &url][..], proof].concat();
    let asked: Vec<String> = asked.into_iter().map(str::to_owned).collect();
    let asking = tokio::task::spawn_blocking(move || cli(asked.iter().map(String::as_str)));
    asking.await.expect("the command runs").code
}

/// Whether every replica of a node has the module that the machine has.
async fn is_active(cluster: &Cluster, node: NodeId, number: u64) -> Option<()> {
    let page = cluster.client(node).get("/v1/machines/wallet/modules").await.ok()?.json();
    let has_it = |partition: &serde_json::Value| partition["activation"].as_u64().is_some_and(|at| number <= at);
    page["partitions"].as_array()?.iter().all(has_it).then_some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_activation_under_load_survives_a_killed_leader() {
    let _alone = alone().await;
    let mut random = StdRng::seed_from_u64(seed());
    let versions = &VERSIONS[rounds(1, 0)..];
    for round in 0..rounds(1, 3) {
        let mut trial = Trial::of_clients(Cluster::start(SHAPE).await, CLIENTS).await;
        for (at, version) in versions.iter().enumerate() {
            activate_and_kill(&mut trial, &mut random, version, at, round).await;
        }
        let ids = trial.cluster.ids();
        let cluster = trial.judged(&ids).await;
        check_switches(&cluster, 1 + versions.len());
    }
}

async fn activate_and_kill(trial: &mut Trial, random: &mut StdRng, version: &'static str, at: usize, round: usize) {
    // The first activation of all created the machine.
    let number = 2 + at as u64;
    let partition = partitions(SHAPE).nth(random.random_range(0..2)).expect("there are two");
    let leader = trial.cluster.leader(partition).await;
    let asked = trial.cluster.ids().into_iter().find(|id| *id != leader).expect("there are three");
    let url = trial.cluster.url(asked);
    for before in ["stage", "prepare"] {
        eventually("all nodes are ready for the module", async || {
            (step(url.clone(), before, version).await == Some(0)).then_some(())
        })
        .await;
    }
    trial.load.take_gap();
    let activating = tokio::spawn(step(url.clone(), "activate", version));
    // The kill comes at any moment from before the first partition's entry until after the last one's.
    hold(Duration::from_micros(random.random_range(0..400_000))).await;
    trial.cluster.kill(leader);
    trial.progress().await;
    // The activation was recorded, or the leader of `system` died before that, and then the client asks again.
    if activating.await.expect("it ends") != Some(0) {
        eventually("it is asked for again", async || {
            let code = step(url.clone(), "activate", version).await;
            (code == Some(0) || is_active(&trial.cluster, asked, number).await.is_some()).then_some(())
        })
        .await;
    }
    let gap = trial.load.take_gap();
    println!("round {round}, {version}: node {leader} killed, {gap:?} without a successful write");
    trial.cluster.restart(leader).await;
    trial.cluster.ready_on(leader).await;
    for id in trial.cluster.ids() {
        eventually("every replica has activated it", async || is_active(&trial.cluster, id, number).await).await;
    }
    trial.progress().await;
}

/// Checks which module became active where: this is the same in the journal of every node.
fn check_switches(cluster: &Cluster, count: usize) {
    for partition in partitions(SHAPE) {
        let number = partition.to_string();
        let mut switches: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
        for id in cluster.ids() {
            let log = ["audit", "log", "--data", argument(cluster.data(id)), "--partition", &number];
            let listed = cli(log);
            assert_eq!(listed.code, Some(0), "{}", listed.stderr);
            let found = listed.stdout.lines().filter(|line| line.contains("  activate module "));
            switches.insert(id, found.map(str::to_owned).collect());
        }
        let first = switches.values().next().expect("there are nodes").clone();
        assert_eq!(first.len(), count, "each module once: {first:?}");
        assert!(switches.values().all(|found| *found == first), "other positions elsewhere: {switches:#?}");
    }
}
