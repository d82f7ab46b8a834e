//! What a node is made of and never changes: its folder, its keys, its network, the services that guard one thing each,
//! what its tasks publish, and how they are asked.
//!
//! In: all that is made before anything runs. Out: the same, for every task, and look-ups. A service has private
//! fields, and its methods are the rules for what it guards. No task is imported here, so that each task may import
//! this. It does not know what runs.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::archive::Archive;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::features::Features;
use crate::ids::{NodeId, PartitionId};
use crate::key::PublicKey;
use crate::partition::Partition;
use crate::peer::{GroupName, Identity, Links, Network, PeerRenewal, SeenBook};
use crate::registry::Registry;
use crate::router::{Machine, Router};
use crate::store::StoreShared;
use crate::system::clocks::Clocks;
use crate::system::directory::Directory;
use crate::system::directory_now::DirectoryNow;
use crate::system::directory_requests::DirectoryRequests;
use crate::system::folder::DataFolder;
use crate::system::logic::{MachineRow, SYSTEM};
use crate::system::machine_spec::MachineSpec;
use crate::system::published::Published;
use crate::system::pulse::Pulse;
use crate::system::reached_level::Level;
use crate::system::record::NodeRecord;
use crate::system::replica_states::ReplicaStates;
use crate::views::Views;

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

pub struct NodeContext {
    pub node: NodeId,
    /// The key by which others verify what this node has signed.
    pub key: PublicKey,
    /// Machines to create when `system` does not know them.
    pub specs: Vec<MachineSpec>,
    pub opening: Opening,
    /// Where clients reach this node. The other nodes are told.
    pub http: Option<String>,
    pub folder: DataFolder,
    pub registry: Arc<Registry>,
    pub router: Arc<Router>,
    pub views: Views,
    pub network: Arc<dyn Network>,
    /// Who this node is to its peers.
    pub identity: Identity,
    /// Connections that the others have open here.
    pub links: Links,
    /// Replaces the certificates between nodes; `None` without TLS, or without peers.
    pub renewal: Option<PeerRenewal>,
    pub clocks: Arc<Clocks>,
    /// The same, for those who only ask for the time.
    pub clock: Arc<dyn Clock>,
    pub level: Level,
    pub seen: Arc<SeenBook>,
    /// This node's counter, which the others remember.
    pub pulse: Pulse,
    /// What this node has recorded about itself.
    pub record: NodeRecord,
    /// Stops the compilation of modules that somebody uploads.
    pub examining: CancellationToken,
    /// Cancelled when the node is about to stop. From then on it takes on nothing new.
    pub leaving: CancellationToken,
    pub stopping: CancellationToken,
    /// What the node's tasks publish.
    pub published: Published,
    pub directory_requests: DirectoryRequests,
    pub replica_states: Arc<ReplicaStates>,
    /// The machine `system`, as soon as this node is about to open it.
    pub system: OnceLock<Arc<Machine>>,
    /// Held while a canonical snapshot is fetched, from the archive or from another node.
    pub fetching: tokio::sync::Mutex<()>,
}

impl NodeContext {
    /// What `system` says, as far as this node has applied it.
    pub fn directory(&self) -> Arc<Directory> {
        self.published.directory.borrow().directory.clone()
    }

    /// Follows what this node knows of its cluster; what it knows now has been seen.
    pub fn watch_directory(&self) -> watch::Receiver<DirectoryNow> {
        let mut directory = self.published.directory.clone();
        directory.mark_unchanged();
        directory
    }

    /// Whether this node has read `system` as of now since it started.
    pub fn is_level(&self) -> bool {
        self.published.directory.borrow().is_level
    }

    /// The other nodes of the cluster.
    pub fn others(&self) -> Vec<NodeId> {
        self.published.nodes.borrow().iter().copied().filter(|node| *node != self.node).collect()
    }

    pub fn find_replica(&self, group: &GroupName) -> Option<Arc<Partition>> {
        self.replica_states.find_open(group)
    }

    pub fn replicas(&self) -> Vec<(GroupName, Arc<Partition>)> {
        self.replica_states.open()
    }

    /// The partition that holds the directory, once it is open.
    pub fn system_partition(&self) -> Option<Arc<Partition>> {
        self.system.get()?.find_partition(PartitionId(0))
    }

    /// A machine by its name, `system` among them.
    pub fn find_machine(&self, name: &str) -> Option<Arc<Machine>> {
        let system = self.system.get().filter(|system| system.name() == name);
        system.cloned().or_else(|| self.router.find_machine(name))
    }

    /// Whether every replica that this node should have is open. Then what others hear of this node is all there is.
    pub fn is_all_open(&self) -> bool {
        let directory = self.directory();
        let of = |(name, row): (&String, &MachineRow)| {
            let name = name.clone();
            (0..row.partitions).map(move |partition| GroupName::new(name.as_str(), PartitionId(partition)))
        };
        let system = GroupName::new(SYSTEM, PartitionId(0));
        let mut groups = directory.machines.iter().flat_map(of).chain([system]);
        self.is_level() && directory.is_founded() && self.replica_states.are_open(&mut groups)
    }
}
