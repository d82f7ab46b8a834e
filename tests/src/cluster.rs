//! A cluster of real `statehouse serve` processes, with a proxy in every direction between two of them.
//!
//! ```text
//! folder/node-1.toml, node-1/     process 1 ──▶ proxy 1→2 ──▶ process 2
//! folder/node-2.toml, node-2/     …                           …
//! ```
//! In: how many nodes and partitions. Out: nodes that a test kills, pauses, cuts off, damages and starts again. It
//! knows the configuration file, `statehouse cluster`, `/readyz` and `/v1/cluster`, and judges nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use statehouse_kernel::ids::{NodeId, PartitionId};
use tempfile::{TempDir, tempdir};

use crate::artefacts;
use crate::damage::{self, Backup, Place};
use crate::hold::{PATIENCE, find_within, within};
use crate::http::Client;
use crate::network::Network;
use crate::ports::free_address;
use crate::process::{CommandOutput, FailedStart, Process, argument, binary, cli};
use crate::wall_clock::WallClock;

pub const MACHINE: &str = "wallet";
/// A node that does not answer a question about itself within this time is taken for one that cannot.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);

/// What a cluster is started with.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub nodes: u64,
    pub partitions: u32,
    /// About how much of each log every node keeps; `None`: everything.
    pub log_keep_bytes: Option<u64>,
    /// Whether the machine `capacity` runs beside the wallet.
    pub has_capacity: bool,
}

pub struct Cluster {
    nodes: BTreeMap<NodeId, Node>,
    network: Network,
    /// The folder of the configurations, and of the nodes' data.
    folder: TempDir,
    shape: Shape,
}

struct Node {
    config: PathBuf,
    data: PathBuf,
    http: SocketAddr,
    peer: SocketAddr,
    /// The clock whose time the node takes for the right one; `None`: the machine's.
    clock: Option<WallClock>,
    /// `None` while it is down.
    process: Option<Process>,
}

/// The place of one replica of a partition, as its node reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    pub leader: Option<NodeId>,
    pub position: String,
    /// The time of the journal's last entry.
    pub time: String,
    pub head: String,
    pub state: String,
}

/// Replicas by machine and partition.
pub type Replicas = BTreeMap<(String, PartitionId), Replica>;

impl Cluster {
    /// Starts the nodes, makes them a cluster, and waits until each of them is ready.
    pub async fn start(shape: Shape) -> Self {
        let mut cluster = Self::start_without_init(shape).await;
        cluster.init();
        cluster.ready().await;
        cluster
    }

    /// Like [`Cluster::start`], with the data of one node in a folder elsewhere, like a disk of its own.
    pub async fn start_with_folder(shape: Shape, id: NodeId, data: &Path) -> Self {
        let folder = tempdir().expect("a temporary folder");
        std::os::unix::fs::symlink(data, folder.path().join(format!("node-{id}"))).expect("a new link");
        let mut cluster = Self::start_in(folder, shape).await;
        cluster.init();
        cluster.ready().await;
        cluster
    }

    /// Starts nodes that belong to no cluster yet.
    pub async fn start_without_init(shape: Shape) -> Self {
        Self::start_in(tempdir().expect("a temporary folder"), shape).await
    }

    async fn start_in(folder: TempDir, shape: Shape) -> Self {
        let ids: Vec<NodeId> = (1..=shape.nodes).map(NodeId).collect();
        let peers: BTreeMap<NodeId, SocketAddr> = ids.iter().map(|id| (*id, free_address())).collect();
        let network = Network::between(&peers).await;
        let mut nodes = BTreeMap::new();
        for (id, peer) in &peers {
            nodes.insert(*id, Node::make(folder.path(), *id, *peer, network.routes(*id), shape));
        }
        let mut cluster = Self { nodes, network, folder, shape };
        for id in ids {
            cluster.restart(id).await;
        }
        cluster
    }

    /// Makes the nodes a cluster, as an operator would.
    pub fn init(&self) {
        let first = self.ids()[0];
        let nodes: Vec<String> = self.nodes.iter().map(|(id, node)| format!("{id}={}", node.peer)).collect();
        let arguments: Vec<&str> = nodes.iter().flat_map(|node| ["--node", node]).collect();
        let CommandOutput { code, stdout, stderr } = self.command(first, "init", &arguments);
        assert_eq!(code, Some(0), "cluster init: {stdout}\n{stderr}");
    }

    /// Starts one more node, which belongs to no cluster yet. It reaches the others directly.
    pub async fn start_another(&mut self) -> NodeId {
        let id = self.ids().last().expect("a cluster has nodes").next();
        let node = Node::make(self.folder(), id, free_address(), std::iter::empty(), self.shape);
        self.nodes.insert(id, node);
        self.restart(id).await;
        id
    }

    /// Runs `statehouse cluster VERB`, asking node `at`.
    pub fn command(&self, at: NodeId, verb: &str, arguments: &[&str]) -> CommandOutput {
        let url = self.url(at);
        cli([&["cluster", verb, "--url", &url], arguments].concat())
    }

    /// Has node `at` add a node to the cluster.
    pub fn add(&self, at: NodeId, id: NodeId) -> CommandOutput {
        self.command(at, "add", &["--node", &format!("{id}={}", self.node(id).peer)])
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// Nodes that have a process.
    pub fn running(&self) -> Vec<NodeId> {
        self.nodes.iter().filter(|(_, node)| node.process.is_some()).map(|(id, _)| *id).collect()
    }

    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The folder of configurations and data.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn data(&self, id: NodeId) -> &Path {
        &self.node(id).data
    }

    pub fn partition_folder(&self, id: NodeId, partition: PartitionId) -> PathBuf {
        self.data(id).join(MACHINE).join(partition.to_string())
    }

    pub fn http(&self, id: NodeId) -> SocketAddr {
        self.node(id).http
    }

    /// The address of every node's REST API, whether the node runs or not.
    pub fn addresses(&self) -> Vec<(NodeId, SocketAddr)> {
        self.nodes.iter().map(|(id, node)| (*id, node.http)).collect()
    }

    pub fn url(&self, id: NodeId) -> String {
        format!("http://{}", self.http(id))
    }

    pub fn client(&self, id: NodeId) -> Client {
        Client::to(self.http(id))
    }

    fn node(&self, id: NodeId) -> &Node {
        self.nodes.get(&id).unwrap_or_else(|| panic!("the cluster has no node {id}"))
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).unwrap_or_else(|| panic!("the cluster has no node {id}"))
    }

    fn process(&self, id: NodeId) -> &Process {
        self.node(id).process.as_ref().unwrap_or_else(|| panic!("node {id} is down"))
    }

    fn take(&mut self, id: NodeId) -> Process {
        self.node_mut(id).process.take().unwrap_or_else(|| panic!("node {id} is down"))
    }

    /// `kill -9`.
    pub fn kill(&mut self, id: NodeId) {
        self.take(id).kill();
    }

    /// Sends SIGTERM; the node must end in order.
    pub async fn terminate(&mut self, id: NodeId) {
        let status = self.take(id).terminate().await;
        assert!(status.success(), "node {id}: SIGTERM ends it in order: {status}");
    }

    /// Sends SIGSTOP: the node does nothing until it is resumed.
    pub fn pause(&self, id: NodeId) {
        self.process(id).pause();
    }

    pub fn resume(&self, id: NodeId) {
        self.process(id).resume();
    }

    /// Starts a node that is down. The node says where it listens, and need not be ready.
    pub async fn restart(&mut self, id: NodeId) {
        let started = self.try_restart(id).await;
        started.unwrap_or_else(|refused| panic!("node {id} did not start: {refused:?}"));
    }

    /// # Errors
    /// The process ended instead of listening.
    pub async fn try_restart(&mut self, id: NodeId) -> Result<(), FailedStart> {
        let node = self.node_mut(id);
        assert!(node.process.is_none(), "node {id} is running");
        if node.data.exists() {
            artefacts::keep(&node.data);
        } else {
            artefacts::lend(&node.data);
        }
        let mut command = Command::new(binary());
        command.arg("serve").arg("--config").arg(&node.config).args(["--paranoid", "--stop-with-stdin"]);
        if let Some(clock) = &node.clock {
            command.envs(clock.environment());
        }
        let process = Process::start(&format!("node {id}"), command).await?;
        assert_eq!(process.address(), node.http, "node {id} listens where its configuration says");
        node.process = Some(process);
        Ok(())
    }

    /// Has a node that is down take its time from `clock` when it is started again.
    pub fn set_clock(&mut self, id: NodeId, clock: WallClock) {
        let node = self.node_mut(id);
        assert!(node.process.is_none(), "node {id} is running");
        node.clock = Some(clock);
    }

    /// The clock that was set for a node.
    pub fn clock(&self, id: NodeId) -> &WallClock {
        self.node(id).clock.as_ref().unwrap_or_else(|| panic!("node {id} has the machine's clock"))
    }

    /// What a node printed last.
    pub fn output(&self, id: NodeId) -> String {
        self.process(id).output()
    }

    /// Removes everything that a stopped node has kept.
    pub fn wipe(&self, id: NodeId) {
        assert!(self.node(id).process.is_none(), "node {id} is running");
        damage::wipe(self.data(id));
    }

    /// A copy of a stopped node's folder.
    pub fn copy(&self, id: NodeId) -> Backup {
        assert!(self.node(id).process.is_none(), "node {id} is running");
        Backup::of(self.data(id))
    }

    /// Brings a stopped node's folder back to what it was.
    pub fn roll_back(&self, id: NodeId, backup: &Backup) {
        assert!(self.node(id).process.is_none(), "node {id} is running");
        backup.restore(self.data(id));
    }

    /// Flips a bit in a partition of a stopped node and returns the file.
    pub fn flip_bit(&self, id: NodeId, partition: PartitionId, place: Place) -> Option<PathBuf> {
        assert!(self.node(id).process.is_none(), "node {id} is running");
        damage::flip_bit(&self.partition_folder(id, partition), place)
    }

    /// Waits until every node that runs is ready.
    pub async fn ready(&mut self) {
        for id in self.running() {
            self.ready_on(id).await;
        }
    }

    pub async fn ready_on(&mut self, id: NodeId) {
        let mut client = Client::impatient(self.http(id), STATUS_PATIENCE);
        let node = self.node_mut(id);
        let process = node.process.as_mut().unwrap_or_else(|| panic!("node {id} is down"));
        let mut said = String::new();
        let ready = find_within(PATIENCE, async || {
            if let Some(refused) = process.find_refusal() {
                panic!("node {id} ended instead of becoming ready: {refused:?}");
            }
            let answer = client.get("/readyz").await.ok()?;
            said = String::from_utf8_lossy(&answer.body).into_owned();
            (answer.status == 200).then_some(())
        });
        assert!(ready.await.is_some(), "node {id} did not become ready within {PATIENCE:?}; it says: {said}");
    }

    /// What `/v1/cluster` says on a node; `None` when it does not answer.
    pub async fn status(&self, id: NodeId) -> Option<Value> {
        let mut client = Client::impatient(self.http(id), STATUS_PATIENCE);
        let answer = client.get("/v1/cluster").await.ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    /// The node's own replicas; `None` when it does not answer.
    pub async fn replicas(&self, id: NodeId) -> Option<Replicas> {
        Some(replicas_of(&self.status(id).await?))
    }

    /// The leader of a partition of the wallet: the running node that names itself as the leader.
    pub async fn leader(&self, partition: PartitionId) -> NodeId {
        self.leader_among(partition, &self.running()).await
    }

    /// The node among `candidates` that names itself as the leader of a partition.
    pub async fn leader_among(&self, partition: PartitionId, candidates: &[NodeId]) -> NodeId {
        self.leader_of(MACHINE, partition, candidates).await
    }

    /// The same for a partition of any machine.
    pub async fn leader_of(&self, machine: &str, partition: PartitionId, candidates: &[NodeId]) -> NodeId {
        let key = (machine.to_owned(), partition);
        within(PATIENCE, &format!("partition {partition} has a leader among {candidates:?}"), async || {
            for id in candidates {
                let replicas = self.replicas(*id).await.unwrap_or_default();
                if replicas.get(&key).is_some_and(|replica| replica.leader == Some(*id)) {
                    return Some(*id);
                }
            }
            None
        })
        .await
    }

    /// Waits until all running nodes have the same head in every partition, and no command is in flight. Nobody may be
    /// writing. What a client gave up earlier may still be recorded afterwards.
    pub async fn settle(&self) -> Replicas {
        let running = self.running();
        let mut seen = BTreeMap::new();
        let settled = find_within(PATIENCE, async || {
            let before = self.same_heads(&running, &mut seen).await?;
            for id in &running {
                let listed = self.client(*id).get("/v1/wallet/commands?state=in_flight").await.ok()?;
                let nothing = listed.status == 200 && listed.json()["items"] == serde_json::json!([]);
                nothing.then_some(())?;
            }
            // Only if nothing was recorded meanwhile was nothing in flight at these heads.
            let after = self.same_heads(&running, &mut seen).await?;
            (before == after).then_some(())
        });
        let is_settled = settled.await.is_some();
        assert!(is_settled, "the replicas did not settle within {PATIENCE:?}: {seen:#?}");
        seen.into_values().flatten().next().expect("somebody answered")
    }

    /// The heads of all partitions, if these nodes have the same ones.
    async fn same_heads(
        &self,
        nodes: &[NodeId],
        seen: &mut BTreeMap<NodeId, Option<Replicas>>,
    ) -> Option<Vec<(String, PartitionId, String)>> {
        for id in nodes {
            seen.insert(*id, self.replicas(*id).await);
        }
        let all: BTreeSet<_> = seen.values().map(heads).collect();
        if all.len() == 1 { all.into_iter().next().flatten() } else { None }
    }
}

/// What a failed test leaves is evidence.
impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
            eprintln!("the data of the nodes stays in {}", self.folder.path().display());
        }
    }
}

fn heads(replicas: &Option<Replicas>) -> Option<Vec<(String, PartitionId, String)>> {
    let replicas = replicas.as_ref().filter(|replicas| !replicas.is_empty())?;
    let heads = replicas.iter();
    Some(heads.map(|((machine, partition), replica)| (machine.clone(), *partition, replica.head.clone())).collect())
}

impl Node {
    /// A node that is down, with its configuration and a folder for its data.
    fn make(
        folder: &Path,
        id: NodeId,
        peer: SocketAddr,
        routes: impl Iterator<Item = (NodeId, SocketAddr)>,
        shape: Shape,
    ) -> Self {
        let data = folder.join(format!("node-{id}"));
        std::fs::create_dir_all(&data).expect("a new folder");
        let config = folder.join(format!("node-{id}.toml"));
        let node = Self { config, data, http: free_address(), peer, clock: None, process: None };
        std::fs::write(&node.config, node.config_text(id, routes, shape)).expect("a new file");
        node
    }

    fn config_text(&self, id: NodeId, routes: impl Iterator<Item = (NodeId, SocketAddr)>, shape: Shape) -> String {
        let routes: String = routes.map(|(to, address)| format!("{to} = \"{address}\"\n")).collect();
        let log = shape.log_keep_bytes.map_or_else(String::new, |bytes| format!("[log]\nkeep_bytes = {bytes}\n\n"));
        let capacity = argument(&release("capacity-1.0.0.wasm")).to_owned();
        let capacity = if shape.has_capacity {
            format!("\n[machines.capacity]\nmodule = {capacity:?}\npartitions = {}\n", shape.partitions)
        } else {
            String::new()
        };
        format!(
            "[node]\nid = {id}\ndata = {data:?}\n\n\
             [http]\nlisten = \"{http}\"\n\n[auth]\nopen = true\n\n\
             [peer]\nlisten = \"{peer}\"\nadvertise = \"{peer}\"\nplaintext = true\n\n\
             [peer.routes]\n{routes}\n\
             {log}[webhooks]\nallow = [\"127.0.0.1\"]\n\n\
             [machines.{MACHINE}]\nmodule = {module:?}\npartitions = {partitions}\n{capacity}",
            data = argument(&self.data),
            http = self.http,
            peer = self.peer,
            module = argument(&wallet_module()),
            partitions = shape.partitions,
        )
    }
}

/// The released wallet.
fn wallet_module() -> PathBuf {
    release("wallet-1.0.1.wasm")
}

/// A module that is released with the host.
pub fn release(file: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the test package lies in a folder of the root");
    root.join("modules").join("releases").join(file)
}

fn replicas_of(status: &Value) -> Replicas {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut replicas = Replicas::new();
    for machine in list(&status["machines"]) {
        for partition in list(&machine["partitions"]) {
            let number = partition["partition"].as_u64().unwrap_or_else(|| panic!("no `partition` in {partition}"));
            let replica = Replica {
                leader: partition["leader"].as_u64().map(NodeId),
                position: text(&partition["position"]),
                time: text(&partition["time"]),
                head: text(&partition["head"]),
                state: text(&partition["state"]),
            };
            replicas.insert((text(&machine["name"]), PartitionId(number as u32)), replica);
        }
    }
    replicas
}
