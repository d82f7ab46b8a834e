//! What all tasks of a node share: its folder, its registry, its network to the others, the partitions it has open.
//!
//! In: a directory. Out: machines with open replicas. A partition opens once the other nodes have confirmed that its
//! log holds all that they have seen of it. It knows nothing of HTTP, nor of who should lead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::archive::Archive;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::features::Features;
use crate::ids::{NodeId, PartitionId};
use crate::key::PublicKey;
use crate::log::DamagedLog;
use crate::partition::Partition;
use crate::peer::{GroupName, Identity, Links, Network, PeerRenewal, SeenBook};
use crate::registry::Registry;
use crate::router::{Machine, Router};
use crate::store::StoreShared;
use crate::system::clocks::Clocks;
use crate::system::directory::{Directory, WordsHeard};
use crate::system::folder::DataFolder;
use crate::system::logic::SYSTEM;
use crate::system::machine_spec::MachineSpec;
use crate::system::peer_network::NodeRoutes;
use crate::system::published::Published;
use crate::system::pulse::Pulse;
use crate::system::reached_level::Level;
use crate::system::record::NodeRecord;
use crate::system::standing::Standing;
use crate::system::waiting::Waiting;
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

    /// Whether every replica that this node should have is open. Then what others hear of this node is all there is.
    pub fn is_all_open(&self) -> bool {
        let (directory, replicas) = (self.directory.borrow(), self.replicas.read());
        let is_open =
            |machine: &str, partition| replicas.contains_key(&GroupName::new(machine, PartitionId(partition)));
        let mut machines = directory.machines.iter();
        let are_open = machines.all(|(name, row)| (0..row.partitions).all(|partition| is_open(name, partition)));
        self.standing.is_level() && directory.is_founded() && is_open(SYSTEM, 0) && are_open
    }
}
