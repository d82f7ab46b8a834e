//! Planning of commands about nodes: the first nodes, a node that joins, a node that is removed.
//!
//! In: bodies of commands to the machine `system`. Out: rows and ops. Whether a node may join or be removed is decided
//! in `logic`, which has the row of nodes.

use statehouse_guest::{Body, Refusal};

use crate::records::logic::{Event, Op, Rejection};
use crate::records::module_plan::refusal;
use crate::records::rows::{NodeRow, NodesRow};

#[derive(Body)]
pub struct FoundCluster {
    /// The first nodes
    #[body(max_items = 64)]
    pub nodes: Vec<Node>,
}

#[derive(Body)]
pub struct Node {
    /// Number of the node, never given to another one
    #[body(min = 1, max = 2_147_483_647)]
    pub id: i64,
    /// Where the others reach it, as host:port
    #[body(min_chars = 3, max_chars = 262)]
    pub peer: String,
}

#[derive(Body)]
pub struct RemoveNode {
    /// Number of the node
    #[body(min = 1, max = 2_147_483_647)]
    pub id: i64,
}

/// The form of a removal since [`REMOVALS`](crate::features::REMOVALS): of two that were checked at once, only one
/// passes.
#[derive(Body)]
pub struct RemoveChecked {
    /// Number of the node
    #[body(min = 1, max = 2_147_483_647)]
    pub id: i64,
    /// The nodes that would stay, which were found to have a quorum without it
    #[body(max_items = 64)]
    pub others: Vec<Other>,
}

#[derive(Body)]
pub struct Other {
    /// Number of the node
    #[body(min = 1, max = 2_147_483_647)]
    pub id: i64,
}

pub fn plan_remove(remove: &RemoveChecked) -> Op {
    let mut others: Vec<u64> = remove.others.iter().map(|node| node.id.unsigned_abs()).collect();
    others.sort_unstable();
    Op::RemoveChecked { id: remove.id.unsigned_abs(), others }
}

/// Checks whether the node may be removed. If `checked` is given, the nodes that stay must be exactly these.
pub fn check_removed(known: &NodesRow, id: u64, checked: Option<&[u64]>) -> Result<Event, Rejection> {
    if !known.contains(id) {
        return Err(Rejection::UnknownNode);
    }
    if known.nodes.len() == 1 {
        return Err(Rejection::LastNode);
    }
    let staying = known.nodes.iter().map(|node| node.id).filter(|node| *node != id);
    match checked {
        Some(checked) if !staying.eq(checked.iter().copied()) => Err(Rejection::OutOfDate),
        _ => Ok(Event::NodeRemoved { id }),
    }
}

pub fn plan_found(found: &FoundCluster) -> Result<Op, Refusal> {
    let mut nodes: Vec<NodeRow> = found.nodes.iter().map(node_row).collect();
    nodes.sort_by_key(|node| node.id);
    if nodes.is_empty() || nodes.windows(2).any(|pair| pair[0].id == pair[1].id) {
        return Err(refusal("invalid_nodes", 422, "name at least one node, and each once", Some("nodes")));
    }
    Ok(Op::FoundCluster { nodes })
}

pub fn node_row(node: &Node) -> NodeRow {
    NodeRow { id: node.id.unsigned_abs(), peer: node.peer.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_goes_only_from_among_those_that_were_asked() {
        let node = |id| NodeRow { id, peer: format!("n{id}:7000") };
        let known = NodesRow { nodes: vec![node(1), node(2), node(4)], retired: vec![3] };
        assert!(check_removed(&known, 2, None).is_ok() && check_removed(&known, 2, Some(&[1, 4])).is_ok());
        assert!(matches!(check_removed(&known, 3, Some(&[1, 2, 4])), Err(Rejection::UnknownNode)));
        for others in [&[1, 3, 4][..], &[1], &[1, 4, 5], &[]] {
            assert!(matches!(check_removed(&known, 2, Some(others)), Err(Rejection::OutOfDate)), "{others:?}");
        }
        let last = NodesRow { nodes: vec![node(1)], retired: vec![2, 3, 4] };
        assert!(matches!(check_removed(&last, 1, Some(&[])), Err(Rejection::LastNode)));
    }
}
