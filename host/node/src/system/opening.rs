//! Opening a replica: what the others remember about it, its files, and their repair if needed.
//!
//! ```text
//! others: what did its log hold? ─▶ open ─ damaged, or entries lost ─▶ the others give back what is missing ─▶ open
//!                                           └ nobody has it ─▶ waits for a node that has it, or an operator's word
//! ```
//! In: the turn of a partition that is not open here. Out: a replica that runs, or why not. It does not know what is in
//! a log, nor when to try again.

use std::sync::Arc;

use crate::archive::{ArchivedJournal, Stream};
use crate::ids::{ClusterId, NodeId};
use crate::log::{DamagedLog, Log, LogScan};
use crate::partition::{Held, Leading, Loss, Partition, PartitionError, PartitionOptions, Remembered};
use crate::peer::{GroupName, GroupPeers};
use crate::router::{Machine, MachineParticipants};
use crate::store::StoreOptions;
use crate::system::context::NodeContext;
use crate::system::error::NodeError;
use crate::system::log_damage::{LogDamage, advice, advice_divided};
use crate::system::log_witnesses::{Recalled, ask_seen};
use crate::system::modules::NodeModules;
use crate::system::repair;
use crate::system::replica_states::{ReplicaState, Turn};
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

/// Opens a partition and registers it, or registers why it is not served. It must not be open.
pub(super) async fn open_replica(
    context: &Arc<NodeContext>,
    turn: &Turn,
    machine: &Arc<Machine>,
    founders: Vec<NodeId>,
) -> Result<(), NodeError> {
    let opened = try_open(context, turn, machine, founders).await;
    if let Err(error) = &opened {
        let reason = error.to_string();
        // Opening is retried again and again, and the same reason is logged once.
        let is_new = machine.set_replica(turn.group.partition, Err(reason.clone())).err() != Some(reason);
        if context.stopping.is_cancelled() {
            tracing::info!(%error, "a partition is not opened any more");
        } else if is_new {
            tracing::error!(%error, "a partition is not served");
        }
    }
    opened
}

async fn try_open(
    context: &Arc<NodeContext>,
    turn: &Turn,
    machine: &Arc<Machine>,
    founders: Vec<NodeId>,
) -> Result<(), NodeError> {
    let group = &turn.group;
    if let Some(what) = context.record.divided(group).filter(|_| !context.record.is_given_up(group)) {
        let refusal = advice_divided(group, &what);
        turn.set_refusal(refusal.clone());
        // The other side of the two histories asks for entries of this log, which stays closed.
        if !matches!(turn.state(), ReplicaState::Asking(_)) {
            turn.set(ReplicaState::Asking(None));
        }
        return Err(NodeError::Lost { group: group.clone(), refusal });
    }
    turn.set(ReplicaState::Asking(None));
    let recalled = ask_seen(context, turn, machine).await;
    turn.set(ReplicaState::Opening);
    let recalled = recalled?;
    let failed = |source| not_opened(context, group, source);
    let open =
        |expected: Expected| Partition::open(partition_options(context, machine, group, founders.clone(), expected));
    let is_alone = context.others().is_empty();
    let expected = match recalled {
        Recalled::Vouched(remembered) => {
            Some(Expected { remembered, is_given_up: is_alone && context.record.is_given_up(group) })
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
        snapshot_pull::refetch(context, turn, machine, *first, &error.to_string()).await?;
        found = open(expected).await;
    }
    let opened = match found {
        Ok(opened) => opened,
        Err(error) if is_alone => return Err(failed(error)),
        Err(error) => {
            let damage = log_damage(context, error, group).map_err(failed)?;
            if !is_mended(context, group, &damage).await {
                repair::repair_log(context, turn, machine, &damage).await?;
                turn.set(ReplicaState::Opening);
            }
            // The others had to give back all that they have seen: an entry that only this node had was never
            // committed.
            let is_given_up = context.record.is_given_up(group);
            open(Expected { is_given_up, ..Expected::default() }).await.map_err(failed)?
        }
    };
    on_opened(context, group);
    note_first_entry(context, group, opened.log()).await;
    turn.set(ReplicaState::Open(opened.clone()));
    drop(machine.set_replica(group.partition, Ok(opened.clone())));
    let is_over = context.stopping.is_cancelled() || context.level.is_refused();
    if is_over && turn.take().is_some() {
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
async fn is_mended(context: &Arc<NodeContext>, group: &GroupName, damage: &LogDamage) -> bool {
    if !matches!(damage, LogDamage::Corrupt) {
        return false;
    }
    let folder = context.folder.partition(&group.machine, group.partition);
    let mended = segment_repair::mend_closed(context, group, &folder).await;
    mended
        .inspect_err(|why| tracing::warn!(%group, why, "sealed segments of the log are not repaired in place"))
        .is_ok()
}

/// The log of a replica, as far as it can be read for another node.
pub(super) enum ReadableLog {
    Open(Arc<Partition>),
    Unopened(Arc<LogScan>),
    Damaged(Arc<DamagedLog>),
}

/// `None` while the log is being opened.
pub(super) async fn readable_log(context: &NodeContext, group: &GroupName) -> Option<ReadableLog> {
    match context.replica_states.state(group) {
        ReplicaState::Open(partition) => Some(ReadableLog::Open(partition)),
        ReplicaState::Repairing(damaged) => Some(ReadableLog::Damaged(damaged)),
        ReplicaState::Asking(Some(known)) => Some(ReadableLog::Unopened(known)),
        ReplicaState::Asking(None) => scan_unopened(context, group).await.map(ReadableLog::Unopened),
        ReplicaState::Idle | ReplicaState::Opening | ReplicaState::Closing => None,
    }
}

/// The log of a partition that nobody has open here; `None` if it is damaged.
async fn scan_unopened(context: &NodeContext, group: &GroupName) -> Option<Arc<LogScan>> {
    let (disk, folder) = (context.opening.disk.clone(), context.folder.partition(&group.machine, group.partition));
    let scanning = tokio::task::spawn_blocking(move || LogScan::open(&*disk, &folder.join("log"))).await;
    let scan = Arc::new(scanning.ok()?.ok()?);
    context.replica_states.keep_scan(group, scan.clone());
    Some(scan)
}

/// A partition that has lost entries waits until they are back, or for an operator.
fn not_opened(context: &NodeContext, group: &GroupName, source: PartitionError) -> NodeError {
    match source {
        PartitionError::Forgot(loss) => wait_for_word(context, group, &loss),
        source => NodeError::of_partition(group, source),
    }
}

fn wait_for_word(context: &NodeContext, group: &GroupName, loss: &Loss) -> NodeError {
    let refusal = format!("{loss}; {}", advice(context, group));
    context.replica_states.set_refusal(group, refusal.clone());
    NodeError::Lost { group: group.clone(), refusal }
}

fn partition_options(
    context: &Arc<NodeContext>,
    machine: &Arc<Machine>,
    group: &GroupName,
    founders: Vec<NodeId>,
    Expected { remembered, is_given_up }: Expected,
) -> PartitionOptions {
    let identity = context.folder.identity().expect("only a member of a cluster opens partitions");
    let mut store = StoreOptions::new(context.opening.shared.clone());
    store.paranoid = context.opening.paranoid;
    store.hot_bytes_max = context.opening.hot_bytes_max;
    let cluster = identity.cluster_bytes().expect("checked when the identity was read");
    let past = context.opening.archive.clone().map(|archive| {
        let (machine, partition) = (group.machine.to_string(), group.partition);
        let folder = context.folder.path().join(ARCHIVE_CACHE).join(&machine).join(partition.to_string());
        Arc::new(ArchivedJournal::new(archive, Stream { cluster: ClusterId(cluster), machine, partition }, folder))
    });
    PartitionOptions {
        cluster,
        node: context.node,
        machine: group.machine.to_string(),
        partition: group.partition,
        folder: context.folder.partition(&group.machine, group.partition),
        disk: context.opening.disk.clone(),
        clock: context.clock.clone(),
        modules: Arc::new(NodeModules::new(context)),
        store,
        peers: GroupPeers { network: context.network.clone(), group: group.clone(), seen: context.seen.clone() },
        participants: Arc::new(MachineParticipants::of(machine)),
        founders,
        // If there are other nodes, they first say what time it is; see `clocks`.
        stands: context.others().is_empty() || context.clocks.may_lead(),
        remembered,
        had_entries: context.record.had_entries(group),
        is_given_up,
        log_keep_bytes: context.opening.log_keep_bytes,
        snapshot_every_bytes: context.opening.snapshot_every_bytes,
        leading: Leading::Decides,
        features: context.opening.features.clone(),
        past,
    }
}

/// Notes that a partition was opened.
fn on_opened(context: &NodeContext, group: &GroupName) {
    context.replica_states.remove_refusal(group);
    if context.record.is_given_up(group)
        && let Err(error) = context.record.use_up(group)
    {
        tracing::error!(
            %group, %error,
            "it could not be recorded that the partition was opened by an operator's decision"
        );
    }
}

/// Makes sure that the record knows of a replica's entries. If the replica has some, that is done before it is
/// served. Otherwise it is done as soon as the first entry is durable, long before a client is told of one.
async fn note_first_entry(context: &Arc<NodeContext>, group: &GroupName, log: &Log) {
    if context.record.had_entries(group) {
        return;
    }
    if log.durable().is_some() {
        return note_in_time(context, group.clone()).await;
    }
    let (context, group, mut durable) = (context.clone(), group.clone(), log.watch_durable());
    tokio::spawn(async move {
        let is_there = tokio::select! {
            () = context.stopping.cancelled() => false,
            first = durable.wait_for(Option::is_some) => first.is_ok(),
        };
        if is_there {
            note_in_time(&context, group).await;
        }
    });
}

/// If the note cannot be written now, the task in `losses` tries again.
async fn note_in_time(context: &Arc<NodeContext>, group: GroupName) {
    let noting = context.clone();
    let noted = tokio::task::spawn_blocking(move || noting.record.note_entries(&[group])).await;
    if let Ok(Err(error)) = noted {
        tracing::warn!(%error, "it could not be recorded that a replica has entries");
    }
}
