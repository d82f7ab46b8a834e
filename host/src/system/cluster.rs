//! The cluster as a node sees it, and what an operator may ask of it.
//!
//! In: questions and changes from any node. Out: a [`ClusterView`], or why a change was not made. Every change is a command of the machine
//! `system` or a message to the leader it concerns; nothing here decides.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::ids::{Head, Micros, NodeId, PartitionId, Position, Term};

/// What this node knows of the cluster.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// Nothing as long as this node belongs to none.
    pub cluster: Option<String>,
    pub node: NodeId,
    pub nodes: Vec<NodeView>,
    pub machines: Vec<MachineView>,
}

#[derive(Clone, Debug)]
pub struct NodeView {
    pub id: NodeId,
    /// Where the others reach it, as `host:port`.
    pub peer: String,
    /// Where its clients do, if it has said so.
    pub http: Option<String>,
    /// It answered this node within the last seconds, or it is this node.
    pub is_reachable: bool,
    /// How far its clock was ahead of this node's, in microseconds, when it last answered.
    pub clock_ahead: Option<Micros>,
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

/// Why the cluster was not changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(
        "this node belongs to no cluster yet; create one with `statehouse cluster init`, or add it to one with `cluster add`"
    )]
    NoCluster,
    #[error("this node belongs to cluster {0} already")]
    Exists(String),
    #[error("this node takes no part in clusters: its configuration has no `[peer]`")]
    NoPeer,
    #[error("{0}")]
    Invalid(String),
    #[error("node {0} is known; a node that lost its data, or was removed, comes back under a new id")]
    NodeIdUsed(NodeId),
    #[error("node {0} is not of this cluster")]
    UnknownNode(NodeId),
    #[error("there is no partition {0}")]
    UnknownPartition(String),
    #[error("node {node} refused: {reason}")]
    Refused { node: NodeId, reason: String },
    #[error("node {node} at {address} does not answer: {reason}")]
    Unreachable { node: NodeId, address: String, reason: String },
    #[error("not done before the deadline; `cluster status` shows how far it got, and the same call may be sent again")]
    Deadline,
}

/// A handle by which the node's API reaches its cluster. Clones are handles of the same one.
#[derive(Clone)]
pub struct Cluster {
    node: NodeId,
}

impl Cluster {
    pub fn alone(node: NodeId) -> Self {
        Self { node }
    }

    pub fn view(&self) -> ClusterView {
        ClusterView { cluster: None, node: self.node, nodes: Vec::new(), machines: Vec::new() }
    }

    /// Founds a cluster of these nodes, by `host:port`; this node must be among them. None of them may belong to one.
    pub async fn init(&self, _nodes: BTreeMap<NodeId, String>, _deadline: Instant) -> Result<(), ClusterError> {
        Err(ClusterError::NoPeer)
    }

    /// Takes a node in; it becomes a voter of every partition once it has caught up.
    pub async fn add(&self, _node: NodeId, _peer: String, _deadline: Instant) -> Result<(), ClusterError> {
        Err(ClusterError::NoCluster)
    }

    /// Removes a node for good; its id is never used again.
    pub async fn remove(&self, _node: NodeId, _deadline: Instant) -> Result<(), ClusterError> {
        Err(ClusterError::NoCluster)
    }

    /// Makes `to` the leader of a partition, for now: leaders are spread again when nodes come and go.
    pub async fn transfer(
        &self,
        _machine: &str,
        _partition: PartitionId,
        _to: NodeId,
        _deadline: Instant,
    ) -> Result<(), ClusterError> {
        Err(ClusterError::NoCluster)
    }
}
