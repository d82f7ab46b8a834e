//! Where a partition runs, as its nodes say themselves. A node that answers may still have a replica that has halted
//! and takes part in no decision.
//!
//! In: a partition, and nodes. Out: those nodes on which it runs. It does not know why it does not run on the others.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::ids::{JournalIndex, NodeId};
use crate::peer::GroupName;
use crate::system::cluster::Cluster;
use crate::system::messages::ask_head;

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

impl Cluster {
    /// Those of `nodes` on which the partition runs.
    pub(super) async fn running_at(
        &self,
        group: &GroupName,
        nodes: BTreeSet<NodeId>,
        deadline: Instant,
    ) -> BTreeSet<NodeId> {
        let patience = deadline.saturating_duration_since(Instant::now()).min(PATIENCE);
        let asking = nodes.into_iter().map(|node| async move {
            let is_running = if node == self.context().node {
                self.context().find_replica(group).is_some_and(|replica| replica.is_running())
            } else {
                // What the answer says does not matter: a halted partition gives none.
                ask_head(self.context().network.as_ref(), node, group, JournalIndex(0), patience).await.is_ok()
            };
            is_running.then_some(node)
        });
        join_all(asking).await.into_iter().flatten().collect()
    }
}
