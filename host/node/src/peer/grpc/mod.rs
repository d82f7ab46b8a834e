//! The peer network over gRPC: one HTTP/2 connection to each peer, shared by all groups.
//!
//! ```text
//! Network ─ client ─▶ convert ─▶ handshake: from, to, cluster ═ HTTP/2 ═▶ handshake ─▶ convert ─▶ server ─ Service
//!               └ routes: address and connection of each node
//! ```
//! In: values of `consensus/` and bytes of topics; the messages are those of `proto/peer.proto`. It does not know
//! what a body means, which nodes should exist, or when to retry.

mod client;
mod convert;
mod dial;
#[cfg(test)]
mod fuzz;
pub(super) mod handshake;
mod links;
#[cfg(test)]
mod released;
mod routes;
mod server;
mod status;
mod tls;

/// Messages and service of `proto/peer.proto`.
pub(super) mod wire {
    tonic::include_proto!("statehouse.peer.v1");
}

use std::sync::{Arc, OnceLock};

pub use client::Grpc;
pub use links::{LinkLimits, Links};
pub use routes::Routes;
pub use server::serve_peers;
pub use tls::{PeerCertificates, PeerTls};

use crate::ids::{ClusterId, NodeId};

/// Who this node is to its peers. Clones share the cluster, which is set once: at the start, or when the node joins.
#[derive(Clone, Debug)]
pub struct Identity {
    pub node: NodeId,
    pub cluster: Arc<OnceLock<ClusterId>>,
}

impl Identity {
    /// The identity of a node that belongs to no cluster yet.
    pub fn stranger(node: NodeId) -> Self {
        Self { node, cluster: Arc::default() }
    }

    pub fn member(node: NodeId, cluster: ClusterId) -> Self {
        Self { node, cluster: Arc::new(OnceLock::from(cluster)) }
    }
}

/// How a node answers its peers.
#[derive(Clone)]
pub struct PeerOptions {
    pub identity: Identity,
    /// Without them, every caller that reaches the port is believed to be the node that it names.
    pub certificates: Option<PeerCertificates>,
    /// The connections that other nodes open here.
    pub links: Links,
}

/// What is needed to replace the certificates while the node runs. Clones are the same.
#[derive(Clone)]
pub struct PeerRenewal {
    pub certificates: PeerCertificates,
    /// Routes to the other nodes, of the one [`Grpc`] that has these certificates.
    pub routes: Routes,
    /// The connections that other nodes open here.
    pub links: Links,
}

impl PeerRenewal {
    /// From now on connections, in and out, are made with `by`. Open connections that `by` still trusts stay until the
    /// requests under way on them have ended, and take no new request; the others are closed at once. Returns how many
    /// of the closed ones were opened by other nodes.
    pub fn replace(&self, by: &PeerCertificates) -> usize {
        self.certificates.replace(by);
        self.routes.forget_connections();
        self.links.close_untrusted(&self.certificates)
    }
}
