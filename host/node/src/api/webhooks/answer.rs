//! The routes about webhooks: which there are, what changes about them, and single requests that somebody asks for.
//!
//! In: paths and bodies. Out: pages. A secret that is not given is made here, and told once. A test or a dead letter is
//! sent by the node that is asked, and its answer says what the receiver did. How something is sent is in
//! [`crate::webhooks`].

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use statehouse_abi::describe::{Field, Schema, TextFormat};
use statehouse_abi::value::Value;
use tokio::time::Instant;

use super::page::{WebhookPage, WebhookSentPage, WebhooksPage};
use crate::api::events::{read_kind, refused};
use crate::api::handle::Api;
use crate::api::pages;
use crate::api::problem::{Code, Problem};
use crate::api::route::HostRequest;
use crate::feed::cursor::{CURSOR_IS, Cursor};
use crate::feed::newest;
use crate::ids::{PartitionId, Position};
use crate::limits::{
    ENTITY_BYTES_MAX, SLOT_COUNT, WEBHOOK_BATCH_MAX, WEBHOOK_KEYS_MAX, WEBHOOK_KINDS_MAX, WEBHOOK_PARTITIONS_MAX,
    WEBHOOK_URL_CHARS_MAX,
};
use crate::router::Machine;
use crate::system::Wanting;
use crate::system::webhook_row::WebhookRow;
use crate::system::webhooks::{WebhookSettings, WebhookStep};
use crate::system::{Cluster, ClusterError};
use crate::webhooks::{PostOutcome, Secret, Sender, WebhookError, WebhookMessage, make_again};

/// The longest cursor: it has as many positions as there may be.
const CURSOR_CHARS_MAX: u32 = WEBHOOK_PARTITIONS_MAX * 48;
const SECRET_CHARS_MAX: u32 = 128;
/// What is kept of a request's time for its answer; the receiver gets the rest.
const ANSWER_MARGIN: Duration = Duration::from_secs(2);
/// How long it may take to record that a dead letter was taken.
const STRIKE_PATIENCE: Duration = Duration::from_secs(5);

/// # Errors
/// 4xx with what is wrong and what to do; see [`ClusterError`](crate::system::ClusterError).
pub async fn list(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    MachineWebhooks::of(api, &request)?.all(request.context.deadline).await
}

/// # Errors
/// As [`list`].
pub async fn show(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let (webhooks, webhook) = (MachineWebhooks::of(api, &request)?, request.segment("webhook"));
    let row = api.cluster.webhook_now(webhooks.name(), webhook, request.context.deadline).await?;
    Ok(pages::json(&webhooks.page(webhook, &row)))
}

/// # Errors
/// As [`list`].
pub async fn create(api: &Api, mut request: HostRequest<'_>) -> Result<Response, Problem> {
    let webhooks = MachineWebhooks::of(api, &request)?;
    let given = WebhookBody::read(&mut request).await?;
    let wanting = webhooks.requested(&request, "");
    let (webhook, secret) = (given.text("webhook").unwrap_or_default(), given.secret()?);
    let settings = webhooks.settings(&given, &secret.secret, wanting.deadline).await?;
    let row = api.cluster.create_webhook(webhooks.name(), webhook, settings, &wanting).await?;
    Ok(pages::json(&webhooks.page(webhook, &row).with_secret(secret.made())))
}

/// # Errors
/// As [`list`].
pub async fn rotate(api: &Api, mut request: HostRequest<'_>) -> Result<Response, Problem> {
    let (webhooks, webhook) = (MachineWebhooks::of(api, &request)?, request.segment("webhook"));
    let given = WebhookBody::read(&mut request).await?;
    let wanting = webhooks.requested(&request, webhook);
    if given.is_set("finish") {
        return webhooks.take_step(webhook, WebhookStep::Settle, &wanting).await;
    }
    let secret = given.secret()?;
    let step = WebhookStep::Rotate(secret.secret.bytes().to_vec());
    let row = api.cluster.change_webhook(webhooks.name(), webhook, step, &wanting).await?;
    Ok(pages::json(&row.map(|row| webhooks.page(webhook, &row).with_secret(secret.made()))))
}

/// # Errors
/// As [`list`].
pub async fn replay(api: &Api, mut request: HostRequest<'_>) -> Result<Response, Problem> {
    let (webhooks, webhook) = (MachineWebhooks::of(api, &request)?, request.segment("webhook"));
    let given = WebhookBody::read(&mut request).await?;
    let wanting = webhooks.requested(&request, webhook);
    let row = api.cluster.webhook_now(webhooks.name(), webhook, wanting.deadline).await?;
    let partitions: Vec<PartitionId> = row.lanes.iter().map(|lane| PartitionId(lane.at.partition)).collect();
    let from = WebhookStart::read(given.text("from"))?;
    let begin = webhooks.begin(&partitions, &from, wanting.deadline).await?;
    webhooks.take_step(webhook, WebhookStep::Replay(begin), &wanting).await
}

/// # Errors
/// As [`list`].
pub async fn redeliver(api: &Api, mut request: HostRequest<'_>) -> Result<Response, Problem> {
    let (webhooks, webhook) = (MachineWebhooks::of(api, &request)?, request.segment("webhook"));
    let given = WebhookBody::read(&mut request).await?;
    let wanting = webhooks.requested(&request, webhook);
    Ok(pages::json(&webhooks.redeliver(webhook, &given, &wanting).await?))
}

/// # Errors
/// As [`list`].
pub async fn test(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let (webhooks, webhook) = (MachineWebhooks::of(api, &request)?, request.segment("webhook"));
    let wanting = webhooks.requested(&request, webhook);
    Ok(pages::json(&webhooks.test(webhook, wanting.deadline).await?))
}

/// # Errors
/// As [`list`].
pub async fn pause(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    change(api, request, WebhookStep::Pause).await
}

/// # Errors
/// As [`list`].
pub async fn resume(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    change(api, request, WebhookStep::Resume).await
}

/// # Errors
/// As [`list`].
pub async fn delete(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    change(api, request, WebhookStep::Drop).await
}

/// A change that needs no body.
async fn change(api: &Api, request: HostRequest<'_>, step: WebhookStep) -> Result<Response, Problem> {
    let (webhooks, webhook) = (MachineWebhooks::of(api, &request)?, request.segment("webhook"));
    let wanting = webhooks.requested(&request, webhook);
    webhooks.take_step(webhook, step, &wanting).await
}

/// Where a webhook begins or continues.
enum WebhookStart {
    Now,
    Start,
    After(Cursor),
}

impl WebhookStart {
    fn read(text: Option<&str>) -> Result<Self, Problem> {
        match text {
            None | Some("now") => Ok(Self::Now),
            Some("start") => Ok(Self::Start),
            Some(text) => Cursor::parse(text).map(Self::After).ok_or_else(|| {
                Problem::new(Code::InvalidChange, format!("`from` must be `start`, `now` or a cursor; {CURSOR_IS}"))
            }),
        }
    }
}

/// The body of a request, which has the shape that its page declares.
struct WebhookBody(Value);

/// A secret of the request, or else a new one.
struct GivenSecret {
    secret: Secret,
    is_made: bool,
}

impl GivenSecret {
    /// The secret, if the client does not know it yet.
    fn made(&self) -> Option<&Secret> {
        self.is_made.then_some(&self.secret)
    }
}

impl WebhookBody {
    async fn read(request: &mut HostRequest<'_>) -> Result<Self, Problem> {
        let json = request.take_json().await?;
        if json.is_empty() && request.route.body.is_optional() {
            return Ok(Self(Value::Null));
        }
        request.check_media_type()?;
        Ok(Self(request.read(&json)?))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.find(name).and_then(Value::as_text)
    }

    fn texts(&self, name: &str) -> Vec<String> {
        match self.0.find(name) {
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_text).map(str::to_owned).collect(),
            _ => Vec::new(),
        }
    }

    fn is_set(&self, name: &str) -> bool {
        matches!(self.0.find(name), Some(Value::Bool(true)))
    }

    /// The secret that is given, or a new one.
    fn secret(&self) -> Result<GivenSecret, Problem> {
        let Some(text) = self.text("secret") else {
            return Ok(GivenSecret { secret: Secret::generate(), is_made: true });
        };
        let secret = Secret::parse(text).map(|secret| GivenSecret { secret, is_made: false });
        secret.ok_or_else(|| {
            let detail = "`secret` must be `whsec_` and the base64 of 24 to 64 bytes; leave it out to have one made";
            Problem::new(Code::InvalidChange, detail)
        })
    }

    fn partitions(&self, machine: &Machine, keys: &[String]) -> Result<Vec<PartitionId>, Problem> {
        let count = machine.partition_count();
        let number = |value: &Value| value.as_int().and_then(|number| u32::try_from(number).ok());
        let mut partitions: Vec<PartitionId> = match self.0.find("partitions") {
            Some(Value::Array(items)) => items.iter().filter_map(number).map(PartitionId).collect(),
            _ => Vec::new(),
        };
        let invalid = |detail: String| Err(Problem::new(Code::InvalidChange, detail));
        if !partitions.is_empty() && !keys.is_empty() {
            return invalid(
                "`partitions` is not needed with `keys`, which determine the partitions; leave it out".to_owned(),
            );
        }
        if partitions.iter().any(|partition| count <= partition.0) {
            return invalid(format!("`partitions` must be numbers below {count}"));
        }
        if !keys.is_empty() {
            partitions.extend(keys.iter().map(|key| machine.partition_id_of(key.as_bytes())));
        } else if partitions.is_empty() {
            partitions.extend(machine.partition_ids());
        }
        partitions.sort_unstable();
        partitions.dedup();
        if (WEBHOOK_PARTITIONS_MAX as usize) < partitions.len() {
            let max = WEBHOOK_PARTITIONS_MAX;
            return invalid(format!(
                "a webhook follows at most {max} partitions; create several, each with some in `partitions`"
            ));
        }
        Ok(partitions)
    }
}

/// What a route about the webhooks of one machine works with.
struct MachineWebhooks<'a> {
    sender: &'a Sender,
    cluster: &'a Cluster,
    machine: Arc<Machine>,
}

impl<'a> MachineWebhooks<'a> {
    /// # Errors
    /// There is no such machine.
    fn of(api: &'a Api, request: &HostRequest<'_>) -> Result<Self, Problem> {
        let machine = api.find_machine(request.machine_name())?;
        Ok(Self { sender: &api.webhooks, cluster: &api.cluster, machine })
    }

    fn name(&self) -> &str {
        self.machine.name()
    }

    /// Notes in the log who asks for a change.
    fn requested(&self, request: &HostRequest<'_>, webhook: &str) -> Wanting {
        let wanting = request.wanting();
        let (caller, request_id, page) = (&wanting.caller.name, &wanting.request_id, request.route.name);
        let machine = self.name();
        tracing::info!(caller, %request_id, %page, machine, webhook, "a change of a webhook is requested");
        wanting
    }

    fn page(&self, webhook: &str, row: &WebhookRow) -> WebhookPage {
        WebhookPage::new(self.name(), webhook, row, self.cluster.webhook_lag(self.name(), row))
    }

    async fn all(&self, deadline: Instant) -> Result<Response, Problem> {
        let rows = self.cluster.webhooks_now(deadline).await?;
        let shown = rows.iter().filter(|((of, _), _)| of == self.name());
        let webhooks = shown.map(|((_, webhook), row)| self.page(webhook, row)).collect();
        Ok(pages::json(&WebhooksPage { machine: self.name().to_owned(), webhooks }))
    }

    /// Changes a webhook. The answer is the webhook as it is then, or all others if it is gone.
    async fn take_step(&self, webhook: &str, step: WebhookStep, wanting: &Wanting) -> Result<Response, Problem> {
        match self.cluster.change_webhook(self.name(), webhook, step, wanting).await? {
            Some(row) => Ok(pages::json(&self.page(webhook, &row))),
            None => self.all(wanting.deadline).await,
        }
    }

    async fn settings(
        &self,
        given: &WebhookBody,
        secret: &Secret,
        deadline: Instant,
    ) -> Result<WebhookSettings, Problem> {
        let machine = self.machine.as_ref();
        let url = self.sender.read_url(given.text("url").unwrap_or_default())?;
        let keys = given.texts("keys");
        let kinds = given.texts("types").iter().map(|kind| read_kind(machine, kind)).collect::<Result<_, _>>()?;
        let partitions = given.partitions(machine, &keys)?;
        let from = WebhookStart::read(given.text("from"))?;
        let begin = self.begin(&partitions, &from, deadline).await?;
        let batch = given.0.find("batch").and_then(Value::as_int).map_or(1, |batch| u32::try_from(batch).unwrap_or(1));
        Ok(WebhookSettings { url, keys, kinds, batch, secret: secret.bytes().to_vec(), begin })
    }

    /// A position of each partition; an error if the cursor lacks one.
    async fn begin(
        &self,
        partitions: &[PartitionId],
        from: &WebhookStart,
        deadline: Instant,
    ) -> Result<Vec<Position>, Problem> {
        let feed = self.sender.feed(self.machine.clone());
        let mut positions = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let replica = feed.replica(*partition).map_err(refused)?;
            let position = match from {
                WebhookStart::Now => {
                    positions.push(newest(&replica).await.map_err(refused)?);
                    continue;
                }
                WebhookStart::Start => replica.genesis().position(*partition, 0),
                WebhookStart::After(cursor) => cursor.find(*partition).ok_or_else(|| {
                    let detail = format!("`from` has no position of partition {partition}, which this webhook follows");
                    Problem::new(Code::InvalidChange, detail)
                })?,
            };
            // Before the position is recorded, check that it is of this history, and that what follows it can be read.
            feed.place_of(position, deadline).await.map_err(refused)?;
            positions.push(position);
        }
        Ok(positions)
    }

    /// Sends a test event.
    async fn test(&self, webhook: &str, deadline: Instant) -> Result<WebhookSentPage, Problem> {
        let machine = self.machine.name();
        let row = self.cluster.webhook_now(machine, webhook, deadline).await?;
        let message = self.sender.test_message(machine, webhook, &row);
        self.send(webhook, &row, &message, until(deadline)).await
    }

    /// Sends a dead letter once more, and strikes it off the list when it is taken.
    async fn redeliver(
        &self,
        webhook: &str,
        given: &WebhookBody,
        wanting: &Wanting,
    ) -> Result<WebhookSentPage, Problem> {
        let (name, deadline) = (self.machine.name(), wanting.deadline);
        let row = self.cluster.webhook_now(name, webhook, deadline).await?;
        let letter = given.text("letter").and_then(|text| text.parse::<Position>().ok());
        let known = letter.filter(|letter| row.dead.iter().any(|dead| dead.first.position() == *letter));
        let letter = known.ok_or_else(|| {
            let detail =
                format!("`letter` is not a dead letter of {webhook}: send the `letter` of one that its page lists");
            Problem::new(Code::InvalidChange, detail)
        })?;
        let (feed, until) = (self.sender.feed(self.machine.clone()), until(deadline));
        let message = make_again(&feed, name, &row, letter, until).await.map_err(refused)?;
        let message = message.ok_or_else(|| {
            let detail = "the message cannot be made again: another version of the host divided the events \
                differently; replay from before it";
            Problem::new(Code::InvalidChange, detail)
        })?;
        let sent = self.send(webhook, &row, &message, until).await?;
        if sent.is_delivered {
            // It was taken, so it is struck off, even if that takes a moment longer than the client waits.
            let wanting = Wanting { deadline: Instant::now() + STRIKE_PATIENCE, ..wanting.clone() };
            self.cluster.change_webhook(name, webhook, WebhookStep::Redelivered(letter), &wanting).await?;
        }
        Ok(sent)
    }

    async fn send(
        &self,
        webhook: &str,
        row: &WebhookRow,
        message: &WebhookMessage,
        until: Instant,
    ) -> Result<WebhookSentPage, Problem> {
        let sent = self.sender.send(webhook, row, message, until).await?;
        Ok(WebhookSentPage {
            webhook: webhook.to_owned(),
            id: message.id.clone(),
            is_delivered: sent.outcome == PostOutcome::Taken,
            status: sent.status,
            problem: sent.problem(),
        })
    }
}

impl From<WebhookError> for Problem {
    fn from(error: WebhookError) -> Self {
        let code = match error {
            WebhookError::Url(_) => Code::InvalidChange,
            WebhookError::Recorded { .. } => Code::Internal,
            WebhookError::Plaintext | WebhookError::NoSecret => Code::StepRefused,
            WebhookError::Deadline => return ClusterError::Deadline.into(),
        };
        Self::new(code, error.to_string())
    }
}

/// Until when a request may search and send, so that it is answered in time.
fn until(deadline: Instant) -> Instant {
    let left = deadline.saturating_duration_since(Instant::now());
    deadline.checked_sub(ANSWER_MARGIN.min(left / 2)).unwrap_or(deadline)
}

/// The body of a creation.
pub fn create_body() -> Schema {
    let partition = Schema::Int { min: 0, max: i64::from(SLOT_COUNT) - 1 };
    let batch = Schema::Int { min: 1, max: i64::from(WEBHOOK_BATCH_MAX) };
    let fields = vec![
        field("webhook", text(32), true, "The name of the webhook: lower-case letters, digits, `_` and `-`"),
        field(
            "url",
            text(WEBHOOK_URL_CHARS_MAX),
            true,
            "The URL that requests go to: https, or http on the node's own machine; an address that is not public \
             must be in `webhooks.allow`",
        ),
        field(
            "from",
            text(CURSOR_CHARS_MAX),
            false,
            "Where to begin: `now` (default), `start`, or a cursor of an event stream",
        ),
        field(
            "keys",
            list_of(text(ENTITY_BYTES_MAX as u32), WEBHOOK_KEYS_MAX),
            false,
            "Only events about these entities",
        ),
        field("types", list_of(text(128), WEBHOOK_KINDS_MAX), false, "Only events of these types, like `Debited`"),
        field("partitions", list_of(partition, WEBHOOK_PARTITIONS_MAX), false, "Only events of these partitions"),
        field("batch", batch, false, "The most events in one request; 1 (default) sends no arrays"),
        secret_field(),
    ];
    Schema::Object { fields }
}

/// The body of a rotation.
pub fn rotate_body() -> Schema {
    let finish = "Make no new secret, and sign with the newest secret only";
    Schema::Object { fields: vec![secret_field(), field("finish", Schema::Bool, false, finish)] }
}

/// The body of a replay.
pub fn replay_body() -> Schema {
    let from = "The position: `start`, `now`, or a cursor; what follows it is sent, even if it was sent before";
    Schema::Object { fields: vec![field("from", text(CURSOR_CHARS_MAX), true, from)] }
}

/// The body of a redelivery.
pub fn redeliver_body() -> Schema {
    let letter = "The position of its first event, as the list shows it";
    Schema::Object { fields: vec![field("letter", text(64), true, letter)] }
}

fn secret_field() -> Field {
    let summary = "`whsec_` and the base64 of 24 to 64 bytes; without it the node makes one, and shows it only in the \
        answer to this request";
    field("secret", text(SECRET_CHARS_MAX), false, summary)
}

fn text(max_chars: u32) -> Schema {
    Schema::Text { min_chars: 1, max_chars, format: TextFormat::Plain }
}

fn list_of(items: Schema, max_items: u32) -> Schema {
    Schema::Array { items: Box::new(items), max_items }
}

fn field(name: &str, schema: Schema, required: bool, summary: &str) -> Field {
    Field { name: name.to_owned(), schema, required, summary: summary.to_owned() }
}
