//! Single requests that somebody asks for: a test, and a message that is made again.
//!
//! In: a webhook's row, and what is to be sent. Out: what the receiver did. It records nothing, and never tries twice.

use reqwest::Url;
use tokio::time::{Instant, timeout_at};

use super::message::{Maker, WebhookMessage};
use super::post::{PostResult, may_be_sent, read_url};
use super::signers::has_newest;
use super::{Secret, Sender, WebhookError};
use crate::feed::{Feed, FeedPlace};
use crate::ids::Position;
use crate::json::print;
use crate::partition::PartitionError;
use crate::rfc3339::print_time;
use crate::system::webhook_row::WebhookRow;

impl Sender {
    /// Reads a URL that a webhook of this cluster may have.
    ///
    /// # Errors
    /// The text says what is wrong with it.
    pub fn read_url(&self, text: &str) -> Result<String, WebhookError> {
        Ok(read_url(text, self.allows_plaintext, &self.receivers)?.to_string())
    }

    /// A test event, which stands for nothing.
    pub fn test_message(&self, machine: &str, webhook: &str, row: &WebhookRow) -> WebhookMessage {
        let id = uuid::Uuid::new_v4();
        let cluster = self.cluster.view().cluster.unwrap_or_default();
        let event = serde_json::json!({
            "specversion": "1.0",
            "id": format!("test-{id}"),
            "source": format!("urn:statehouse:{cluster}:{machine}"),
            "type": format!("statehouse.{machine}.WebhookTest"),
            "time": print_time(self.cluster.now()),
            "datacontenttype": "application/json",
            "data": { "webhook": webhook },
        });
        let (content_type, body) = Maker::new(machine, row).wrap(print(&event));
        let nowhere = row.lanes.first().expect("a webhook follows a partition").at.position();
        let id = format!("{machine}-{}-test-{id}", row.number);
        WebhookMessage { id, first: nowhere, last: nowhere, content_type, body, events: 1 }
    }

    /// Sends one message, with the secrets of the webhook.
    ///
    /// # Errors
    /// Nothing was sent.
    pub async fn send(
        &self,
        webhook: &str,
        row: &WebhookRow,
        message: &WebhookMessage,
        until: Instant,
    ) -> Result<PostResult, WebhookError> {
        let url = Url::parse(&row.url).map_err(|error| {
            let (url, reason) = (row.url.clone(), error.to_string());
            WebhookError::Recorded { url, reason }
        })?;
        if !may_be_sent(&url, self.allows_plaintext) {
            return Err(WebhookError::Plaintext);
        }
        let finding = timeout_at(until, self.find_secrets(&row.secrets)).await;
        let secrets = finding.map_err(|_| WebhookError::Deadline)?;
        if !has_newest(&row.secrets, &secrets) {
            return Err(WebhookError::NoSecret);
        }
        let secrets: Vec<Secret> = secrets.into_iter().map(|(_, secret)| secret).collect();
        let posting = self.poster.post(&url, message, &secrets, self.cluster.now());
        let sent = timeout_at(until, posting).await.unwrap_or_else(|_| PostResult::unanswered());
        if let Some(detail) = sent.detail() {
            tracing::warn!(webhook, id = message.id, detail, "a receiver cannot be reached");
        }
        Ok(sent)
    }
}

/// Makes the message that begins at a position again; `None` if none begins there any more.
///
/// # Errors
/// See [`Feed::next`]; the search ends at the deadline.
pub async fn make_again(
    feed: &Feed,
    machine: &str,
    row: &WebhookRow,
    first: Position,
    until: Instant,
) -> Result<Option<WebhookMessage>, PartitionError> {
    let maker = Maker::new(machine, row);
    let made = timeout_at(until, make(feed, &maker, first, until)).await;
    let message = made.unwrap_or(Err(PartitionError::Deadline))?;
    Ok(message.filter(|message| message.first == first))
}

async fn make(
    feed: &Feed,
    maker: &Maker,
    first: Position,
    deadline: Instant,
) -> Result<Option<WebhookMessage>, PartitionError> {
    let mut place = feed.before(first, deadline).await?;
    let (mut gather, mut had) = (maker.gather(), first.n);
    // The message was whole once, so everything that it was made of is there.
    while let Some(rendered) = feed.next(first.partition, place).await? {
        place = FeedPlace::behind(rendered.end);
        gather.take(rendered, had);
        had = 0;
        if let Some(message) = gather.next_whole() {
            return Ok(Some(message));
        }
        if gather.waits_until().is_none() {
            return Ok(None);
        }
    }
    Ok(None)
}
