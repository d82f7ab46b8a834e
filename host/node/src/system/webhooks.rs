//! Webhooks as the cluster knows them: any node can create, change and drop one, and knows how far each has delivered.
//!
//! In: what an operator asks of any node, and what the node that delivers has done. Out: rows of `system`, and secrets.
//! The leader of `system` delivers: at most one node can record what it has done, and another one takes over as soon as
//! that one is gone. How anything is sent is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::ids::{Micros, PartitionId, Position};
use crate::partition::Partition;
use crate::records::command::{ChangeStep, DeliveryNote, NewWebhook, SystemCommand, WebhookChange, WebhookReport};
use crate::records::rejection::RejectionCode;
use crate::router::Machine;
use crate::system::cluster::Cluster;
use crate::system::cluster_error::ClusterError;
pub use crate::system::secrets::Unnamed;
use crate::system::secrets::{self, Fingerprint};
use crate::system::submit::{Wanting, submit, submit_by};
use crate::system::webhook_row::{LaneRow, WebhookRow};

/// How long `system` may take to say which secrets are named, before any is deleted.
const NAMED_PATIENCE: Duration = Duration::from_secs(2);

/// Rows by machine and name.
pub type Webhooks = BTreeMap<(String, String), Arc<WebhookRow>>;

/// The settings of a new webhook.
pub struct WebhookSettings {
    pub url: String,
    pub keys: Vec<String>,
    pub kinds: Vec<String>,
    pub batch: u32,
    pub secret: Vec<u8>,
    /// The position after which it begins, for each partition that it follows.
    pub begin: Vec<Position>,
}

/// A step that an operator takes.
pub enum WebhookStep {
    Pause,
    Resume,
    /// Signs with another secret from now on, and for a while with the one before as well.
    Rotate(Vec<u8>),
    /// Stops signing with the one before.
    Settle,
    Replay(Vec<Position>),
    /// A dead letter was delivered after all.
    Redelivered(Position),
    Drop,
}

impl Cluster {
    /// Creates a webhook. Returns its row as soon as this node has it.
    ///
    /// # Errors
    /// There is a webhook of this name, or there are too many; the secret cannot be kept on a majority of the nodes.
    pub async fn create_webhook(
        &self,
        machine: &str,
        webhook: &str,
        settings: WebhookSettings,
        wanting: &Wanting,
    ) -> Result<Arc<WebhookRow>, ClusterError> {
        let system = self.system_with(machine, wanting.deadline).await?;
        let secret = secrets::keep_on_majority(self.context(), &settings.secret, wanting.deadline).await?;
        let WebhookSettings { url, keys, kinds, batch, begin, .. } = settings;
        let (name, machine_name) = (webhook.to_owned(), machine.to_owned());
        let new = NewWebhook { machine: machine_name, webhook: name, url, keys, kinds, batch, secret, begin };
        let created = submit_by(&system, &SystemCommand::CreateWebhook(new), wanting).await;
        created.map_err(|error| refused(error, webhook))?;
        let rows = self.webhooks_now(wanting.deadline).await?;
        find(&rows, machine, webhook)
    }

    /// Changes a webhook. Returns its row afterwards, or `None` if it was dropped.
    ///
    /// # Errors
    /// There is no such webhook, or this cannot be done with it.
    pub async fn change_webhook(
        &self,
        machine: &str,
        webhook: &str,
        step: WebhookStep,
        wanting: &Wanting,
    ) -> Result<Option<Arc<WebhookRow>>, ClusterError> {
        let system = self.system_with(machine, wanting.deadline).await?;
        let is_dropped = matches!(step, WebhookStep::Drop);
        let step = match step {
            WebhookStep::Pause => ChangeStep::Pause,
            WebhookStep::Resume => ChangeStep::Resume,
            WebhookStep::Settle => ChangeStep::Settle,
            WebhookStep::Drop => ChangeStep::Drop,
            WebhookStep::Replay(from) => ChangeStep::Replay { from },
            WebhookStep::Redelivered(letter) => ChangeStep::Redelivered { letter },
            WebhookStep::Rotate(secret) => {
                // No secret is kept for a webhook that does not exist.
                find(&self.webhooks_now(wanting.deadline).await?, machine, webhook)?;
                let secret = secrets::keep_on_majority(self.context(), &secret, wanting.deadline).await?;
                ChangeStep::Rotate { secret }
            }
        };
        let change = WebhookChange { machine: machine.to_owned(), webhook: webhook.to_owned(), step };
        let changed = submit_by(&system, &SystemCommand::ChangeWebhook(change), wanting).await;
        changed.map_err(|error| refused(error, webhook))?;
        let rows = self.webhooks_now(wanting.deadline).await?;
        if is_dropped { Ok(None) } else { find(&rows, machine, webhook).map(Some) }
    }

    /// Records what was done; returns when it is recorded.
    ///
    /// # Errors
    /// [`ClusterError::Rejected`]: the webhook was dropped, or has another epoch by now, so the note no longer counts.
    /// After any other error the caller may try again.
    pub async fn note_webhook(
        &self,
        machine: &str,
        webhook: &str,
        epoch: u64,
        note: DeliveryNote,
        deadline: Instant,
    ) -> Result<(), ClusterError> {
        let system = self.context().system.get().cloned().ok_or(ClusterError::NoCluster)?;
        let report = WebhookReport { machine: machine.to_owned(), webhook: webhook.to_owned(), epoch, note };
        submit(&system, &SystemCommand::NoteWebhook(report), deadline).await
    }

    /// The webhooks, as this node has applied them.
    pub fn webhooks(&self) -> Webhooks {
        self.context().directory().webhooks.clone()
    }

    /// The webhooks as of now.
    ///
    /// # Errors
    /// `system` does not answer in time.
    pub async fn webhooks_now(&self, deadline: Instant) -> Result<Webhooks, ClusterError> {
        self.directory_now(deadline).await.map(|(_, directory)| directory.webhooks.clone())
    }

    /// # Errors
    /// There is no such webhook, or `system` does not answer in time.
    pub async fn webhook_now(
        &self,
        machine: &str,
        webhook: &str,
        deadline: Instant,
    ) -> Result<Arc<WebhookRow>, ClusterError> {
        find(&self.webhooks_now(deadline).await?, machine, webhook)
    }

    /// Whether this node is the one that delivers. A node that no majority answers is not: another one may deliver
    /// already.
    pub fn delivers_webhooks(&self) -> bool {
        let delivers = |system: Arc<Partition>| system.is_leader() && system.is_running() && system.group().is_heard();
        self.context().system_partition().is_some_and(delivers)
    }

    /// How many entries of this node a webhook has not passed yet, as far as that is recorded.
    pub fn webhook_lag(&self, machine: &str, row: &WebhookRow) -> u64 {
        let Some(machine) = self.context().router.find_machine(machine) else { return 0 };
        let behind = |lane: &LaneRow| {
            let replica = machine.find_partition(PartitionId(lane.at.partition))?;
            Some(lane.at.position().index.distance_to(replica.progress().journal.index))
        };
        row.lanes.iter().filter_map(behind).sum()
    }

    /// The secret with this fingerprint; `None` if no node that answers has it.
    pub async fn webhook_secret(&self, of: Fingerprint) -> Option<Vec<u8>> {
        secrets::find_anywhere(self.context(), of).await
    }

    /// Fetches the secrets that webhooks name and this node lacks, and deletes those that no webhook has named for
    /// `patience`. `unnamed` is its memory.
    pub async fn tend_webhook_secrets(&self, unnamed: &mut Unnamed, patience: Duration) {
        let mut named = named_by(&self.webhooks());
        if secrets::has_others(self.context(), named.clone()).await {
            // What this node has applied may be long out of date, and is empty before others have answered, so it is no
            // reason to delete anything.
            match self.webhooks_now(Instant::now() + NAMED_PATIENCE).await {
                Ok(webhooks) => {
                    named = named_by(&webhooks);
                    secrets::forget(self.context(), named.clone(), unnamed, patience).await;
                }
                Err(_) => unnamed.clear(),
            }
        } else {
            unnamed.clear();
        }
        for missing in secrets::missing(self.context(), named).await {
            secrets::find_anywhere(self.context(), missing).await;
        }
    }

    /// What this node's clock shows.
    pub fn now(&self) -> Micros {
        self.context().clock.now()
    }

    async fn system_with(&self, machine: &str, deadline: Instant) -> Result<Arc<Machine>, ClusterError> {
        let (system, directory) = self.directory_now(deadline).await?;
        if directory.machines.contains_key(machine) {
            Ok(system)
        } else {
            Err(ClusterError::UnknownMachine(machine.to_owned()))
        }
    }
}

fn named_by(webhooks: &Webhooks) -> BTreeSet<Fingerprint> {
    webhooks.values().flat_map(|row| row.secrets.iter().copied()).collect()
}

fn find(rows: &Webhooks, machine: &str, webhook: &str) -> Result<Arc<WebhookRow>, ClusterError> {
    let row = rows.get(&(machine.to_owned(), webhook.to_owned()));
    row.cloned().ok_or_else(|| ClusterError::UnknownWebhook(webhook.to_owned()))
}

fn refused(error: ClusterError, webhook: &str) -> ClusterError {
    match error {
        ClusterError::Rejected { code: Some(RejectionCode::UnknownWebhook), .. } => {
            ClusterError::UnknownWebhook(webhook.to_owned())
        }
        ClusterError::Rejected { detail, .. } => ClusterError::StepRefused(detail),
        error => error,
    }
}
