//! The peer network over gRPC: one HTTP/2 connection to each peer, shared by all groups.
//!
//! ```text
//! Network ─ client ─▶ convert ─▶ handshake: who, to whom, which cluster ═ HTTP/2 ═▶ handshake ─▶ convert ─▶ server ─ Service
//!               └ routes: address and connection of each node
//! ```
//! In: values of `consensus/` and bytes of topics; the messages are those of `host/proto/peer.proto`. It does not know what a body means,
//! which nodes there should be, or when to try again.

mod client;
mod convert;
mod dial;
pub(super) mod handshake;
mod links;
mod routes;
mod server;
mod status;
mod tls;

/// Messages and service of `host/proto/peer.proto`.
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
    /// Of a node that belongs to no cluster yet.
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
    /// Without them everybody who reaches the port is believed to be who it says.
    pub certificates: Option<PeerCertificates>,
    /// What the others open here.
    pub links: Links,
}

/// By what the certificates are replaced while the node runs. Clones are the same.
#[derive(Clone)]
pub struct PeerRenewal {
    pub certificates: PeerCertificates,
    /// Ways to the others, of the one [`Grpc`] that has these certificates.
    pub routes: Routes,
    /// What the others open here.
    pub links: Links,
}

impl PeerRenewal {
    /// From now on connections, in and out, are made with `by`. Those that are open and that `by` stands for stay until what is under way on
    /// them has ended, and no new request goes out over them; the others are closed at once. Says how many of those were opened by other nodes.
    pub fn replace(&self, by: &PeerCertificates) -> usize {
        self.certificates.replace(by);
        self.routes.forget_connections();
        self.links.close_untrusted(&self.certificates)
    }
}
