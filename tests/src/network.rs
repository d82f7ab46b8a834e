//! The network of a cluster: a proxy for each ordered pair of nodes, and the faults that have names.
//!
//! In: where every node listens for its peers. Out: where the nodes must reach each other instead. It knows nothing
//! of Raft.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use statehouse_kernel::ids::NodeId;

use crate::proxy::{Link, Proxy};

pub struct Network {
    /// By (from, to).
    proxies: BTreeMap<(NodeId, NodeId), Proxy>,
}

impl Network {
    pub async fn between(peers: &BTreeMap<NodeId, SocketAddr>) -> Self {
        let mut proxies = BTreeMap::new();
        for from in peers.keys() {
            for (to, address) in peers.iter().filter(|(to, _)| *to != from) {
                proxies.insert((*from, *to), Proxy::start(*address).await);
            }
        }
        Self { proxies }
    }

    /// Where a node reaches each of the others.
    pub fn routes(&self, from: NodeId) -> impl Iterator<Item = (NodeId, SocketAddr)> {
        self.proxies.iter().filter(move |(pair, _)| pair.0 == from).map(|(pair, proxy)| (pair.1, proxy.address()))
    }

    /// Sets one direction only: connections that `from` makes to `to`.
    pub fn set(&self, from: NodeId, to: NodeId, link: Link) {
        self.proxies.get(&(from, to)).expect("a pair of this cluster's nodes").set(link);
    }

    /// Sets every connection of the node, no matter who made it.
    pub fn set_all_of(&self, node: NodeId, link: Link) {
        self.proxies.iter().filter(|(pair, _)| pair.0 == node || pair.1 == node).for_each(|(_, proxy)| proxy.set(link));
    }

    /// Cuts the node off: it reaches nobody, and nobody reaches it.
    pub fn isolate(&self, node: NodeId) {
        self.set_all_of(node, Link::Cut);
    }

    /// Loses everything that the node sends, on connections that it made or that others made. The node hears
    /// everything.
    pub fn mute(&self, node: NodeId) {
        self.lose(node, |pair, node| pair.0 == node);
    }

    /// Loses everything that is sent to the node. Everybody hears the node.
    pub fn deafen(&self, node: NodeId) {
        self.lose(node, |pair, node| pair.1 == node);
    }

    fn lose(&self, node: NodeId, are_requests: impl Fn((NodeId, NodeId), NodeId) -> bool) {
        for (pair, proxy) in self.proxies.iter().filter(|(pair, _)| pair.0 == node || pair.1 == node) {
            proxy.set(if are_requests(*pair, node) { Link::RequestsLost } else { Link::RepliesLost });
        }
    }

    pub fn heal(&self) {
        self.proxies.values().for_each(|proxy| proxy.set(Link::Pass));
    }
}
