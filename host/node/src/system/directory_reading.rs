//! Reading the directory: what `system` says now becomes what this node knows.
//!
//! In: the partition of `system`. Out: the directory and the nodes for all who follow them, routes, the feature level,
//! what operators have said about clocks, and whether this node was removed. One reads at a time. It does not know what
//! others do about a change.

use std::sync::Arc;

use crate::ids::{Micros, NodeId, PartitionId};
use crate::partition::Partition;
use crate::peer::GroupName;
use crate::system::clock_row::ClockRow;
use crate::system::clocks::Clocks;
use crate::system::directory::{Directory, WordsHeard};
use crate::system::error::NodeError;
use crate::system::host::{ASK_AGAIN, Host};
use crate::system::logic::SYSTEM;
use crate::system::turn;

/// Follows the directory as `system` changes, until the node stops.
pub async fn follow(host: Arc<Host>) {
    while !host.stopping.is_cancelled() {
        // The partition is not held meanwhile: it may have to be closed to install a snapshot, and then another
        // takes its place.
        let system = host.system_partition().map(|system| {
            let progress = system.watch_progress();
            (progress, read(&host, &system))
        });
        let (progress, result) = system.unzip();
        match result {
            Some(Err(error)) if host.level.is_refused() => return turn::halt(&host, &error).await,
            Some(Err(error)) => tracing::error!(%error, "the directory cannot be read"),
            _ => {}
        }
        let changed = async {
            let is_there = match progress {
                Some(mut progress) => progress.changed().await.is_ok(),
                None => false,
            };
            if !is_there {
                tokio::time::sleep(ASK_AGAIN).await;
            }
        };
        tokio::select! {
            () = changed => {}
            () = host.stopping.cancelled() => {}
        }
    }
}

/// Takes over what `system` says now.
pub fn read(host: &Host, system: &Partition) -> Result<(), NodeError> {
    // One task at a time reads, so that none overwrites what another has read later.
    let mut words_heard = host.reading.lock();
    let failed = |source| NodeError::of_partition(&GroupName::new(SYSTEM, PartitionId(0)), source);
    let point = system.read_stale().map_err(failed)?;
    let directory = Directory::read(&point.view).map_err(|error| failed(error.into()))?;
    host.level.take_over(directory.feature_level)?;
    if directory.retired.contains(&host.node) {
        on_removed(host);
    }
    on_clock_row(&host.clocks, &directory.clock, &mut words_heard);
    if directory.is_founded() {
        if let Err(error) = host.folder.set_founded() {
            tracing::error!(%error, "it could not be recorded that the cluster exists");
        }
        host.routes.set(&directory.nodes);
        let nodes: Vec<NodeId> = directory.nodes.keys().copied().collect();
        host.nodes.send_if_modified(|before| {
            *before != nodes && {
                *before = nodes;
                true
            }
        });
    }
    host.directory.send_if_modified(|before| {
        *before != directory && {
            *before = directory;
            true
        }
    });
    Ok(())
}

/// Checks before anything is decided whether this node understands what the cluster writes, as far as its own state
/// says.
pub fn check_level(host: &Host) -> Result<(), NodeError> {
    let read = host.system_partition().map_or(Ok(()), |system| read(host, &system));
    if host.level.is_refused() { read } else { Ok(()) }
}

/// Called when `system` or another node says that this node was removed from the cluster.
pub fn on_removed(host: &Host) {
    host.standing.on_removed();
    let node = host.node;
    let reason =
        format!("node {node} was removed from this cluster for good: stop it; its data is not needed any more");
    host.router.set_trouble("membership", Some(reason));
}

/// Handles what an operator has said about clocks that leapt.
fn on_clock_row(clocks: &Clocks, row: &ClockRow, heard: &mut WordsHeard) {
    if heard.is_new(row.number) && !clocks.on_accepted(Micros(row.ahead)) {
        let seconds = row.ahead / 1_000_000;
        tracing::info!(seconds, by = row.by, "an operator accepts a clock jump that this node's clock has not made");
    }
}
