//! Partitions that stay closed because acknowledged entries are missing, and the operator's word that one continues
//! without them.
//!
//! ```text
//! closed, says why ─▶ others give it back, or `cluster accept-loss` ─▶ this node's record ─▶ opened ─▶ `system`
//! ```
//! In: refusals to open, and operators' words. Out: advice, and a record of every word that nobody takes back. It does
//! not know how a loss is found.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::data_folder::GivenUp;
use crate::features;
use crate::ids::PartitionId;
use crate::peer::GroupName;
use crate::records::command::SystemCommand;
use crate::system::cluster::Cluster;
use crate::system::cluster_error::ClusterError;
use crate::system::context::NodeContext;
use crate::system::error::NodeError;
use crate::system::record::loss_of;
use crate::system::submit::submit;

/// How often the node looks for new entries to note, and for words to record in `system`.
const ROUND: Duration = Duration::from_millis(500);
/// How long `system` may take to record a word.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is checked whether a partition is open.
const LOOK: Duration = Duration::from_millis(20);

/// An operator's word: who gives up what, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub machine: String,
    pub partition: PartitionId,
    pub by: String,
    pub why: String,
}

/// Notes which replicas have entries by now.
fn note_entries(context: &NodeContext) -> Result<(), NodeError> {
    let with_entries = |group: &GroupName| !context.record.had_entries(group);
    let replicas = context.replicas();
    let durable = replicas.iter().filter(|(_, replica)| replica.log().durable().is_some());
    let new: Vec<GroupName> = durable.map(|(group, _)| group.clone()).filter(with_entries).collect();
    if new.is_empty() { Ok(()) } else { context.record.note_entries(&new) }
}

/// Records in `system` the words that are only in this node's record.
async fn bring_words(context: &NodeContext) -> Result<(), ClusterError> {
    let words = context.record.given_up().into_iter().filter(|word| !word.is_in_system);
    for word in words {
        let Some(system) = context.system.get() else { return Ok(()) };
        let command = SystemCommand::AcceptLoss(loss_of(&word, context.node));
        submit(system, &command, Instant::now() + PATIENCE).await?;
        if let Err(error) = context.record.set_in_system(&word) {
            // The word is sent again, and `system` records it once.
            tracing::warn!(%error, "it could not be recorded that `system` knows of an operator's decision");
        }
    }
    Ok(())
}

/// Notes entries and records words until the node stops.
pub async fn run(context: Arc<NodeContext>) {
    loop {
        let noting = context.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || note_entries(&noting)).await {
            tracing::warn!(%error, "it could not be recorded which replicas have entries");
        }
        if context.opening.features.has(features::LOSSES)
            && let Err(error) = bring_words(&context).await
        {
            tracing::debug!(%error, "an operator's decision is not in `system` yet");
        }
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

impl Cluster {
    /// Takes an operator's word that a partition continues without what this node's log has lost. Returns once the
    /// partition is open.
    ///
    /// # Errors
    /// The partition waits for nothing, or it is not open before the deadline: the word counts all the same.
    pub async fn accept_loss(&self, word: Word, deadline: Instant) -> Result<(), ClusterError> {
        let context = self.context();
        let group = GroupName::new(&word.machine, word.partition);
        let Some(refusal) = context.replica_states.refusal(&group) else {
            let detail =
                format!("{group} has lost nothing on this node that it waits for: there is nothing to give up");
            return Err(ClusterError::StepRefused(detail));
        };
        let Word { machine, partition, by, why } = word;
        tracing::error!(%group, by, why, refusal, "an operator gives up what this node's log has lost");
        metrics::counter!("statehouse_losses_accepted_total").increment(1);
        let (partition, time) = (partition.0, context.clock.now().0);
        let given_up = GivenUp { machine, partition, by, why, time, refusal, is_used: false, is_in_system: false };
        let noting = context.clone();
        let noted = tokio::task::spawn_blocking(move || noting.record.give_up(given_up)).await;
        let noted = noted.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        noted.map_err(|error| ClusterError::NotKept(error.to_string()))?;
        while context.record.is_given_up(&group) || context.find_replica(&group).is_none() {
            if deadline <= Instant::now() {
                return Err(ClusterError::Deadline);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}
