//! What this node knows of its cluster: the directory, and whether that is sure to be so.
//!
//! In: what `system` says, what other nodes name, and that `system` was read as of now. Out: one value, which the
//! directory's owner publishes. A node is *level* once it has read `system` as of now since it started. It stays level,
//! because losing contact with the others must not stop what it shares with them. It does not know what a node may ask
//! for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::ids::NodeId;
use crate::limits;
use crate::system::directory::Directory;

/// After so long without a look this node may not know new members.
const HEARD_FOR: Duration = Duration::from_secs(6);
/// How many nodes may be named, and how many may name them.
const CLUSTER_NODES_MAX: usize = limits::CLUSTER_NODES_MAX as usize;

/// What this node knows of its cluster at one moment.
#[derive(Clone, Debug, Default)]
pub struct DirectoryNow {
    /// What `system` says, as far as this node has applied it.
    pub directory: Arc<Directory>,
    pub is_level: bool,
    /// Whether the node was removed from the cluster for good.
    pub is_removed: bool,
    /// When `system` was last read as of now.
    heard: Option<Instant>,
    /// Until the node is level: the nodes of the cluster as others name them, by the node that does.
    named: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl DirectoryNow {
    /// That of a node without peers, which nobody knows better.
    pub fn of_one_alone() -> Self {
        Self { is_level: true, ..Self::default() }
    }

    /// Takes over what `system` says. Returns whether that is news.
    pub fn on_read(&mut self, directory: &Arc<Directory>) -> bool {
        let is_new = self.directory != *directory;
        if is_new {
            self.directory = directory.clone();
        }
        is_new
    }

    /// Notes that `system` was read as of now. Returns whether the node is level only since then.
    pub fn on_heard(&mut self) -> bool {
        self.heard = Some(Instant::now());
        self.named.clear();
        !std::mem::replace(&mut self.is_level, true)
    }

    /// Whether `system` was read as of now lately. Otherwise this node may not know new members.
    pub fn has_heard_lately(&self) -> bool {
        self.heard.is_some_and(|heard| heard.elapsed() < HEARD_FOR)
    }

    /// Notes that `from` names these nodes. Returns whether that counts.
    pub fn on_named(&mut self, from: NodeId, nodes: BTreeSet<NodeId>) -> bool {
        let is_out_of_date = nodes.iter().any(|node| self.directory.retired.contains(node));
        let has_room = self.named.contains_key(&from) || self.named.len() < CLUSTER_NODES_MAX;
        let counts = !self.is_level && !is_out_of_date && has_room && nodes.len() <= CLUSTER_NODES_MAX;
        if counts {
            self.named.insert(from, nodes);
        }
        counts
    }

    /// The nodes that the others name, as one list from each of them.
    pub fn named(&self) -> impl Iterator<Item = &BTreeSet<NodeId>> {
        self.named.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_name_counts_until_the_node_knows_better() {
        let (mut now, both) = (DirectoryNow::default(), BTreeSet::from([NodeId(1), NodeId(2)]));
        assert!(now.on_named(NodeId(2), both.clone()));
        let directory = Arc::new(Directory { retired: BTreeSet::from([NodeId(3)]), ..Directory::default() });
        assert!(now.on_read(&directory));
        assert!(!now.on_read(&directory), "nothing is new");
        assert!(!now.on_named(NodeId(2), BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)])), "node 3 is retired");
        assert_eq!(now.named().collect::<Vec<_>>(), [&both]);
        assert!(!now.has_heard_lately());
        assert!(now.on_heard());
        assert!(!now.on_heard(), "it was level before");
        assert!(now.has_heard_lately());
        assert!(!now.on_named(NodeId(2), both));
        assert_eq!(now.named().count(), 0);
    }
}
