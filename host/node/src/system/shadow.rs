//! Shadows as the cluster knows them: which node runs which module as a shadow, and what that node has found.
//!
//! In: what an operator asks of any node. Out: steps in `system`, and pages of the node that runs the shadow. It does
//! not know how a shadow decides: a page is text here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::ids::{ModuleId, NodeId, PartitionId};
use crate::machine::logic::Logic;
use crate::partition::Partition;
use crate::peer::{Call, Topic};
use crate::records::command::SystemCommand;
use crate::system::cluster::Cluster;
use crate::system::cluster_error::ClusterError;
use crate::system::context::NodeContext;
use crate::system::directory::Directory;
use crate::system::published::{PublishedPage, ShadowWanted};
use crate::system::submit::Wanting;

/// Why there is no page yet.
pub const STARTING: &str = "it is being started; ask again";
/// How long the node that runs a shadow may take to say what it has found.
const PATIENCE: Duration = Duration::from_secs(2);

/// A shadow, and what its node has found.
#[derive(Clone, Debug)]
pub struct ShadowView {
    pub wanted: ShadowWanted,
    /// JSON; or in words why there is none.
    pub page: Result<String, String>,
}

fn wanted_shadow(directory: &Directory, machine: &str) -> Option<ShadowWanted> {
    let (module, node, since) = directory.modules.get(machine)?.shadow()?;
    Some(ShadowWanted { module: ModuleId(module), node: NodeId(node), since })
}

/// The page of the shadow that is wanted now, never that of the one before it, which may not have ended yet.
pub(super) fn find_page(context: &NodeContext, machine: &str) -> Option<String> {
    let wanted = wanted_shadow(&context.directory(), machine)?;
    let shadows = context.published.shadows.borrow();
    shadows.get(machine).filter(|page| page.of == wanted).map(|page| page.text.clone())
}

/// Where the task that runs shadows publishes what they find.
#[derive(Default)]
pub struct ShadowPages(watch::Sender<BTreeMap<String, PublishedPage>>);

impl ShadowPages {
    pub(super) fn subscribe(&self) -> watch::Receiver<BTreeMap<String, PublishedPage>> {
        self.0.subscribe()
    }

    /// Publishes what a shadow of a machine has found here.
    pub fn publish(&self, machine: &str, of: ShadowWanted, text: String) {
        self.0.send_modify(|pages| _ = pages.insert(machine.to_owned(), PublishedPage { of, text }));
    }

    /// Forgets what a shadow has found that no longer runs. What its successor has found stays.
    pub fn forget(&self, machine: &str, shadow: ShadowWanted) {
        self.0.send_modify(|pages| {
            if pages.get(machine).is_some_and(|page| page.of == shadow) {
                pages.remove(machine);
            }
        });
    }
}

impl Cluster {
    /// Has a node shadow a module: `node`, or else the node that leads the fewest partitions of the machine.
    pub async fn shadow(
        &self,
        machine: &str,
        module: ModuleId,
        node: Option<NodeId>,
        wanting: &Wanting,
    ) -> Result<(), ClusterError> {
        let (system, directory) = self.directory_now(wanting.deadline).await?;
        let node = match node {
            Some(node) if directory.nodes.contains_key(&node) => node,
            Some(node) => return Err(ClusterError::UnknownNode(node)),
            None => self.least_busy(&directory, machine),
        };
        let command = SystemCommand::ShadowModule { machine: machine.to_owned(), module, node };
        self.step(&system, &command, wanting).await?;
        self.directory_now(wanting.deadline).await.map(drop)
    }

    pub async fn stop_shadow(&self, machine: &str, module: ModuleId, wanting: &Wanting) -> Result<(), ClusterError> {
        let (system, _) = self.directory_now(wanting.deadline).await?;
        self.step(&system, &SystemCommand::ShadowStop { machine: machine.to_owned(), module }, wanting).await?;
        self.directory_now(wanting.deadline).await.map(drop)
    }

    /// The machine's shadow, if there is one, and what it has found so far.
    pub async fn shadow_view(&self, machine: &str, deadline: Instant) -> Result<Option<ShadowView>, ClusterError> {
        let (_, directory) = self.directory_now(deadline).await?;
        if !directory.machines.contains_key(machine) {
            return Err(ClusterError::UnknownMachine(machine.to_owned()));
        }
        let Some(wanted) = wanted_shadow(&directory, machine) else { return Ok(None) };
        let starting = || STARTING.to_owned();
        let page = if wanted.node == self.context().node {
            find_page(self.context(), machine).ok_or_else(starting)
        } else {
            let call = Call { topic: Topic::Shadow, group: None, body: Bytes::copy_from_slice(machine.as_bytes()) };
            let patience = deadline.saturating_duration_since(Instant::now()).min(PATIENCE);
            let answer = self.context().network.call(wanted.node, call, patience).await;
            answer.map_err(|error| error.to_string()).and_then(|page| {
                let text = String::from_utf8(page.to_vec()).ok().filter(|page| !page.is_empty());
                text.ok_or_else(starting)
            })
        };
        Ok(Some(ShadowView { wanted, page }))
    }

    fn least_busy(&self, directory: &Directory, machine: &str) -> NodeId {
        let open = self.context().router.find_machine(machine);
        let replicas: Vec<Arc<Partition>> =
            open.iter().flat_map(|open| open.partition_ids().filter_map(|id| open.find_partition(id))).collect();
        let led = |node: &NodeId| replicas.iter().filter(|replica| replica.leader() == Some(*node)).count();
        let samples = self.context().clocks.samples();
        let is_up = |node: &NodeId| *node == self.context().node || samples.contains_key(node);
        directory.nodes.keys().copied().filter(is_up).min_by_key(led).unwrap_or(self.context().node)
    }

    /// The shadows that this node is to run, by machine.
    pub fn shadows_here(&self) -> BTreeMap<String, ShadowWanted> {
        let directory = self.context().directory();
        let of = |machine: &String| Some((machine.clone(), wanted_shadow(&directory, machine)?));
        directory.modules.keys().filter_map(of).filter(|(_, wanted)| wanted.node == self.context().node).collect()
    }

    /// Waits until the directory changes, or this long at most.
    pub async fn wait_for_directory(&self, patience: Duration) {
        let mut directory = self.context().watch_directory();
        let changed = async {
            if directory.changed().await.is_err() {
                // The node stops, so nothing changes any more.
                std::future::pending().await
            }
        };
        // Either way it is time to look.
        drop(tokio::time::timeout(patience, changed).await);
    }

    pub fn partition_count(&self, machine: &str) -> Option<u32> {
        Some(self.context().router.find_machine(machine)?.partition_count())
    }

    pub fn find_replica(&self, machine: &str, partition: PartitionId) -> Option<Arc<Partition>> {
        self.context().router.find_machine(machine)?.find_partition(partition)
    }

    pub async fn find_logic(&self, module: ModuleId) -> Result<Arc<dyn Logic>, ClusterError> {
        self.load(module).await
    }

    /// Finds a module without asking other nodes.
    pub fn find_logic_here(&self, module: ModuleId) -> Result<Arc<dyn Logic>, String> {
        self.context().registry.find(module).map_err(|error| error.to_string())
    }
}
