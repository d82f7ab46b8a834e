//! Webhooks as clients see them. Of a secret they see the beginning of its fingerprint, and the secret itself once.
//!
//! In: rows of `system`, and how far this node is. Out: what is printed as JSON, and read again by the command line. It
//! asks nobody.

use serde::{Deserialize, Serialize};

use crate::feed::cursor::Cursor;
use crate::ids::{Micros, PartitionId};
use crate::rfc3339::print_time;
use crate::system::webhook_row::{DeadRow, WebhookRow};
use crate::webhooks::Secret;

/// The webhooks of a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WebhooksPage {
    pub machine: String,
    pub webhooks: Vec<WebhookPage>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WebhookPage {
    pub webhook: String,
    pub machine: String,
    pub url: String,
    /// `delivering`, `failing` or `paused`.
    pub state: String,
    /// Why it is paused, or why the last attempt failed.
    pub problem: Option<String>,
    /// Only what is about these entities, if there are any.
    pub keys: Vec<String>,
    /// Only events of these types, if there are any.
    pub types: Vec<String>,
    pub partitions: Vec<PartitionId>,
    /// How many events one request has at most.
    pub batch: u32,
    /// The secrets that sign, the newest first, by the first digits of their fingerprints.
    pub secrets: Vec<String>,
    /// The new secret, right after it was made and never again; not one that was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The cursor up to which everything is delivered, as far as that is recorded.
    pub cursor: String,
    /// How many entries of the node that is asked follow the cursor.
    pub lag_entries: u64,
    /// Since when the oldest message that waits has been tried in vain, and how often.
    pub failing_since: Option<String>,
    pub attempts: u32,
    /// Messages that were given up, oldest first.
    pub dead_letters: Vec<DeadPage>,
    /// How many messages were ever given up.
    pub dead_letters_total: u64,
    /// Who has changed it last, and when.
    pub by: String,
    pub time: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadPage {
    /// The position of its first event, by which it is named.
    pub letter: String,
    /// The position of its last event.
    pub last: String,
    pub first_tried: String,
    pub given_up: String,
    pub attempts: u32,
    /// Why the last attempt failed.
    pub problem: String,
}

/// The result of a request that somebody has asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WebhookSentPage {
    pub webhook: String,
    /// The `webhook-id` it was sent with.
    pub id: String,
    pub is_delivered: bool,
    /// The status of the receiver's answer, if there was one.
    pub status: Option<u16>,
    pub problem: Option<String>,
}

impl WebhookPage {
    pub fn new(machine: &str, webhook: &str, row: &WebhookRow, lag_entries: u64) -> Self {
        let mut cursor = Cursor::default();
        row.lanes.iter().for_each(|lane| cursor.set(lane.at.position()));
        let oldest = row.lanes.iter().filter_map(|lane| lane.failing).min_by_key(|failing| failing.since);
        let state = match (&row.paused, &row.problem) {
            (Some(_), _) => "paused",
            (None, Some(_)) => "failing",
            (None, None) => "delivering",
        };
        let short = |secret: &[u8; 32]| blake3::Hash::from_bytes(*secret).to_hex()[..16].to_owned();
        Self {
            webhook: webhook.to_owned(),
            machine: machine.to_owned(),
            url: row.url.clone(),
            state: state.to_owned(),
            problem: row.paused.clone().or_else(|| row.problem.clone()),
            keys: row.keys.clone(),
            types: row.kinds.clone(),
            partitions: row.lanes.iter().map(|lane| PartitionId(lane.at.partition)).collect(),
            batch: row.batch,
            secrets: row.secrets.iter().map(short).collect(),
            secret: None,
            cursor: cursor.to_string(),
            lag_entries,
            failing_since: oldest.map(|failing| print_time(Micros(failing.since))),
            attempts: oldest.map_or(0, |failing| failing.attempts),
            dead_letters: row.dead.iter().map(DeadPage::new).collect(),
            dead_letters_total: row.dead_total,
            by: row.by.clone(),
            time: print_time(Micros(row.time)),
        }
    }

    pub fn with_secret(self, secret: Option<&Secret>) -> Self {
        Self { secret: secret.map(Secret::text), ..self }
    }
}

impl DeadPage {
    fn new(letter: &DeadRow) -> Self {
        Self {
            letter: letter.first.position().to_string(),
            last: letter.last.position().to_string(),
            first_tried: print_time(Micros(letter.failing.since)),
            given_up: print_time(Micros(letter.time)),
            attempts: letter.failing.attempts,
            problem: letter.problem.clone(),
        }
    }
}
