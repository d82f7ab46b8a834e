//! Takes a snapshot that a leader offers because the leader's log does not go back to where this node stands.
//!
//! ```text
//! offer ─▶ fetch what is missing ─▶ accepted, durable ─▶ answer "taken" ─▶ close the partition ─▶ open it: installs
//! ```
//! In: an offer. Out: a replica that stands where the snapshot does, and follows the leader. Until it is open again the
//! partition is not served here. It does not know what is in a snapshot, nor when one is offered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};

use crate::consensus::SnapshotReply;
use crate::disk::RealDisk;
use crate::ids::NodeId;
use crate::peer::{GroupName, Offer, ServiceError};
use crate::snapshot::{IncomingSnapshot, Manifest, TransferError, receive};
use crate::system::context::NodeContext;
use crate::system::reopening::reopen;
use crate::system::replica_states::Turn;

/// How often the leader hears that there is progress.
const WORD: Duration = Duration::from_secs(1);

type Replies = BoxStream<'static, Result<Bytes, ServiceError>>;

/// Answers [`crate::peer::Topic::Offer`].
pub fn on_offer(
    context: &Arc<NodeContext>,
    from: NodeId,
    group: GroupName,
    body: &[u8],
) -> Result<Replies, ServiceError> {
    let failed = |error: &dyn std::fmt::Display| ServiceError::Failed(error.to_string());
    let Offer { vote, snapshot } = Offer::decode(body)?;
    let replica = context.find_replica(&group).ok_or_else(|| ServiceError::NoGroup(group.clone()))?;
    replica.group().check_offer(from, vote).map_err(|error| failed(&error))?;
    if let Some(own) = replica.log().vote().filter(|own| vote.order() < own.order()) {
        return Ok(one(&SnapshotReply::HigherVote(own)));
    }
    if !replica.is_running() {
        // Somebody must look at a halted partition before it continues.
        return Err(failed(&format!("{group} does not run")));
    }
    let Some(turn) = context.replica_states.begin(&group) else {
        return Err(failed(&format!("{group} is taking a snapshot already")));
    };
    let folder = context.folder.partition(&group.machine, group.partition);
    let last = Manifest::decode(&snapshot).map_err(|error| failed(&error))?.last();
    if last.index <= replica.log_index_applied() {
        return Ok(one(&SnapshotReply::Taken));
    }
    let incoming = IncomingSnapshot::open(Arc::new(RealDisk), &folder, &group.to_string(), &snapshot)
        .map_err(|error| failed(&error))?;
    tracing::info!(
        %group, node = %from, %last, bytes = incoming.manifest.size(),
        "fetching a snapshot to replace the state"
    );
    drop(replica);
    Ok(speak(take(context.clone(), turn, from, incoming)))
}

fn one(reply: &SnapshotReply) -> Replies {
    let reply = Offer::encode_reply(reply);
    stream::once(async move { Ok(reply) }).boxed()
}

/// Sends a progress message at regular intervals, until the work is done or given up.
fn speak(taking: impl Future<Output = Result<(), TransferError>> + Send + 'static) -> Replies {
    let replies = stream::unfold(Some(taking.boxed()), |taking| async move {
        let mut taking = taking?;
        Some(match tokio::time::timeout(WORD, &mut taking).await {
            Ok(Ok(())) => (Ok(Offer::encode_reply(&SnapshotReply::Taken)), None),
            Ok(Err(error)) => (Err(ServiceError::Failed(error.to_string())), None),
            Err(_) => (Ok(Offer::encode_reply(&SnapshotReply::Fetching)), Some(taking)),
        })
    });
    replies.boxed()
}

async fn take(
    context: Arc<NodeContext>,
    turn: Turn,
    from: NodeId,
    incoming: IncomingSnapshot,
) -> Result<(), TransferError> {
    receive(context.network.as_ref(), from, &turn.group, incoming).await?;
    // The snapshot is durable. Even if the leader that offered it dies, it is installed when the partition is opened
    // again.
    if let Some(machine) = context.find_machine(&turn.group.machine) {
        // The group has its history, so no node has to found it.
        tokio::spawn(reopen(context, turn, machine, "it is installing a snapshot".to_owned(), Vec::new()));
    }
    Ok(())
}
