//! What this node knows about who is in the cluster, and whether it knows that for sure.
//!
//! In: what other nodes name, and that `system` was read as of now. Out: whether this node is level. A node is *level*
//! once it has read `system` as of now. It stays level, because losing contact with the others must not stop what it
//! shares with them. It does not know what a node may ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::ids::NodeId;
use crate::limits;

/// After so long without a look this node may not know new members.
const HEARD_FOR: Duration = Duration::from_secs(6);
/// How many nodes may be named, and how many may name them.
const CLUSTER_NODES_MAX: usize = limits::CLUSTER_NODES_MAX as usize;

/// What this node knows about who is in the cluster.
#[derive(Default)]
pub struct Standing {
    /// Whether it has read `system` as of now since it started.
    level: watch::Sender<bool>,
    /// When it did so last.
    heard: Mutex<Option<Instant>>,
    /// Until then: the nodes of the cluster as others name them, by the node that does.
    named: Mutex<BTreeMap<NodeId, BTreeMap<NodeId, String>>>,
    /// Whether it was removed from the cluster.
    removed: AtomicBool,
}

impl Standing {
    pub fn is_level(&self) -> bool {
        *self.level.borrow()
    }

    pub async fn wait_until_level(&self) {
        // The sender lives while `self` does, so this does not fail.
        drop(self.level.subscribe().wait_for(|is_level| *is_level).await);
    }

    /// Notes that `system` was read as of now.
    pub fn on_heard(&self) {
        *self.heard.lock() = Some(Instant::now());
        if !self.level.send_replace(true) {
            self.named.lock().clear();
        }
    }

    pub fn on_removed(&self) {
        self.removed.store(true, Ordering::Relaxed);
    }

    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    /// Whether it was read lately. Otherwise this node may not know new members.
    pub fn has_heard_lately(&self) -> bool {
        self.heard.lock().is_some_and(|heard| heard.elapsed() < HEARD_FOR)
    }

    /// Notes that `from` names these nodes. Returns whether that counts.
    pub fn on_named(&self, from: NodeId, nodes: BTreeMap<NodeId, String>) -> bool {
        let mut named = self.named.lock();
        let has_room = named.contains_key(&from) || named.len() < CLUSTER_NODES_MAX;
        let counts = has_room && nodes.len() <= CLUSTER_NODES_MAX;
        if counts {
            named.insert(from, nodes);
        }
        counts
    }

    /// The nodes that the others name, as one list from each of them.
    pub fn named(&self) -> Vec<BTreeSet<NodeId>> {
        self.named.lock().values().map(|nodes| nodes.keys().copied().collect()).collect()
    }
}
