//! What all tasks of a node share: its folder, its registry, its network to the others, the partitions it has open.
//!
//! In: a directory. Out: machines with open replicas. A partition opens once the other nodes have confirmed that its
//! log holds all that they have seen of it. It knows nothing of HTTP, nor of who should lead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::archive::Archive;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::features::Features;
use crate::ids::{ModuleId, NodeId, PartitionId};
use crate::key::PublicKey;
use crate::log::DamagedLog;
use crate::machine::logic::Logic;
use crate::partition::Partition;
use crate::peer::{GroupName, Identity, Links, Network, PeerRenewal, SeenBook};
use crate::registry::Registry;
use crate::router::{Machine, MachineOptions, Router};
use crate::store::StoreShared;
use crate::system::clocks::Clocks;
use crate::system::directory::Directory;
use crate::system::drain;
use crate::system::error::NodeError;
use crate::system::folder::DataFolder;
use crate::system::level::{self, Level};
use crate::system::logic::{MachineRow, SYSTEM};
use crate::system::losses::Waiting;
use crate::system::modules::HostModules;
use crate::system::node::MachineSpec;
use crate::system::peer_network::NodeRoutes;
use crate::system::peer_permissions::Standing;
use crate::system::published::Published;
use crate::system::pulse::Pulse;
use crate::system::record::NodeRecord;
use crate::system::timekeeping::WordsHeard;
use crate::system::turn::Turn;
use crate::views::Views;

/// How soon a question that nobody answered is asked again.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(250);

/// The options with which partitions are opened.
pub struct Opening {
    pub disk: Arc<dyn Disk>,
    pub paranoid: bool,
    pub hot_bytes_max: usize,
    pub shared: StoreShared,
    /// About how much of each log is kept; all of it if this is `None`.
    pub log_keep_bytes: Option<u64>,
    /// No part of a log is released that is not in this archive.
    pub archive: Option<Archive>,
    /// Each partition also makes a canonical snapshot about every so many bytes of its journal.
    pub snapshot_every_bytes: Option<u64>,
    /// How many canonical snapshots are kept.
    pub snapshot_keep: Option<u32>,
    /// The features that all nodes of the cluster understand.
    pub features: Features,
}

pub struct Host {
    pub node: NodeId,
    /// The key by which others verify what this node has signed.
    pub key: PublicKey,
    pub folder: DataFolder,
    pub registry: Arc<Registry>,
    pub router: Arc<Router>,
    pub views: Views,
    pub clock: Arc<dyn Clock>,
    pub opening: Opening,
    pub level: Level,
    pub standing: Standing,
    pub network: Arc<dyn Network>,
    pub routes: NodeRoutes,
    /// Who this node is to its peers.
    pub identity: Identity,
    /// Connections that the others have open here.
    pub links: Links,
    /// Replaces the certificates between nodes; `None` without TLS, or without peers.
    pub renewal: Option<PeerRenewal>,
    /// Machines to create when `system` does not know them.
    pub specs: Vec<MachineSpec>,
    pub seen: Arc<SeenBook>,
    pub clocks: Arc<Clocks>,
    /// Where clients reach this node. The other nodes are told.
    pub http: Option<String>,
    pub published: Published,
    pub directory: watch::Sender<Directory>,
    /// The nodes of the directory, or of the identity until the directory is known.
    pub nodes: watch::Sender<Vec<NodeId>>,
    /// All open replicas, for the peers.
    pub replicas: RwLock<BTreeMap<GroupName, Arc<Partition>>>,
    /// Logs that are being repaired, for peers whose log is damaged too.
    pub damaged: RwLock<BTreeMap<GroupName, Arc<DamagedLog>>>,
    pub system: RwLock<Option<Arc<Machine>>>,
    /// What this node has recorded about itself.
    pub record: NodeRecord,
    /// This node's counter, which the others remember.
    pub pulse: Pulse,
    /// What each partition waits for that stays closed because entries are missing.
    pub waiting: Waiting,
    /// Replicas that a task is opening or receiving a snapshot for. No other task opens them.
    pub turns: Mutex<BTreeSet<GroupName>>,
    /// Stops the compilation of modules that somebody uploads.
    pub examining: CancellationToken,
    /// Held while a canonical snapshot is fetched, from the archive or from another node.
    pub fetching: tokio::sync::Mutex<()>,
    /// Held while the directory is read.
    pub reading: Mutex<WordsHeard>,
    /// Cancelled when the node is about to stop. From then on it takes on nothing new.
    pub leaving: CancellationToken,
    pub stopping: CancellationToken,
}

impl Host {
    /// The other nodes of the cluster.
    pub fn others(&self) -> Vec<NodeId> {
        self.nodes.borrow().iter().copied().filter(|node| *node != self.node).collect()
    }

    pub fn find_replica(&self, group: &GroupName) -> Option<Arc<Partition>> {
        self.replicas.read().get(group).cloned()
    }

    pub fn replicas(&self) -> Vec<(GroupName, Arc<Partition>)> {
        self.replicas.read().iter().map(|(group, partition)| (group.clone(), partition.clone())).collect()
    }

    /// The partition that holds the directory, once it is open.
    pub fn system_partition(&self) -> Option<Arc<Partition>> {
        self.system.read().as_ref()?.find_partition(PartitionId(0))
    }

    /// A machine by its name, `system` among them.
    pub fn find_machine(&self, name: &str) -> Option<Arc<Machine>> {
        let system = self.system.read().clone().filter(|system| system.name() == name);
        system.or_else(|| self.router.find_machine(name))
    }

    /// Makes the machine `system` known and opens its only partition.
    pub async fn open_system(self: &Arc<Self>, system: Arc<dyn Logic>) -> Result<(), NodeError> {
        let machine = self.system.write().get_or_insert_with(|| self.machine(SYSTEM, 1, system)).clone();
        self.router.set_system(machine.clone());
        self.open_missing(&machine, PartitionId(0), self.founders_of_system()).await
    }

    pub(super) fn founders_of_system(&self) -> Vec<NodeId> {
        let identity = self.folder.identity().expect("only a member of a cluster opens partitions");
        if identity.is_founder { identity.peers.keys().copied().collect() } else { Vec::new() }
    }

    /// Opens the replicas that the directory names and that are not open here, all at once. Returns the first failure.
    pub async fn open_machines(self: &Arc<Self>, directory: &Directory) -> Result<(), NodeError> {
        let opening = directory.machines.iter().map(|(name, row)| async move {
            let Some(machine) = self.find_or_make(name, row).await? else { return Ok(()) };
            let founders = founders_of(row);
            let opening = machine.partition_ids().map(|id| self.open_missing(&machine, id, founders.clone()));
            join_all(opening).await.into_iter().collect()
        });
        join_all(opening).await.into_iter().collect()
    }

    /// Finds or makes a machine and brings it up to date. Returns `None` while its partitions must not be opened.
    pub(super) async fn find_or_make(
        self: &Arc<Self>,
        name: &str,
        row: &MachineRow,
    ) -> Result<Option<Arc<Machine>>, NodeError> {
        let mut hindrances = drain::hindrances(&self.directory.borrow(), name);
        hindrances.is_removed = self.standing.is_removed();
        let machine = match self.router.find_machine(name) {
            Some(machine) => {
                machine.set_hindrances(hindrances);
                if machine.module_id() != ModuleId(row.module) {
                    machine.set_active(self.find_module(ModuleId(row.module)).await?);
                }
                machine
            }
            None => {
                let active = self.find_module(ModuleId(row.module)).await?;
                let machine = self.machine(name, row.partitions, active);
                self.router.add(machine.clone());
                machine
            }
        };
        // Until this node is level, what it knows about the others may be long out of date, so it shares nothing with
        // them yet.
        Ok(self.standing.is_level().then_some(machine))
    }

    /// Opens a replica, unless it is open or a task is opening it.
    async fn open_missing(
        self: &Arc<Self>,
        machine: &Arc<Machine>,
        partition: PartitionId,
        founders: Vec<NodeId>,
    ) -> Result<(), NodeError> {
        let turn = Turn::begin(self, &GroupName::new(machine.name(), partition));
        if turn.is_none() || machine.find_partition(partition).is_some() {
            return Ok(());
        }
        self.open_replica(machine, partition, founders).await
    }

    /// Opens a partition and registers it, or registers why it is not served. Nobody may have it open.
    pub(super) async fn open_replica(
        self: &Arc<Self>,
        machine: &Arc<Machine>,
        partition: PartitionId,
        founders: Vec<NodeId>,
    ) -> Result<(), NodeError> {
        let opened = self.try_open(machine, partition, founders).await;
        if let Err(error) = &opened {
            let reason = error.to_string();
            // Opening is retried again and again, and the same reason is logged once.
            if machine.set_replica(partition, Err(reason.clone())).err() != Some(reason) {
                tracing::error!(%error, "a partition is not served");
            }
        }
        opened
    }

    fn machine(self: &Arc<Self>, name: &str, partition_count: u32, active: Arc<dyn Logic>) -> Arc<Machine> {
        Machine::new(MachineOptions {
            name: name.to_owned(),
            partition_count,
            modules: Arc::new(HostModules::new(self)),
            active,
            clock: self.clock.clone(),
            node: self.node,
            network: self.network.clone(),
            nodes: self.nodes.subscribe(),
            answering: self.published.answering.clone(),
            features: self.opening.features.clone(),
        })
    }

    /// Finds a module in this node's registry, or else on another node; asks the others for a while.
    pub async fn find_module(self: &Arc<Self>, id: ModuleId) -> Result<Arc<dyn Logic>, NodeError> {
        let modules = HostModules::new(self);
        let finding = tokio::task::spawn_blocking(move || modules.find(id)).await;
        Ok(finding.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?)
    }

    /// Follows the directory as `system` changes, until the node stops.
    pub async fn follow_directory(self: Arc<Self>) {
        while !self.stopping.is_cancelled() {
            // The partition is not held meanwhile: it may have to be closed to install a snapshot, and then another
            // takes its place.
            let system = self.system_partition().map(|system| {
                let progress = system.watch_progress();
                (progress, self.read_directory(&system))
            });
            let (progress, read) = system.unzip();
            match read {
                Some(Err(error)) if self.level.is_refused() => return level::halt(&self, &error).await,
                Some(Err(error)) => tracing::error!(%error, "the directory cannot be read"),
                _ => {}
            }
            let changed = async {
                let is_there = match progress {
                    Some(mut progress) => progress.changed().await.is_ok(),
                    None => false,
                };
                if !is_there {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            };
            tokio::select! {
                () = changed => {}
                () = self.stopping.cancelled() => {}
            }
        }
    }

    /// Takes over what `system` says now.
    pub fn read_directory(&self, system: &Partition) -> Result<(), NodeError> {
        // One task at a time reads, so that none overwrites what another has read later.
        let mut words_heard = self.reading.lock();
        let failed = |source| NodeError::of_partition(&GroupName::new(SYSTEM, PartitionId(0)), source);
        let point = system.read_stale().map_err(failed)?;
        let directory = Directory::read(&point.view).map_err(|error| failed(error.into()))?;
        self.level.take_over(directory.feature_level)?;
        if directory.retired.contains(&self.node) {
            self.on_removed();
        }
        self.on_clock_row(&directory.clock, &mut words_heard);
        if directory.is_founded() {
            if let Err(error) = self.folder.set_founded() {
                tracing::error!(%error, "it could not be recorded that the cluster exists");
            }
            self.routes.set(&directory.nodes);
            let nodes: Vec<NodeId> = directory.nodes.keys().copied().collect();
            self.nodes.send_if_modified(|before| {
                *before != nodes && {
                    *before = nodes;
                    true
                }
            });
        }
        self.directory.send_if_modified(|before| {
            *before != directory && {
                *before = directory;
                true
            }
        });
        Ok(())
    }

    /// Called when `system` or another node says that this node was removed from the cluster.
    pub fn on_removed(&self) {
        self.standing.on_removed();
        let node = self.node;
        let reason =
            format!("node {node} was removed from this cluster for good: stop it; its data is not needed any more");
        self.router.set_trouble("membership", Some(reason));
    }

    /// Machines that this node should serve and does not know yet. A request for one would be told that it does not
    /// exist.
    pub(super) fn unknown_machines(&self) -> Vec<String> {
        let unknown = self.specs.iter().filter(|spec| self.router.find_machine(&spec.name).is_none());
        unknown.map(|spec| format!("the machine `{}` is not known yet", spec.name)).collect()
    }

    /// Waits until `system` knows every machine to create, and has recorded the feature level of a node that is alone.
    pub async fn wait_until_created(&self, deadline: Instant) -> Result<Directory, NodeError> {
        let system = self.system_partition().expect("it was opened before");
        let mut progress = system.watch_progress();
        loop {
            self.read_directory(&system)?;
            let directory = self.directory.borrow().clone();
            let is_level = self.level.max() <= directory.feature_level;
            if is_level && self.specs.iter().all(|spec| directory.machines.contains_key(&spec.name)) {
                return Ok(directory);
            }
            if !matches!(tokio::time::timeout_at(deadline, progress.changed()).await, Ok(Ok(()))) {
                return Err(NodeError::NotServed("the machines were not created in time".to_owned()));
            }
        }
    }

    /// Waits until every partition has a leader and its module. At the deadline the error says what is missing.
    pub async fn wait_until_served(&self, deadline: Instant) -> Result<(), NodeError> {
        loop {
            let missing = match self.router.is_ready() {
                Ok(()) if self.is_decided() => return Ok(()),
                Ok(()) => vec!["a partition has no module yet".to_owned()],
                Err(missing) => missing,
            };
            if deadline <= Instant::now() {
                return Err(NodeError::NotServed(missing.join(", ")));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether every partition of every machine to create is open and has its first module.
    fn is_decided(&self) -> bool {
        self.specs.iter().all(|spec| {
            let Some(machine) = self.router.find_machine(&spec.name) else { return false };
            let has_module = |partition: Arc<Partition>| partition.progress().journal.module != ModuleId::ZERO;
            machine.partition_ids().all(|id| machine.find_partition(id).is_some_and(has_module))
        })
    }
}

pub(super) fn founders_of(row: &MachineRow) -> Vec<NodeId> {
    row.founders.iter().map(|id| NodeId(*id)).collect()
}
