//! Canonical snapshots of a machine on this node: it lists them, and makes another one of what is applied.
//!
//! In: the name of a machine, which may be `system`. Out: what its replicas here have listed. Every node makes those of
//! midnight automatically. One that is asked for is made by the node that is asked, of each partition as it stands
//! there. It knows nothing of files.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::ids::PartitionId;
use crate::partition::{Partition, PartitionError};
use crate::peer::GroupName;
use crate::snapshot::canonical::ListedFile;
use crate::system::cluster::Cluster;
use crate::system::cluster_error::ClusterError;
use crate::system::logic::SYSTEM;

impl Cluster {
    /// The snapshots, by partition, oldest first.
    ///
    /// # Errors
    /// There is no such machine.
    pub fn snapshots(&self, machine: &str) -> Result<Vec<ListedFile>, ClusterError> {
        Ok(self.replicas_of(machine)?.iter().flat_map(|replica| replica.canonical_snapshots()).collect())
    }

    /// The snapshots in the archive that are not here, as partition and name, as this node listed the archive last.
    ///
    /// # Errors
    /// There is no such machine.
    pub fn snapshots_elsewhere(&self, machine: &str) -> Result<Vec<(PartitionId, String)>, ClusterError> {
        let mut found = Vec::new();
        for replica in self.replicas_of(machine)? {
            let group = GroupName::new(machine, replica.id());
            let archived = self.context().published.archived.borrow().snapshots.get(&group).cloned();
            let here = replica.canonical_snapshots();
            let is_here = |name: &String| here.iter().any(|listed| listed.name == *name);
            let elsewhere = archived.into_iter().flatten().filter(|name| !is_here(name));
            found.extend(elsewhere.map(|name| (replica.id(), name)));
        }
        Ok(found)
    }

    /// Makes a snapshot of every partition of the machine that has a replica here, each as of its last applied entry.
    ///
    /// # Errors
    /// There is no such machine, a partition does not run here or has no history yet, too many were asked for already,
    /// or a file is not done by the deadline, in which case the work continues.
    pub async fn take_snapshots(&self, machine: &str, deadline: Instant) -> Result<Vec<ListedFile>, ClusterError> {
        let replicas = self.replicas_of(machine)?;
        let taking = replicas.iter().map(|replica| async move {
            match tokio::time::timeout_at(deadline, replica.take_canonical()).await {
                Ok(Err(PartitionError::NoEntry(_))) => {
                    Err(ClusterError::Invalid(format!("{machine}/{}: nothing has happened there yet", replica.id())))
                }
                Ok(Err(error @ PartitionError::SnapshotsAsked)) => {
                    Err(ClusterError::SnapshotsAsked(format!("{machine}/{}: {error}", replica.id())))
                }
                Ok(taken) => {
                    taken.map_err(|error| ClusterError::Invalid(format!("{machine}/{}: {error}", replica.id())))
                }
                Err(_) => Err(ClusterError::SnapshotUnfinished),
            }
        });
        join_all(taking).await.into_iter().collect()
    }

    fn replicas_of(&self, machine: &str) -> Result<Vec<Arc<Partition>>, ClusterError> {
        if machine == SYSTEM {
            return Ok(self.context().system_partition().into_iter().collect());
        }
        let unknown = || ClusterError::UnknownMachine(machine.to_owned());
        let found = self.context().router.find_machine(machine).ok_or_else(unknown)?;
        let missing =
            |id: PartitionId| ClusterError::Invalid(format!("{machine}/{id} is not open on this node: ask again"));
        found.partition_ids().map(|id| found.find_partition(id).ok_or_else(|| missing(id))).collect()
    }
}
