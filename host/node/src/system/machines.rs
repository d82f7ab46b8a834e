//! The machines of a node: made and opened as the directory names them, and kept open until the node stops.
//!
//! In: the directory. Out: machines that the router knows, with an open replica of each partition. It does not know
//! what opening a replica takes, nor who should lead.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::ids::{ModuleId, NodeId, PartitionId};
use crate::machine::logic::Logic;
use crate::machine::native::NativeLogic;
use crate::partition::{Partition, RunState};
use crate::peer::GroupName;
use crate::router::{Machine, MachineOptions};
use crate::system::context::NodeContext;
use crate::system::directory::{Directory, founders_of};
use crate::system::directory_requests::DirectoryFreshness;
use crate::system::drain;
use crate::system::error::NodeError;
use crate::system::logic::{MachineRow, SYSTEM, System};
use crate::system::modules::{NodeModules, find_module};
use crate::system::opening::open_replica;
use crate::system::reopening::reopen;

/// How soon a node that cannot open `system` tries again.
pub const OPEN_AGAIN: Duration = Duration::from_secs(1);
/// How long the directory's owner may take to read what `system` says.
const READ_PATIENCE: Duration = Duration::from_secs(30);
/// How often it is checked that everything is open, and runs.
const LOOK: Duration = Duration::from_secs(1);

/// The logic of the machine `system`, which is linked into this program.
pub fn system_logic(context: &NodeContext) -> Arc<dyn Logic> {
    let system: Arc<dyn Logic> = Arc::new(NativeLogic::<System>::new());
    context.registry.add_native(system.clone());
    system
}

/// Makes the machine `system` known and opens its only partition.
pub async fn open_system(context: &Arc<NodeContext>, system: Arc<dyn Logic>) -> Result<(), NodeError> {
    let machine = context.system.get_or_init(|| make(context, SYSTEM, 1, system)).clone();
    context.router.set_system(machine.clone());
    open_missing(context, &machine, PartitionId(0), founders_of_system(context)).await
}

fn founders_of_system(context: &NodeContext) -> Vec<NodeId> {
    let identity = context.folder.identity().expect("only a member of a cluster opens partitions");
    if identity.is_founder { identity.peers.keys().copied().collect() } else { Vec::new() }
}

/// Checks before anything is decided whether this node understands what the cluster writes, as far as its own state
/// says.
///
/// # Errors
/// It does not, or that could not be found out in time.
pub async fn check_level(context: &NodeContext) -> Result<(), NodeError> {
    let Some(system) = context.system_partition() else { return context.level.check() };
    let read = context.directory_requests.read(system, DirectoryFreshness::Stale, Instant::now() + READ_PATIENCE).await;
    // The owner may have found it out before, and then the partition is closed by now.
    context.level.check()?;
    match read {
        Err(error @ (NodeError::Unanswered | NodeError::Stopping)) => Err(error),
        // What cannot be read now is read as soon as that is possible, before any other partition is opened.
        _ => Ok(()),
    }
}

/// Opens the replicas that the directory names and that are not open here, all at once. Returns the first failure.
pub async fn open_machines(context: &Arc<NodeContext>, directory: &Directory) -> Result<(), NodeError> {
    let opening = directory.machines.iter().map(|(name, row)| async move {
        let Some(machine) = find_or_make(context, name, row).await? else { return Ok(()) };
        let founders = founders_of(row);
        let opening = machine.partition_ids().map(|id| open_missing(context, &machine, id, founders.clone()));
        join_all(opening).await.into_iter().collect()
    });
    join_all(opening).await.into_iter().collect()
}

/// Finds or makes a machine and brings it up to date. Returns `None` while its partitions must not be opened.
async fn find_or_make(
    context: &Arc<NodeContext>,
    name: &str,
    row: &MachineRow,
) -> Result<Option<Arc<Machine>>, NodeError> {
    let mut hindrances = drain::hindrances(&context.directory(), name);
    hindrances.is_removed = context.published.directory.borrow().is_removed;
    let machine = match context.router.find_machine(name) {
        Some(machine) => {
            machine.set_hindrances(hindrances);
            if machine.module_id() != ModuleId(row.module) {
                machine.set_active(find_module(context, ModuleId(row.module)).await?);
            }
            machine
        }
        None => {
            let active = find_module(context, ModuleId(row.module)).await?;
            let machine = make(context, name, row.partitions, active);
            context.router.add(machine.clone());
            machine
        }
    };
    // Until this node is level, what it knows about the others may be long out of date, so it shares nothing with
    // them yet.
    Ok(context.is_level().then_some(machine))
}

/// Opens a replica, unless it is open or a task is opening it.
async fn open_missing(
    context: &Arc<NodeContext>,
    machine: &Arc<Machine>,
    partition: PartitionId,
    founders: Vec<NodeId>,
) -> Result<(), NodeError> {
    let turn = context.replica_states.begin(&GroupName::new(machine.name(), partition));
    match turn.filter(|_| machine.find_partition(partition).is_none()) {
        Some(turn) => open_replica(context, &turn, machine, founders).await,
        None => Ok(()),
    }
}

fn make(context: &Arc<NodeContext>, name: &str, partition_count: u32, active: Arc<dyn Logic>) -> Arc<Machine> {
    Machine::new(MachineOptions {
        name: name.to_owned(),
        partition_count,
        modules: Arc::new(NodeModules::new(context)),
        active,
        clock: context.clock.clone(),
        node: context.node,
        network: context.network.clone(),
        nodes: context.published.nodes.clone(),
        answering: context.published.answering.clone(),
        features: context.opening.features.clone(),
    })
}

/// Machines that this node should serve and does not know yet. A request for one would be told that it does not
/// exist.
fn unknown_machines(context: &NodeContext) -> Vec<String> {
    let unknown = context.specs.iter().filter(|spec| context.router.find_machine(&spec.name).is_none());
    unknown.map(|spec| format!("the machine `{}` is not known yet", spec.name)).collect()
}

/// Waits until `system` knows every machine to create, and has recorded the feature level of a node that is alone.
pub async fn wait_until_created(context: &NodeContext, deadline: Instant) -> Result<Arc<Directory>, NodeError> {
    let system = context.system_partition().expect("it was opened before");
    let mut progress = system.watch_progress();
    loop {
        let directory = context.directory_requests.read(system.clone(), DirectoryFreshness::Stale, deadline).await?;
        let is_level = context.level.max() <= directory.feature_level;
        if is_level && context.specs.iter().all(|spec| directory.machines.contains_key(&spec.name)) {
            return Ok(directory);
        }
        if !matches!(tokio::time::timeout_at(deadline, progress.changed()).await, Ok(Ok(()))) {
            return Err(NodeError::NotServed("the machines were not created in time".to_owned()));
        }
    }
}

/// Waits until every partition has a leader and its module. At the deadline the error says what is missing.
pub async fn wait_until_served(context: &NodeContext, deadline: Instant) -> Result<(), NodeError> {
    loop {
        let missing = match context.router.is_served() {
            Ok(()) if is_decided(context) => return Ok(()),
            Ok(()) => vec!["a partition has no module yet".to_owned()],
            Err(missing) => missing,
        };
        if deadline <= Instant::now() {
            return Err(NodeError::NotServed(missing.join(", ")));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether every partition of every machine to create is open and has its first module.
fn is_decided(context: &NodeContext) -> bool {
    context.specs.iter().all(|spec| {
        let Some(machine) = context.router.find_machine(&spec.name) else { return false };
        let has_module = |partition: Arc<Partition>| partition.progress().journal.module != ModuleId::ZERO;
        machine.partition_ids().all(|id| machine.find_partition(id).is_some_and(has_module))
    })
}

/// Opens what the directory names, until the node stops. It tries again if a replica could not be opened, or is no
/// longer open.
pub async fn keep_open(context: Arc<NodeContext>) {
    let mut directory = context.watch_directory();
    let mut is_known = false;
    while !context.level.is_refused() {
        if let Some(system) = context.system.get() {
            tend_replica(&context, system, PartitionId(0), founders_of_system(&context));
        }
        let known = directory.borrow_and_update().directory.clone();
        tend_machines(&context, &known).await;
        // This is reported once. Afterwards each machine reports what it lacks, and a node that stops reports that.
        if !is_known && !context.stopping.is_cancelled() && !context.level.is_refused() {
            let missing = unknown_machines(&context);
            is_known = missing.is_empty();
            context.router.set_not_ready(missing);
        }
        tokio::select! {
            changed = directory.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
            () = context.stopping.cancelled() => return,
        }
    }
}

/// Starts to open all replicas of the directory, and to reopen those that need it. It waits for no partition.
async fn tend_machines(context: &Arc<NodeContext>, directory: &Directory) {
    let tending = directory.machines.iter().map(|(name, row)| async move {
        // The machine itself reports what it lacks.
        let Ok(Some(machine)) = find_or_make(context, name, row).await else { return };
        for id in machine.partition_ids() {
            tend_replica(context, &machine, id, founders_of(row));
        }
    });
    join_all(tending).await;
}

/// Starts to open a replica that is not open, without waiting. If a replica has halted for a reason that opening
/// repairs, it is closed first.
fn tend_replica(context: &Arc<NodeContext>, machine: &Arc<Machine>, partition: PartitionId, founders: Vec<NodeId>) {
    let group = GroupName::new(machine.name(), partition);
    // The turn comes first, so that nobody opens the replica in between.
    let Some(turn) = context.replica_states.begin(&group) else { return };
    let reason = match machine.find_partition(partition).map(|open| open.status().state) {
        Some(RunState::Halted(reason)) if reason.is_mended_by_opening() || context.record.is_given_up(&group) => {
            Some(reason)
        }
        Some(_) => return,
        None => None,
    };
    let why = match reason {
        Some(reason) => {
            tracing::warn!(%group, %reason, "the partition is closed, and will be opened again");
            format!("it is opened again: {reason}")
        }
        None => "it is being opened".to_owned(),
    };
    tokio::spawn(reopen(context.clone(), turn, machine.clone(), why, founders));
}
