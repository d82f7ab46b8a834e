//! Kills the leader repeatedly, and restarts all nodes one after the other, both under load.
//!
//! In: running nodes and their accounts. Out: for each kill, and for the restart of each node, the longest time in
//! which no transfer succeeded, from the moment before it until the node has caught up. Loss is not checked here: the
//! tests do that.

use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;
use serde::Serialize;
use statehouse_kernel::ids::PartitionId;

use super::nodes::Nodes;
use super::writers::Writers;
use crate::bench::spread::LatencySpread;
use crate::bench::wallet::Accounts;

/// Clients that write meanwhile.
pub const CLIENTS: u32 = 16;
/// Transfers that must succeed before the next failure, so that each failure hits a working cluster.
const STEADY_TRANSFERS: u64 = 500;
const STEADY_TIME_MAX: Duration = Duration::from_secs(60);
const PARTITION: PartitionId = PartitionId(0);

/// What clients noticed.
#[derive(Serialize)]
pub struct Silences {
    /// The longest silence of each kill or restart.
    pub longest: LatencySpread,
    pub transfers: u64,
    /// Requests that got an answer other than success, or none, and were sent again.
    pub sent_again: u64,
}

/// Kills the leader `kills` times.
pub async fn kill_leaders(
    nodes: &mut Nodes,
    accounts: &Arc<Accounts>,
    partitions: u32,
    kills: u32,
    bar: &ProgressBar,
) -> anyhow::Result<Silences> {
    let writers = Writers::start(nodes.addresses(), accounts.clone(), PARTITION, CLIENTS);
    let mut longest = Vec::new();
    for _ in 0..kills {
        writers.wait_for(STEADY_TRANSFERS, STEADY_TIME_MAX).await?;
        let leader = nodes.leader(PARTITION).await?;
        writers.listen();
        nodes.kill(leader);
        // The two remaining nodes elect the next leader.
        nodes.leader(PARTITION).await?;
        nodes.start_again(leader)?;
        nodes.wait_until_caught_up(leader, partitions).await?;
        longest.push(writers.longest_silence());
        bar.inc(1);
    }
    Ok(silences(longest, writers).await)
}

/// Stops and starts every node once.
pub async fn restart_all(
    nodes: &mut Nodes,
    accounts: &Arc<Accounts>,
    partitions: u32,
    bar: &ProgressBar,
) -> anyhow::Result<Silences> {
    let writers = Writers::start(nodes.addresses(), accounts.clone(), PARTITION, CLIENTS);
    let mut longest = Vec::new();
    for id in nodes.ids() {
        writers.wait_for(STEADY_TRANSFERS, STEADY_TIME_MAX).await?;
        writers.listen();
        nodes.stop(id).await?;
        nodes.start_again(id)?;
        nodes.wait_until_caught_up(id, partitions).await?;
        longest.push(writers.longest_silence());
        bar.inc(1);
    }
    Ok(silences(longest, writers).await)
}

async fn silences(longest: Vec<Duration>, writers: Writers) -> Silences {
    let (transfers, sent_again) = writers.finish().await;
    Silences { longest: LatencySpread::of(longest), transfers, sent_again }
}
