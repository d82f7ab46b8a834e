//! Webhooks: events that are sent to receivers, signed as Standard Webhooks says.
//!
//! ```text
//! api (routes) ─▶ system: rows ─▶ run: on the node that leads `system` ─▶ deliver (one for each webhook)
//!                                                                              └▶ message, sign, post, retry
//! ```
//! In: rows of `system`, and the same feeds that readers of event streams share. Out: requests to receivers. Exactly
//! one node delivers, as far as anybody can know that; if two do, what they send has the same ids. It decides nothing
//! about state.

mod error;
mod deliver;
mod message;
mod again;
mod post;
mod resolve;
mod retry;
mod sign;
mod signers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub use again::make_again;
pub use error::WebhookError;
pub use message::WebhookMessage;
pub use post::{PostOutcome, PostResult};
pub use sign::Secret;

use self::deliver::Delivery;
use self::post::Poster;
use self::signers::NamedSecret;
use crate::config::{Receivers, WebhooksConfig};
use crate::feed::{Feed, Feeds};
use crate::limits::DEADLINE_MAX;
use crate::router::{Machine, Router};
use crate::system::Cluster;
use crate::system::webhook_row::WebhookRow;
use crate::system::webhooks::{Unnamed, Webhooks};

/// How often to check who leads `system`, and which node must deliver what.
const LOOK: Duration = Duration::from_millis(200);
/// How long a new leader waits to learn what was recorded before it.
const BEGIN_PATIENCE: Duration = Duration::from_secs(2);
/// How long the last progress may take to be recorded when this node stops delivering.
const END_PATIENCE: Duration = Duration::from_secs(1);
/// How often the node looks for secrets that it lacks.
const SECRETS_LOOK: Duration = Duration::from_secs(1);
/// How long a secret that signs nothing is kept: longer than a client that brings one may take to record it.
const SECRETS_PATIENCE: Duration = DEADLINE_MAX.saturating_mul(2);

/// What everything that is sent from this node shares.
pub struct Sender {
    cluster: Cluster,
    router: Arc<Router>,
    feeds: Arc<Feeds>,
    poster: Poster,
    retry_for: Duration,
    allows_plaintext: bool,
    receivers: Arc<Receivers>,
}

/// What this node delivers, and what its metrics show.
#[derive(Default)]
struct Deliveries {
    running: BTreeMap<WebhookKey, RunningDelivery>,
    shown: BTreeSet<WebhookKey>,
}

/// A webhook that is being delivered. Its tasks end when it is dropped.
struct RunningDelivery {
    delivery: Arc<Delivery>,
    tasks: JoinSet<()>,
}

type WebhookKey = (String, String);

impl Sender {
    pub fn new(cluster: Cluster, router: Arc<Router>, feeds: Arc<Feeds>, config: &WebhooksConfig) -> Arc<Self> {
        let (retry_for, allows_plaintext) = (config.retry_for(), config.plaintext);
        let receivers = Arc::new(config.receivers().expect("checked when the configuration was read"));
        let poster = Poster::new(receivers.clone());
        Arc::new(Self { cluster, router, feeds, poster, retry_for, allows_plaintext, receivers })
    }

    /// Delivers while this node is the one to do so, until `stop`; the last progress is recorded on return.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let tending = tokio::spawn(stop.clone().run_until_cancelled_owned(self.clone().tend_secrets()));
        let mut deliveries = Deliveries::default();
        let mut is_delivering = false;
        while !stop.is_cancelled() {
            let leads = self.cluster.delivers_webhooks();
            let wanted = match (leads, is_delivering) {
                (false, _) => Some(Webhooks::new()),
                (true, true) => Some(self.cluster.webhooks()),
                // What another node has recorded must be known here before anything is sent.
                (true, false) => self.cluster.webhooks_now(Instant::now() + BEGIN_PATIENCE).await.ok(),
            };
            if let Some(wanted) = wanted {
                is_delivering = leads;
                self.tend(&mut deliveries, &wanted);
            }
            tokio::select! {
                () = self.cluster.wait_for_directory(LOOK) => {}
                () = stop.cancelled() => {}
            }
        }
        join_all(deliveries.running.into_values().map(end)).await;
        // It ends by the same cancellation token.
        drop(tending.await);
    }

    /// Stops deliveries that are not wanted any more or continue elsewhere, and starts missing ones.
    fn tend(self: &Arc<Self>, Deliveries { running, shown }: &mut Deliveries, wanted: &Webhooks) {
        let is_wanted = |key: &WebhookKey, running: &RunningDelivery| {
            wanted.get(key).is_some_and(|row| row.paused.is_none() && row.epoch == running.delivery.epoch())
        };
        let gone: Vec<WebhookKey> =
            running.iter().filter(|(key, running)| !is_wanted(key, running)).map(|(key, _)| key.clone()).collect();
        for gone in gone.iter().filter_map(|key| running.remove(key)) {
            tokio::spawn(end(gone));
        }
        // A webhook that was dropped, or is delivered elsewhere, has no dead letters here.
        for key in shown.extract_if(.., |key| !wanted.contains_key(key)) {
            gauge_dead(&key, 0);
        }
        for (key, row) in wanted {
            gauge_dead(key, row.dead.len());
            shown.insert(key.clone());
            if row.paused.is_some() {
                continue;
            }
            if let Some(running) = running.get(key) {
                running.delivery.set_row(row.clone());
            } else if let Some(machine) = self.router.find_machine(&key.0)
                && let Some(begun) = self.set_out(key, row, machine)
            {
                running.insert(key.clone(), begun);
            }
        }
    }

    fn set_out(
        self: &Arc<Self>,
        key: &WebhookKey,
        row: &Arc<WebhookRow>,
        machine: Arc<Machine>,
    ) -> Option<RunningDelivery> {
        let feed = self.feed(machine);
        match Delivery::new(self.clone(), (&key.0, &key.1), row.clone(), feed) {
            Ok(delivery) => {
                tracing::info!(machine = key.0, webhook = key.1, "this node delivers a webhook");
                let tasks = delivery.start();
                Some(RunningDelivery { delivery, tasks })
            }
            Err(problem) => {
                tracing::error!(machine = key.0, webhook = key.1, problem, "a webhook cannot be delivered");
                None
            }
        }
    }

    /// The feed that a webhook of this machine is sent from.
    pub fn feed(&self, machine: Arc<Machine>) -> Arc<Feed> {
        self.feeds.feed(machine, &self.cluster.view().cluster.unwrap_or_default())
    }

    /// Those of the secrets that some node has, in this order.
    async fn find_secrets(&self, wanted: &[[u8; 32]]) -> Vec<NamedSecret> {
        let finding = wanted.iter().map(|of| async {
            let secret = self.cluster.webhook_secret(*of).await?;
            Secret::of(secret).map(|secret| (*of, secret))
        });
        join_all(finding).await.into_iter().flatten().collect()
    }

    /// Keeps all secrets on this node, as on every node, so that any may deliver next.
    async fn tend_secrets(self: Arc<Self>) {
        let mut unnamed = Unnamed::new();
        loop {
            self.cluster.tend_webhook_secrets(&mut unnamed, SECRETS_PATIENCE).await;
            sleep(SECRETS_LOOK).await;
            self.cluster.wait_for_directory(SECRETS_LOOK).await;
        }
    }
}

fn gauge_dead((machine, webhook): &WebhookKey, letters: usize) {
    let labels = [("machine", machine.clone()), ("webhook", webhook.clone())];
    metrics::gauge!("statehouse_webhook_dead_letters", &labels).set(letters as f64);
}

async fn end(RunningDelivery { delivery, tasks }: RunningDelivery) {
    drop(tasks);
    delivery.gauge_lag(0);
    // If this fails, the next node to deliver sends the last messages again.
    if let Err(error) = delivery.record(END_PATIENCE).await {
        tracing::debug!(%error, "the last progress of a webhook is not recorded");
    }
}
