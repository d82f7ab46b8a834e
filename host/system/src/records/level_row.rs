//! What `system` knows about the feature level: the highest level that all nodes of the cluster understand, and which
//! may therefore be written.
//!
//! In: the levels that nodes say they understand. Out: rejections, and the row. The level never falls, because what was
//! written stays written. A node that understands less is not added. It is written against the SDK like any module, and
//! does not know what a level means.

use statehouse_guest::View;

use crate::features::{self, FeatureLevel};
use crate::records::rejection::Rejection;
use crate::records::rows::{FEATURE_LEVEL, NodesRow};

/// The recorded level, or the first level if none is recorded.
pub fn level_of(view: &View<'_>) -> FeatureLevel {
    view.read(FEATURE_LEVEL).map_or(features::BASE, FeatureLevel)
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
    use crate::records::rows::NodeRow;

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
