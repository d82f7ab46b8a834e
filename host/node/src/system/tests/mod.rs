//! Clusters of whole nodes inside one process, over the simulated network and the simulated disk.
//!
//! In: a seed. Out: nodes that run the real code from the router to the log, faults for them, and a judge of the
//! result. State and ids are derived: they are in RocksDB in a temporary folder. The printed seed makes every random
//! choice. Threads are real, so it repeats the faults but not every interleaving. No test sleeps: it waits for states.

mod asked;
mod load;
mod judge;
mod recovers;

mod leaders;
mod power;
mod steps;
mod chaos;
mod clock;
mod damage;
mod rot;
mod hooks;
mod lost_disk;
mod set_back;
mod divergence;
mod waits;
mod midnight;
mod snapshot_retention;
mod snapshot_fetch;
mod journal_fetch;
mod upgrade;
mod level;
mod directory;
mod unasked;
mod refused;
mod calls;
mod peers;
mod sockets;
mod renewal;
mod swarm;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::time::Instant;

use super::context::NodeContext;
use super::folder::artefacts_of;
use super::machines;
use super::{ArchiveOptions, MachineSpec, ModuleSource, Node, NodeError, NodeOptions, PeerOptions, PeerWay};
use crate::clock::{Clock, SystemClock};
use crate::disk::{RealDisk, SimDisk};
use crate::features::{self, FeatureLevel};
use crate::guest::{Engine, EngineOptions};
use crate::ids::{Micros, NodeId, PartitionId};
use crate::limits;
use crate::machine::slots::partition_of;
use crate::partition::Partition;
use crate::peer::SimNetwork;
use crate::registry;
use crate::router::Router;

use asked::{is_chaos, rounds, seed_asked, seed_of_run, show_logs};
use judge::Bank;
use load::{Attempt, Load};

const SEED_VARIABLE: &str = "STATEHOUSE_SEED";
const CHAOS_VARIABLE: &str = "STATEHOUSE_CHAOS";
const MACHINE: &str = "wallet";
/// Two, so that many transfers need both.
const PARTITIONS: u32 = 2;
/// The folder of compiled modules within a node's folder.
const ARTEFACTS: &str = "artefacts";
const ARTEFACT_KEY: &str = "artefacts.key";
const WALLET: &[u8] = include_bytes!("../../../../../modules/releases/wallet-1.0.1.wasm");
const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
/// Far longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// The polling interval for states that nobody announces.
const LOOK: Duration = Duration::from_millis(10);
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(1);

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// The wallet, compiled once for all nodes of all tests: a starting node spends more time on this than on all else.
static COMPILED: LazyLock<Vec<(PathBuf, Vec<u8>)>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let artefacts = artefacts_of(folder.path()).expect("a new folder");
    let engine = Engine::new(EngineOptions { cache: Some(artefacts), ..EngineOptions::default() });
    let registry = registry::open(folder.path().join("modules"), engine.expect("the engine starts"));
    drop(registry.expect("a new folder").stage(WALLET).expect("the released wallet"));
    let artefacts = std::fs::read_dir(folder.path().join(ARTEFACTS)).expect("it was just filled");
    let files = artefacts.map(|file| file.expect("it is listed").path()).chain([folder.path().join(ARTEFACT_KEY)]);
    let name = |path: &Path| path.strip_prefix(folder.path()).expect("it is in there").to_owned();
    files.map(|path| (name(&path), std::fs::read(&path).expect("it can be read"))).collect()
});

/// Puts the compiled modules where a node looks for them, with the key that proves them.
fn lend_compiled(data: &Path) {
    let artefacts = data.join(ARTEFACTS);
    if !artefacts.exists() {
        std::fs::create_dir_all(&artefacts).expect("a temporary folder can be written");
        for (name, content) in &*COMPILED {
            let mut file = std::fs::OpenOptions::new();
            let file = file.write(true).create(true).truncate(true).mode(0o600).open(data.join(name));
            file.and_then(|mut file| file.write_all(content)).expect("a temporary folder can be written");
        }
    }
}

/// Asks until there is an answer; panics with `what` when none comes.
async fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let asking = async {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            looks.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{what}: did not happen"))
}

/// The clocks of a machine, which a test can move.
#[derive(Default)]
struct OffsetClock {
    /// In microseconds, like `running`.
    wall: AtomicI64,
    running: AtomicI64,
    boots: AtomicU64,
}

impl OffsetClock {
    /// Lets the wall clock leap to this offset.
    fn leap_to(&self, offset: Duration) {
        self.wall.store(i64::try_from(offset.as_micros()).expect("an hour fits"), Ordering::SeqCst);
    }

    /// Lets time pass up to this offset. If it is smaller than before, only the wall clock goes back.
    fn move_to(&self, offset: Duration) {
        self.leap_to(offset);
        self.running.fetch_max(self.wall.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

impl Clock for OffsetClock {
    fn now(&self) -> Micros {
        Micros(SystemClock.now().0 + self.wall.load(Ordering::SeqCst))
    }

    fn running(&self) -> Duration {
        let ahead = u64::try_from(self.running.load(Ordering::SeqCst)).expect("it never goes back");
        SystemClock.running() + Duration::from_micros(ahead)
    }

    fn boot(&self) -> Option<String> {
        Some(self.boots.load(Ordering::SeqCst).to_string())
    }
}

/// A node's process, and what remains of the node when the process ends.
struct Member {
    disk: SimDisk,
    clock: Arc<OffsetClock>,
    /// The highest feature level that the node understands when it is started next.
    level_max: FeatureLevel,
    life: Option<Node>,
}

/// What a process holds while it runs.
struct Remains {
    /// It has the folder, which one process at a time may open.
    context: Weak<NodeContext>,
    replicas: Vec<Weak<Partition>>,
}

impl Remains {
    fn of(life: &Node) -> Self {
        let replicas = life.context.replicas().iter().map(|(_, replica)| Arc::downgrade(replica)).collect();
        Self { context: Arc::downgrade(&life.context), replicas }
    }

    async fn are_gone(&self) {
        let is_gone =
            || self.context.strong_count() == 0 && self.replicas.iter().all(|replica| replica.strong_count() == 0);
        eventually("nothing holds a node whose process has ended", || is_gone().then_some(())).await;
    }
}

/// The routers of the running nodes.
type Doors = Arc<Mutex<BTreeMap<NodeId, Arc<Router>>>>;

struct Cluster {
    seed: u64,
    random: StdRng,
    network: SimNetwork,
    folder: TempDir,
    members: BTreeMap<NodeId, Member>,
    doors: Doors,
    bank: Bank,
    options: Options,
}

/// What is configured in addition to what all tests have.
#[derive(Clone, Copy, Default)]
struct Options {
    /// Each node archives into a folder of its own.
    has_archive: bool,
    snapshot_keep: Option<u32>,
    /// A founding node that understands only the first feature level.
    held_back: Option<NodeId>,
    /// Decides in place of the wallet. There are then no accounts, and no money.
    module: Option<&'static [u8]>,
}

/// A node that is alone, on this machine's disk and clock, with one wallet in one partition.
fn node_options(data: PathBuf, node: NodeId) -> NodeOptions {
    NodeOptions {
        data,
        node,
        peer: None,
        machines: vec![machine(ModuleSource::Embedded(WALLET), 1)],
        disk: Arc::new(RealDisk),
        clock: Arc::new(SystemClock),
        paranoid: true,
        hot_bytes_max: limits::HOT_TABLE_BYTES_MAX,
        log_keep_bytes: None,
        archive: None,
        snapshot_every_bytes: None,
        snapshot_keep: None,
        scrub_bytes_per_second: limits::SCRUB_BYTES_PER_SECOND,
        feature_level_max: features::HIGHEST,
        http: None,
    }
}

fn machine(module: ModuleSource, partitions: u32) -> MachineSpec {
    MachineSpec { name: MACHINE.to_owned(), module, partitions, views: Vec::new() }
}

impl Cluster {
    /// Three nodes with the wallet in two partitions, and accounts with money.
    async fn found() -> Self {
        Self::found_with(Options::default()).await
    }

    async fn found_with(options: Options) -> Self {
        Self::found_as(seed_of_run(), options).await
    }

    async fn found_as(seed: u64, options: Options) -> Self {
        show_logs();
        println!("{SEED_VARIABLE}={seed}");
        let mut cluster = Self {
            seed,
            random: StdRng::seed_from_u64(seed),
            network: SimNetwork::new(seed),
            folder: tempfile::tempdir().expect("a folder for temporary files"),
            members: BTreeMap::new(),
            doors: Doors::default(),
            bank: Bank::default(),
            options,
        };
        for node in NODES {
            cluster.add_member(node).await;
        }
        let founders = NODES.map(|node| (node, address(node)));
        cluster.node(NODES[0]).cluster().init(founders.into(), soon()).await.expect("all three are there");
        cluster.served().await;
        if options.module.is_none() {
            cluster.bank = Bank::open(&cluster).await;
        }
        cluster
    }

    /// A new node with an empty disk that belongs to no cluster yet.
    async fn add_member(&mut self, node: NodeId) {
        let level_max = if self.options.held_back == Some(node) { features::BASE } else { features::HIGHEST };
        self.add_member_at(node, level_max).await;
    }

    /// The same, for a node that understands no level above `level_max`.
    async fn add_member_at(&mut self, node: NodeId, level_max: FeatureLevel) {
        let member = Member { disk: SimDisk::new(), clock: Arc::default(), level_max, life: None };
        self.members.insert(node, member);
        self.start(node).await;
    }

    /// Starts a node from what its last process left.
    async fn start(&mut self, node: NodeId) {
        self.try_start(node).await.unwrap_or_else(|error| panic!("node {node} starts: {error}"));
    }

    /// The same, but the disk may fail.
    async fn try_start(&mut self, node: NodeId) -> Result<(), NodeError> {
        let url = self.archive(node).display().to_string();
        let archive = self.options.has_archive.then(|| ArchiveOptions { url, every: Duration::from_millis(100) });
        let member = self.members.get_mut(&node).expect("it is a node");
        assert!(member.life.is_none(), "a process does not start twice");
        let peer = PeerOptions {
            way: PeerWay::Simulated(self.network.clone()),
            advertise: address(node),
            routes: BTreeMap::new(),
            clock_skew_max: CLOCK_SKEW_MAX,
        };
        let module = ModuleSource::Embedded(self.options.module.unwrap_or(WALLET));
        let options = NodeOptions {
            peer: Some(peer),
            machines: vec![machine(module, PARTITIONS)],
            disk: Arc::new(member.disk.clone()),
            clock: member.clock.clone(),
            archive,
            snapshot_keep: self.options.snapshot_keep,
            feature_level_max: member.level_max,
            ..node_options(self.folder.path().join(node.to_string()), node)
        };
        lend_compiled(&options.data);
        let life = Node::open(options).await?;
        self.doors.lock().insert(node, life.router().clone());
        member.life = Some(life);
        Ok(())
    }

    /// The folder into which a node archives, if it archives at all.
    fn archive(&self, node: NodeId) -> PathBuf {
        self.folder.path().join(format!("archive-{node}"))
    }

    /// Cuts the power of a node: its process ends, and what its disk had not synced may be lost.
    async fn crash(&mut self, node: NodeId) {
        self.cut_power(&[node]);
        self.bury(node).await;
    }

    /// The first half of a crash: from now on none of these nodes sends or writes anything. What that leaves on their
    /// disks is found out afterwards, because it takes seconds on a busy machine, and the last nodes would run on.
    fn cut_power(&mut self, nodes: &[NodeId]) {
        for node in nodes {
            self.network.leave(*node);
            self.members[node].disk.switch_off();
        }
        for node in nodes {
            self.doors.lock().remove(node);
            let chance = self.random.random();
            let member = self.members.get_mut(node).expect("it is a node");
            member.disk = member.disk.crash(chance);
            member.clock.boots.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Ends the process of a node, while its machine keeps running.
    async fn kill(&mut self, node: NodeId) {
        self.doors.lock().remove(&node);
        self.network.leave(node);
        let member = self.members.get_mut(&node).expect("it is a node");
        member.disk = member.disk.kill();
        self.bury(node).await;
    }

    /// The second half: removes what the dead node holds in the test's own process.
    async fn bury(&mut self, node: NodeId) {
        let life = self.members.get_mut(&node).and_then(|member| member.life.take()).expect("it ran");
        let remains = Remains::of(&life);
        // Stopping fails wherever it needs the disk, which is off.
        drop(tokio::time::timeout(PATIENCE, life.stop()).await.expect("a node without a disk stops"));
        remains.are_gone().await;
    }

    /// Stops a node in order. What it has written is there when it starts again.
    async fn stop(&mut self, node: NodeId) {
        self.doors.lock().remove(&node);
        let member = self.members.get_mut(&node).expect("it is a node");
        let life = member.life.take().expect("it runs");
        let remains = Remains::of(&life);
        // Whether everything could be closed in order depends on its disk.
        drop(tokio::time::timeout(PATIENCE, life.close()).await.expect("a node that is told to stop stops"));
        // The process ends, and another one finds what was written.
        self.network.leave(node);
        member.disk = member.disk.kill();
        remains.are_gone().await;
    }

    fn node(&self, node: NodeId) -> &Node {
        self.members[&node].life.as_ref().expect("it runs")
    }

    /// The nodes that run.
    fn running(&self) -> Vec<NodeId> {
        self.members.iter().filter(|(_, member)| member.life.is_some()).map(|(node, _)| *node).collect()
    }

    /// Waits until all running nodes serve everything.
    async fn served(&self) {
        for node in self.running() {
            let served = machines::wait_until_served(&self.node(node).context, soon()).await;
            served.unwrap_or_else(|error| panic!("node {node}: {error}"));
            eventually("nothing is in trouble", || self.node(node).router().is_ready().ok()).await;
        }
    }

    /// All of the wallet's replicas on a node that serves it.
    fn replicas(&self, node: NodeId) -> Vec<Arc<Partition>> {
        let machine = self.node(node).router().find_machine(MACHINE).expect("the node serves the wallet");
        let find = |id| machine.find_partition(id).unwrap_or_else(|| panic!("node {node} has no replica of {id}"));
        machine.partition_ids().map(find).collect()
    }

    /// The wallet's first replica on a node that serves it.
    fn replica(&self, node: NodeId) -> Arc<Partition> {
        let found = find_replica(self.node(node).router());
        found.unwrap_or_else(|| panic!("node {node} has no replica of the wallet"))
    }

    /// Waits until one of these nodes leads the wallet's first partition.
    async fn leader(&self, among: &[NodeId]) -> NodeId {
        eventually("one of the nodes leads", || {
            among
                .iter()
                .copied()
                .find(|node| find_replica(self.node(*node).router()).is_some_and(|replica| replica.is_leader()))
        })
        .await
    }

    /// Cuts a node off: it does not hear the others, and they do not hear it.
    fn cut_off(&self, node: NodeId) {
        for other in others(node) {
            self.network.cut_both_ways(node, other);
        }
    }

    /// Two accounts of the same partition.
    fn two_accounts_in(&self, partition: PartitionId) -> [usize; 2] {
        let is_there = |account: &usize| partition_of(self.bank.accounts[*account].as_bytes(), PARTITIONS) == partition;
        // The last account was never opened.
        let mut found = (0..self.bank.accounts.len() - 1).filter(is_there);
        [found.next(), found.next()].map(|account| account.expect("each partition has two"))
    }

    fn load(&self) -> Load {
        Load::start(self.doors.clone(), self.bank.accounts.clone(), self.seed)
    }

    /// Heals the network and judges what all running nodes have, and what clients were told.
    async fn judge(&self, attempts: &[Attempt]) {
        self.network.heal();
        self.served().await;
        self.bank.judge(self, attempts).await;
    }

    /// The folder of the wallet's first partition on a node.
    fn partition_folder(&self, node: NodeId) -> PathBuf {
        super::folder::partition_folder(&self.folder.path().join(node.to_string()), MACHINE, PartitionId(0))
    }
}

/// Stops the nodes that a test leaves running: their threads would hold their memory until the process ends.
impl Drop for Cluster {
    fn drop(&mut self) {
        // The runtime waits for threads that wait for a disk: a test that fails meanwhile would not end.
        self.members.values().for_each(|member| member.disk.release_syncs());
        if std::thread::panicking() {
            return;
        }
        let lives: Vec<Node> = self.members.values_mut().filter_map(|member| member.life.take()).collect();
        let stopping = join_all(lives.into_iter().map(|life| tokio::time::timeout(PATIENCE, life.stop())));
        // Whether a node can still write no longer matters.
        drop(tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(stopping)));
    }
}

fn find_replica(router: &Router) -> Option<Arc<Partition>> {
    router.find_machine(MACHINE)?.find_partition(PartitionId(0))
}

fn address(node: NodeId) -> String {
    format!("node-{node}:7000")
}

fn others(node: NodeId) -> impl Iterator<Item = NodeId> {
    NODES.into_iter().filter(move |other| *other != node)
}
