//! The cluster as a node sees it, and what an operator may ask of it.
//!
//! In: questions and changes from any node. Out: a [`ClusterView`], or why a change was not made. Every change is a
//! command of the machine `system` or a message to the leader it concerns; nothing here decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::consensus::PeerError;
use crate::features::{self, FeatureLevel};
use crate::ids::{Head, Micros, NodeId, PartitionId, Position, Term};
use crate::partition::Partition;
use crate::peer::{Call, GroupName, Topic};
use crate::router::Machine;
use crate::system::cluster_error::ClusterError;
use crate::system::context::NodeContext;
use crate::system::directory::Directory;
use crate::system::directory_requests::DirectoryFreshness;
use crate::system::error::NodeError;
use crate::system::key_row::KeyRow;
use crate::system::loss_row::AcceptedLoss;
use crate::system::messages::{Join, TransferTo, encode};
use crate::system::refused_modules::RefusedModules;
use crate::system::submit::submit;
use crate::system::{cluster_founding, level, reached_level};

/// How long another node may take to say who it is.
const STRANGER_PATIENCE: Duration = Duration::from_secs(2);
/// How long a node that was asked to lead may take before it is asked again.
const TRANSFER_AGAIN: Duration = Duration::from_secs(1);

/// What this node knows about the cluster.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// `None` while this node belongs to no cluster.
    pub cluster: Option<String>,
    pub node: NodeId,
    pub nodes: Vec<NodeView>,
    pub machines: Vec<MachineView>,
    /// Keys with which nodes have signed, removed nodes included.
    pub keys: Vec<KeyRow>,
    /// The level that the cluster writes. All its nodes understood that level when it was recorded.
    pub feature_level: FeatureLevel,
    /// What is unusual about time on this node, in words.
    pub remarks: Vec<String>,
    /// Losses that operators have accepted, oldest first.
    pub losses: Vec<AcceptedLoss>,
}

#[derive(Clone, Debug)]
pub struct NodeView {
    pub id: NodeId,
    /// Where the others reach it, as `host:port`.
    pub peer: String,
    /// Where clients reach it, if it has said so.
    pub http: Option<String>,
    /// Whether it answered this node within the last seconds, or is this node.
    pub is_reachable: bool,
    /// How far its clock was ahead of this node's, in microseconds, when it last answered.
    pub clock_ahead: Option<Micros>,
    /// The highest feature level that it understands, if it has said so.
    pub feature_level_max: Option<FeatureLevel>,
}

#[derive(Clone, Debug)]
pub struct MachineView {
    pub name: String,
    pub partitions: Vec<ReplicaView>,
}

/// A partition as this node's replica sees it.
#[derive(Clone, Debug)]
pub struct ReplicaView {
    pub partition: PartitionId,
    pub leader: Option<NodeId>,
    pub term: Term,
    pub voters: Vec<NodeId>,
    /// Nodes that follow and do not vote yet.
    pub learners: Vec<NodeId>,
    pub position: Position,
    pub time: Micros,
    pub head: Head,
    /// `running`, or why not.
    pub state: String,
}

/// A handle by which the node's API reaches its cluster. Clones are handles of the same one.
#[derive(Clone)]
pub struct Cluster {
    context: Arc<NodeContext>,
    is_alone: bool,
    /// Held while a node is removed, so that there is one removal at a time.
    removing: Arc<Mutex<()>>,
    /// Modules that were uploaded here and not recorded.
    refused: Arc<RefusedModules>,
}

impl Cluster {
    pub(super) fn new(context: Arc<NodeContext>, is_alone: bool) -> Self {
        Self { context, is_alone, removing: Arc::default(), refused: Arc::default() }
    }

    pub fn view(&self) -> ClusterView {
        let context = &self.context;
        let samples = context.clocks.samples();
        let directory = context.directory();
        let identity = context.folder.identity();
        let known = if directory.is_founded() {
            directory.nodes.clone()
        } else {
            identity.map(|identity| identity.peers.clone()).unwrap_or_default()
        };
        let node = |(id, peer): (NodeId, String)| {
            let is_me = id == context.node;
            let sample = samples.get(&id);
            let http = if is_me { context.http.clone() } else { sample.and_then(|sample| sample.http.clone()) };
            let clock_ahead = sample.map(|sample| sample.ahead);
            let own_level = is_me.then(|| context.level.max());
            let feature_level_max = own_level.or_else(|| sample.map(|sample| sample.feature_level_max));
            NodeView { id, peer, http, is_reachable: is_me || sample.is_some(), clock_ahead, feature_level_max }
        };
        let system = context.system.get().cloned();
        let machines = system.into_iter().chain(context.router.machines()).map(|machine| machine_view(&machine));
        ClusterView {
            cluster: identity.map(|identity| identity.cluster.clone()),
            node: context.node,
            nodes: known.into_iter().map(node).collect(),
            machines: machines.collect(),
            keys: directory.keys.clone(),
            feature_level: context.opening.features.level(),
            remarks: self.remarks(),
            losses: context.record.losses_with(directory.losses.clone(), context.node),
        }
    }

    /// Founds a cluster of these nodes, by `host:port`. This node must be among them, and none may belong to a cluster
    /// yet.
    pub async fn init(&self, nodes: BTreeMap<NodeId, String>, deadline: Instant) -> Result<(), ClusterError> {
        self.check_peers()?;
        if !nodes.contains_key(&self.context.node) {
            let detail = format!("this is node {}: name it too, or ask one of the nodes you name", self.context.node);
            return Err(ClusterError::Invalid(detail));
        }
        if let Some(identity) = self.context.folder.identity() {
            // This is the same call again, after it missed its deadline.
            if identity.peers != nodes {
                return Err(ClusterError::Exists(identity.cluster.clone()));
            }
        } else {
            self.reach(nodes.clone(), deadline).await?;
            self.check_strangers(&nodes, deadline).await?;
            cluster_founding::found(&self.context, nodes)?;
        }
        let mut directory = self.context.watch_directory();
        match tokio::time::timeout_at(deadline, directory.wait_for(|now| now.directory.is_founded())).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ClusterError::Deadline),
        }
    }

    /// Sets where nodes are reached that the directory does not name yet.
    async fn reach(&self, nodes: BTreeMap<NodeId, String>, deadline: Instant) -> Result<(), ClusterError> {
        self.context.directory_requests.reach(nodes, deadline).await.map_err(|_| ClusterError::Deadline)
    }

    /// Checks that all others answer and belong to no cluster.
    async fn check_strangers(&self, nodes: &BTreeMap<NodeId, String>, deadline: Instant) -> Result<(), ClusterError> {
        for (node, address) in nodes.iter().filter(|(node, _)| **node != self.context.node) {
            let call = Call { topic: Topic::Status, group: None, body: Bytes::new() };
            let patience = deadline.saturating_duration_since(Instant::now()).min(STRANGER_PATIENCE);
            match self.context.network.call(*node, call, patience).await {
                Ok(cluster) if cluster.is_empty() => {}
                Ok(cluster) => {
                    let reason = format!("it belongs to cluster {} already", String::from_utf8_lossy(&cluster));
                    return Err(ClusterError::Refused { node: *node, reason });
                }
                Err(error) => return Err(unreachable(*node, address, error)),
            }
        }
        Ok(())
    }

    /// Whether a node of the directory answers that it belongs to a cluster. This node itself counts as one.
    async fn is_member(&self, node: NodeId) -> bool {
        let call = Call { topic: Topic::Status, group: None, body: Bytes::new() };
        let answer = self.context.network.call(node, call, STRANGER_PATIENCE).await;
        node == self.context.node || answer.is_ok_and(|cluster| !cluster.is_empty())
    }

    /// Adds a node. It becomes a voter of every partition once it has caught up.
    pub async fn add(&self, node: NodeId, peer: String, deadline: Instant) -> Result<(), ClusterError> {
        let (system, directory) = self.check_founded(deadline).await?;
        if directory.nodes.get(&node) == Some(&peer) && self.is_member(node).await {
            // This is the same call again, unless the member has lost its data since.
            let is_lost = level::is_of_no_cluster(&self.context, node).await;
            return if is_lost { Err(ClusterError::NodeIdUsed(node)) } else { Ok(()) };
        }
        if directory.nodes.contains_key(&node) || directory.retired.contains(&node) {
            return Err(ClusterError::NodeIdUsed(node));
        }
        let identity = self.context.folder.identity().ok_or(ClusterError::NoCluster)?;
        self.reach(BTreeMap::from([(node, peer.clone())]), deadline).await?;
        let supported = self.check_understands(node, &peer, directory.feature_level).await?;
        let with_it = directory.nodes.iter().map(|(id, peer)| (id.0, peer.clone())).chain([(node.0, peer.clone())]);
        let feature_level = Some(directory.feature_level.0).filter(|level| features::BASE.0 < *level);
        let (cluster, peers) = (identity.cluster.clone(), with_it.collect());
        let join = Join { cluster, node: node.0, is_founder: false, peers, feature_level };
        cluster_founding::ask_to_join(&self.context, node, &join)
            .await
            .map_err(|error| unreachable(node, &peer, error))?;
        submit(&system, &level::adding(directory.feature_level, node, peer, supported), deadline).await
    }

    /// The highest level that the node understands, which must not be below the one that the cluster writes.
    async fn check_understands(
        &self,
        node: NodeId,
        peer: &str,
        level: FeatureLevel,
    ) -> Result<FeatureLevel, ClusterError> {
        if level <= features::BASE {
            return Ok(features::BASE);
        }
        let supported = level::ask(&self.context, node).await.map_err(|error| unreachable(node, peer, error))?;
        let refused = |error: NodeError| ClusterError::Refused { node, reason: error.to_string() };
        reached_level::check(level, supported).map_err(refused)?;
        Ok(supported)
    }

    /// Transfers the leadership of a partition to `to`, for now: leaders are rebalanced when nodes come and go.
    pub async fn transfer(
        &self,
        machine: &str,
        partition: PartitionId,
        to: NodeId,
        deadline: Instant,
    ) -> Result<(), ClusterError> {
        let (_, directory) = self.check_founded(deadline).await?;
        if !directory.nodes.contains_key(&to) {
            return Err(ClusterError::UnknownNode(to));
        }
        let group = GroupName::new(machine, partition);
        let replica =
            self.context.find_replica(&group).ok_or_else(|| ClusterError::UnknownPartition(group.to_string()))?;
        self.lead_at(&group, &replica, to, deadline).await
    }

    pub(super) async fn lead_at(
        &self,
        group: &GroupName,
        replica: &Partition,
        to: NodeId,
        deadline: Instant,
    ) -> Result<(), ClusterError> {
        while replica.leader() != Some(to) {
            if deadline <= Instant::now() {
                return Err(ClusterError::Deadline);
            }
            match replica.leader() {
                Some(leader) if leader == self.context.node => {
                    // Whether the transfer succeeds shows in who leads.
                    drop(replica.group().transfer_to(to).await);
                }
                Some(leader) => {
                    let body = encode(&TransferTo { to: to.0 });
                    let call = Call { topic: Topic::Membership, group: Some(group.clone()), body };
                    drop(self.context.network.call(leader, call, STRANGER_PATIENCE).await);
                }
                None => {}
            }
            let mut leadership = replica.group().leadership();
            leadership.mark_unchanged();
            drop(tokio::time::timeout_at(deadline.min(Instant::now() + TRANSFER_AGAIN), leadership.changed()).await);
        }
        Ok(())
    }

    fn check_peers(&self) -> Result<(), ClusterError> {
        if self.is_alone { Err(ClusterError::NoPeer) } else { Ok(()) }
    }

    /// The machine `system` and the current directory, of a cluster that is founded.
    pub(super) async fn check_founded(
        &self,
        deadline: Instant,
    ) -> Result<(Arc<Machine>, Arc<Directory>), ClusterError> {
        self.check_peers()?;
        let (system, directory) = self.directory_now(deadline).await?;
        if directory.is_founded() { Ok((system, directory)) } else { Err(ClusterError::NoCluster) }
    }

    pub(super) fn context(&self) -> &Arc<NodeContext> {
        &self.context
    }

    /// Waits for the turn to remove a node.
    pub(super) async fn begin_removal(&self, deadline: Instant) -> Result<MutexGuard<'_, ()>, ClusterError> {
        tokio::time::timeout_at(deadline, self.removing.lock()).await.map_err(|_| ClusterError::Deadline)
    }

    pub(super) fn refused_here(&self) -> &RefusedModules {
        &self.refused
    }

    /// The machine `system` and the current directory, also on a node that is alone.
    pub(super) async fn directory_now(
        &self,
        deadline: Instant,
    ) -> Result<(Arc<Machine>, Arc<Directory>), ClusterError> {
        let system = self.context.system.get().cloned().ok_or(ClusterError::NoCluster)?;
        let partition = self.context.system_partition().ok_or(ClusterError::NoCluster)?;
        partition.read_linearizable(deadline).await.map_err(|_| ClusterError::Deadline)?;
        match self.context.directory_requests.read(partition, DirectoryFreshness::Stale, deadline).await {
            Ok(directory) => Ok((system, directory)),
            Err(NodeError::Unanswered | NodeError::Stopping) => Err(ClusterError::Deadline),
            Err(error) => Err(ClusterError::Invalid(error.to_string())),
        }
    }
}

fn machine_view(machine: &Machine) -> MachineView {
    let partitions = machine.partition_ids().zip(machine.status().partitions).map(|(id, status)| {
        let replica = machine.find_partition(id);
        let metrics = replica.as_ref().map(|replica| replica.group().metrics());
        ReplicaView {
            partition: id,
            leader: replica.as_ref().and_then(|replica| replica.leader()),
            term: metrics.as_ref().map_or(Term(0), |metrics| metrics.term),
            voters: metrics.as_ref().map(|metrics| metrics.voters.clone()).unwrap_or_default(),
            learners: metrics.map(|metrics| metrics.learners).unwrap_or_default(),
            position: status.position,
            time: status.time,
            head: status.head,
            state: status.state,
        }
    });
    MachineView { name: machine.name().to_owned(), partitions: partitions.collect() }
}

fn unreachable(node: NodeId, address: &str, error: PeerError) -> ClusterError {
    match error {
        PeerError::Refused { node, detail } => ClusterError::Refused { node, reason: detail },
        other => ClusterError::Unreachable { node, address: address.to_owned(), reason: other.to_string() },
    }
}
