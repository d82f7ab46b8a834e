//! The address of each node, and the one connection to it.
//!
//! In: addresses of the cluster's nodes. Out: connections. A connection is made when it is first used and belongs to
//! its address: a changed address drops it, and then what was begun on it ends there, or moves. It does not know who
//! may be asked what.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Channel;

use crate::ids::NodeId;

/// Addresses of nodes, `host:port`. Clones share them, and the connections of the one [`super::Grpc`] that has them.
#[derive(Clone, Default)]
pub struct Routes(Arc<Mutex<BTreeMap<NodeId, Route>>>);

struct Route {
    address: String,
    way: Option<Way>,
}

/// A connection that new requests take.
struct Way {
    channel: Channel,
    /// Cancelled once new requests take another connection.
    left: CancellationToken,
    _left_when_dropped: DropGuard,
}

impl Routes {
    pub fn set(&self, node: NodeId, address: String) {
        let mut routes = self.0.lock();
        if routes.get(&node).is_none_or(|route| route.address != address) {
            routes.insert(node, Route { address, way: None });
        }
    }

    pub fn remove(&self, node: NodeId) {
        self.0.lock().remove(&node);
    }

    pub fn find(&self, node: NodeId) -> Option<String> {
        self.0.lock().get(&node).map(|route| route.address.clone())
    }

    /// From now on requests take new connections; what is under way ends on the old ones.
    pub(super) fn forget_connections(&self) {
        self.0.lock().values_mut().for_each(|route| route.way = None);
    }

    /// The connection to a node, made by `dial` from its address if there is none yet, and a token that is cancelled
    /// once requests take another one. `None` without a route.
    pub(super) fn find_channel<E>(
        &self,
        node: NodeId,
        dial: impl FnOnce(&str) -> Result<Channel, E>,
    ) -> Option<Result<(Channel, CancellationToken), E>> {
        let mut routes = self.0.lock();
        let route = routes.get_mut(&node)?;
        if route.way.is_none() {
            let channel = match dial(&route.address) {
                Ok(channel) => channel,
                Err(error) => return Some(Err(error)),
            };
            let left = CancellationToken::new();
            route.way = Some(Way { channel, left: left.clone(), _left_when_dropped: left.drop_guard() });
        }
        route.way.as_ref().map(|way| Ok((way.channel.clone(), way.left.clone())))
    }
}
