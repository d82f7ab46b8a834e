//! The data folder: who it belongs to, and that only one process uses it.
//!
//! | path | what |
//! |---|---|
//! | `node.json` | [`Identity`]: format, cluster, node, first peers; written once, when the node becomes part of a cluster |
//! | `founded` | empty; there once this node has seen that the cluster has its first nodes |
//! | `lock` | held while a node runs |
//! | `modules/<ModuleId>.wasm` | staged modules |
//! | `artefacts/` | compiled modules; may be deleted |
//! | `artefacts.key` | proves that this node has compiled them |
//! | `<machine>/<partition>/{log,state,ids}` | a partition; only `log` is not derived |
//! | `<machine>/<partition>/{snapshots,install}` | snapshots that were made here, and one that was received and is being installed |

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::durable::{self, PRIVATE, Unnamed};
use crate::guest::CacheOptions;
use crate::ids::{NodeId, PartitionId};
use crate::key::artefact_key;
use crate::regular;
use crate::system::error::NodeError;
use crate::system::privacy;

const FORMAT: u32 = 1;
const IDENTITY: &str = "node.json";
/// Far more than the addresses of all nodes.
const IDENTITY_BYTES_MAX: u64 = 1 << 20;
const FOUNDED: &str = "founded";
const ARTEFACTS: &str = "artefacts";

/// Who a data folder belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    pub format: u32,
    /// A uuid; part of every journal's genesis.
    pub cluster: String,
    pub node: NodeId,
    /// Whether it was there when the cluster was founded.
    pub is_founder: bool,
    /// All nodes when it became part of the cluster, itself included, and where they are reached. What changes later is in `system`.
    pub peers: BTreeMap<NodeId, String>,
}

impl Identity {
    pub fn cluster_bytes(&self) -> Result<[u8; 16], String> {
        uuid::Uuid::try_parse(&self.cluster).map(uuid::Uuid::into_bytes).map_err(|error| error.to_string())
    }

    /// Reads the identity of a folder, also of one that a running node uses.
    pub fn read(folder: &Path) -> Result<Option<Self>, NodeError> {
        let path = folder.join(IDENTITY);
        let text = match regular::read(&path, IDENTITY_BYTES_MAX) {
            Ok(text) => text,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(NodeError::Io { path, source }),
        };
        let wrong = |reason: String| NodeError::Identity { path: path.clone(), reason };
        let identity: Self = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if identity.format != FORMAT {
            return Err(wrong(format!("format {} is not {FORMAT}; it is of a later version", identity.format)));
        }
        identity.cluster_bytes().map_err(wrong)?;
        Ok(Some(identity))
    }
}

/// Where a data folder has compiled modules.
pub(super) fn artefacts_of(folder: &Path) -> Result<CacheOptions, NodeError> {
    Ok(CacheOptions { folder: folder.join(ARTEFACTS), key: artefact_key(folder)? })
}

/// A data folder in the hands of this process.
pub struct DataFolder {
    path: PathBuf,
    node: NodeId,
    identity: OnceLock<Identity>,
    /// Holds the lock for as long as the folder is open.
    _lock: File,
}

impl DataFolder {
    /// Opens a folder; a new one belongs to no cluster yet.
    pub fn open(path: &Path, node: NodeId) -> Result<Self, NodeError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| NodeError::Io { path, source }
        };
        durable::create_dir_all(path).map_err(io(path))?;
        let lock_path = path.join("lock");
        let lock = durable::create(&lock_path).map_err(io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(NodeError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(NodeError::Io { path: lock_path, source }),
        }
        privacy::close_to_others(path, IDENTITY).map_err(io(path))?;
        let known = OnceLock::new();
        if let Some(identity) = Identity::read(path)? {
            if identity.node != node {
                return Err(NodeError::NodeId { expected: node.0, found: identity.node.0 });
            }
            known.get_or_init(|| identity);
        }
        Ok(Self { path: path.to_owned(), node, identity: known, _lock: lock })
    }

    /// Makes the folder one of a cluster, for good; durable on return.
    pub fn join(
        &self,
        cluster: String,
        is_founder: bool,
        peers: BTreeMap<NodeId, String>,
    ) -> Result<&Identity, NodeError> {
        let identity = Identity { format: FORMAT, cluster, node: self.node, is_founder, peers };
        write(&self.path, &identity)?;
        Ok(self.identity.get_or_init(|| identity))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it keeps what it has compiled.
    pub fn artefacts(&self) -> Result<CacheOptions, NodeError> {
        artefacts_of(&self.path)
    }

    /// Whether this node has ever seen that the cluster has its first nodes.
    pub fn is_founded(&self) -> bool {
        self.path.join(FOUNDED).exists()
    }

    /// Notes that the cluster has its first nodes; durable on return.
    pub fn set_founded(&self) -> Result<(), NodeError> {
        if self.is_founded() {
            return Ok(());
        }
        let path = self.path.join(FOUNDED);
        let write = || durable::create(&path)?.sync_all().and_then(|()| durable::sync_dir(&self.path));
        write().map_err(|source| NodeError::Io { path: path.clone(), source })
    }

    /// Nothing as long as the folder belongs to no cluster.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.get()
    }

    pub fn partition(&self, machine: &str, partition: PartitionId) -> PathBuf {
        partition_folder(&self.path, machine, partition)
    }
}

/// Where a partition lies in a data folder.
pub fn partition_folder(data: &Path, machine: &str, partition: PartitionId) -> PathBuf {
    data.join(machine).join(partition.to_string())
}

fn write(path: &Path, identity: &Identity) -> Result<(), NodeError> {
    let write = || -> std::io::Result<()> {
        let file = Unnamed::write(path, PRIVATE, &serde_json::to_vec_pretty(identity)?)?;
        fail::fail_point!("folder::create", |_| std::process::abort());
        file.name(path, IDENTITY)
    };
    write().map_err(|source| NodeError::Io { path: path.join(IDENTITY), source })
}
