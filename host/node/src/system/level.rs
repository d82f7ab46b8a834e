//! How the feature level rises: what this node understands, what the others say they understand, and what `system`
//! records.
//!
//! ```text
//! every node: "I understand 4" (with its time) ─▶ leader of `system`: all understand 4 ─▶ one entry ─▶ 4 is written
//! ```
//! In: the answers of the other nodes, and the directory. Out: one command, once all nodes of the cluster understand a
//! level, and a handle for code that decides by the level. A node that meets a level above its own stops serving and
//! says so, because it would misread what the others write. It does not know what a level means.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::consensus::PeerError;
use crate::features::{self, FeatureLevel};
use crate::ids::NodeId;
use crate::peer::{Call, Topic};
use crate::records::command::SystemCommand;
use crate::records::rejection::RejectionCode;
use crate::router::Machine;
use crate::system::clock_round::{ClockAnswer, LEVEL_ONLY};
use crate::system::cluster_error::ClusterError;
use crate::system::context::NodeContext;
use crate::system::directory::Directory;
use crate::system::messages::decode;
use crate::system::submit::submit;

/// How long `system` may take to record a level.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a node may take to say what it understands.
const ASK_PATIENCE: Duration = Duration::from_secs(2);

/// Records the level that all nodes understand. The leader of `system` calls it in each of its rounds.
pub async fn tend(context: &NodeContext, system: &Machine, directory: &Directory) -> Result<(), ClusterError> {
    let Some(level) = understood_by_all(context, directory).filter(|level| directory.feature_level < *level) else {
        return Ok(());
    };
    let command = SystemCommand::RaiseLevel { level, nodes: directory.nodes.keys().copied().collect() };
    match submit(system, &command, Instant::now() + PATIENCE).await {
        // The level was recorded meanwhile, or a node was added; the next round sees that.
        Err(ClusterError::Rejected { code: Some(RejectionCode::OutOfDate), .. }) => Ok(()),
        Ok(()) => {
            tracing::info!(
                level = level.0,
                before = directory.feature_level.0,
                "all nodes understand a new feature level"
            );
            Ok(())
        }
        failed => failed,
    }
}

/// `None` while there is a node that has not said lately what it understands.
fn understood_by_all(context: &NodeContext, directory: &Directory) -> Option<FeatureLevel> {
    let samples = context.clocks.samples();
    let understood = directory.nodes.keys().map(|node| {
        if *node == context.node {
            Some(context.level.max())
        } else {
            samples.get(node).map(|sample| sample.feature_level_max)
        }
    });
    understood.collect::<Option<Vec<_>>>()?.into_iter().min()
}

/// Asks a node, which may belong to no cluster yet, what it understands. If it does not say, it is of the first
/// release.
pub async fn ask(context: &NodeContext, node: NodeId) -> Result<FeatureLevel, PeerError> {
    Ok(ask_all(context, node).await?.understands())
}

/// Whether a node says that it belongs to no cluster. A missing answer counts as no, and so does one that does not say.
pub async fn is_of_no_cluster(context: &NodeContext, node: NodeId) -> bool {
    ask_all(context, node).await.is_ok_and(|answer| answer.is_of_cluster == Some(false))
}

async fn ask_all(context: &NodeContext, node: NodeId) -> Result<ClockAnswer, PeerError> {
    let call = Call { topic: Topic::Clock, group: None, body: Bytes::from_static(LEVEL_ONLY) };
    let answer = context.network.call(node, call, ASK_PATIENCE).await?;
    decode(&answer).map_err(|_| PeerError::UnexpectedReply { node })
}

/// The command that adds a node. If a cluster has never raised its level, some of its nodes may know only the first
/// form.
pub fn adding(reached: FeatureLevel, id: NodeId, peer: String, level: FeatureLevel) -> SystemCommand {
    if reached <= features::BASE {
        SystemCommand::AddNode { id, peer }
    } else {
        SystemCommand::AddSupportingNode { id, peer, level }
    }
}
