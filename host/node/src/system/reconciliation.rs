//! Reconciliation: the groups that this node leads are kept as the directory wants them.
//!
//! ```text
//! founded? → machines created? → per partition led here: the module → members → the leader where it belongs
//! ```
//! In: the directory, who is reachable, how far followers are. Out: one small change at a time. The process may die
//! after any of them: the next leader finds what is left to do. It runs on every node and does nothing for partitions
//! led elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::consensus::{ConsensusError, GroupMetrics};
use crate::ids::{LogIndex, ModuleId, NodeId};
use crate::machine::entry::Activation;
use crate::partition::{Partition, PartitionError};
use crate::peer::GroupName;
use crate::records::command::SystemCommand;
use crate::records::rejection::RejectionCode;
use crate::router::Machine;
use crate::system::clocks::Sample;
use crate::system::cluster_error::ClusterError;
use crate::system::context::NodeContext;
use crate::system::directory::Directory;
use crate::system::failed_activations::{self, Troubles};
use crate::system::logic::SYSTEM;
use crate::system::machine_spec::stage;
use crate::system::submit::submit;
use crate::system::{drain, level};

/// How often the groups are compared with the directory.
const ROUND: Duration = Duration::from_millis(100);
/// How long one change may take before the next round looks again.
const CHANGE_PATIENCE: Duration = Duration::from_secs(5);
/// Entries that a follower may lack and still count as caught up.
const LAG_MAX: u64 = 256;
/// How long a node must have answered before leadership is transferred to it.
const SETTLED: Duration = Duration::from_secs(2);
/// How long leaders are rebalanced after a node has come or gone.
const SPREADING: Duration = Duration::from_secs(20);

/// Whether leaders are being rebalanced, and until when.
#[derive(Default)]
struct Spread {
    reachable: Vec<NodeId>,
    until: Option<Instant>,
}

impl Spread {
    /// Leaders move only for a while after nodes came or went, so that a leader that an operator has chosen stays.
    fn is_on(&mut self, reachable: Vec<NodeId>) -> bool {
        let now = Instant::now();
        if reachable != self.reachable {
            *self = Self { reachable, until: Some(now + SPREADING) };
        }
        self.until.is_some_and(|until| now < until)
    }
}

/// Runs until the node stops.
pub async fn run(context: Arc<NodeContext>, troubles: Arc<Troubles>) {
    let mut spread = Spread::default();
    while !context.stopping.is_cancelled() {
        let samples = context.clocks.samples();
        // A node that is about to stop hands over its leadership elsewhere; see `leaving`.
        let is_spreading = spread.is_on(samples.keys().copied().collect()) && !context.leaving.is_cancelled();
        let settled = |node: &NodeId| {
            samples.get(node).is_some_and(|sample| SETTLED <= sample.since.elapsed() && !sample.is_stopping)
        };
        let directory = context.directory();
        found_and_create(&context, &directory).await;
        let led = context.replicas().into_iter().filter(|(_, partition)| partition.is_leader());
        let tended = led.map(|(group, partition)| {
            let (context, troubles, directory, settled) = (&context, &troubles, &directory, &settled);
            async move {
                let tending = tend(context, troubles, directory, &group, &partition, is_spreading, settled);
                match tokio::time::timeout(CHANGE_PATIENCE, tending).await {
                    Ok(Err(error)) => {
                        tracing::debug!(%group, %error, "the upkeep of a partition failed; it will be tried again")
                    }
                    Ok(Ok(())) => {}
                    Err(_) => tracing::warn!(%group, "a change of members or leader takes long"),
                }
            }
        });
        join_all(tended).await;
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

/// What only the leader of `system` does.
async fn found_and_create(context: &Arc<NodeContext>, directory: &Directory) {
    let Some(system) = context.system.get().cloned() else { return };
    if !context.system_partition().is_some_and(|partition| partition.is_leader() && has_module(&partition)) {
        return;
    }
    let result = if !directory.is_founded() {
        let identity = context.folder.identity().expect("a partition is open");
        let command = SystemCommand::FoundCluster { nodes: identity.peers.clone() };
        submit(&system, &command, Instant::now() + CHANGE_PATIENCE).await
    } else {
        drain::tend(context, &system, directory).await;
        let raised = level::tend(context, &system, directory).await;
        match raised.and(create_missing(context, &system, directory).await) {
            Ok(()) => describe_created(context, &system, directory).await,
            failed => failed,
        }
    };
    if let Err(error) = result {
        tracing::warn!(%error, "a change of the directory will be tried again");
    }
}

async fn create_missing(
    context: &Arc<NodeContext>,
    system: &Machine,
    directory: &Directory,
) -> Result<(), ClusterError> {
    for spec in context.specs.iter().filter(|spec| !directory.machines.contains_key(&spec.name)) {
        let failed = |error: crate::system::NodeError| ClusterError::Invalid(error.to_string());
        let logic = stage(&context.registry, spec).map_err(failed)?;
        let (name, partitions, module) = (spec.name.clone(), spec.partitions, logic.id());
        let command = SystemCommand::CreateMachine { name, partitions, module };
        match submit(system, &command, Instant::now() + CHANGE_PATIENCE).await {
            // Created in the meantime; the directory will say so.
            Err(ClusterError::Rejected { code: Some(RejectionCode::MachineExists), .. }) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Makes the modules known that machines were created with, so that they can be named like all others.
async fn describe_created(context: &NodeContext, system: &Machine, directory: &Directory) -> Result<(), ClusterError> {
    for (machine, modules) in directory.modules.iter().filter(|(_, modules)| modules.has_room()) {
        let Some(module) = modules.created().filter(|module| modules.find(module.0).is_none()) else { continue };
        // If the module is not here yet, it is on its way.
        let (Ok(logic), Ok(wasm)) = (context.registry.find(module), context.registry.read(module)) else { continue };
        let describe = logic.describe();
        let command = SystemCommand::StageModule {
            machine: machine.clone(),
            module,
            version: describe.version.clone(),
            schema: describe.schema,
            size: u32::try_from(wasm.len()).expect("the registry keeps no larger module"),
        };
        submit(system, &command, Instant::now() + CHANGE_PATIENCE).await?;
    }
    Ok(())
}

/// One step towards what a partition that is led here should be.
async fn tend(
    context: &NodeContext,
    troubles: &Troubles,
    directory: &Directory,
    group: &GroupName,
    partition: &Partition,
    is_spreading: bool,
    settled: &impl Fn(&NodeId) -> bool,
) -> Result<(), ConsensusError> {
    // While an activation waits to be tried again, members and leader are still managed.
    if let Some((module, number)) = module_wanted(context, directory, group, partition)
        && troubles.is_due(group, number)
    {
        activate(context, troubles, group, partition, module, number).await;
        return Ok(());
    }
    let raft = partition.group();
    let metrics = raft.metrics();
    if directory.is_founded() && change_members(context, directory, group, partition, &metrics).await? {
        return Ok(());
    }
    if !context.clocks.may_lead() {
        return hand_over(context, group, partition, |_| true).await;
    }
    // If the log is damaged here, a node where it is whole should lead, which can read and send the entries. If there
    // is none, the lead stays: it would only be passed around.
    let is_whole =
        |node: &NodeId| context.clocks.samples().get(node).is_some_and(|sample| !sample.damaged.contains(group));
    if partition.log().is_damaged() {
        return hand_over(context, group, partition, is_whole).await;
    }
    let wanted = leader_wanted(group, &metrics);
    let can_lead = |node: &NodeId| settled(node) && is_whole(node) && is_caught_up(&metrics, *node);
    if is_spreading && wanted != context.node && can_lead(&wanted) {
        tracing::info!(%group, to = %wanted, "leadership is transferred to balance the leaders");
        raft.transfer_to(wanted).await?;
    }
    Ok(())
}

fn has_module(partition: &Partition) -> bool {
    partition.progress().journal.module != ModuleId::ZERO
}

/// The module that the partition is to activate, and the number of the activation; `None` if it has done so.
fn module_wanted(
    context: &NodeContext,
    directory: &Directory,
    group: &GroupName,
    partition: &Partition,
) -> Option<(ModuleId, u64)> {
    let (module, number) = if &*group.machine == SYSTEM {
        (context.system.get()?.module_id(), 0)
    } else {
        let row = directory.machines.get(&*group.machine)?;
        (ModuleId(row.module), row.activation)
    };
    let journal = partition.progress().journal;
    (journal.module == ModuleId::ZERO || journal.activation < number).then_some((module, number))
}

async fn activate(
    context: &NodeContext,
    troubles: &Troubles,
    group: &GroupName,
    partition: &Partition,
    module: ModuleId,
    number: u64,
) {
    // If the module is not here yet, it is on its way.
    let Ok(logic) = context.registry.find(module) else { return };
    let activation = Activation { module, schema: logic.describe().schema, number };
    match partition.activate(activation, Instant::now() + CHANGE_PATIENCE).await {
        Ok(_) => troubles.on_activated(group),
        // The module was stopped, not refused.
        Err(_) if context.stopping.is_cancelled() => {}
        Err(PartitionError::NotActivated { reason, .. }) => {
            failed_activations::report(context, troubles, group, module, number, &reason).await;
        }
        Err(error) => tracing::debug!(%group, %error, "the activation of a module will be tried again"),
    }
}

/// Makes one change towards the nodes of the directory. Returns whether there was one to make.
async fn change_members(
    context: &NodeContext,
    directory: &Directory,
    group: &GroupName,
    partition: &Partition,
    metrics: &GroupMetrics,
) -> Result<bool, ConsensusError> {
    let raft = partition.group();
    let is_wanted = |node: &NodeId| directory.nodes.contains_key(node);
    let is_member = |node: &NodeId| metrics.voters.contains(node) || metrics.learners.contains(node);
    if let Some(node) = directory.nodes.keys().find(|node| !is_member(node)) {
        raft.add_learner(*node).await?;
        return Ok(true);
    }
    if let Some(node) = metrics.learners.iter().find(|node| !is_wanted(node)) {
        raft.remove_learner(*node).await?;
        return Ok(true);
    }
    let caught_up = |node: &&NodeId| is_wanted(node) && is_caught_up(metrics, **node);
    let ready: Vec<NodeId> = metrics.learners.iter().filter(caught_up).copied().collect();
    let staying: Vec<NodeId> = metrics.voters.iter().filter(|node| is_wanted(node)).copied().collect();
    if ready.is_empty() && staying.len() == metrics.voters.len() {
        return Ok(false);
    }
    if !is_wanted(&context.node) {
        hand_over(context, group, partition, is_wanted).await?;
        return Ok(true);
    }
    let voters: Vec<NodeId> = staying.into_iter().chain(ready).collect();
    // While members change, everything needs a majority of the old ones and a majority of the new ones.
    let up = voters.iter().filter(|node| **node == context.node || is_caught_up(metrics, **node)).count();
    if up <= voters.len() / 2 {
        return Ok(false);
    }
    raft.set_voters(&voters).await?;
    Ok(true)
}

/// Transfers leadership from this node to a follower that has caught up: if possible one whose log is whole, and of
/// those the furthest.
pub async fn hand_over(
    context: &NodeContext,
    group: &GroupName,
    partition: &Partition,
    may_lead: impl Fn(&NodeId) -> bool,
) -> Result<(), ConsensusError> {
    let may_lead = |node: &NodeId| *node != context.node && may_lead(node);
    match successor(group, &partition.group().metrics(), &context.clocks.samples(), may_lead) {
        Some(node) => partition.group().transfer_to(node).await,
        None => Ok(()),
    }
}

fn successor(
    group: &GroupName,
    metrics: &GroupMetrics,
    samples: &BTreeMap<NodeId, Sample>,
    may_lead: impl Fn(&NodeId) -> bool,
) -> Option<NodeId> {
    let rank = |node: &NodeId| {
        let sample = samples.get(node).filter(|sample| !sample.is_stopping)?;
        let matched = metrics.matched.get(node).copied().flatten();
        is_caught_up(metrics, *node).then_some((!sample.damaged.contains(group), matched, *node))
    };
    let candidates = metrics.voters.iter().filter(|node| may_lead(node));
    candidates.filter_map(rank).max().map(|(.., node)| node)
}

fn is_caught_up(metrics: &GroupMetrics, node: NodeId) -> bool {
    let matched = metrics.matched.get(&node).copied().flatten();
    let last = metrics.last_log.unwrap_or(LogIndex(0));
    matched.is_some_and(|matched| last.0 <= matched.0 + LAG_MAX)
}

/// The voter that leads a partition when all are well: partitions take the voters in turn.
fn leader_wanted(group: &GroupName, metrics: &GroupMetrics) -> NodeId {
    let mut voters = metrics.voters.clone();
    voters.sort_unstable();
    assert!(!voters.is_empty(), "a led group has voters");
    voters[group.partition.0 as usize % voters.len()]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::features;
    use crate::ids::{Micros, PartitionId, Term};
    use crate::system::clocks::{Clocks, Heard, Look};

    const LAST: LogIndex = LogIndex(1000);

    /// What node 1 has heard of nodes 2 and 3: how many entries they lack, and whether the partition's log is damaged.
    fn heard_of(group: &GroupName, others: [(u64, bool); 2]) -> (GroupMetrics, BTreeMap<NodeId, Sample>) {
        let clocks = Clocks::new(Arc::new(crate::clock::ManualClock::default()), CHANGE_PATIENCE, None);
        let mut matched = BTreeMap::from([(NodeId(1), Some(LAST))]);
        let look = Look { wall: Micros(0), believed: Micros(0) };
        for (node, (lag, is_damaged)) in (2..).map(NodeId).zip(others) {
            let damaged = is_damaged.then(|| group.clone()).into_iter().collect::<BTreeSet<_>>();
            let heard = Heard { look, http: None, feature_level_max: features::BASE, is_stopping: false, damaged };
            clocks.on_answer(node, heard, look, look);
            matched.insert(node, Some(LogIndex(LAST.0 - lag)));
        }
        let voters = vec![NodeId(1), NodeId(2), NodeId(3)];
        let (last_log, learners) = (Some(LAST), Vec::new());
        let (term, leader, committed, applied) = (Term(1), Some(NodeId(1)), None, None);
        (GroupMetrics { term, leader, voters, learners, matched, last_log, committed, applied }, clocks.samples())
    }

    #[test]
    fn the_lead_goes_to_a_node_that_has_caught_up_and_first_to_one_whose_log_is_whole() {
        let group = GroupName::new("wallet", PartitionId(0));
        let others = |node: &NodeId| *node != NodeId(1);
        let lag = LAG_MAX + 1;
        for (found, expected) in [
            ([(1, false), (0, false)], Some(3)),
            ([(0, false), (1, false)], Some(2)),
            ([(1, false), (0, true)], Some(2)),
            ([(lag, false), (0, true)], Some(3)),
            ([(lag, false), (lag, false)], None),
        ] {
            let (metrics, samples) = heard_of(&group, found);
            assert_eq!(successor(&group, &metrics, &samples, others), expected.map(NodeId), "{found:?}");
            let (other, of) = (GroupName::new("wallet", PartitionId(1)), |node: &NodeId| *node == NodeId(3));
            let caught_up = found[1].0 <= LAG_MAX;
            assert_eq!(successor(&other, &metrics, &samples, of), caught_up.then_some(NodeId(3)), "{found:?}");
        }
    }
}
