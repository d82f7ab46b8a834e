//! When a node may be removed from the cluster.
//!
//! In: the row of nodes, and the nodes that were found to have a quorum without the removed one. Out: the event, or a
//! rejection. How that was found is not known here.

use crate::records::op::Event;
use crate::records::rejection::Rejection;
use crate::records::rows::NodesRow;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::rows::NodeRow;

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
