//! Closes replicas and opens them again.
//!
//! ```text
//! turn ─▶ close what is open ─▶ wait until nobody reads from it ─▶ open ─ not possible ─▶ again, until the node stops
//! ```
//! In: the turn of a replica, and why it is opened again. Out: a replica that runs. Until then the partition is not
//! served here, and says why. It does not know what opening repairs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::durable;
use crate::ids::NodeId;
use crate::router::Machine;
use crate::system::context::NodeContext;
use crate::system::opening::open_replica;
use crate::system::replica_states::Turn;

/// How soon opening is tried again, and how often it is checked whether the old partition is gone.
const OPEN_AGAIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Closes the partition, if it is open, and opens it as soon as that is possible.
pub async fn reopen(context: Arc<NodeContext>, turn: Turn, machine: Arc<Machine>, why: String, founders: Vec<NodeId>) {
    close(&context, &turn, &machine, why).await;
    open(&context, &turn, &machine, founders).await;
}

/// Does the same, and sets folders of the partition aside in between.
pub async fn reopen_without(
    context: &Arc<NodeContext>,
    turn: Turn,
    machine: Arc<Machine>,
    why: String,
    founders: Vec<NodeId>,
    folders: Vec<PathBuf>,
) {
    close(context, &turn, &machine, why).await;
    if context.stopping.is_cancelled() || context.level.is_refused() {
        // The partition may have been taken away from here, and is still being closed.
        return;
    }
    let setting =
        tokio::task::spawn_blocking(move || folders.iter().try_for_each(|it| durable::set_aside(it).map(drop)));
    if let Err(error) = setting.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
        tracing::error!(group = %turn.group, %error, "damaged files cannot be set aside");
    }
    open(context, &turn, &machine, founders).await;
}

async fn close(context: &NodeContext, turn: &Turn, machine: &Machine, why: String) {
    let Some(partition) = turn.take() else { return };
    turn.say_not_served(machine, why);
    let remains = partition.remains();
    if let Err(error) = partition.close().await {
        // What could not be written is replayed from the log.
        tracing::warn!(group = %turn.group, %error, "the partition could not be closed in order");
    }
    drop(partition);
    // Requests that still read from it end by their deadlines. A disk that hangs has no deadline.
    while !remains.are_gone() && !context.stopping.is_cancelled() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn open(context: &Arc<NodeContext>, turn: &Turn, machine: &Arc<Machine>, founders: Vec<NodeId>) {
    while !context.stopping.is_cancelled() && !context.level.is_refused() {
        if open_replica(context, turn, machine, founders.clone()).await.is_ok() {
            return;
        }
        tokio::select! {
            () = context.stopping.cancelled() => {}
            () = tokio::time::sleep(OPEN_AGAIN) => {}
        }
    }
}

/// Halts as soon as the cluster writes what this node does not understand, unless the node stops before.
pub async fn halt_when_refused(context: Arc<NodeContext>) {
    tokio::select! {
        () = context.level.wait_until_refused() => halt(&context).await,
        () = context.stopping.cancelled() => {}
    }
}

/// Stops serving and voting here, because the cluster writes what this node does not understand.
pub async fn halt(context: &Arc<NodeContext>) {
    let Err(error) = context.level.check() else { return };
    let reason = error.to_string();
    tracing::error!(error = reason, "this node stops serving");
    context.router.set_not_ready(vec![reason.clone()]);
    for (group, partition) in context.replica_states.take_all() {
        if let Some(machine) = context.find_machine(&group.machine) {
            drop(machine.set_replica(group.partition, Err(reason.clone())));
        }
        if let Err(error) = partition.close().await {
            tracing::warn!(%group, %error, "the partition could not be closed in order");
        }
    }
}
