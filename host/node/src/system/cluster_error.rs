//! Why the cluster was not changed, in words for those who asked for the change.
//!
//! In: what a command of the machine `system`, a message to another node or a check has found. Out: one error, which
//! the API turns into a status. It lies below all that changes the cluster, and does not know what was asked.

use crate::ids::NodeId;
use crate::records::rejection::RejectionCode;

/// Why the cluster was not changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(
        "this node belongs to no cluster yet; create one with `statehouse cluster init`, or add it to one with \
         `cluster add`"
    )]
    NoCluster,
    #[error("this node belongs to cluster {0} already")]
    Exists(String),
    #[error("this node takes no part in clusters: its configuration has no `[peer]`")]
    NoPeer,
    #[error("{0}")]
    Invalid(String),
    #[error("node {0} is known; a node that lost its data, or was removed, must be added under a new id")]
    NodeIdUsed(NodeId),
    #[error("node {0} is not of this cluster")]
    UnknownNode(NodeId),
    /// Something is missing for a step of a module's life; the text says what.
    #[error("{0}")]
    StepRefused(String),
    /// A recorded rejection of the machine `system`. The code is absent where the host rejected the command itself.
    #[error("{detail}")]
    Rejected { code: Option<RejectionCode>, detail: String },
    #[error("there is no machine `{0}`")]
    UnknownMachine(String),
    /// The text says which, and why.
    #[error("{0}")]
    UnknownModule(String),
    /// A fault of this node; the text says which.
    #[error("this node cannot compile or keep the module now: {0}")]
    CannotCompile(String),
    #[error("there is no view `{0}`; `statehouse view list` shows which there are")]
    UnknownView(String),
    #[error("there is no webhook `{0}`; `statehouse webhook list` shows which there are")]
    UnknownWebhook(String),
    /// Something could not be kept on this node, or on enough nodes; the text says what, and why.
    #[error("{0}")]
    NotKept(String),
    #[error("there is no partition {0}")]
    UnknownPartition(String),
    #[error("node {node} refused: {reason}")]
    Refused { node: NodeId, reason: String },
    #[error("node {node} at {address} does not answer: {reason}")]
    Unreachable { node: NodeId, address: String, reason: String },
    #[error(
        "node {nodes} did not answer before the deadline: it prepares the module once it runs and can be reached, so \
         look at `cluster status` and `module log`, or prepare again"
    )]
    NotPrepared { nodes: String },
    #[error(
        "the snapshot is not done before the deadline, and continues: `statehouse snapshot list` shows it once it is \
         complete"
    )]
    SnapshotUnfinished,
    /// Too many snapshots were asked for; the text says where.
    #[error("{0}")]
    SnapshotsAsked(String),
    #[error(
        "not done before the deadline; `cluster status` shows the progress, and the same request may be sent again"
    )]
    Deadline,
}
