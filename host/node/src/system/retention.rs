//! Retention: keeps the logs of this node at about the length that its configuration says.
//!
//! In: how much to keep. Out: snapshots, and segments that are deleted once a snapshot has what is in them. It runs
//! only if the configuration names a length; nothing else ever deletes a part of a journal. Entries that a command in
//! flight may still ask for stay, however long it takes. With an archive, entries that are not in it yet stay, too.
//! Without one, entries that a view of this node has not followed or a webhook has not sent stay up to a bound. If that
//! cannot be found out, everything stays. It does not know what the other nodes keep.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::ids::Micros;
use crate::limits::{LOG_FOLLOWED_BYTES_MIN, LOG_FOLLOWED_FACTOR};
use crate::partition::{Needed, Partition, PartitionError};
use crate::peer::GroupName;
use crate::system::context::NodeContext;

/// How often the logs are looked at.
const ROUND: Duration = Duration::from_secs(1);
/// How long a partition has to say what is in flight.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs until the node stops.
pub async fn run(context: Arc<NodeContext>, keep_bytes: u64) {
    loop {
        for (group, partition) in context.replicas() {
            if !partition.is_running() {
                continue;
            }
            let needed = async || {
                let in_flight = oldest_in_flight(&context, &group).await?;
                let since = [in_flight, not_archived(&context, &group)].into_iter().flatten().min();
                let bytes_max = keep_bytes.saturating_mul(LOG_FOLLOWED_FACTOR).max(LOG_FOLLOWED_BYTES_MIN);
                let followed = if context.opening.archive.is_some() {
                    // Views and webhooks can read the archive.
                    None
                } else {
                    let followed = [not_followed(&context, &group).await, not_sent(&context, &group, &partition).await];
                    followed.into_iter().flatten().min()
                };
                Ok(Needed { since, followed: followed.map(|since| (since, bytes_max)) })
            };
            if let Err(error) = partition.release_log(keep_bytes, needed).await {
                tracing::warn!(%group, %error, "the log is not released; this will be tried again");
            }
        }
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

/// The time from which a partition's entries are not in the archive yet; `None` if there is no archive.
fn not_archived(context: &NodeContext, group: &GroupName) -> Option<Micros> {
    let archived = context.published.archived.borrow().times.get(group).copied();
    context.opening.archive.is_some().then(|| archived.map_or(Micros(0), |last| Micros(last.0 + 1)))
}

/// The time from which a partition's entries are not in all views of this node yet, as a crash would leave the views.
async fn not_followed(context: &Arc<NodeContext>, group: &GroupName) -> Option<Micros> {
    let names: Vec<String> = {
        let directory = context.directory();
        directory.views.get(&*group.machine)?.views.iter().map(|row| row.name.clone()).collect()
    };
    let (context, group) = (context.clone(), group.clone());
    let asking =
        tokio::task::spawn_blocking(move || context.views.needed_since(&group.machine, &names, group.partition));
    // If this panics, the views count as if they had followed nothing.
    asking.await.unwrap_or(Some(Micros(0)))
}

/// The time from which a webhook has yet to send a partition's entries; this node may have to send them.
async fn not_sent(context: &NodeContext, group: &GroupName, partition: &Arc<Partition>) -> Option<Micros> {
    let sent = {
        let directory = context.directory();
        let webhooks = directory.webhooks.iter().filter(|((machine, _), _)| **machine == *group.machine);
        let lanes = webhooks.flat_map(|(_, row)| &row.lanes).map(|lane| lane.at.position());
        lanes.filter(|at| at.partition == group.partition).map(|at| at.index).min()?
    };
    let partition = partition.clone();
    match tokio::task::spawn_blocking(move || partition.find_entry(sent)).await {
        // The entry may have been sent in part.
        Ok(Ok(recorded)) => Some(recorded.entry.header().time),
        // The entry was kept until the bound was reached.
        Ok(Err(PartitionError::Released { .. })) => None,
        _ => Some(Micros(0)),
    }
}

/// When the oldest command in flight of a machine started, on any home partition. Its coordinator may ask every
/// partition what it has recorded since then, and its client may ask for its start.
///
/// # Errors
/// A partition does not answer in time: it has no leader, or this node lags behind.
pub async fn oldest_in_flight(context: &NodeContext, group: &GroupName) -> Result<Option<Micros>, PartitionError> {
    let Some(machine) = context.router.find_machine(&group.machine) else { return Ok(None) };
    let mut oldest = None;
    for home in machine.partition_ids() {
        let partition = machine.find_partition(home).ok_or(PartitionError::NotHere(home))?;
        partition.read_linearizable(Instant::now() + PATIENCE).await?;
        let started = partition.list_in_flight()?.iter().map(crate::saga::Saga::started).min();
        oldest = [oldest, started].into_iter().flatten().min();
    }
    Ok(oldest)
}
