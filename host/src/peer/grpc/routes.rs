//! Where each node is reached, and the one connection to it.
//!
//! In: addresses from whoever knows the cluster's nodes. A connection is made when it is first used and belongs to its address: a changed
//! address drops it. It does not know who may be asked what.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tonic::transport::Channel;

use crate::ids::NodeId;

/// Addresses of nodes, `host:port`. Clones share them, and the connections of the one [`super::Grpc`] that they were given to.
#[derive(Clone, Default)]
pub struct Routes(Arc<Mutex<BTreeMap<NodeId, Route>>>);

struct Route {
    address: String,
    channel: Option<Channel>,
}

impl Routes {
    pub fn set(&self, node: NodeId, address: String) {
        let mut routes = self.0.lock();
        if routes.get(&node).is_none_or(|route| route.address != address) {
            routes.insert(node, Route { address, channel: None });
        }
    }

    pub fn remove(&self, node: NodeId) {
        self.0.lock().remove(&node);
    }

    pub fn find(&self, node: NodeId) -> Option<String> {
        self.0.lock().get(&node).map(|route| route.address.clone())
    }

    /// What is asked from now on goes over new connections; what is under way ends on the old ones.
    pub(super) fn forget_connections(&self) {
        self.0.lock().values_mut().for_each(|route| route.channel = None);
    }

    /// The connection to a node, made by `dial` from its address if there is none yet. `None` without a route.
    pub(super) fn find_channel<E>(
        &self,
        node: NodeId,
        dial: impl FnOnce(&str) -> Result<Channel, E>,
    ) -> Option<Result<Channel, E>> {
        let mut routes = self.0.lock();
        let route = routes.get_mut(&node)?;
        if let Some(channel) = &route.channel {
            return Some(Ok(channel.clone()));
        }
        let dialed = dial(&route.address);
        route.channel = dialed.as_ref().ok().cloned();
        Some(dialed)
    }
}
