//! Removal of a node for good, so that no partition loses its leader, its quorum or data with it.
//!
//! ```text
//! the rest can decide everywhere? ─▶ it leads nothing ─▶ `system` records it ─▶ it is not heard ─▶ it votes no more
//! ```
//! In: the node. Out: a step in `system`, or why not. After that step nobody listens to the node, but it still counts
//! where it votes, until a majority has agreed that it does not. So the others must be a majority while it still
//! counts. After two removals in a row, or one while another node is down, they might not be a majority, and never
//! become one again.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::features::{self, FeatureLevel};
use crate::ids::NodeId;
use crate::records::command::SystemCommand;
use crate::records::rejection::RejectionCode;
use crate::system::cluster::Cluster;
use crate::system::cluster_error::ClusterError;
use crate::system::directory::Directory;
use crate::system::submit::submit;

/// How long the node may take to hand over what it leads.
const LEAD_ELSEWHERE_MAX: Duration = Duration::from_secs(3);
/// How long changes of voters that are in progress may take.
const UNDER_WAY_MAX: Duration = Duration::from_secs(10);
/// The pause between two looks at who votes.
const LOOK: Duration = Duration::from_millis(100);

impl Cluster {
    /// Removes a node for good; its id is never used again.
    pub async fn remove(&self, node: NodeId, deadline: Instant) -> Result<(), ClusterError> {
        // There is one removal at a time, because each is judged by what the one before has left.
        let _turn = self.begin_removal(deadline).await?;
        loop {
            let (system, directory) = self.check_founded(deadline).await?;
            if directory.retired.contains(&node) {
                return Ok(());
            }
            if !directory.nodes.contains_key(&node) {
                return Err(ClusterError::UnknownNode(node));
            }
            let others = self.check_rest_decides(node, deadline).await?;
            self.lead_elsewhere(node, deadline).await;
            match submit(&system, &removing(directory.feature_level, node, others), deadline).await {
                // Another node was added or removed meanwhile, so what was found no longer holds.
                Err(ClusterError::Rejected { code: Some(RejectionCode::OutOfDate), .. })
                    if Instant::now() < deadline => {}
                Err(ClusterError::Rejected { code: Some(RejectionCode::UnknownNode), .. }) => {
                    return Err(ClusterError::UnknownNode(node));
                }
                other => return other,
            }
        }
    }

    /// The nodes that would stay, if they can decide everywhere. Waits a while for changes that are in progress.
    async fn check_rest_decides(&self, node: NodeId, deadline: Instant) -> Result<Vec<NodeId>, ClusterError> {
        let until = deadline.min(Instant::now() + UNDER_WAY_MAX);
        loop {
            let (_, directory) = self.directory_now(deadline).await?;
            let Err(error) = self.rest_decides(node, &directory, deadline).await else {
                return Ok(directory.nodes.keys().copied().filter(|other| *other != node).collect());
            };
            if until <= Instant::now() + LOOK {
                return Err(ClusterError::Invalid(error));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Checks that the nodes that stay and take part are a majority wherever this node has a replica, by the voters as
    /// of now.
    async fn rest_decides(&self, node: NodeId, directory: &Directory, deadline: Instant) -> Result<(), String> {
        let samples = self.context().clocks.samples();
        let is_up = |other: &NodeId| *other == self.context().node || samples.contains_key(other);
        let rest: BTreeSet<NodeId> =
            directory.nodes.keys().copied().filter(|other| *other != node && is_up(other)).collect();
        if rest.len() <= (directory.nodes.len() - 1) / 2 {
            let (count, up) = (directory.nodes.len() - 1, rest.len());
            return Err(format!(
                "of the {count} nodes that would stay only {up} answer: start a majority of them first"
            ));
        }
        self.check_open_here()?;
        for (group, replica) in self.context().replicas() {
            // After this read the replica knows who votes.
            replica.read_linearizable(deadline).await.map_err(|error| format!("{group}: {error}"))?;
            let voters = replica.group().voters();
            let asked = voters.iter().flatten().copied().filter(|other| rest.contains(other)).collect();
            let running = self.running_at(&group, asked, deadline).await;
            for voters in voters {
                let up = voters.intersection(&running).count();
                if up <= voters.len() / 2 {
                    let count = voters.len();
                    return Err(format!(
                        "of the {count} nodes that vote in {group} only {up} answer, run it and would stay, which is \
                         no majority: start or repair the others first, or add a node and wait until it votes"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Checks that all partitions are open here, because the voters of a closed one are not known.
    fn check_open_here(&self) -> Result<(), String> {
        for machine in self.context().router.machines() {
            let closed = machine.partition_ids().find(|partition| machine.find_partition(*partition).is_none());
            if let Some(partition) = closed {
                let name = machine.name();
                return Err(format!(
                    "{name}/{partition} is not open on this node: ask another node, or again once it is"
                ));
            }
        }
        Ok(())
    }

    /// Transfers leadership away from the node. If that does not succeed in time, the others elect a leader.
    async fn lead_elsewhere(&self, node: NodeId, deadline: Instant) {
        let until = deadline.min(Instant::now() + LEAD_ELSEWHERE_MAX);
        let led = self.context().replicas().into_iter().filter(|(_, replica)| replica.leader() == Some(node));
        let samples = self.context().clocks.samples();
        let moving = led.filter_map(|(group, replica)| {
            let is_up = |other: &NodeId| *other == self.context().node || samples.contains_key(other);
            let voters = replica.group().metrics().voters;
            let to = voters.into_iter().find(|other| *other != node && is_up(other))?;
            Some(async move { self.lead_at(&group, &replica, to, until).await })
        });
        for moved in join_all(moving).await {
            if let Err(error) = moved {
                tracing::debug!(%node, %error, "a partition is led by a node that is being removed");
            }
        }
    }
}

/// The command that removes a node. Nodes of earlier releases know only the first form. With that, two removals may
/// both pass if two nodes are asked at once.
fn removing(reached: FeatureLevel, id: NodeId, others: Vec<NodeId>) -> SystemCommand {
    if reached < features::REMOVALS {
        SystemCommand::RemoveNode { id }
    } else {
        SystemCommand::RemoveChecked { id, others }
    }
}
