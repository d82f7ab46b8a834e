//! How a node becomes part of a cluster: it is one of the founders, or it is asked to join.
//!
//! A founder writes its identity first. Then it invites the others until `system` has recorded the first nodes. A
//! process that dies in between continues at its next start. A node that has an identity never gets another one. It
//! does not know who leads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::consensus::PeerError;
use crate::features::{self, FeatureLevel};
use crate::ids::NodeId;
use crate::peer::{Call, Topic};
use crate::system::cluster_error::ClusterError;
use crate::system::context::NodeContext;
use crate::system::folder::Identity;
use crate::system::messages::{Join, encode};
use crate::system::reached_level;

const INVITE_PATIENCE: Duration = Duration::from_secs(2);
/// How long this node may take to hear who is in the cluster.
const NAMED_PATIENCE: Duration = Duration::from_secs(1);
const INVITE_AGAIN: Duration = Duration::from_millis(200);

/// Founds a cluster of `peers`, of which this node is one.
pub fn found(context: &NodeContext, peers: BTreeMap<NodeId, String>) -> Result<(), ClusterError> {
    become_member(context, uuid::Uuid::new_v4().to_string(), true, peers)
}

/// Handles another node's message that this node belongs to its cluster now.
pub async fn on_join(context: &NodeContext, from: NodeId, join: Join) -> Result<(), ClusterError> {
    if NodeId(join.node) != context.node {
        return Err(ClusterError::Invalid(format!("this is node {}, not node {}", context.node, join.node)));
    }
    let peers = join.peers.into_iter().map(|(node, peer)| (NodeId(node), peer)).collect();
    match context.folder.identity() {
        Some(identity) if identity.cluster == join.cluster => {
            let named = context.directory_requests.on_named(from, peers, Instant::now() + NAMED_PATIENCE).await;
            named.map_err(|_| ClusterError::Deadline)
        }
        Some(identity) => Err(ClusterError::Exists(identity.cluster.clone())),
        None => {
            let level = join.feature_level.map_or(features::BASE, FeatureLevel);
            reached_level::check(level, context.level.max())
                .map_err(|error| ClusterError::Invalid(error.to_string()))?;
            become_member(context, join.cluster, join.is_founder, peers)
        }
    }
}

fn become_member(
    context: &NodeContext,
    cluster: String,
    is_founder: bool,
    peers: BTreeMap<NodeId, String>,
) -> Result<(), ClusterError> {
    let joined = context.folder.join(cluster.clone(), is_founder, peers);
    let identity =
        joined.map_err(|error| ClusterError::Invalid(format!("this node cannot write its identity: {error}")))?;
    // Somebody else may have been first.
    if identity.cluster == cluster { Ok(()) } else { Err(ClusterError::Exists(identity.cluster.clone())) }
}

/// Tells the other founders that they belong to the cluster, until it is founded.
pub async fn invite_founders(context: Arc<NodeContext>) {
    let Some(identity) = context.folder.identity().filter(|identity| identity.is_founder).cloned() else { return };
    // Once the cluster is founded, a founder without an identity has lost its data, and must not come back under its
    // old id.
    if context.folder.is_founded() {
        return;
    }
    let peers: BTreeMap<u64, String> = identity.peers.iter().map(|(node, peer)| (node.0, peer.clone())).collect();
    while !context.stopping.is_cancelled() && !context.folder.is_founded() {
        for node in identity.peers.keys().copied().filter(|node| *node != context.node) {
            let (cluster, peers) = (identity.cluster.clone(), peers.clone());
            let join = Join { cluster, node: node.0, is_founder: true, peers, feature_level: None };
            if let Err(error) = ask_to_join(&context, node, &join).await {
                tracing::debug!(%node, %error, "a founder has not joined yet");
            }
        }
        tokio::time::sleep(INVITE_AGAIN).await;
    }
}

/// Tells a member who is in the cluster if it does not know yet: all nodes that it knew may have been replaced.
pub async fn tell_who_is_in(context: &NodeContext, node: NodeId) {
    let now = context.published.directory.borrow().clone();
    let is_told = |_: &&Identity| now.is_level && now.directory.nodes.contains_key(&node);
    let Some(identity) = context.folder.identity().filter(is_told) else { return };
    let peers = now.directory.nodes.iter().map(|(node, peer)| (node.0, peer.clone())).collect();
    let feature_level = Some(now.directory.feature_level.0);
    let join = Join { cluster: identity.cluster.clone(), node: node.0, is_founder: false, peers, feature_level };
    if let Err(error) = ask_to_join(context, node, &join).await {
        tracing::debug!(%node, %error, "a node cannot be told the members of the cluster");
    }
}

pub async fn ask_to_join(context: &NodeContext, node: NodeId, join: &Join) -> Result<(), PeerError> {
    let call = Call { topic: Topic::Join, group: None, body: encode(join) };
    context.network.call(node, call, INVITE_PATIENCE).await.map(drop)
}
