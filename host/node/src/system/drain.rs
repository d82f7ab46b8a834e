//! A rollback waits until nothing is in flight between partitions, because an earlier module may not understand what a
//! later one has begun.
//!
//! ```text
//! `system`: rollback asked for ─▶ every node: nothing begins ─▶ every leader: all is over ─▶ `system`: module active
//!                                                            └▶ not in time ─▶ `system`: not rolled back, and why
//! ```
//! In: the directory, on the leader of `system`. Out: one of these two steps. If the leader dies in between, the next
//! one continues. Commands that need no other partition run all the time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::ids::{ModuleId, PartitionId};
use crate::peer::{Call, GroupName, Topic};
use crate::records::command::SystemCommand;
use crate::router::{Hindrances, Machine};
use crate::system::context::NodeContext;
use crate::system::directory::Directory;
use crate::system::module_row::Mode;
use crate::system::submit::submit;

/// How long commands in flight may take to end.
const DRAIN_MAX: Duration = Duration::from_secs(20);
/// How long a leader may take to say whether its partition is drained.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long `system` may take to record the result.
const RECORD_PATIENCE: Duration = Duration::from_secs(5);

/// What commands of a machine have to wait for, as the directory says.
pub fn hindrances(directory: &Directory, machine: &str) -> Hindrances {
    let (Some(row), Some(modules)) = (directory.machines.get(machine), directory.modules.get(machine)) else {
        return Hindrances::default();
    };
    let not_activated = modules.not_activated(row.activation);
    Hindrances {
        is_draining: modules.draining().is_some(),
        drains: modules.drains(),
        activation: row.activation,
        not_activated: not_activated.map(|(id, problem)| (PartitionId(id), problem.to_owned())).collect(),
        is_removed: false,
    }
}

/// Continues the rollbacks that were asked for.
pub async fn tend(context: &Arc<NodeContext>, system: &Machine, directory: &Directory) {
    for (machine, modules) in &directory.modules {
        let Some((module, since)) = modules.draining() else { continue };
        let Some(row) = directory.machines.get(machine) else { continue };
        let asking = (0..row.partitions).map(|id| ask(context, GroupName::new(machine.as_str(), PartitionId(id))));
        let busy: Vec<String> = join_all(asking).await.into_iter().filter_map(Result::err).collect();
        // `since` is a time of the journal of `system`.
        let now = context.system_partition().map_or_else(|| context.clock.now(), |system| system.present());
        let waited = now.0.saturating_sub(since.0);
        let (name, module) = (machine.clone(), ModuleId(module));
        let command = if busy.is_empty() {
            let (mode, current) = (Mode::Rollback, ModuleId(row.module));
            SystemCommand::ActivateModule { machine: name, module, mode, current, proof: None }
        } else if i64::try_from(DRAIN_MAX.as_micros()).is_ok_and(|max| max < waited) {
            let problem = busy.join("; ").chars().take(200).collect();
            SystemCommand::ModuleNotDrained { machine: name, module, problem }
        } else {
            continue;
        };
        tracing::info!(machine, module = %module.short(), ?busy, "a rollback has waited");
        if let Err(error) = submit(system, &command, Instant::now() + RECORD_PATIENCE).await {
            tracing::warn!(machine, %error, "a rollback will be tried again");
        }
    }
}

/// Checks that nothing is in flight that the partition coordinates. The error says why that is not so, or not known.
async fn ask(context: &NodeContext, group: GroupName) -> Result<(), String> {
    let busy = |reason: &str| Err(format!("partition {}: {reason}", group.partition));
    let Some(replica) = context.find_replica(&group) else { return busy("it is not open") };
    let is_drained = match replica.leader() {
        Some(leader) if leader == context.node => {
            replica.drain(Instant::now() + PATIENCE).await.map_err(|error| error.to_string())
        }
        Some(leader) => {
            let call = Call { topic: Topic::Drain, group: Some(group.clone()), body: Bytes::new() };
            let answer = context.network.call(leader, call, PATIENCE).await;
            answer.map(|answer| answer.first() == Some(&1)).map_err(|error| error.to_string())
        }
        None => return busy("nobody leads it"),
    };
    match is_drained {
        Ok(true) => Ok(()),
        Ok(false) => busy("commands between partitions are still under way"),
        Err(reason) => busy(&reason),
    }
}
