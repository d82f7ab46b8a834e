//! Two histories of one partition: a proof of them stops the partition on both sides, until an operator has chosen one.
//!
//! ```text
//! follower: an entry is committed here, and the leader has another one there, or none ─▶ halts for good ─▶ claims it
//! leader:   is the claim true? ─▶ halts
//! ```
//! The claim is in the record as well, and is made again, also after a restart, until an operator has decided: the
//! leader may be busy or unreachable when it is made first, and the next leader has the other history too.
//!
//! A leader has every entry that was committed before its term, and has made those of its own term. So a leader of the
//! same or a later term that lacks a committed entry proves that some node has lost data. A claim counts if a voter has
//! the entry that it names, under a vote that was committed; any other claim stops only the node that made it. Both
//! sides write it into their record, so a restart serves neither.
//!
//! In: a follower and its leader. Out: halted partitions. It does not know how the two arose, nor which one is to
//! continue.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use minicbor::{Decode, Encode};

use crate::consensus::Leadership;
use crate::features;
use crate::ids::{JournalIndex, LogIndex, NodeId, Term};
use crate::log::{EntryId, Vote};
use crate::partition::Partition;
use crate::peer::{Call, GroupName, ServiceError, Topic};
use crate::system::context::NodeContext;
use crate::system::error::NodeError;
use crate::system::log_damage::advice_divided;
use crate::system::messages::{ask_head, decode, encode};
use crate::system::pulse::VoteTold;
use crate::system::repair::{self, Holding};

/// How long the other side may take to answer.
const PATIENCE: Duration = Duration::from_millis(400);
const CLAIM_PATIENCE: Duration = Duration::from_secs(3);
/// How long until a claim is made again.
const CLAIM_AGAIN: Duration = Duration::from_secs(2);

/// The body of [`Topic::Head`] from a follower that has a committed entry which its leader lacks. A body with only an
/// index has 8 bytes.
#[derive(Clone, Copy, Debug, Encode, Decode)]
struct Claim {
    /// Term, node and index.
    #[n(0)]
    entry: (u64, u64, u64),
    /// The vote under which the follower took the entry.
    #[n(1)]
    vote: VoteTold,
}

/// Whether a body of [`Topic::Head`] is a claim.
pub fn is_claim(body: &[u8]) -> bool {
    body.len() != size_of::<u64>()
}

/// Compares a follower's journal with its leader's, at the follower's last entry.
pub async fn compare(context: &NodeContext, group: GroupName, partition: Arc<Partition>) {
    let Some(leader) = partition.leader().filter(|leader| *leader != context.node) else { return };
    let journal = partition.progress().journal;
    let are_two = match ask_head(context.network.as_ref(), leader, &group, journal.index, PATIENCE).await {
        Ok(Some(head)) if head == journal.head => {
            metrics::counter!("statehouse_heads_compared_total").increment(1);
            false
        }
        Ok(Some(_)) => true,
        // The leader may not have applied yet what it has.
        Ok(None) => lacks(context, &group, &partition, leader).await,
        Err(error) => {
            tracing::debug!(%group, %leader, %error, "the leader's head is not known");
            false
        }
    };
    if are_two {
        let claim = claim_of(&partition).await;
        if claim.is_none() {
            tracing::error!(%group, "the log cannot be read: the other nodes will not hear of the two histories");
        }
        // A failure is logged, and this replica has halted all the same.
        drop(halt(context, &group, &partition, journal.index, leader, claim));
    }
}

/// What proves to a leader that this replica has an entry which the leader lacks.
async fn claim_of(partition: &Partition) -> Option<Vec<u8>> {
    let (applied, vote) = (last_applied(partition).await?, partition.log().vote()?);
    let entry = (applied.term.0, applied.node.0, applied.index.0);
    Some(encode(&Claim { entry, vote: vote.into() }).into())
}

/// Makes the claims in this node's record, again and again, until the node stops.
pub async fn run(context: Arc<NodeContext>) {
    loop {
        if context.opening.features.has(features::LOSSES) {
            for (group, body) in context.record.claims() {
                make_claim(&context, &group, &Bytes::from(body)).await;
            }
        }
        let sooner = tokio::time::timeout(CLAIM_AGAIN, context.record.next_claim());
        tokio::select! {
            () = context.stopping.cancelled() => return,
            _ = sooner => {}
        }
    }
}

/// Tells all other nodes: only one that leads can check the claim, and a replica that has halted does not know which
/// one leads.
async fn make_claim(context: &NodeContext, group: &GroupName, body: &Bytes) {
    let telling = context.others().into_iter().map(|node| {
        let call = Call { topic: Topic::Head, group: Some(group.clone()), body: body.clone() };
        async move {
            if let Err(error) = context.network.call(node, call, CLAIM_PATIENCE).await {
                tracing::debug!(%group, %node, %error, "a node does not confirm that there are two histories");
            }
        }
    });
    join_all(telling).await;
}

/// Whether a leader's log ends before an entry that is committed here.
async fn lacks(context: &NodeContext, group: &GroupName, partition: &Partition, leader: NodeId) -> bool {
    let Some(applied) = last_applied(partition).await else { return false };
    match repair::ask_holding(context, leader, group).await {
        Ok(Holding { last, leads: Some(led), .. }) => {
            applied.term <= Term(led) && last.is_none_or(|(_, _, index)| index < applied.index.0)
        }
        _ => false,
    }
}

/// The last entry that was applied here, hence committed.
async fn last_applied(partition: &Partition) -> Option<EntryId> {
    find_id(partition, partition.log_index_applied()).await
}

async fn find_id(partition: &Partition, index: LogIndex) -> Option<EntryId> {
    let log = partition.log().clone();
    // This may read from disk, so it does not run on a thread of the runtime.
    let reading = tokio::task::spawn_blocking(move || log.read(index..index.next(), 1)).await;
    reading.ok()?.ok()?.first().map(|entry| entry.id)
}

/// Stops the partition here, and records that it stays stopped, with what the other nodes are to be told.
///
/// # Errors
/// The record cannot be written. The partition has stopped all the same.
fn halt(
    context: &NodeContext,
    group: &GroupName,
    partition: &Partition,
    index: JournalIndex,
    other: NodeId,
    claim: Option<Vec<u8>>,
) -> Result<(), NodeError> {
    let text = format!(
        "this node and node {other} have different histories of it, from journal entry {index} on at the latest"
    );
    tracing::error!(
        %group,
        %other,
        %index,
        "a partition has two histories: neither node serves it until an operator has chosen one"
    );
    metrics::counter!("statehouse_two_histories_total").increment(1);
    partition.halt_diverged(index, other);
    context.replica_states.set_refusal(group, advice_divided(group, &text));
    context.record.note_divided(group, text, claim).inspect_err(|error| {
        tracing::error!(
            %group,
            %error,
            "it could not be recorded that this partition has two histories: a restart may forget it"
        );
    })
}

/// Answers a claim: this replica halts as well if the claim is true. `partition` is `None` while it is not open.
pub async fn on_claim(
    context: &NodeContext,
    from: NodeId,
    group: &GroupName,
    partition: Option<Arc<Partition>>,
    body: &[u8],
) -> Result<Bytes, ServiceError> {
    let refused =
        |reason: &str| Err(ServiceError::Refused(format!("two histories of {group} are not proved: {reason}")));
    if context.record.divided(group).is_some() {
        // This node has halted already.
        return Ok(Bytes::new());
    }
    let Some(partition) = partition else { return refused("it is not open on this node") };
    let Claim { entry: (term, by, index), vote } = decode(body)?;
    let claimed = EntryId { term: Term(term), node: NodeId(by), index: LogIndex(index) };
    let Leadership::Leader { term: led } = *partition.group().leadership().borrow() else {
        return refused("this node does not lead");
    };
    let vote = Vote::from(vote);
    let is_voter = partition.group().metrics().voters.contains(&from);
    if !is_voter || !vote.committed || vote.term < claimed.term || led < claimed.term {
        return refused("it is not from a voter that accepted it under an earlier leader");
    }
    let own = find_id(&partition, claimed.index).await;
    let is_purged = partition.log().last_purged().is_some_and(|purged| claimed.index <= purged.index);
    if own == Some(claimed) || is_purged {
        return refused("the entry is here, or was");
    }
    if context
        .directory()
        .losses
        .iter()
        .any(|loss| *loss.machine == *group.machine && loss.partition == group.partition.0)
    {
        return refused("an operator has given up what was lost of it, and this is the history that continues");
    }
    match repair::fetch_one(context, from, group, claimed.index).await {
        Ok(Some(entry)) if entry.id == claimed => {}
        _ => return refused("the entry is not there"),
    }
    let halted = halt(context, group, &partition, partition.progress().journal.index, from, None);
    halted.map(|()| Bytes::new()).map_err(|error| ServiceError::Failed(error.to_string()))
}
