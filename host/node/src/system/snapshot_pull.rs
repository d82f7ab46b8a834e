//! Fetches a snapshot that nobody has offered: the others have released the entries that this node lacks, and only
//! their states are left.
//!
//! In: a partition that is not open here. Out: the newest snapshot of one of the other nodes in its folder, durable. It
//! is installed when the partition is opened next. It does not know what is in a snapshot, nor why it is needed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::disk::RealDisk;
use crate::durable;
use crate::ids::{LogIndex, NodeId};
use crate::peer::GroupName;
use crate::router::Machine;
use crate::snapshot::{IDS, IncomingSnapshot, Manifest, STATE, ask_newest, receive};
use crate::system::context::NodeContext;
use crate::system::error::NodeError;
use crate::system::replica_states::Turn;

/// The pause before the other nodes are asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// Fetches a snapshot of an entry at `at_least` or later from the first of the other nodes that has one.
///
/// # Errors
/// What each of them says, in words.
pub async fn pull(
    context: &NodeContext,
    group: &GroupName,
    folder: &Path,
    at_least: LogIndex,
) -> Result<Manifest, String> {
    let mut reasons = Vec::new();
    for node in context.others() {
        match pull_from(context, node, group, folder, at_least).await {
            Ok(manifest) => return Ok(manifest),
            Err(reason) => reasons.push(format!("node {node}: {reason}")),
        }
    }
    Err(format!("no node has a snapshot that reaches entry {at_least}: {}", reasons.join("; ")))
}

async fn pull_from(
    context: &NodeContext,
    node: NodeId,
    group: &GroupName,
    folder: &Path,
    at_least: LogIndex,
) -> Result<Manifest, String> {
    let network = context.network.as_ref();
    let offer = ask_newest(network, node, group, at_least).await.map_err(|error| error.to_string())?;
    let manifest = Manifest::decode(&offer).map_err(|error| error.to_string())?;
    if manifest.last().index < at_least {
        return Err(format!("its newest snapshot reaches entry {} only", manifest.last()));
    }
    let (folder, stream) = (folder.to_owned(), group.to_string());
    // This writes to disk, so it does not run on a thread of the runtime.
    let opening =
        tokio::task::spawn_blocking(move || IncomingSnapshot::open(Arc::new(RealDisk), &folder, &stream, &offer)).await;
    let incoming = opening.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    let incoming = incoming.map_err(|error| error.to_string())?;
    tracing::info!(
        %group, %node, last = %manifest.last(), bytes = manifest.size(),
        "fetching a snapshot from another node"
    );
    receive(network, node, group, incoming).await.map_err(|error| error.to_string())?;
    Ok(manifest)
}

/// Fetches a snapshot for a replica whose state or ids are gone, because of `reason`, and whose log only begins with
/// `first`. Waits until another node has one.
///
/// # Errors
/// The node stops, or the folder cannot be written.
pub async fn refetch(
    context: &NodeContext,
    turn: &Turn,
    machine: &Machine,
    first: LogIndex,
    reason: &str,
) -> Result<(), NodeError> {
    let group = &turn.group;
    tracing::error!(
        %group,
        reason,
        "state or ids cannot be made again from the log; the other nodes are asked for a snapshot"
    );
    let folder = context.folder.partition(&group.machine, group.partition);
    while let Err(refusal) = pull(context, group, &folder, LogIndex(first.0.saturating_sub(1))).await {
        turn.say_not_served(machine, format!("{reason}; {refusal}"));
        tokio::select! {
            () = context.stopping.cancelled() => return Err(NodeError::Stopping),
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
    // A snapshot replaces both, and only if the state is not further.
    let aside = [folder.join(STATE), folder.join(IDS)];
    let setting = tokio::task::spawn_blocking(move || aside.iter().try_for_each(|it| durable::set_aside(it).map(drop)));
    let set = setting.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    set.map_err(|source| NodeError::Io { path: folder, source })
}
