//! A node: opens the data folder, then `system`, then every machine that `system` knows, and serves them.
//!
//! Order at start: lock and identity, engine and registry, `system`, missing machines created, partitions opened, first
//! module activated where a journal is still empty. What was created before the process died is found again, so each step
//! may be the last one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use statehouse_abi::key::split_key;
use statehouse_abi::role;
use statehouse_abi::value::Value;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::guest::{Engine, EngineOptions};
use crate::ids::{CommandId, ModuleId, NodeId, PartitionId};
use crate::log::Disk;
use crate::machine::entry::Activation;
use crate::machine::logic::Logic;
use crate::machine::native::Native;
use crate::partition::{Modules, Partition, PartitionOptions};
use crate::registry::Registry;
use crate::router::answer::{Answer, Caller, CommandRequest};
use crate::router::{Machine, MachineOptions, Router};
use crate::store::{StoreOptions, StoreShared};
use crate::system::cluster::Cluster;
use crate::system::error::NodeError;
use crate::system::folder::DataFolder;
use crate::system::logic::{MachineRow, SYSTEM, System, machines_prefix, read_machine};

/// How long a partition may take to elect itself, or a machine to be created.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Cache of the state stores of all partitions together.
const BLOCK_CACHE_BYTES: usize = 256 << 20;

/// A machine to be created if it does not exist.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    pub name: String,
    pub module: ModuleSource,
    pub partitions: u32,
}

/// Where a module's bytes come from.
#[derive(Clone, Debug)]
pub enum ModuleSource {
    File(PathBuf),
    /// Compiled into this program.
    Embedded(&'static [u8]),
}

pub struct NodeOptions {
    pub data: PathBuf,
    pub node: NodeId,
    /// How other nodes are reached; without it the node is a cluster of its own.
    pub peer: Option<PeerOptions>,
    pub machines: Vec<MachineSpec>,
    pub disk: Arc<dyn Disk>,
    pub clock: Arc<dyn Clock>,
    /// Heavy checks that cost more than they may in production.
    pub paranoid: bool,
    /// Size above which clean rows leave a partition's hot table.
    pub hot_bytes_max: usize,
    /// Where clients reach this node, for the others to know.
    pub http: Option<String>,
}

/// How a node and the others reach each other.
pub struct PeerOptions {
    /// Already bound, so that a taken address is found before anything is opened.
    pub listener: TcpListener,
    /// `host:port` where the others reach this node.
    pub advertise: String,
    /// Where to reach some nodes, instead of where they advertise.
    pub routes: BTreeMap<NodeId, String>,
    pub tls: Option<PeerTlsFiles>,
    /// A node whose clock is further from its peers' median than this does not lead.
    pub clock_skew_max: Duration,
}

/// Mutual TLS between nodes, as PEM files.
#[derive(Clone, Debug)]
pub struct PeerTlsFiles {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// A running node.
pub struct Node {
    folder: DataFolder,
    router: Arc<Router>,
    partitions: Vec<Arc<Partition>>,
    registry: Arc<Registry>,
}

/// What partitions are opened with.
struct Opener {
    options: NodeOptions,
    cluster: [u8; 16],
    shared: StoreShared,
    registry: Arc<Registry>,
}

impl Node {
    pub async fn open(options: NodeOptions) -> Result<Self, NodeError> {
        let folder = DataFolder::open(&options.data, options.node)?;
        let cluster = folder.identity().cluster_bytes().expect("checked when the identity was read");
        let cache = Some(folder.path().join("artefacts"));
        let engine = Engine::new(EngineOptions { cache, ..EngineOptions::default() })?;
        let registry = Arc::new(Registry::open(folder.path().join("modules"), engine)?);
        let system: Arc<dyn Logic> = Arc::new(Native::<System>::new());
        registry.add_native(system.clone());
        let specs = options.machines.clone();
        let opener =
            Opener { options, cluster, shared: StoreShared::new(BLOCK_CACHE_BYTES), registry: registry.clone() };
        let system_partition = opener.open(&folder, SYSTEM, PartitionId(0)).await?;
        activate_first(&system_partition, SYSTEM, system.as_ref(), 0).await?;
        let system_machine = opener.machine(SYSTEM, vec![system_partition.clone()], system);
        for spec in &specs {
            create_missing(&system_machine, &system_partition, &registry, spec).await?;
        }
        let router = Arc::new(Router::default());
        let mut partitions = vec![system_partition.clone()];
        for (name, row) in machines(&system_partition).await? {
            let opened = opener.open_machine(&folder, &name, &row).await?;
            partitions.extend(opened.partitions().iter().cloned());
            router.add(opened);
        }
        Ok(Self { folder, router, partitions, registry })
    }

    pub fn router(&self) -> &Arc<Router> {
        &self.router
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// What operators ask of the cluster.
    pub fn cluster(&self) -> Cluster {
        Cluster::alone(self.folder.identity().node)
    }

    pub fn folder(&self) -> &DataFolder {
        &self.folder
    }

    /// Stops all partitions and writes what they have applied.
    pub async fn close(self) -> Result<(), NodeError> {
        self.router.set_not_ready(vec!["the node is shutting down".to_owned()]);
        let mut result = Ok(());
        for partition in &self.partitions {
            if let Err(source) = partition.close().await {
                let machine = "partition".to_owned();
                result = Err(NodeError::Partition { machine, partition: partition.id().0, source });
            }
        }
        result
    }
}

impl Opener {
    async fn open(&self, folder: &DataFolder, machine: &str, id: PartitionId) -> Result<Arc<Partition>, NodeError> {
        let failed = |source| NodeError::Partition { machine: machine.to_owned(), partition: id.0, source };
        let mut store = StoreOptions::new(self.shared.clone());
        store.paranoid = self.options.paranoid;
        store.hot_bytes_max = self.options.hot_bytes_max;
        let partition = Partition::open(PartitionOptions {
            cluster: self.cluster,
            node: self.options.node,
            machine: machine.to_owned(),
            partition: id,
            folder: folder.partition(machine, id),
            disk: self.options.disk.clone(),
            clock: self.options.clock.clone(),
            modules: self.registry.clone(),
            store,
        });
        let partition = partition.await.map_err(failed)?;
        partition.wait_for_leader(Instant::now() + START_TIMEOUT).await.map_err(failed)?;
        Ok(partition)
    }

    async fn open_machine(&self, folder: &DataFolder, name: &str, row: &MachineRow) -> Result<Arc<Machine>, NodeError> {
        let first = self.registry.find(ModuleId(row.module))?;
        let mut partitions = Vec::new();
        for id in (0..row.partitions).map(PartitionId) {
            let partition = self.open(folder, name, id).await?;
            activate_first(&partition, name, first.as_ref(), row.activation).await?;
            partitions.push(partition);
        }
        let active = self.registry.find(partitions[0].progress().journal.module)?;
        Ok(self.machine(name, partitions, active))
    }

    fn machine(&self, name: &str, partitions: Vec<Arc<Partition>>, active: Arc<dyn Logic>) -> Arc<Machine> {
        let (modules, clock): (Arc<dyn Modules>, _) = (self.registry.clone(), self.options.clock.clone());
        Machine::new(MachineOptions { name: name.to_owned(), partitions, modules, active, clock })
    }
}

/// Gives an empty journal its first module.
async fn activate_first(partition: &Partition, machine: &str, logic: &dyn Logic, number: u64) -> Result<(), NodeError> {
    let failed = |source| NodeError::Partition { machine: machine.to_owned(), partition: partition.id().0, source };
    let deadline = Instant::now() + START_TIMEOUT;
    // What the log holds is applied by the time a linearizable read is answered.
    let journal = partition.read_linearizable(deadline).await.map_err(failed)?.journal;
    if journal.module == ModuleId::ZERO {
        let activation = Activation { module: logic.id(), schema: logic.describe().schema, number };
        partition.activate(activation, deadline).await.map_err(failed)?;
    }
    Ok(())
}

/// All machines that `system` knows.
async fn machines(system: &Partition) -> Result<Vec<(String, MachineRow)>, NodeError> {
    let failed = |source| NodeError::Partition { machine: SYSTEM.to_owned(), partition: 0, source };
    let point = system.read_linearizable(Instant::now() + START_TIMEOUT).await.map_err(failed)?;
    let rows = point.view.scan(&machines_prefix(), None, usize::MAX).map_err(|error| failed(error.into()))?;
    let machine = |(key, row): &(Vec<u8>, Vec<u8>)| split_key(key).and_then(|(_, suffix)| read_machine(suffix, row));
    Ok(rows.iter().filter_map(machine).collect())
}

async fn create_missing(
    machine: &Machine,
    system: &Partition,
    registry: &Registry,
    spec: &MachineSpec,
) -> Result<(), NodeError> {
    if let Some((_, row)) = machines(system).await?.into_iter().find(|(name, _)| *name == spec.name) {
        let (expected, found) = (spec.partitions, row.partitions);
        return if expected == found {
            Ok(())
        } else {
            Err(NodeError::Partitions { machine: spec.name.clone(), expected, found })
        };
    }
    let logic = stage(registry, spec)?;
    let body = Value::map([
        ("name", Value::text(spec.name.as_str())),
        ("partitions", Value::Int(spec.partitions.into())),
        ("module", Value::text(logic.id().to_string())),
    ]);
    let request = CommandRequest {
        command: 0,
        body: body.to_cbor().expect("the body has no integer over 64 bits"),
        id: CommandId(uuid::Uuid::now_v7().into_bytes()),
        caller: Arc::new(Caller { name: "node".to_owned(), roles: role::ALL }),
        request_id: "start".into(),
        deadline: Instant::now() + START_TIMEOUT,
    };
    match machine.submit(vec![request]).await.pop() {
        Some(Answer::Done(_)) => Ok(()),
        answer => Err(NodeError::Create { machine: spec.name.clone(), reason: format!("{answer:?}") }),
    }
}

fn stage(registry: &Registry, spec: &MachineSpec) -> Result<Arc<dyn Logic>, NodeError> {
    let (wasm, path) = match &spec.module {
        ModuleSource::Embedded(wasm) => (wasm.to_vec(), PathBuf::from("(built in)")),
        ModuleSource::File(path) => {
            let wasm = std::fs::read(path).map_err(|source| NodeError::ModuleFile { path: path.clone(), source })?;
            (wasm, path.clone())
        }
    };
    let logic = registry.stage(&wasm)?;
    let found = logic.describe().name.clone();
    if found != spec.name {
        return Err(NodeError::ModuleMachine { path, expected: spec.name.clone(), found });
    }
    Ok(logic)
}
