//! `node.json`: which node and cluster a data folder belongs to.
//!
//! In: a folder. Out: its [`Identity`]. The file is written once, when the node joins a cluster, as JSON of these
//! members. A running node may be using the folder. This file does not know whether anybody does.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::FolderError;
use crate::disk::{Disk, RealDisk, read_bounded};
use crate::ids::NodeId;

/// The name of the file.
pub const IDENTITY: &str = "node.json";
const FORMAT: u32 = 1;
/// Far more than the addresses of all nodes need.
const IDENTITY_BYTES_MAX: u64 = 1 << 20;

/// Which node and cluster a data folder belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    format: u32,
    /// A uuid; part of every journal's genesis.
    pub cluster: String,
    pub node: NodeId,
    /// Whether the node is one of those that founded the cluster.
    pub is_founder: bool,
    /// The nodes of the cluster when this node became part of it, itself included, and their addresses. Later changes
    /// are in `system`.
    pub peers: BTreeMap<NodeId, String>,
}

impl Identity {
    /// An identity of the format that this program writes.
    pub fn new(cluster: String, node: NodeId, is_founder: bool, peers: BTreeMap<NodeId, String>) -> Self {
        Self { format: FORMAT, cluster, node, is_founder, peers }
    }

    /// The cluster's uuid.
    ///
    /// # Errors
    /// The text is no uuid; never for an identity that was read.
    pub fn cluster_bytes(&self) -> Result<[u8; 16], String> {
        uuid::Uuid::try_parse(&self.cluster).map(uuid::Uuid::into_bytes).map_err(|error| error.to_string())
    }

    /// Reads the identity of a folder on the machine's own file system. A running node may be using the folder.
    ///
    /// # Errors
    /// See [`Self::read_on`].
    pub fn read(folder: &Path) -> Result<Option<Self>, FolderError> {
        Self::read_on(&RealDisk, folder)
    }

    /// Reads the identity of a folder; `None` if there is none.
    ///
    /// # Errors
    /// The file cannot be read, or is not what this program writes.
    pub fn read_on(disk: &dyn Disk, folder: &Path) -> Result<Option<Self>, FolderError> {
        let path = folder.join(IDENTITY);
        let text = match read_bounded(disk, &path, IDENTITY_BYTES_MAX) {
            Ok(text) => text,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(FolderError::Io { path, source }),
        };
        let wrong = |reason: String| FolderError::Identity { path: path.clone(), reason };
        let identity: Self = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if identity.format != FORMAT {
            return Err(wrong(format!("format {} is not {FORMAT}; it is of a later version", identity.format)));
        }
        identity.cluster_bytes().map_err(wrong)?;
        Ok(Some(identity))
    }
}
