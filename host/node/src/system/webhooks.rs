//! Webhooks as the cluster knows them: any node can create, change and drop one, and knows how far each has delivered.
//!
//! In: what an operator asks of any node, and what the node that delivers has done. Out: rows of `system`, and secrets.
//! The leader of `system` delivers: at most one node can record what it has done, and another one takes over as soon as
//! that one is gone. How anything is sent is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use statehouse_abi::value::Value;
use tokio::time::Instant;

use crate::ids::{Micros, PartitionId, Position};
use crate::partition::Partition;
use crate::router::Machine;
use crate::system::cluster::Cluster;
use crate::system::cluster_error::ClusterError;
use crate::system::lifecycle::Wanting;
use crate::system::reconciliation;
pub use crate::system::secrets::Unnamed;
use crate::system::secrets::{self, Fingerprint};
use crate::system::webhook_row::{DeadRow, LaneRow, WebhookRow};

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

/// What the node that delivers reports.
pub enum WebhookNote {
    Progress {
        lanes: Vec<LaneRow>,
        problem: Option<String>,
    },
    Dead(DeadRow),
    /// The receiver wants no more.
    Gone,
    /// There is no room for another dead letter.
    Full,
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
        let secret = secrets::keep_on_majority(self.host(), &settings.secret, wanting.deadline).await?;
        let texts = |texts: Vec<String>| Value::Array(texts.into_iter().map(Value::Text).collect());
        let body = Value::map([
            ("machine", Value::text(machine)),
            ("webhook", Value::text(webhook)),
            ("url", Value::Text(settings.url)),
            ("keys", texts(settings.keys)),
            ("kinds", texts(settings.kinds)),
            ("batch", Value::Int(settings.batch.into())),
            ("secret", hexadecimal(&secret)),
            ("begin", positions(&settings.begin)),
        ]);
        reconciliation::command_by(&system, "webhooks/create", body, wanting)
            .await
            .map_err(|error| refused(error, webhook))?;
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
        let (name, secret, at) = match step {
            WebhookStep::Pause => ("pause", None, Vec::new()),
            WebhookStep::Resume => ("resume", None, Vec::new()),
            WebhookStep::Settle => ("settle", None, Vec::new()),
            WebhookStep::Drop => ("drop", None, Vec::new()),
            WebhookStep::Replay(from) => ("replay", None, from),
            WebhookStep::Redelivered(position) => ("redelivered", None, vec![position]),
            WebhookStep::Rotate(secret) => {
                // No secret is kept for a webhook that does not exist.
                find(&self.webhooks_now(wanting.deadline).await?, machine, webhook)?;
                let kept = secrets::keep_on_majority(self.host(), &secret, wanting.deadline).await?;
                ("rotate", Some(kept), Vec::new())
            }
        };
        let mut members = vec![
            ("machine", Value::text(machine)),
            ("webhook", Value::text(webhook)),
            ("step", Value::text(name)),
            ("positions", positions(&at)),
        ];
        members.extend(secret.map(|secret| ("secret", hexadecimal(&secret))));
        let changed = reconciliation::command_by(&system, "webhooks/change", Value::map(members), wanting).await;
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
        note: WebhookNote,
        deadline: Instant,
    ) -> Result<(), ClusterError> {
        let system = self.host().system.read().clone().ok_or(ClusterError::NoCluster)?;
        let (mut lanes, mut problem, mut dead, mut halt) = (Vec::new(), None, None, "");
        match note {
            WebhookNote::Progress { lanes: all, problem: why } => (lanes, problem) = (all, why),
            WebhookNote::Dead(letter) => dead = Some(dead_value(&letter)),
            WebhookNote::Gone => halt = "gone",
            WebhookNote::Full => halt = "full",
        }
        let mut members = vec![
            ("machine", Value::text(machine)),
            ("webhook", Value::text(webhook)),
            ("epoch", Value::Int(epoch.into())),
            ("lanes", Value::Array(lanes.iter().map(lane_value).collect())),
            ("problem", Value::Text(problem.unwrap_or_default())),
            ("halt", Value::text(halt)),
        ];
        members.extend(dead.map(|dead| ("dead", dead)));
        reconciliation::command(&system, "webhooks/note", Value::map(members), deadline).await
    }

    /// The webhooks, as this node has applied them.
    pub fn webhooks(&self) -> Webhooks {
        self.host().directory.borrow().webhooks.clone()
    }

    /// The webhooks as of now.
    ///
    /// # Errors
    /// `system` does not answer in time.
    pub async fn webhooks_now(&self, deadline: Instant) -> Result<Webhooks, ClusterError> {
        self.directory_now(deadline).await.map(|(_, directory)| directory.webhooks)
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
        self.host().system_partition().is_some_and(delivers)
    }

    /// How many entries of this node a webhook has not passed yet, as far as that is recorded.
    pub fn webhook_lag(&self, machine: &str, row: &WebhookRow) -> u64 {
        let Some(machine) = self.host().router.find_machine(machine) else { return 0 };
        let behind = |lane: &LaneRow| {
            let replica = machine.find_partition(PartitionId(lane.at.partition))?;
            Some(lane.at.position().index.distance_to(replica.progress().journal.index))
        };
        row.lanes.iter().filter_map(behind).sum()
    }

    /// The secret with this fingerprint; `None` if no node that answers has it.
    pub async fn webhook_secret(&self, of: Fingerprint) -> Option<Vec<u8>> {
        secrets::find_anywhere(self.host(), of).await
    }

    /// Fetches the secrets that webhooks name and this node lacks, and deletes those that no webhook has named for
    /// `patience`. `unnamed` is its memory.
    pub async fn tend_webhook_secrets(&self, unnamed: &mut Unnamed, patience: Duration) {
        let mut named = named_by(&self.webhooks());
        if secrets::has_others(self.host(), named.clone()).await {
            // What this node has applied may be long out of date, and is empty before others have answered, so it is no
            // reason to delete anything.
            match self.webhooks_now(Instant::now() + NAMED_PATIENCE).await {
                Ok(webhooks) => {
                    named = named_by(&webhooks);
                    secrets::forget(self.host(), named.clone(), unnamed, patience).await;
                }
                Err(_) => unnamed.clear(),
            }
        } else {
            unnamed.clear();
        }
        for missing in secrets::missing(self.host(), named).await {
            secrets::find_anywhere(self.host(), missing).await;
        }
    }

    /// What this node's clock shows.
    pub fn now(&self) -> Micros {
        self.host().clock.now()
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
        ClusterError::Rejected { code, .. } if code == "unknown_webhook" => {
            ClusterError::UnknownWebhook(webhook.to_owned())
        }
        ClusterError::Rejected { detail, .. } => ClusterError::StepRefused(detail),
        error => error,
    }
}

fn hexadecimal(fingerprint: &Fingerprint) -> Value {
    Value::text(blake3::Hash::from_bytes(*fingerprint).to_hex().as_str())
}

fn positions(positions: &[Position]) -> Value {
    Value::Array(positions.iter().map(|position| Value::Text(position.to_string())).collect())
}

fn lane_value(lane: &LaneRow) -> Value {
    let (since, attempts) = lane.failing.map_or((0, 0), |failing| (failing.since, failing.attempts));
    Value::map([
        ("position", Value::Text(lane.at.position().to_string())),
        ("since", Value::Int(since.into())),
        ("attempts", Value::Int(attempts.into())),
    ])
}

fn dead_value(letter: &DeadRow) -> Value {
    Value::map([
        ("first", Value::Text(letter.first.position().to_string())),
        ("last", Value::Text(letter.last.position().to_string())),
        ("since", Value::Int(letter.failing.since.into())),
        ("attempts", Value::Int(letter.failing.attempts.into())),
        ("problem", Value::text(letter.problem.as_str())),
    ])
}
