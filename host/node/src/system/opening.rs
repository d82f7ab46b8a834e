//! Opening a replica: what the others remember about it, its files, and their repair if needed.
//!
//! ```text
//! others: what did its log hold? ─▶ open ─ damaged, or entries lost ─▶ the others give back what is missing ─▶ open
//!                                           └ nobody has it ─▶ waits for a node that has it, or an operator's word
//! ```
//! In: a partition that is not open here. Out: a replica that runs, or why not. It does not know what is in a log, nor
//! when to try again.

use std::sync::Arc;

use crate::archive::{ArchivedJournal, Stream};
use crate::ids::{ClusterId, NodeId, PartitionId};
use crate::log::{Log, LogScan};
use crate::partition::{Held, Leading, Loss, Partition, PartitionError, PartitionOptions, Remembered};
use crate::peer::{GroupName, GroupPeers};
use crate::router::{Machine, MachineParticipants};
use crate::store::StoreOptions;
use crate::system::context::NodeContext;
use crate::system::error::NodeError;
use crate::system::host::Host;
use crate::system::log_damage::{LogDamage, advice, advice_divided};
use crate::system::log_witnesses::{Recalled, ask_seen};
use crate::system::modules::HostModules;
use crate::system::repair;
use crate::system::segment_repair;
use crate::system::snapshot_pull;

/// Below the node's data: what is fetched from the archive for readers of entries that the log has released.
const ARCHIVE_CACHE: &str = "archive-cache";

/// What is known about a replica before its files are read.
#[derive(Clone, Copy, Default)]
struct Expected {
    remembered: Remembered,
    is_given_up: bool,
}

/// Opens a partition and registers it, or registers why it is not served. Nobody may have it open.
pub(super) async fn open_replica(
    host: &Arc<Host>,
    machine: &Arc<Machine>,
    partition: PartitionId,
    founders: Vec<NodeId>,
) -> Result<(), NodeError> {
    let opened = try_open(host, machine, partition, founders).await;
    if let Err(error) = &opened {
        let reason = error.to_string();
        // Opening is retried again and again, and the same reason is logged once.
        if machine.set_replica(partition, Err(reason.clone())).err() != Some(reason) {
            tracing::error!(%error, "a partition is not served");
        }
    }
    opened
}

async fn try_open(
    host: &Arc<Host>,
    machine: &Arc<Machine>,
    partition: PartitionId,
    founders: Vec<NodeId>,
) -> Result<(), NodeError> {
    let group = GroupName::new(machine.name(), partition);
    if let Some(what) = host.record.divided(&group).filter(|_| !host.record.is_given_up(&group)) {
        let refusal = advice_divided(&group, &what);
        host.waiting.set(&group, refusal.clone());
        // The other side of the two histories asks for entries of this log, which stays closed.
        if !host.waiting.is_asking(&group) {
            host.waiting.on_asking(&group);
        }
        return Err(NodeError::Lost { group, refusal });
    }
    host.waiting.on_asking(&group);
    let recalled = ask_seen(host, machine, &group).await;
    host.waiting.on_asked(&group);
    let recalled = recalled?;
    let failed = |source| not_opened(host, &group, source);
    let open =
        |expected: Expected| Partition::open(partition_options(host, machine, &group, founders.clone(), expected));
    let is_alone = host.others().is_empty();
    let expected = match recalled {
        Recalled::Vouched(remembered) => {
            Some(Expected { remembered, is_given_up: is_alone && host.record.is_given_up(&group) })
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
        snapshot_pull::refetch(host, machine, &group, *first, &error.to_string()).await?;
        found = open(expected).await;
    }
    let opened = match found {
        Ok(opened) => opened,
        Err(error) if is_alone => return Err(failed(error)),
        Err(error) => {
            let damage = log_damage(host, error, &group).map_err(failed)?;
            if !is_mended(host, &group, &damage).await {
                repair::repair_log(host, machine, &group, &damage).await?;
            }
            // The others had to give back all that they have seen: an entry that only this node had was never
            // committed.
            let is_given_up = host.record.is_given_up(&group);
            open(Expected { is_given_up, ..Expected::default() }).await.map_err(failed)?
        }
    };
    on_opened(host, &group);
    note_first_entry(host, &group, opened.log()).await;
    host.replicas.write().insert(group.clone(), opened.clone());
    drop(machine.set_replica(partition, Ok(opened.clone())));
    let is_over = host.stopping.is_cancelled() || host.level.is_refused();
    if is_over && host.replicas.write().remove(&group).is_some() {
        // The task that closes all replicas may have run before this one was added.
        opened.close().await.map_err(failed)?;
    }
    Ok(())
}

/// What is wrong with a log. Either the log itself has found it, or its group has, when it read entries for the
/// state.
fn log_damage(context: &NodeContext, error: PartitionError, group: &GroupName) -> Result<LogDamage, PartitionError> {
    let log = context.folder.partition(&group.machine, group.partition).join("log");
    if matches!(error, PartitionError::Consensus(_)) && Log::is_marked(&*context.opening.disk, &log) {
        return Ok(LogDamage::Corrupt);
    }
    LogDamage::of(error)
}

/// Whether damage to sealed segments could be repaired in place.
async fn is_mended(host: &Arc<Host>, group: &GroupName, damage: &LogDamage) -> bool {
    if !matches!(damage, LogDamage::Corrupt) {
        return false;
    }
    let folder = host.folder.partition(&group.machine, group.partition);
    let mended = segment_repair::mend_closed(host, group, &folder).await;
    mended
        .inspect_err(|why| tracing::warn!(%group, why, "sealed segments of the log are not repaired in place"))
        .is_ok()
}

/// The log of a partition that is not open here, as far as it can be read. `None` while it is being opened or
/// repaired, and if it is damaged.
pub(super) async fn unopened_log(host: &Host, group: &GroupName) -> Option<Arc<LogScan>> {
    if host.find_replica(group).is_some() || !host.waiting.is_asking(group) {
        return None;
    }
    if let Some(known) = host.waiting.scan(group) {
        return Some(known);
    }
    let (disk, folder) = (host.opening.disk.clone(), host.folder.partition(&group.machine, group.partition));
    let scanning = tokio::task::spawn_blocking(move || LogScan::open(&*disk, &folder.join("log"))).await;
    let scan = Arc::new(scanning.ok()?.ok()?);
    host.waiting.keep_scan(group, scan.clone());
    Some(scan)
}

/// A partition that has lost entries waits until they are back, or for an operator.
fn not_opened(host: &Host, group: &GroupName, source: PartitionError) -> NodeError {
    match source {
        PartitionError::Forgot(loss) => wait_for_word(host, group, &loss),
        source => NodeError::of_partition(group, source),
    }
}

fn wait_for_word(host: &Host, group: &GroupName, loss: &Loss) -> NodeError {
    let refusal = format!("{loss}; {}", advice(host, group));
    host.waiting.set(group, refusal.clone());
    NodeError::Lost { group: group.clone(), refusal }
}

fn partition_options(
    host: &Arc<Host>,
    machine: &Arc<Machine>,
    group: &GroupName,
    founders: Vec<NodeId>,
    Expected { remembered, is_given_up }: Expected,
) -> PartitionOptions {
    let identity = host.folder.identity().expect("only a member of a cluster opens partitions");
    let mut store = StoreOptions::new(host.opening.shared.clone());
    store.paranoid = host.opening.paranoid;
    store.hot_bytes_max = host.opening.hot_bytes_max;
    let cluster = identity.cluster_bytes().expect("checked when the identity was read");
    let past = host.opening.archive.clone().map(|archive| {
        let (machine, partition) = (group.machine.to_string(), group.partition);
        let folder = host.folder.path().join(ARCHIVE_CACHE).join(&machine).join(partition.to_string());
        Arc::new(ArchivedJournal::new(archive, Stream { cluster: ClusterId(cluster), machine, partition }, folder))
    });
    PartitionOptions {
        cluster,
        node: host.node,
        machine: group.machine.to_string(),
        partition: group.partition,
        folder: host.folder.partition(&group.machine, group.partition),
        disk: host.opening.disk.clone(),
        clock: host.clock.clone(),
        modules: Arc::new(HostModules::new(host)),
        store,
        peers: GroupPeers { network: host.network.clone(), group: group.clone(), seen: host.seen.clone() },
        participants: Arc::new(MachineParticipants::of(machine)),
        founders,
        // If there are other nodes, they first say what time it is; see `clocks`.
        stands: host.others().is_empty() || host.clocks.may_lead(),
        remembered,
        had_entries: host.record.had_entries(group),
        is_given_up,
        log_keep_bytes: host.opening.log_keep_bytes,
        snapshot_every_bytes: host.opening.snapshot_every_bytes,
        leading: Leading::Decides,
        features: host.opening.features.clone(),
        past,
    }
}

/// Notes that a partition was opened.
fn on_opened(host: &Host, group: &GroupName) {
    host.waiting.remove(group);
    if host.record.is_given_up(group)
        && let Err(error) = host.record.use_up(group)
    {
        tracing::error!(
            %group, %error,
            "it could not be recorded that the partition was opened by an operator's decision"
        );
    }
}

/// Makes sure that the record knows of a replica's entries. If the replica has some, that is done before it is
/// served. Otherwise it is done as soon as the first entry is durable, long before a client is told of one.
async fn note_first_entry(host: &Arc<Host>, group: &GroupName, log: &Log) {
    if host.record.had_entries(group) {
        return;
    }
    if log.durable().is_some() {
        return note_in_time(host, group.clone()).await;
    }
    let (host, group, mut durable) = (host.clone(), group.clone(), log.watch_durable());
    tokio::spawn(async move {
        let is_there = tokio::select! {
            () = host.stopping.cancelled() => false,
            first = durable.wait_for(Option::is_some) => first.is_ok(),
        };
        if is_there {
            note_in_time(&host, group).await;
        }
    });
}

/// If the note cannot be written now, the task in `losses` tries again.
async fn note_in_time(host: &Arc<Host>, group: GroupName) {
    let noting = host.clone();
    let noted = tokio::task::spawn_blocking(move || noting.record.note_entries(&[group])).await;
    if let Ok(Err(error)) = noted {
        tracing::warn!(%error, "it could not be recorded that a replica has entries");
    }
}
