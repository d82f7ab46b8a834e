//! Commands about nodes, planned: who the first ones are, which one comes and which one goes.
//!
//! In: bodies of the machine `system`. Out: rows and ops. Whether a node may come or go is decided where the row is, in `logic`.

use statehouse_guest::{Body, Refusal};

use crate::system::logic::Op;
use crate::system::module_plan::refusal;
use crate::system::rows::NodeRow;

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
