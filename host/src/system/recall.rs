//! What the other nodes remember of this node's logs: a partition opens once enough of them have said it.
//!
//! In: a group. Out: the highest entry that others have seen this node hold, from as many of them as make a majority together with it, so that
//! whatever was counted on is among it. Who the others are this node may know from a time before all of them were replaced; so it also
//! believes those who name it one of them, until `system` is level. It does not know what follows from a log that is shorter.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ids::NodeId;
use crate::log::EntryId;
use crate::peer::GroupName;
use crate::planted::{Bug, is_planted};
use crate::router::Machine;
use crate::system::error::NodeError;
use crate::system::host::{ASK_AGAIN, Host};
use crate::system::logic::SYSTEM;
use crate::system::service;

/// How long one node may take to say what it has seen.
const SEEN_PATIENCE: Duration = Duration::from_secs(1);

impl Host {
    /// The highest entry that the others have seen this node hold, once enough of them have answered: as many as make a majority of the
    /// cluster together with this node.
    pub(super) async fn ask_seen(&self, machine: &Machine, group: &GroupName) -> Result<Option<EntryId>, NodeError> {
        if is_planted(Bug::SeenNotAsked) {
            return Ok(None);
        }
        let mut told: BTreeMap<NodeId, Option<EntryId>> = BTreeMap::new();
        loop {
            let known = self.lists_of_others();
            if told_of_enough(&known, &told) {
                return Ok(told.into_values().max().flatten());
            }
            let others: BTreeSet<NodeId> = known.iter().flatten().copied().collect();
            let silent: Vec<NodeId> = others.into_iter().filter(|node| !told.contains_key(node)).collect();
            let mut reasons = Vec::new();
            for node in silent {
                match service::ask_seen(self.network().as_ref(), node, group, SEEN_PATIENCE).await {
                    Ok(seen) => {
                        told.insert(node, seen);
                    }
                    Err(error) => reasons.push(error.to_string()),
                }
            }
            if told_of_enough(&known, &told) {
                continue;
            }
            let reason = format!("waits for another node to confirm what its log held: {}", reasons.join("; "));
            if &*group.machine == SYSTEM {
                // Without it this node cannot even name its machines.
                self.router.set_not_ready(vec![format!("{group}: {reason}")]);
            }
            drop(machine.set_replica(group.partition, Err(reason)));
            tokio::select! {
                () = self.stopping.cancelled() => return Err(NodeError::Stopping),
                () = tokio::time::sleep(ASK_AGAIN) => {}
            }
        }
    }

    /// Who the others are, as far as this node knows; and until it knows for sure, as each of the others says.
    fn lists_of_others(&self) -> Vec<BTreeSet<NodeId>> {
        let mut lists = self.standing.named();
        lists.push(self.nodes.borrow().iter().copied().collect());
        for list in &mut lists {
            list.remove(&self.node);
        }
        lists
    }
}

/// Whether, of one of the lists, as many have told as make a majority together with this node.
fn told_of_enough(lists: &[BTreeSet<NodeId>], told: &BTreeMap<NodeId, Option<EntryId>>) -> bool {
    lists.iter().any(|others| others.len().div_ceil(2) <= others.iter().filter(|node| told.contains_key(node)).count())
}
