//! Partitions that stay closed because acknowledged entries are missing, and the operator's word that one continues
//! without them.
//!
//! ```text
//! closed, says why ─▶ others give it back, or `cluster accept-loss` ─▶ this node's record ─▶ opened ─▶ `system`
//! ```
//! In: refusals to open, and operators' words. Out: advice, and a record of every word that nobody takes back. It does
//! not know how a loss is found.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::data_folder::GivenUp;
use crate::features;
use crate::ids::PartitionId;
use crate::log::{Log, LogScan};
use crate::peer::GroupName;
use crate::system::cluster::{Cluster, ClusterError};
use crate::system::error::NodeError;
use crate::system::host::Host;
use crate::system::loss_row::{AcceptedLoss, loss_value};
use crate::system::reconciliation;
use crate::system::record::loss_of;

/// How often the node looks for new entries to note, and for words to record in `system`.
const ROUND: Duration = Duration::from_millis(500);
/// How long `system` may take to record a word.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is checked whether a partition is open.
const LOOK: Duration = Duration::from_millis(20);

/// What each closed partition waits for, in words.
#[derive(Default)]
pub struct Waiting {
    refusals: Mutex<BTreeMap<GroupName, String>>,
    /// The partitions about which the others are being asked. Each has a scan of its log once a peer has asked for it.
    asking: Mutex<BTreeMap<GroupName, Option<Arc<LogScan>>>>,
}

impl Waiting {
    pub fn set(&self, group: &GroupName, refusal: String) {
        self.refusals.lock().insert(group.clone(), refusal);
    }

    pub fn remove(&self, group: &GroupName) {
        self.refusals.lock().remove(group);
    }

    pub fn find(&self, group: &GroupName) -> Option<String> {
        self.refusals.lock().get(group).cloned()
    }

    /// Notes that nobody has the log of the partition open, until [`Waiting::on_asked`].
    pub fn on_asking(&self, group: &GroupName) {
        self.asking.lock().insert(group.clone(), None);
    }

    pub fn on_asked(&self, group: &GroupName) {
        self.asking.lock().remove(group);
    }

    pub fn is_asking(&self, group: &GroupName) -> bool {
        self.asking.lock().contains_key(group)
    }

    pub fn scan(&self, group: &GroupName) -> Option<Arc<LogScan>> {
        self.asking.lock().get(group).cloned().flatten()
    }

    /// Keeps a scan, unless somebody has begun to open the log meanwhile: then the scan no longer counts.
    pub fn keep_scan(&self, group: &GroupName, scan: Arc<LogScan>) {
        if let Some(kept) = self.asking.lock().get_mut(group) {
            *kept = Some(scan);
        }
    }
}

/// An operator's word: who gives up what, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub machine: String,
    pub partition: PartitionId,
    pub by: String,
    pub why: String,
}

impl Host {
    /// What an operator may do about a partition that has lost entries, and what it would mean.
    pub(super) fn advice(&self, group: &GroupName) -> String {
        let others = self.others();
        let nodes: Vec<String> = others.iter().map(ToString::to_string).collect();
        let whom = match nodes.as_slice() {
            [] => "no other node has them".to_owned(),
            [node] => format!("node {node} may have them"),
            nodes => format!("nodes {} may have them", nodes.join(", ")),
        };
        let archive = match &self.opening.archive {
            Some(_) => {
                "; the archive has everything that was archived (`statehouse snapshot restore` makes a new node from \
                 it)"
            }
            None => "",
        };
        let GroupName { machine, partition } = group;
        format!(
            "{whom}{archive}; put back what is missing, or, if it is gone for good, run `statehouse cluster \
             accept-loss {machine} {partition} --why …` with the --url of this node: what clients were told of it \
             then never happened, and is executed if it is sent again"
        )
    }

    /// What an operator may do about a partition that has two histories.
    pub(super) fn advice_divided(&self, group: &GroupName, what: &str) -> String {
        let GroupName { machine, partition } = group;
        format!(
            "{what}: look at both with `statehouse audit log`, and choose one. On each node with the history that is \
             to continue, run `statehouse cluster accept-loss {machine} {partition} --why …`; remove the others from \
             the cluster, and add them under new ids"
        )
    }

    /// The losses that `system` knows, and those that only this node has recorded so far.
    pub(super) fn losses(&self, mut known: Vec<AcceptedLoss>) -> Vec<AcceptedLoss> {
        for word in self.record.given_up() {
            let loss = loss_of(&word, self.node);
            if !known.contains(&loss) {
                known.push(loss);
            }
        }
        known.sort_by_key(|loss| loss.time);
        known
    }

    /// Notes that a partition was opened.
    pub(super) fn on_opened(&self, group: &GroupName) {
        self.waiting.remove(group);
        if self.record.is_given_up(group)
            && let Err(error) = self.record.use_up(group)
        {
            tracing::error!(
                %group, %error,
                "it could not be recorded that the partition was opened by an operator's decision"
            );
        }
    }

    /// Makes sure that the record knows of a replica's entries. If the replica has some, that is done before it is
    /// served. Otherwise it is done as soon as the first entry is durable, long before a client is told of one.
    pub(super) async fn note_first_entry(self: &Arc<Self>, group: &GroupName, log: &Log) {
        if self.record.had_entries(group) {
            return;
        }
        if log.durable().is_some() {
            return self.note_in_time(group.clone()).await;
        }
        let (host, group, mut durable) = (self.clone(), group.clone(), log.watch_durable());
        tokio::spawn(async move {
            let is_there = tokio::select! {
                () = host.stopping.cancelled() => false,
                first = durable.wait_for(Option::is_some) => first.is_ok(),
            };
            if is_there {
                host.note_in_time(group).await;
            }
        });
    }

    /// If the note cannot be written now, [`run`] tries again.
    async fn note_in_time(self: &Arc<Self>, group: GroupName) {
        let host = self.clone();
        let noted = tokio::task::spawn_blocking(move || host.record.note_entries(&[group])).await;
        if let Ok(Err(error)) = noted {
            tracing::warn!(%error, "it could not be recorded that a replica has entries");
        }
    }

    /// Notes which replicas have entries by now.
    fn note_entries(&self) -> Result<(), NodeError> {
        let with_entries = |group: &GroupName| !self.record.had_entries(group);
        let replicas = self.replicas();
        let durable = replicas.iter().filter(|(_, replica)| replica.log().durable().is_some());
        let new: Vec<GroupName> = durable.map(|(group, _)| group.clone()).filter(with_entries).collect();
        if new.is_empty() { Ok(()) } else { self.record.note_entries(&new) }
    }

    /// Records in `system` the words that are only in this node's record.
    async fn bring_words(&self) -> Result<(), ClusterError> {
        let words = self.record.given_up().into_iter().filter(|word| !word.is_in_system);
        for word in words {
            let Some(system) = self.system.read().clone() else { return Ok(()) };
            reconciliation::command(
                &system,
                "losses",
                loss_value(&loss_of(&word, self.node)),
                Instant::now() + PATIENCE,
            )
            .await?;
            if let Err(error) = self.record.set_in_system(&word) {
                // The word is sent again, and `system` records it once.
                tracing::warn!(%error, "it could not be recorded that `system` knows of an operator's decision");
            }
        }
        Ok(())
    }
}

/// Notes entries and records words until the node stops.
pub async fn run(host: Arc<Host>) {
    loop {
        let noting = host.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || noting.note_entries()).await {
            tracing::warn!(%error, "it could not be recorded which replicas have entries");
        }
        if host.opening.features.has(features::LOSSES)
            && let Err(error) = host.bring_words().await
        {
            tracing::debug!(%error, "an operator's decision is not in `system` yet");
        }
        tokio::select! {
            () = host.stopping.cancelled() => return,
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
        let host = self.host();
        let group = GroupName::new(&word.machine, word.partition);
        let Some(refusal) = host.waiting.find(&group) else {
            let detail =
                format!("{group} has lost nothing on this node that it waits for: there is nothing to give up");
            return Err(ClusterError::StepRefused(detail));
        };
        let Word { machine, partition, by, why } = word;
        tracing::error!(%group, by, why, refusal, "an operator gives up what this node's log has lost");
        metrics::counter!("statehouse_losses_accepted_total").increment(1);
        let (partition, time) = (partition.0, host.clock.now().0);
        let given_up = GivenUp { machine, partition, by, why, time, refusal, is_used: false, is_in_system: false };
        let noting = host.clone();
        let noted = tokio::task::spawn_blocking(move || noting.record.give_up(given_up)).await;
        let noted = noted.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        noted.map_err(|error| ClusterError::NotKept(error.to_string()))?;
        while host.record.is_given_up(&group) || host.find_replica(&group).is_none() {
            if deadline <= Instant::now() {
                return Err(ClusterError::Deadline);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}
