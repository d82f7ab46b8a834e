//! Why a node does not start or cannot carry out what it is told.

use std::path::PathBuf;

use crate::archive::ArchiveError;
use crate::data_folder::FolderError;
use crate::features::FeatureLevel;
use crate::guest::GuestError;
use crate::key::KeyError;
use crate::partition::PartitionError;
use crate::peer::{GroupName, PeerSetupError, SeenError};
use crate::registry::RegistryError;

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{} is in use by another process: stop that one, or name another folder with --data", path.display())]
    InUse { path: PathBuf },
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("data folder belongs to node {found}, but the configuration says node {expected}")]
    NodeId { expected: u64, found: u64 },
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("partition {machine}/{partition}: {source}")]
    Partition { machine: String, partition: u32, source: Box<PartitionError> },
    /// Acknowledged entries are missing.
    #[error("partition {group}: {refusal}")]
    Lost { group: GroupName, refusal: String },
    #[error("not everything is served: {0}")]
    NotServed(String),
    #[error("the node is being stopped")]
    Stopping,
    /// The directory's owner hangs, or has panicked and is started again.
    #[error("what `system` says was not read in time; `/readyz` says whether a task of this node has failed")]
    Unanswered,
    #[error(
        "data folder belongs to a cluster of several nodes; start it as one of them, with `[peer]` in its configuration"
    )]
    HasPeers,
    #[error(
        "the cluster has reached feature level {level}, and this node understands no level above {supported}: {advice}"
    )]
    FeatureLevel { level: FeatureLevel, supported: FeatureLevel, advice: &'static str },
    #[error("the node's key: {0}")]
    Key(#[from] KeyError),
    #[error("peers: {0}")]
    Peers(#[from] PeerSetupError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("the record of other nodes' logs: {0}")]
    Seen(#[from] SeenError),
    #[error("machine `{machine}` exists with {found} partitions, not {expected}; splitting is not supported yet")]
    Partitions { machine: String, expected: u32, found: u32 },
    #[error("module file {}: {source}", path.display())]
    ModuleFile { path: PathBuf, source: std::io::Error },
    #[error(
        "{} is a view: name the machine's module in `machines.{machine}.module`, and the view in \
         `machines.{machine}.views`",
        path.display()
    )]
    ViewAsModule { path: PathBuf, machine: String },
    #[error("module {} is of machine `{found}`, not `{expected}`", path.display())]
    ModuleMachine { path: PathBuf, expected: String, found: String },
}

impl NodeError {
    pub fn of_partition(group: &GroupName, source: PartitionError) -> Self {
        Self::Partition { machine: group.machine.to_string(), partition: group.partition.0, source: Box::new(source) }
    }
}
