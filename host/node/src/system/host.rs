//! What the tasks of a node share: the context, what they publish, whom they may ask, and the replicas.
//!
//! In: what tasks write. Out: the same for all others, and look-ups. No task is imported here. It knows nothing of
//! HTTP, nor of who should lead.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use crate::ids::{NodeId, PartitionId};
use crate::partition::Partition;
use crate::peer::GroupName;
use crate::router::Machine;
use crate::system::context::NodeContext;
use crate::system::directory::Directory;
use crate::system::directory_now::DirectoryNow;
use crate::system::directory_requests::DirectoryRequests;
use crate::system::logic::{MachineRow, SYSTEM};
use crate::system::published::Published;
use crate::system::replica_states::ReplicaStates;

/// How soon a question that nobody answered is asked again.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(250);

/// It is read like the context that it has.
pub struct Host {
    pub context: Arc<NodeContext>,
    pub published: Published,
    pub directory_requests: DirectoryRequests,
    pub replica_states: Arc<ReplicaStates>,
    /// The machine `system`, as soon as this node is about to open it.
    pub system: OnceLock<Arc<Machine>>,
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
            replica_states: Arc::default(),
            system: OnceLock::new(),
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
