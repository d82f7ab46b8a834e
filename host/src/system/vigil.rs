//! The vigil: what a node with peers does at regular intervals, whoever leads.
//!
//! In: the other nodes. Out: how far their clocks are from this one, hence whether this node may lead; what was seen of their logs, on disk;
//! whether this node's journals are those of their leaders. A journal that differs stops its partition here, for good.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::ids::NodeId;
use crate::partition::Partition;
use crate::peer::GroupName;
use crate::system::host::Host;
use crate::system::service::{ask_clock, ask_head};

/// How often the others are asked for the time, and how long each may take.
const CLOCK_ROUND: Duration = Duration::from_millis(500);
const CLOCK_PATIENCE: Duration = Duration::from_millis(400);
/// Rounds of clocks between two looks at the journals, and between two writes of what was seen.
const ROUNDS_PER_LOOK: u64 = 10;
const ROUNDS_PER_WRITE: u64 = 2;

/// Runs until the node stops.
pub async fn run(host: Arc<Host>) {
    for round in 0_u64.. {
        let asking = host.others().into_iter().map(|node| ask_clock(&host, node, CLOCK_PATIENCE));
        join_all(asking).await;
        let may_lead = host.clocks.on_round();
        let replicas = host.replicas();
        for (_, partition) in &replicas {
            partition.group().stand(may_lead);
        }
        let led = replicas.iter().filter(|(_, partition)| partition.is_leader()).count();
        metrics::gauge!("statehouse_partitions_led").set(led as f64);
        let answering: BTreeSet<NodeId> = host.clocks.samples().into_keys().collect();
        metrics::gauge!("statehouse_nodes_answering").set(answering.len() as f64);
        host.answering.send_replace(answering);
        if round % ROUNDS_PER_LOOK == 0 {
            let following = host.replicas().into_iter().filter(|(_, partition)| !partition.is_leader());
            let comparing = following.map(|(group, partition)| compare_heads(&host, group, partition));
            join_all(comparing).await;
        }
        if round % ROUNDS_PER_WRITE == 0 {
            let seen = host.seen.clone();
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || seen.flush()).await {
                tracing::warn!(%error, "what was seen of other nodes is not on disk");
            }
        }
        tokio::select! {
            () = host.stopping.cancelled() => return,
            () = tokio::time::sleep(CLOCK_ROUND) => {}
        }
    }
}

/// Compares a follower's journal with its leader's, where the follower is.
async fn compare_heads(host: &Host, group: GroupName, partition: Arc<Partition>) {
    let Some(leader) = partition.leader().filter(|leader| *leader != host.node) else { return };
    let journal = partition.progress().journal;
    match ask_head(host.network().as_ref(), leader, &group, journal.index, CLOCK_PATIENCE).await {
        Ok(Some(head)) if head != journal.head => {
            tracing::error!(%group, %leader, index = %journal.index, "this journal is not its leader's");
            partition.halt_diverged(journal.index, leader);
        }
        Ok(_) => metrics::counter!("statehouse_heads_compared_total").increment(1),
        Err(error) => tracing::debug!(%group, %leader, %error, "the leader's head is not known"),
    }
}
