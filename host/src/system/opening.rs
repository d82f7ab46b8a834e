//! Opening a replica: what the others remember about it, its files, and their repair if needed.
//!
//! ```text
//! others: what did its log hold? ─▶ open ─ damaged, or entries lost ─▶ the others give back what is missing ─▶ open
//!                                           └ nobody has it ─▶ waits for a node that has it, or an operator's word
//! ```
//! In: a partition that is not open here. Out: a replica that runs, or why not. It does not know what is in a log, nor
//! when to try again.

use std::sync::Arc;

use crate::archive::{Past, Stream};
use crate::ids::{ClusterId, NodeId, PartitionId};
use crate::log::{Log, LogScan};
use crate::partition::{Held, Leading, Loss, Partition, PartitionError, PartitionOptions, Remembered};
use crate::peer::{GroupName, GroupPeers};
use crate::router::{Machine, MachineParticipants};
use crate::store::StoreOptions;
use crate::system::error::NodeError;
use crate::system::host::Host;
use crate::system::log_damage::LogDamage;
use crate::system::log_witnesses::Recalled;
use crate::system::modules::HostModules;
use crate::system::repair;
use crate::system::replica_rebuild;
use crate::system::segment_repair;

/// Below the node's data: what is fetched from the archive for readers of entries that the log has released.
const ARCHIVE_CACHE: &str = "archive-cache";

/// What is known about a replica before its files are read.
#[derive(Clone, Copy, Default)]
struct Expected {
    remembered: Remembered,
    is_given_up: bool,
}

impl Host {
    pub(super) async fn try_open(
        self: &Arc<Self>,
        machine: &Arc<Machine>,
        partition: PartitionId,
        founders: Vec<NodeId>,
    ) -> Result<(), NodeError> {
        let group = GroupName::new(machine.name(), partition);
        if let Some(what) = self.record.divided(&group).filter(|_| !self.record.is_given_up(&group)) {
            let refusal = self.advice_divided(&group, &what);
            self.waiting.set(&group, refusal.clone());
            // The other side of the two histories asks for entries of this log, which stays closed.
            if !self.waiting.is_asking(&group) {
                self.waiting.on_asking(&group);
            }
            return Err(NodeError::Lost { group, refusal });
        }
        self.waiting.on_asking(&group);
        let recalled = self.ask_seen(machine, &group).await;
        self.waiting.on_asked(&group);
        let recalled = recalled?;
        let failed = |source| self.not_opened(&group, source);
        let open =
            |expected: Expected| Partition::open(self.partition_options(machine, &group, founders.clone(), expected));
        let is_alone = self.others().is_empty();
        let expected = match recalled {
            Recalled::Vouched(remembered) => {
                Some(Expected { remembered, is_given_up: is_alone && self.record.is_given_up(&group) })
            }
            Recalled::Unvouched => None,
        };
        let mut found = match expected {
            Some(expected) => open(expected).await,
            None => Err(PartitionError::Unvouched),
        };
        if let (Err(error), Some(expected), false) = (&found, expected, is_alone)
            && let PartitionError::CannotRebuild { held: Held::From(first), .. } = error
        {
            replica_rebuild::refetch(self, machine, &group, *first, &error.to_string()).await?;
            found = open(expected).await;
        }
        let opened = match found {
            Ok(opened) => opened,
            Err(error) if is_alone => return Err(failed(error)),
            Err(error) => {
                let damage = self.log_damage(error, &group).map_err(failed)?;
                if !self.is_mended(&group, &damage).await {
                    repair::repair_log(self, machine, &group, &damage).await?;
                }
                // The others had to give back all that they have seen: an entry that only this node had was never
                // committed.
                let is_given_up = self.record.is_given_up(&group);
                open(Expected { is_given_up, ..Expected::default() }).await.map_err(failed)?
            }
        };
        self.on_opened(&group);
        self.note_first_entry(&group, opened.log()).await;
        self.replicas.write().insert(group.clone(), opened.clone());
        drop(machine.set_replica(partition, Ok(opened.clone())));
        let is_over = self.stopping.is_cancelled() || self.level.is_refused();
        if is_over && self.replicas.write().remove(&group).is_some() {
            // The task that closes all replicas may have run before this one was added.
            opened.close().await.map_err(failed)?;
        }
        Ok(())
    }

    /// What is wrong with a log. Either the log itself has found it, or its group has, when it read entries for the
    /// state.
    fn log_damage(&self, error: PartitionError, group: &GroupName) -> Result<LogDamage, PartitionError> {
        let log = self.folder.partition(&group.machine, group.partition).join("log");
        if matches!(error, PartitionError::Consensus(_)) && Log::is_marked(&*self.opening.disk, &log) {
            return Ok(LogDamage::Corrupt);
        }
        LogDamage::of(error)
    }

    /// Whether damage to sealed segments could be repaired in place.
    async fn is_mended(self: &Arc<Self>, group: &GroupName, damage: &LogDamage) -> bool {
        if !matches!(damage, LogDamage::Corrupt) {
            return false;
        }
        let folder = self.folder.partition(&group.machine, group.partition);
        let mended = segment_repair::mend_closed(self, group, &folder).await;
        mended
            .inspect_err(|why| tracing::warn!(%group, why, "sealed segments of the log are not repaired in place"))
            .is_ok()
    }

    /// The log of a partition that is not open here, as far as it can be read. `None` while it is being opened or
    /// repaired, and if it is damaged.
    pub(super) async fn unopened_log(&self, group: &GroupName) -> Option<Arc<LogScan>> {
        if self.find_replica(group).is_some() || !self.waiting.is_asking(group) {
            return None;
        }
        if let Some(known) = self.waiting.scan(group) {
            return Some(known);
        }
        let (disk, folder) = (self.opening.disk.clone(), self.folder.partition(&group.machine, group.partition));
        let scanning = tokio::task::spawn_blocking(move || LogScan::open(&*disk, &folder.join("log"))).await;
        let scan = Arc::new(scanning.ok()?.ok()?);
        self.waiting.keep_scan(group, scan.clone());
        Some(scan)
    }

    /// A partition that has lost entries waits until they are back, or for an operator.
    fn not_opened(&self, group: &GroupName, source: PartitionError) -> NodeError {
        match source {
            PartitionError::Forgot(loss) => self.wait_for_word(group, &loss),
            source => NodeError::of_partition(group, source),
        }
    }

    fn wait_for_word(&self, group: &GroupName, loss: &Loss) -> NodeError {
        let refusal = format!("{loss}; {}", self.advice(group));
        self.waiting.set(group, refusal.clone());
        NodeError::Lost { group: group.clone(), refusal }
    }

    fn partition_options(
        self: &Arc<Self>,
        machine: &Arc<Machine>,
        group: &GroupName,
        founders: Vec<NodeId>,
        Expected { remembered, is_given_up }: Expected,
    ) -> PartitionOptions {
        let identity = self.folder.identity().expect("only a member of a cluster opens partitions");
        let mut store = StoreOptions::new(self.opening.shared.clone());
        store.paranoid = self.opening.paranoid;
        store.hot_bytes_max = self.opening.hot_bytes_max;
        let cluster = identity.cluster_bytes().expect("checked when the identity was read");
        let past = self.opening.archive.clone().map(|archive| {
            let (machine, partition) = (group.machine.to_string(), group.partition);
            let folder = self.folder.path().join(ARCHIVE_CACHE).join(&machine).join(partition.to_string());
            Arc::new(Past::new(archive, Stream { cluster: ClusterId(cluster), machine, partition }, folder))
        });
        PartitionOptions {
            cluster,
            node: self.node,
            machine: group.machine.to_string(),
            partition: group.partition,
            folder: self.folder.partition(&group.machine, group.partition),
            disk: self.opening.disk.clone(),
            clock: self.clock.clone(),
            modules: Arc::new(HostModules::new(self)),
            store,
            peers: GroupPeers { network: self.network.clone(), group: group.clone(), seen: self.seen.clone() },
            participants: Arc::new(MachineParticipants::of(machine)),
            founders,
            // If there are other nodes, they first say what time it is; see `clocks`.
            stands: self.others().is_empty() || self.clocks.may_lead(),
            remembered,
            had_entries: self.record.had_entries(group),
            is_given_up,
            log_keep_bytes: self.opening.log_keep_bytes,
            snapshot_every_bytes: self.opening.snapshot_every_bytes,
            leading: Leading::Decides,
            features: self.opening.features.clone(),
            past,
        }
    }
}
