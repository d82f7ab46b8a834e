//! A cluster under load to which a test does something, and the verdict afterwards: the frame of every cluster test.
//!
//! In: a shape. Out: a running cluster whose clients never stop. [`Trial::finish`] heals, waits until all replicas
//! agree, ends every process, and panics with the first promises that were broken. It does not know what is done in
//! between.

use std::collections::BTreeMap;

use statehouse_kernel::ids::{NodeId, PartitionId};

use crate::cluster::{Cluster, MACHINE, Replicas, Shape};
use crate::load::{Accounts, Load, Setup};
use crate::oracle::check_audit;
use crate::oracle::history::History;
use crate::oracle::judge::judge;
use crate::recording::Recording;
use crate::wallet::{self, BANK};

/// Three nodes, with leaders on more than one of them.
pub const SHAPE: Shape = Shape { nodes: 3, partitions: 2, log_keep_bytes: None, has_capacity: false };
const CLIENTS: usize = 6;
const ACCOUNTS: usize = 12;
/// Minor units in each account at first: few enough that some transfers are rejected.
const OPENING: i128 = 20_000;
/// How many acknowledged transfers show that a cluster serves.
pub const PROGRESS: usize = 100;
/// How many breaches are shown. The rest are consequences more often than not.
const BREACHES_SHOWN: usize = 5;
const SEED_VARIABLE: &str = "STATEHOUSE_SEED";

pub struct Trial {
    pub cluster: Cluster,
    pub load: Load,
    accounts: Accounts,
}

impl Trial {
    /// Starts three nodes and clients, and waits until these make progress.
    pub async fn start() -> Self {
        Self::of(Cluster::start(SHAPE).await).await
    }

    /// Puts a cluster that is ready under load.
    pub async fn of(cluster: Cluster) -> Self {
        Self::of_clients(cluster, CLIENTS).await
    }

    /// The same, under a load of this many clients.
    pub async fn of_clients(cluster: Cluster, client_count: usize) -> Self {
        let setup = Setup::of(cluster.addresses());
        let accounts = Accounts::open(&setup, ACCOUNTS, OPENING).await;
        let load = Load::start(&setup, &accounts, client_count, seed());
        let trial = Self { cluster, load, accounts };
        trial.progress().await;
        trial
    }

    /// Waits until the cluster serves. What it accepted before does not count.
    pub async fn progress(&self) {
        self.load.progress(PROGRESS).await;
    }

    /// Some account of the run.
    pub fn account(&self, at: usize) -> &str {
        self.accounts.all().nth(at).expect("there are more accounts than tests ask for")
    }

    /// Heals what is cut, waits until every running node is ready, and judges the run by what these nodes have.
    pub async fn finish(self) {
        let judged = self.cluster.running();
        self.finish_with(&judged).await;
    }

    /// Like [`Trial::finish`], judged by what these nodes have, which must be running.
    pub async fn finish_with(self, judged: &[NodeId]) {
        drop(self.judged(judged).await);
    }

    /// The same. Returns what is left of the nodes, which have ended.
    pub async fn judged(self, judged: &[NodeId]) -> Cluster {
        let Self { mut cluster, load, accounts } = self;
        cluster.network().heal();
        cluster.ready().await;
        let recording = load.stop().await;
        println!("{}", recording.summary());
        let settled = cluster.settle().await;
        check_every_node(&cluster, &accounts, judged).await;
        for id in cluster.running() {
            cluster.kill(id);
        }
        check_folders(&cluster, judged, &recording, Some(&settled));
        cluster
    }
}

/// Asserts that every node shows the same balances from its own rows, and that they add up to 0.
async fn check_every_node(cluster: &Cluster, accounts: &Accounts, nodes: &[NodeId]) {
    let mut shown: BTreeMap<NodeId, Vec<(&str, i128)>> = BTreeMap::new();
    for id in nodes {
        let mut client = cluster.client(*id);
        let balances = shown.entry(*id).or_default();
        for account in accounts.all().map(String::as_str).chain([BANK]) {
            balances.push((account, wallet::balance_stale(&mut client, account).await));
        }
        let sum: i128 = balances.iter().map(|(_, balance)| balance).sum();
        assert_eq!(sum, 0, "node {id}: the books do not balance: {balances:?}");
    }
    let first = shown.values().next().expect("some node is judged");
    assert!(shown.values().all(|balances| balances == first), "the nodes show different balances: {shown:#?}");
}

/// Asserts that nothing is wrong in what stopped nodes have stored, up to the heads that all of them showed, if they
/// did.
pub fn check_folders(cluster: &Cluster, nodes: &[NodeId], recording: &Recording, settled: Option<&Replicas>) {
    for id in nodes {
        check_audit(cluster.data(*id));
    }
    let read = |id: &NodeId| History::read(&format!("node {id}"), cluster.data(*id));
    let mut histories: Vec<History> = nodes.iter().map(read).collect();
    if let Some(settled) = settled {
        let of_wallet = settled.iter().filter(|((machine, _), _)| machine == MACHINE);
        let heads = of_wallet.map(|((_, partition), replica)| (*partition, replica.head.clone())).collect();
        histories.iter_mut().for_each(|history| history.cut(&heads));
    }
    let breaches = judge(&histories, recording);
    let shown: Vec<_> = breaches.iter().take(BREACHES_SHOWN).collect();
    assert!(breaches.is_empty(), "{} promises were broken: {shown:#?}", breaches.len());
}

/// The wallet's partitions.
pub fn partitions(shape: Shape) -> impl Iterator<Item = PartitionId> + Clone {
    (0..shape.partitions).map(PartitionId)
}

/// The seed from the environment, or a new one. It is printed, so that a failure can be repeated.
pub fn seed() -> u64 {
    let seed = std::env::var(SEED_VARIABLE).ok().map(|text| text.parse().expect("the seed is a number"));
    let seed = seed.unwrap_or_else(rand::random);
    println!("{SEED_VARIABLE}={seed}");
    seed
}
