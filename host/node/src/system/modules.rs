//! Modules by their id: from this node's registry, or else from another node that has the bytes.
//!
//! In: an id. Out: loaded logic. A module's id is its hash, so any node may be asked for it. It does not know what a
//! module is for.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::watch;

use crate::consensus::PeerError;
use crate::ids::{ModuleId, NodeId};
use crate::limits::MODULE_BYTES_MAX;
use crate::machine::logic::Logic;
use crate::machine::modules::Modules;
use crate::peer::{Call, Network, Topic};
use crate::registry::RegistryError;
use crate::system::context::NodeContext;
use crate::system::error::NodeError;

/// How long a node may take for one piece of a module.
const PIECE_PATIENCE: Duration = Duration::from_secs(3);
/// How often all nodes are asked before a partition is told that no node has its module.
const ROUNDS_MAX: usize = 40;
const BETWEEN_ROUNDS: Duration = Duration::from_millis(250);

/// The registry, and the other nodes for a module that is not in it.
pub struct NodeModules {
    context: Weak<NodeContext>,
    nodes: watch::Receiver<Vec<NodeId>>,
    runtime: tokio::runtime::Handle,
}

impl NodeModules {
    pub fn new(context: &Arc<NodeContext>) -> Self {
        let runtime = tokio::runtime::Handle::current();
        Self { context: Arc::downgrade(context), nodes: context.published.nodes.clone(), runtime }
    }

    /// It waits, so it must not be called on a thread of the runtime.
    pub fn find(&self, id: ModuleId) -> Result<Arc<dyn Logic>, RegistryError> {
        let Some(context) = self.context.upgrade() else { return Err(RegistryError::Closed) };
        match context.registry.find(id) {
            Err(missing @ RegistryError::Missing { .. }) => {
                match self.runtime.block_on(fetch(&context, &self.nodes, id)) {
                    Some(wasm) => context.registry.stage(&wasm),
                    None => Err(missing),
                }
            }
            found => found,
        }
    }
}

impl Modules for NodeModules {
    fn load(&self, id: ModuleId) -> Result<Arc<dyn Logic>, String> {
        self.find(id).map_err(|error| error.to_string())
    }

    fn find_here(&self, id: ModuleId) -> Option<Arc<dyn Logic>> {
        self.context.upgrade()?.registry.find(id).ok()
    }

    fn find_loaded(&self, id: ModuleId) -> Option<Arc<dyn Logic>> {
        self.context.upgrade()?.registry.find_loaded(id)
    }
}

/// Finds a module in this node's registry, or else on another node; asks the others for a while.
pub async fn find_module(context: &Arc<NodeContext>, id: ModuleId) -> Result<Arc<dyn Logic>, NodeError> {
    let modules = NodeModules::new(context);
    let finding = tokio::task::spawn_blocking(move || modules.find(id)).await;
    Ok(finding.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?)
}

/// Asks the others for a module, again and again for a while; `None` if none of them has it.
async fn fetch(context: &NodeContext, nodes: &watch::Receiver<Vec<NodeId>>, id: ModuleId) -> Option<Vec<u8>> {
    let others = || nodes.borrow().iter().copied().filter(|node| *node != context.node).collect::<Vec<_>>();
    for _ in 0..ROUNDS_MAX {
        for node in others() {
            match fetch_from(&*context.network, node, id).await {
                Ok(wasm) if ModuleId::of(&wasm) == id => {
                    tracing::info!(module = %id.short(), %node, "module fetched");
                    return Some(wasm);
                }
                Ok(_) => tracing::error!(module = %id.short(), %node, "another node sent other bytes for a module"),
                Err(error) => tracing::debug!(module = %id.short(), %node, %error, "a node does not send the module"),
            }
        }
        tokio::select! {
            () = context.stopping.cancelled() => return None,
            () = tokio::time::sleep(BETWEEN_ROUNDS) => {}
        }
        if others().is_empty() {
            return None;
        }
    }
    None
}

async fn fetch_from(network: &dyn Network, node: NodeId, id: ModuleId) -> Result<Vec<u8>, PeerError> {
    let call = Call { topic: Topic::Module, group: None, body: Bytes::copy_from_slice(&id.0) };
    let mut pieces = network.fetch(node, call, PIECE_PATIENCE).await?;
    let mut wasm = Vec::new();
    while let Some(piece) = pieces.next().await {
        wasm.extend_from_slice(&piece?);
        if MODULE_BYTES_MAX < wasm.len() {
            return Err(PeerError::UnexpectedReply { node });
        }
    }
    Ok(wasm)
}
