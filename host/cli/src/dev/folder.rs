//! The data folder of a `dev` cluster: a folder per node, and the addresses of the nodes.
//!
//! | path | what |
//! |---|---|
//! | `nodes.json` | `[{"id", "pid", "http", "peer"}]` of this or the last start; its length is the folder's shape |
//! | `lock` | held while a cluster runs here |
//! | `node-<i>/` | the data of node i |
//! | `node-<i>.toml` | its configuration, if it runs in its own process |
//! | `peers/` | the certificates by which the nodes know each other, and the authority that has signed them |
//!
//! Peers keep their ports from start to start, because the cluster has recorded them. The folder of a single node has
//! none of these files, only the node's `node.json`. It does not know how nodes are run.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use statehouse_journal::durable::{self, PRIVATE};
use statehouse_kernel::ids::NodeId;
use statehouse_node::system::privacy;
use tokio::net::TcpListener;

use crate::host::bind_http;

const NODES: &str = "nodes.json";
const PEERS: &str = "peers";

/// A node in `nodes.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevNode {
    pub id: NodeId,
    pub pid: u32,
    pub http: SocketAddr,
    pub peer: SocketAddr,
}

/// A node whose addresses are bound, but which does not run yet.
pub struct BoundNode {
    pub id: NodeId,
    pub http: TcpListener,
    pub peer: TcpListener,
}

impl BoundNode {
    pub fn node(&self, pid: u32) -> anyhow::Result<DevNode> {
        let (http, peer) = (self.http.local_addr(), self.peer.local_addr());
        let asking = "asking for an address";
        Ok(DevNode { id: self.id, pid, http: http.context(asking)?, peer: peer.context(asking)? })
    }
}

/// The routes from a node to all others. They are valid whatever ports the cluster has recorded.
pub fn routes_from(id: NodeId, nodes: &[DevNode]) -> BTreeMap<NodeId, String> {
    nodes.iter().filter(|node| node.id != id).map(|node| (node.id, node.peer.to_string())).collect()
}

/// # Errors
/// The folder is that of a cluster.
pub fn check_alone(data: &Path) -> anyhow::Result<()> {
    let nodes = read(data)?.len();
    ensure!(
        nodes == 0,
        "{} was made with --nodes {nodes} and is not the folder of one node; start with --nodes {nodes}, or name \
         another with --data",
        data.display()
    );
    Ok(())
}

/// The folder, locked by this process.
pub struct DevFolder {
    path: PathBuf,
    nodes: u32,
    /// The nodes of the last start; empty at the first start.
    kept: Vec<DevNode>,
    _lock: File,
}

impl DevFolder {
    /// Opens the folder of a cluster of `nodes` nodes, or creates it.
    ///
    /// # Errors
    /// It has another shape, or another process uses it.
    pub fn open(path: &Path, nodes: u32) -> anyhow::Result<Self> {
        let shown = path.display();
        ensure!(
            !path.join("node.json").exists(),
            "{shown} was made with --nodes 1 and is not the folder of a cluster; start with --nodes 1, or name another \
             with --data"
        );
        durable::create_dir_all(path).with_context(|| format!("creating {shown}"))?;
        let lock = durable::create(&path.join("lock")).with_context(|| format!("creating the lock of {shown}"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("{shown} is in use by another process: stop that one, or name another folder with --data")
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("locking {shown}")),
        }
        privacy::close_to_others(path, NODES).with_context(|| format!("closing {shown} to other users"))?;
        let kept = read(path)?;
        let found = kept.len();
        ensure!(
            found == 0 || found == nodes as usize,
            "{shown} was made with --nodes {found}, not {nodes}; start with --nodes {found}, or name another with \
             --data"
        );
        Ok(Self { path: path.to_owned(), nodes, kept, _lock: lock })
    }

    /// Where a node's data lies.
    pub fn node(&self, id: NodeId) -> PathBuf {
        self.path.join(format!("node-{id}"))
    }

    /// Where the nodes' certificates lie.
    pub fn peers(&self) -> PathBuf {
        self.path.join(PEERS)
    }

    /// Binds the addresses of all nodes. Peers are first, so that no other listener gets a port that they should keep.
    pub async fn bind(&self, http: SocketAddr) -> anyhow::Result<Vec<BoundNode>> {
        let ids: Vec<_> = (1..=u64::from(self.nodes)).map(NodeId).collect();
        let mut peers = Vec::new();
        for id in &ids {
            let kept = self.kept.iter().find(|node| node.id == *id).map_or(0, |node| node.peer.port());
            let peer = bind_or_free(SocketAddr::from((Ipv4Addr::LOCALHOST, kept))).await;
            peers.push(peer.with_context(|| format!("listening for the peers of node {id}"))?);
        }
        let mut bound: Vec<BoundNode> = Vec::new();
        for (id, peer) in ids.into_iter().zip(peers) {
            let http = match bound.len() {
                0 => bind_http(http).await?,
                offset => {
                    bind_or_free(behind(http, offset)).await.with_context(|| format!("listening for node {id}"))?
                }
            };
            bound.push(BoundNode { id, http, peer });
        }
        Ok(bound)
    }

    /// Writes `nodes.json` atomically: it is always the old one or the new one as a whole.
    pub fn write(&self, nodes: &[DevNode]) -> anyhow::Result<()> {
        let mut json = serde_json::to_vec_pretty(nodes).context("printing the nodes")?;
        json.push(b'\n');
        self.write_file(NODES, &json).map(drop)
    }

    /// Replaces a file as a whole, and returns its path.
    pub fn write_file(&self, name: &str, bytes: &[u8]) -> anyhow::Result<PathBuf> {
        let path = self.path.join(name);
        durable::write(&self.path, name, PRIVATE, bytes).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

fn read(data: &Path) -> anyhow::Result<Vec<DevNode>> {
    let path = data.join(NODES);
    let shown = path.display();
    match std::fs::read(&path) {
        Ok(json) => serde_json::from_slice(&json).with_context(|| format!("{shown} is not written by this program")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("reading {shown}")),
    }
}

/// The address `offset` ports after the first; any free port if the first is any, or if there are no more.
fn behind(first: SocketAddr, offset: usize) -> SocketAddr {
    let port = u16::try_from(offset).ok().and_then(|offset| first.port().checked_add(offset));
    let port = port.filter(|_| first.port() != 0).unwrap_or(0);
    SocketAddr::new(first.ip(), port)
}

/// The address, or a free port of the same host if it is taken.
async fn bind_or_free(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if error.kind() == ErrorKind::AddrInUse => TcpListener::bind((address.ip(), 0)).await,
        bound => bound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(data: &Path, nodes: u32) -> Result<DevFolder, String> {
        DevFolder::open(data, nodes).map_err(|error| format!("{error:#}"))
    }

    async fn bound(folder: &DevFolder, http: &str) -> (Vec<BoundNode>, Vec<DevNode>) {
        let bound = folder.bind(http.parse().expect("an address")).await.expect("free ports");
        let nodes = bound.iter().map(|bound| bound.node(7).expect("bound")).collect();
        (bound, nodes)
    }

    #[tokio::test]
    async fn peers_keep_their_ports_unless_they_are_taken() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let folder = open(data.path(), 3).expect("a new folder");
        let (listeners, first) = bound(&folder, "127.0.0.1:0").await;
        folder.write(&first).expect("writable");
        drop((listeners, folder));

        let folder = open(data.path(), 3).expect("the same shape");
        assert_eq!(folder.kept, first);
        let (listeners, second) = bound(&folder, "127.0.0.1:0").await;
        let ports = |nodes: &[DevNode]| nodes.iter().map(|node| node.peer).collect::<Vec<_>>();
        assert_eq!(ports(&second), ports(&first));

        // The listeners still exist, so every port is taken.
        let (_others, third) = bound(&folder, &format!("127.0.0.1:{}", 0)).await;
        for node in &third {
            assert!(!ports(&first).contains(&node.peer), "{third:?}");
        }
        assert_eq!(
            routes_from(NodeId(2), &third),
            BTreeMap::from([1, 3].map(|id| { (NodeId(id), third[id as usize - 1].peer.to_string()) }))
        );
        drop(listeners);
    }

    #[tokio::test]
    async fn the_rest_apis_follow_the_first_or_are_free_ones() {
        let first: SocketAddr = "127.0.0.1:8080".parse().expect("an address");
        assert_eq!(behind(first, 2).port(), 8082);
        assert_eq!(behind("127.0.0.1:0".parse().expect("an address"), 2).port(), 0);
        assert_eq!(behind("127.0.0.1:65535".parse().expect("an address"), 1).port(), 0);
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = taken.local_addr().expect("bound");
        let other = bind_or_free(address).await.expect("another port").local_addr().expect("bound");
        assert_ne!(other, address);

        let data = tempfile::tempdir().expect("a temporary folder");
        let folder = open(data.path(), 3).expect("a new folder");
        let refused = folder.bind(address).await.err().expect("the first address is not replaced by another");
        assert!(format!("{refused:#}").contains("choose another address"), "{refused:#}");
    }

    #[test]
    fn a_folder_of_another_shape_is_refused() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let address = "127.0.0.1:1".parse().expect("an address");
        let nodes: Vec<_> =
            (1..=3).map(|id| DevNode { id: NodeId(id), pid: 1, http: address, peer: address }).collect();
        let folder = open(data.path(), 3).expect("a new folder");
        let in_use = open(data.path(), 3).err().expect("one process at a time");
        assert!(in_use.contains("is in use by another process"), "{in_use}");
        folder.write(&nodes).expect("writable");
        drop(folder);

        let other = open(data.path(), 5).err().expect("another number");
        assert!(other.contains("was made with --nodes 3, not 5; start with --nodes 3"), "{other}");
        let alone = check_alone(data.path()).expect_err("a cluster's").to_string();
        assert!(alone.contains("was made with --nodes 3 and is not the folder of one node"), "{alone}");

        let single = tempfile::tempdir().expect("a temporary folder");
        assert!(check_alone(single.path()).is_ok(), "a new folder may become either");
        std::fs::write(single.path().join("node.json"), "{}").expect("writable");
        let cluster = open(single.path(), 3).err().expect("a single node's");
        assert!(cluster.contains("was made with --nodes 1"), "{cluster}");

        std::fs::write(data.path().join(NODES), "[{}]").expect("writable");
        let foreign = open(data.path(), 3).err().expect("not ours");
        assert!(foreign.contains("nodes.json is not written by this program"), "{foreign}");
    }
}
