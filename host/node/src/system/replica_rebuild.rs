//! A replica whose own files are found damaged is rebuilt: from its log if that goes back to the beginning, or else
//! from a snapshot of another node.
//!
//! ```text
//! running: damaged file ─▶ is there a source? ─▶ another node leads ─▶ closed, set aside ─▶ installed or replayed
//! opening: damaged, and the log's beginning is gone ─▶ asks until a node gives a snapshot ─▶ installed
//! ```
//! In: what a partition, or its opening, has found. Out: a replica that runs on sound files; until then the node is not
//! ready and says why. If there is nothing to rebuild it from, the replica keeps running as it is. It does not know how
//! damage is found.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::partition::Partition;
use crate::peer::GroupName;
use crate::snapshot::{IDS, STATE};
use crate::system::context::NodeContext;
use crate::system::directory::founders_of;
use crate::system::logic::SYSTEM;
use crate::system::reopening::reopen_without;
use crate::system::snapshot_pull::pull;

/// The pause between two looks, and before a repair that failed is tried again.
const LOOK: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_secs(10);
/// Under this name `/readyz` says what is damaged.
const TROUBLE: &str = "files";

/// Runs until the node stops.
pub async fn run(context: Arc<NodeContext>) {
    loop {
        let mut pause = LOOK;
        let found = |(group, replica): (GroupName, Arc<Partition>)| Some((group, replica.find_damaged()?));
        let found: Vec<(GroupName, String)> = context.replicas().into_iter().filter_map(found).collect();
        let mut damaged = Vec::new();
        for (group, name) in found {
            let mut said = format!("{group}: its file `{name}` is damaged");
            if let Err(reason) = heal(&context, &group, &name).await {
                said += &format!(", and cannot be made again yet: {reason}");
                pause = AGAIN;
            }
            damaged.push(said);
        }
        context.router.set_trouble(TROUBLE, (!damaged.is_empty()).then(|| damaged.join("; ")));
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Rebuilds a replica that has a damaged file.
///
/// # Errors
/// Why the replica is not rebuilt now, in words. Nothing was changed.
async fn heal(context: &Arc<NodeContext>, group: &GroupName, name: &str) -> Result<(), String> {
    let replica = context.find_replica(group).ok_or("it is not open")?;
    let machine = context.find_machine(&group.machine).ok_or("its machine is not open")?;
    let folder = context.folder.partition(&group.machine, group.partition);
    tracing::error!(%group, name, "a file of the partition is damaged; the partition is made again");
    let mut aside = vec![folder.join(if Path::new(name).starts_with(IDS) { IDS } else { STATE })];
    if let Some(purged) = replica.log().last_purged() {
        pull(context, group, &folder, purged.index).await?;
        // A snapshot replaces both, and only if the state is not further.
        aside = vec![folder.join(STATE), folder.join(IDS)];
    }
    let turn = context.replica_states.begin(group).ok_or("the partition is being opened")?;
    give_away_lead(context, &replica).await;
    let founders = if &*group.machine == SYSTEM {
        Vec::new()
    } else {
        context.directory().machines.get(&*group.machine).map(founders_of).unwrap_or_default()
    };
    drop(replica);
    let why = format!("its file `{name}` is damaged, and it is made again");
    reopen_without(context, turn, machine, why, founders, aside).await;
    Ok(())
}

/// Transfers leadership. If that does not succeed, the others elect a leader once the partition is closed.
async fn give_away_lead(context: &NodeContext, replica: &Partition) {
    if !replica.is_leader() {
        return;
    }
    let samples = context.clocks.samples();
    let voters = replica.group().metrics().voters;
    for to in voters.into_iter().filter(|node| *node != context.node && samples.contains_key(node)) {
        let until = Instant::now() + LOOK;
        if let Err(error) = replica.group().transfer_to(to).await {
            tracing::debug!(%to, %error, "a damaged replica still leads");
            continue;
        }
        while replica.is_leader() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if !replica.is_leader() {
            return;
        }
    }
}
