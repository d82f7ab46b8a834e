//! The data folder: which node and cluster it belongs to. A lock lets only one process use it.
//!
//! | path | what |
//! |---|---|
//! | `node.json` | [`Identity`]: format, cluster, node, first peers; written once, when the node joins a cluster |
//! | `founded` | an empty file; it exists once this node has seen that the cluster has its first nodes |
//! | `lock` | held while a node runs |
//! | `modules/<ModuleId>.wasm` | staged modules |
//! | `artefacts/` | compiled modules; may be deleted |
//! | `artefacts.key` | proves that this node has compiled them |
//! | `<machine>/<partition>/{log,state,ids}` | a partition; only `log` is not derived |
//! | `<machine>/<partition>/{snapshots,install}` | snapshots that were made here, and one that is being installed |

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::SetOnce;

use crate::data_folder::IDENTITY;
pub use crate::data_folder::Identity;
use crate::disk::{Disk, UnfinishedFile};
use crate::durable;
use crate::guest::CacheOptions;
use crate::ids::{NodeId, PartitionId};
use crate::key::artefact_key;
pub use crate::segments::partition_folder;
use crate::system::error::NodeError;
use crate::system::privacy;

const FOUNDED: &str = "founded";
const ARTEFACTS: &str = "artefacts";

/// Where a data folder keeps compiled modules.
pub(super) fn artefacts_of(folder: &Path) -> Result<CacheOptions, NodeError> {
    Ok(CacheOptions { folder: folder.join(ARTEFACTS), key: artefact_key(folder)? })
}

/// A data folder that this process has locked.
pub struct DataFolder {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    node: NodeId,
    identity: SetOnce<Identity>,
    /// Held while the folder becomes part of a cluster.
    joining: Mutex<()>,
    /// Holds the lock while the folder is open.
    _lock: File,
}

impl DataFolder {
    /// Opens a folder; a new one belongs to no cluster yet. The lock is on the machine's own file system, as are the
    /// partitions' states.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, node: NodeId) -> Result<Self, NodeError> {
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
        disk.create_dir_all(path).map_err(io(path))?;
        // A process that was killed before it synced the folder may have named files in it. Now the names are durable.
        disk.sync_dir(path).map_err(io(path))?;
        let known = Identity::read_on(&*disk, path)?;
        if let Some(other) = known.as_ref().filter(|identity| identity.node != node) {
            return Err(NodeError::NodeId { expected: node.0, found: other.node.0 });
        }
        let (identity, joining) = (SetOnce::new_with(known), Mutex::default());
        Ok(Self { disk, path: path.to_owned(), node, identity, joining, _lock: lock })
    }

    /// Makes the folder part of a cluster, for good; durable on return. Returns the identity that the folder has from
    /// then on. That is another one if the folder is part of a cluster already: it never becomes part of a second one.
    pub fn join(
        &self,
        cluster: String,
        is_founder: bool,
        peers: BTreeMap<NodeId, String>,
    ) -> Result<&Identity, NodeError> {
        let _turn = self.joining.lock();
        if self.identity().is_none() {
            let identity = Identity::new(cluster, self.node, is_founder, peers);
            self.write(&identity)?;
            // Where the real folder is lost, or not mounted, this line says why the node knows nothing.
            let (folder, cluster) = (self.path.display(), &identity.cluster);
            tracing::warn!(%folder, %cluster, is_founder, "the data folder was empty; it is part of this cluster now");
            assert!(self.identity.set(identity).is_ok(), "it is set here alone, one at a time");
        }
        Ok(self.identity().expect("it is set"))
    }

    /// Waits until the folder belongs to a cluster.
    pub async fn wait_until_joined(&self) -> &Identity {
        self.identity.wait().await
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it keeps compiled modules.
    pub fn artefacts(&self) -> Result<CacheOptions, NodeError> {
        artefacts_of(&self.path)
    }

    /// Whether this node has ever seen that the cluster has its first nodes.
    pub fn is_founded(&self) -> bool {
        self.disk.kind(&self.path.join(FOUNDED)).is_ok_and(|kind| kind.is_some())
    }

    /// Notes that the cluster has its first nodes; durable on return.
    pub fn set_founded(&self) -> Result<(), NodeError> {
        if self.is_founded() {
            return Ok(());
        }
        let path = self.path.join(FOUNDED);
        let write = || self.disk.create(&path)?.sync().and_then(|()| self.disk.sync_dir(&self.path));
        write().map_err(|source| NodeError::Io { path: path.clone(), source })
    }

    /// `None` while the folder belongs to no cluster.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.get()
    }

    pub fn partition(&self, machine: &str, partition: PartitionId) -> PathBuf {
        partition_folder(&self.path, machine, partition)
    }

    fn write(&self, identity: &Identity) -> Result<(), NodeError> {
        let path = self.path.join(IDENTITY);
        let write = || -> std::io::Result<()> {
            let mut file = UnfinishedFile::create(self.disk.clone(), path.with_extension("new"))?;
            file.write_all(&serde_json::to_vec_pretty(identity)?)?;
            file.sync()?;
            fail::fail_point!("folder::create", |_| std::process::abort());
            file.name(&path).map(drop)
        };
        write().map_err(|source| NodeError::Io { path: path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;
    use crate::key::{NodeKey, PublicKey};

    /// What a node has told others or recorded about itself. It must never contradict that later.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct Said {
        key: Option<PublicKey>,
        is_member: bool,
        is_founded: bool,
    }

    const CLUSTER: &str = "4b0a3f0e-6d0c-4c57-9d3f-1d1b6d8f0a11";

    fn open(disk: &SimDisk, path: &Path) -> Result<DataFolder, NodeError> {
        DataFolder::open(Arc::new(disk.clone()), path, NodeId(1))
    }

    /// The first start of a node, as far as the disk allows.
    fn live(disk: &SimDisk, path: &Path, said: &mut Said) -> Result<(), NodeError> {
        let folder = open(disk, path)?;
        said.key = Some(NodeKey::of_folder(disk, path)?.public());
        let peers = BTreeMap::from([(NodeId(1), "a:1".to_owned())]);
        folder.join(CLUSTER.to_owned(), true, peers)?;
        said.is_member = true;
        folder.set_founded()?;
        said.is_founded = true;
        Ok(())
    }

    /// What a node finds when it starts on this disk.
    fn find(disk: &SimDisk, path: &Path) -> Said {
        let folder = open(disk, path).expect("nothing fails");
        let has_key = disk.kind(&path.join("node.key")).expect("nothing fails").is_some();
        let key = has_key.then(|| NodeKey::of_folder(disk, path).expect("a key is whole").public());
        let is_member = folder.identity().is_some_and(|identity| identity.cluster == CLUSTER);
        Said { key, is_member, is_founded: folder.is_founded() }
    }

    #[track_caller]
    fn check(said: Said, found: Said, what: &str) {
        assert!(said.key.is_none() || said.key == found.key, "{what}: another key");
        assert!(found.is_member || !said.is_member, "{what}: the identity is lost");
        assert!(found.is_founded || !said.is_founded, "{what}: the founding is lost");
    }

    /// A key could be lost if a power cut followed a kill: the killed process had named the file, but the name was not
    /// durable.
    #[test]
    fn what_a_node_has_said_of_itself_survives_a_power_cut_at_any_operation() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let whole = SimDisk::new();
        live(&whole, folder.path(), &mut Said::default()).expect("nothing fails");
        for operations in 0..=whole.operations() {
            let (disk, mut said) = (SimDisk::new(), Said::default());
            disk.crash_after(operations);
            assert_eq!(live(&disk, folder.path(), &mut said).is_err(), operations < whole.operations());
            for seed in 0..8 {
                let survivor = disk.crash(seed);
                check(said, find(&survivor, folder.path()), &format!("cut at operation {operations}, seed {seed}"));
                // What is found once is found again after another power cut.
                let found = find(&survivor, folder.path());
                check(found, find(&survivor.crash(seed), folder.path()), &format!("cut twice at {operations}"));
            }
            let killed = disk.kill();
            let found = find(&killed, folder.path());
            check(said, found, &format!("killed at operation {operations}"));
            for seed in 0..8 {
                let what = format!("killed at operation {operations}, then cut, seed {seed}");
                check(found, find(&killed.copy().crash(seed), folder.path()), &what);
            }
        }
    }

    #[tokio::test]
    async fn a_folder_becomes_part_of_one_cluster_and_never_of_a_second_one() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = open(&SimDisk::new(), folder.path()).expect("nothing fails");
        let join = |cluster: &str| {
            let peers = BTreeMap::from([(NodeId(1), "a:1".to_owned())]);
            data.join(cluster.to_owned(), true, peers).map(|identity| identity.cluster.clone())
        };
        let other = CLUSTER.replace('4', "5");
        let (joined, first) = tokio::join!(data.wait_until_joined(), async { join(CLUSTER) });
        assert_eq!((joined.cluster.as_str(), first.ok().as_deref()), (CLUSTER, Some(CLUSTER)));
        assert_eq!(join(&other).ok().as_deref(), Some(CLUSTER));
        assert_eq!(data.identity().map(|identity| identity.cluster.as_str()), Some(CLUSTER));
    }

    #[test]
    fn an_operation_that_fails_is_reported_and_nothing_said_is_lost() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let whole = SimDisk::new();
        live(&whole, folder.path(), &mut Said::default()).expect("nothing fails");
        let mut reported = 0;
        for accesses in 0..whole.accesses() {
            let (disk, mut said) = (SimDisk::new(), Said::default());
            disk.fail_after(accesses);
            reported += u64::from(live(&disk, folder.path(), &mut said).is_err());
            check(said, find(&disk, folder.path()), &format!("access {accesses} failed"));
            for seed in 0..8 {
                let what = format!("access {accesses} failed, then seed {seed}");
                check(said, find(&disk.copy().crash(seed), folder.path()), &what);
            }
        }
        // One failing access goes unreported: the check whether the founding is noted already. If it fails, it is noted
        // again.
        assert!(whole.accesses() <= reported + 1, "{reported} of {}", whole.accesses());
    }
}
