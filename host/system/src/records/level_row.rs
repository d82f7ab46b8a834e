//! What `system` knows about the feature level: the highest level that all nodes of the cluster understand, and which
//! may therefore be written.
//!
//! In: the levels that nodes say they understand. Out: rejections, and the row. The level never falls, because what was
//! written stays written. A node that understands less is not added. It is written against the SDK like any module, and
//! does not know what a level means.

use statehouse_guest::{Body, Refusal, View};

use crate::features::{self, FeatureLevel};
use crate::records::logic::{Op, Rejection};
use crate::records::module_plan::refusal;
use crate::records::rows::{FEATURE_LEVEL, NodeRow, NodesRow};

#[derive(Body)]
pub struct RaiseLevel {
    /// The level that may be written from now on
    #[body(min = 2, max = 65_535)]
    pub level: u32,
    /// The nodes that have said that they understand it
    #[body(max_items = 64)]
    pub nodes: Vec<Supporter>,
}

#[derive(Body)]
pub struct Supporter {
    /// Number of the node
    #[body(min = 1, max = 2_147_483_647)]
    pub id: i64,
}

#[derive(Body)]
pub struct SupportingNode {
    /// Number of the node, never given to another one
    #[body(min = 1, max = 2_147_483_647)]
    pub id: i64,
    /// Where the others reach it, as host:port
    #[body(min_chars = 3, max_chars = 262)]
    pub peer: String,
    /// The highest feature level that it understands
    #[body(min = 1, max = 65_535)]
    pub level: u32,
}

/// The recorded level, or the first level if none is recorded.
pub fn level_of(view: &View<'_>) -> FeatureLevel {
    view.read(FEATURE_LEVEL).map_or(features::BASE, FeatureLevel)
}

pub fn plan_raise(raise: &RaiseLevel) -> Result<Op, Refusal> {
    let mut nodes: Vec<u64> = raise.nodes.iter().map(|node| node.id.unsigned_abs()).collect();
    nodes.sort_unstable();
    if nodes.is_empty() || nodes.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(refusal("invalid_nodes", 422, "name at least one node, and each once", Some("nodes")));
    }
    Ok(Op::RaiseLevel { level: raise.level, nodes })
}

pub fn plan_supporting(node: &SupportingNode) -> Op {
    let SupportingNode { id, peer, level } = node;
    Op::AddSupportingNode { node: NodeRow { id: id.unsigned_abs(), peer: peer.clone() }, level: *level }
}

/// Checks whether the level rises: every node that is in the cluster now must be among those that understand the level.
pub fn check_raise(known: &NodesRow, current: FeatureLevel, level: u32, nodes: &[u64]) -> Result<(), Rejection> {
    let all_understand = known.nodes.iter().all(|node| nodes.contains(&node.id));
    if all_understand && current.0 < level { Ok(()) } else { Err(Rejection::OutOfDate) }
}

/// Checks whether a node may be added that understands no level above `supported`.
pub fn check_joins(node: u64, current: FeatureLevel, supported: FeatureLevel) -> Result<(), Rejection> {
    if current <= supported {
        return Ok(());
    }
    Err(Rejection::LevelNotSupported { node, level: current.0, supported: supported.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_rises_only_with_all_nodes_and_never_falls() {
        let node = |id| NodeRow { id, peer: format!("n{id}:7000") };
        let known = NodesRow { nodes: vec![node(1), node(2)], retired: vec![3] };
        let check = |current, level, nodes: &[u64]| check_raise(&known, FeatureLevel(current), level, nodes).is_ok();
        assert!(check(1, 2, &[1, 2]) && check(1, 4, &[1, 2, 3]));
        assert!(!check(1, 2, &[1]), "node 2 has been taken in since, or has said nothing");
        assert!(!check(2, 2, &[1, 2]) && !check(4, 2, &[1, 2]), "it is reached already");
        assert!(check_joins(4, FeatureLevel(2), FeatureLevel(2)).is_ok());
        assert!(matches!(
            check_joins(4, FeatureLevel(2), FeatureLevel(1)),
            Err(Rejection::LevelNotSupported { node: 4, level: 2, supported: 1 })
        ));
    }
}
