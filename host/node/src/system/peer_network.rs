//! The network between this node and the others. It is made before anything runs, so every part of the node has it from
//! the start. The node answers afterwards, because its service needs the rest of the node.
//!
//! In: how this node reaches the others, and how they reach it. Out: a [`Network`], routes, and a task that answers
//! until the node stops. It does not know what nodes say to each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::ids::NodeId;
use crate::peer::{self, Grpc, Identity, Links, Network, NoNetwork, PeerCertificates, PeerRenewal};
use crate::peer::{Routes, Service, SimNetwork};
use crate::system::error::NodeError;
use crate::system::renewal::PeerTlsFiles;

/// How a node and the others reach each other.
pub struct PeerOptions {
    pub way: PeerWay,
    /// `host:port` where the others reach this node.
    pub advertise: String,
    /// Where to reach some nodes, instead of where they advertise.
    pub routes: BTreeMap<NodeId, String>,
    /// A node whose clock is further from its peers' median than this does not lead.
    pub clock_skew_max: Duration,
}

/// What carries messages between nodes.
pub enum PeerWay {
    /// gRPC. The listener is already bound, so that a taken address is found before anything is opened.
    Listen { listener: TcpListener, tls: Option<PeerTlsFiles> },
    /// Memory, with faults on demand: for clusters within one process.
    Simulated(SimNetwork),
}

/// What connects this node with the others.
pub struct PeerNetwork {
    pub network: Arc<dyn Network>,
    pub routes: NodeRoutes,
    /// Who this node is to its peers.
    pub identity: Identity,
    /// Connections that the others have open here.
    pub links: Links,
    /// Replaces the certificates between nodes; `None` without TLS, or without peers.
    pub renewal: Option<PeerRenewal>,
}

/// How the others will be answered.
pub enum PeerAnswers {
    Grpc { listener: TcpListener, certificates: Option<PeerCertificates> },
    Simulated(SimNetwork),
}

/// Where the other nodes are reached.
pub struct NodeRoutes {
    node: NodeId,
    /// From the configuration; these take precedence.
    fixed: BTreeMap<NodeId, String>,
    routes: Routes,
}

impl PeerNetwork {
    /// The network of a node. A node without peers answers nobody.
    ///
    /// # Errors
    /// A file with a certificate or key is not what it should be.
    pub fn make(node: NodeId, options: Option<PeerOptions>) -> Result<(Self, Option<PeerAnswers>), NodeError> {
        let (identity, routes, links) = (Identity::stranger(node), Routes::default(), Links::default());
        let Some(options) = options else {
            let (network, routes) = (Arc::new(NoNetwork), NodeRoutes::new(node, BTreeMap::new(), routes));
            return Ok((Self { network, routes, identity, links, renewal: None }, None));
        };
        let (network, renewal, answers): (Arc<dyn Network>, _, _) = match options.way {
            PeerWay::Listen { listener, tls } => {
                let certificates = tls.map(PeerTlsFiles::read).transpose()?;
                if let Some(Err(error)) = certificates.as_ref().map(|certificates| certificates.check(node)) {
                    tracing::warn!(%error, "the other nodes will refuse this node's certificate");
                }
                let renewal = |certificates| PeerRenewal { certificates, routes: routes.clone(), links: links.clone() };
                let renewal = certificates.clone().map(renewal);
                let network = Grpc::new(identity.clone(), routes.clone(), certificates.clone());
                (Arc::new(network), renewal, PeerAnswers::Grpc { listener, certificates })
            }
            PeerWay::Simulated(simulated) => (simulated.enter(node), None, PeerAnswers::Simulated(simulated)),
        };
        let routes = NodeRoutes::new(node, options.routes, routes);
        Ok((Self { network, routes, identity, links, renewal }, Some(answers)))
    }
}

impl PeerAnswers {
    /// Lets `service` answer the others from now on. The node leaves the network once it stops, as far as the result is
    /// driven.
    pub fn begin(
        self,
        node: NodeId,
        identity: Identity,
        links: Links,
        service: Arc<dyn Service>,
        stopping: CancellationToken,
    ) -> BoxFuture<'static, ()> {
        match self {
            Self::Grpc { listener, certificates } => {
                let options = peer::PeerOptions { identity, certificates, links };
                let serving = peer::serve_peers(listener, options, service, stopping.cancelled_owned());
                let serving = async {
                    if let Err(error) = serving.await {
                        tracing::error!(%error, "peers are not answered any more");
                    }
                };
                serving.boxed()
            }
            Self::Simulated(simulated) => {
                simulated.answer(node, service);
                let leaving = async move {
                    stopping.cancelled().await;
                    simulated.leave(node);
                };
                leaving.boxed()
            }
        }
    }
}

impl NodeRoutes {
    fn new(node: NodeId, fixed: BTreeMap<NodeId, String>, routes: Routes) -> Self {
        let routes = Self { node, fixed, routes };
        routes.set(&BTreeMap::new());
        routes
    }

    /// Sets where nodes are reached from now on.
    pub fn set(&self, addresses: &BTreeMap<NodeId, String>) {
        for (node, address) in addresses.iter().chain(&self.fixed).filter(|(node, _)| **node != self.node) {
            let address = self.fixed.get(node).unwrap_or(address);
            if self.routes.find(*node).as_ref() != Some(address) {
                self.routes.set(*node, address.clone());
            }
        }
    }
}
