//! What the tasks of a node share: the context, what they publish, whom they may ask, and what several of them still
//! write, which are the replicas.
//!
//! In: what tasks write. Out: the same for all others, and look-ups. No task is imported here. It knows nothing of
//! HTTP, nor of who should lead.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::ids::{NodeId, PartitionId};
use crate::log::DamagedLog;
use crate::partition::Partition;
use crate::peer::GroupName;
use crate::router::Machine;
use crate::system::context::NodeContext;
use crate::system::directory::Directory;
use crate::system::directory_now::DirectoryNow;
use crate::system::directory_requests::DirectoryRequests;
use crate::system::logic::SYSTEM;
use crate::system::published::Published;
use crate::system::waiting::Waiting;

/// How soon a question that nobody answered is asked again.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(250);

/// It is read like the context that it has.
pub struct Host {
    pub context: Arc<NodeContext>,
    pub published: Published,
    pub directory_requests: DirectoryRequests,
    /// All open replicas, for the peers.
    pub replicas: RwLock<BTreeMap<GroupName, Arc<Partition>>>,
    /// Logs that are being repaired, for peers whose log is damaged too.
    pub damaged: RwLock<BTreeMap<GroupName, Arc<DamagedLog>>>,
    pub system: RwLock<Option<Arc<Machine>>>,
    /// What each partition waits for that stays closed because entries are missing.
    pub waiting: Waiting,
    /// Replicas that a task is opening or receiving a snapshot for. No other task opens them.
    pub turns: Mutex<BTreeSet<GroupName>>,
    /// Held while a canonical snapshot is fetched, from the archive or from another node.
    pub fetching: tokio::sync::Mutex<()>,
}

impl Deref for Host {
    type Target = NodeContext;

    fn deref(&self) -> &NodeContext {
        &self.context
    }
}

impl Host {
    /// A node that has nothing open.
    pub fn new(context: NodeContext, published: Published, directory_requests: DirectoryRequests) -> Self {
        Self {
            published,
            directory_requests,
            replicas: RwLock::default(),
            damaged: RwLock::default(),
            system: RwLock::default(),
            waiting: Waiting::default(),
            turns: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
            context: Arc::new(context),
        }
    }

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
        let (directory, replicas) = (self.directory(), self.replicas.read());
        let is_open =
            |machine: &str, partition| replicas.contains_key(&GroupName::new(machine, PartitionId(partition)));
        let mut machines = directory.machines.iter();
        let are_open = machines.all(|(name, row)| (0..row.partitions).all(|partition| is_open(name, partition)));
        self.is_level() && directory.is_founded() && is_open(SYSTEM, 0) && are_open
    }
}
