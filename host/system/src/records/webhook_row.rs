//! What `system` knows about a webhook: where it sends which events, which secrets sign them, how far it has delivered,
//! and what could not be delivered.
//!
//! | row | what |
//! |---|---|
//! | `#webhooks/<machine>` | the names, and the last number that was given to a webhook or to an epoch |
//! | `#webhook/<machine>/<name>` | one webhook |
//!
//! In: ops of the machine `system`. Out: rejections and events, and the rows that result. The row has the fingerprint
//! of a secret and never the secret itself, because journals are read by auditors and kept for ever. It knows neither
//! HTTP nor what an event is.

use statehouse_guest::borsh::{BorshDeserialize, BorshSerialize};
use statehouse_guest::{Tx, Value};

use crate::ids::{JournalIndex, Micros, PartitionId, Position};
use crate::limits::{WEBHOOK_DEAD_MAX, WEBHOOKS_MAX};
use crate::records::rejection::Rejection;

/// How the suffixes of these rows begin. A machine's name never begins with `#`.
pub const WEBHOOKS: &str = "#webhooks/";
pub const WEBHOOK: &str = "#webhook/";
/// Why a webhook is paused if no operator has paused it.
const GONE: &str = "its receiver answered 410 Gone";
const FULL: &str = "it has as many dead letters as it may have: send them again, or drop the webhook";

/// A machine's webhooks.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct WebhooksRow {
    /// Sorted.
    pub names: Vec<String>,
    /// The number that was given last.
    pub number: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct WebhookRow {
    /// Unique in the machine, for ever. It is part of the ids of the webhook's messages.
    pub number: u64,
    /// Changes when delivery is to continue from another place, or after a pause. Notes about an earlier epoch are
    /// rejected.
    pub epoch: u64,
    pub url: String,
    pub keys: Vec<String>,
    pub kinds: Vec<String>,
    pub batch: u32,
    /// Fingerprints, the newest first. All of these secrets sign.
    pub secrets: Vec<[u8; 32]>,
    /// Why it is paused, if it is.
    pub paused: Option<String>,
    /// Who changed it last, and when.
    pub by: String,
    pub time: i64,
    /// One lane for each partition that the webhook follows, in order of the partitions.
    pub lanes: Vec<LaneRow>,
    /// What holds up delivery, if anything does.
    pub problem: Option<String>,
    /// Oldest first.
    pub dead: Vec<DeadRow>,
    /// How many dead letters there ever were.
    pub dead_total: u64,
}

/// How far a webhook has delivered in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct LaneRow {
    pub at: RowPosition,
    /// The next message, if attempts to deliver it have failed.
    pub failing: Option<FailingDelivery>,
}

/// A message that is not delivered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct FailingDelivery {
    /// When the first attempt was made, microseconds since 1970.
    pub since: i64,
    pub attempts: u32,
}

/// A dead letter: a message that was given up.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct DeadRow {
    pub first: RowPosition,
    pub last: RowPosition,
    pub failing: FailingDelivery,
    /// When it was given up.
    pub time: i64,
    pub problem: String,
}

/// A position, as rows encode it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct RowPosition {
    pub partition: u32,
    pub index: u64,
    pub n: u32,
    pub head8: [u8; 4],
}

impl RowPosition {
    pub fn of(position: Position) -> Self {
        let Position { partition, index, n, head8 } = position;
        Self { partition: partition.0, index: index.0, n, head8 }
    }

    pub fn position(self) -> Position {
        let Self { partition, index, n, head8 } = self;
        Position { partition: PartitionId(partition), index: JournalIndex(index), n, head8 }
    }
}

/// A step that is asked for in a webhook's life.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub enum WebhookWish {
    Create {
        url: String,
        keys: Vec<String>,
        kinds: Vec<String>,
        batch: u32,
        secret: [u8; 32],
        begin: Vec<RowPosition>,
    },
    Pause,
    Resume,
    /// From now on this secret signs, and with it the oldest one. While a rotation is not settled, the oldest is the
    /// only secret that the receiver surely has.
    Rotate {
        secret: [u8; 32],
    },
    /// Only the newest secret signs.
    Settle,
    Replay {
        from: Vec<RowPosition>,
    },
    Redelivered {
        first: RowPosition,
    },
    Drop,
    Progress {
        epoch: u64,
        lanes: Vec<LaneRow>,
        problem: String,
    },
    Dead {
        epoch: u64,
        first: RowPosition,
        last: RowPosition,
        failing: FailingDelivery,
        problem: String,
    },
    /// The node that delivers pauses the webhook.
    Halt {
        epoch: u64,
        is_full: bool,
    },
}

impl WebhookWish {
    /// The name of the step, for people to read.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create { .. } => "created",
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Rotate { .. } => "rotated",
            Self::Settle => "settled",
            Self::Replay { .. } => "replay",
            Self::Redelivered { .. } => "redelivered",
            Self::Drop => "dropped",
            Self::Progress { .. } => "progress",
            Self::Dead { .. } => "dead_letter",
            Self::Halt { .. } => "halted",
        }
    }
}

impl WebhookRow {
    fn lane(&mut self, partition: u32) -> Option<&mut LaneRow> {
        self.lanes.iter_mut().find(|lane| lane.at.partition == partition)
    }

    /// Moves a lane forward to `to`. A late note never moves a lane back.
    fn advance(&mut self, to: LaneRow) {
        if let Some(lane) = self.lane(to.at.partition)
            && (lane.at.index, lane.at.n) <= (to.at.index, to.at.n)
        {
            *lane = to;
        }
    }
}

/// Whether a wish changes anything.
///
/// # Errors
/// The wish cannot be granted.
pub fn check(all: &WebhooksRow, found: Option<&WebhookRow>, name: &str, wish: &WebhookWish) -> Result<bool, Rejection> {
    let webhook = || name.to_owned();
    let Some(row) = found else {
        return match wish {
            WebhookWish::Create { .. } if WEBHOOKS_MAX <= all.names.len() => Err(Rejection::TooManyWebhooks),
            WebhookWish::Create { .. } => Ok(true),
            _ => Err(Rejection::UnknownWebhook { webhook: webhook() }),
        };
    };
    match wish {
        WebhookWish::Create { .. } => Err(Rejection::WebhookExists { webhook: webhook() }),
        WebhookWish::Pause => Ok(row.paused.is_none()),
        WebhookWish::Resume => Ok(row.paused.is_some()),
        WebhookWish::Rotate { secret } => Ok(row.secrets.first() != Some(secret)),
        WebhookWish::Settle => Ok(1 < row.secrets.len()),
        WebhookWish::Replay { from } => {
            let is_followed = |at: &&RowPosition| row.lanes.iter().any(|lane| lane.at.partition == at.partition);
            match from.iter().find(|at| !is_followed(at)) {
                Some(RowPosition { partition, .. }) => Err(Rejection::NotFollowed { partition: *partition }),
                None => Ok(true),
            }
        }
        WebhookWish::Redelivered { first } if row.dead.iter().any(|letter| letter.first == *first) => Ok(true),
        WebhookWish::Redelivered { .. } => Err(Rejection::UnknownLetter),
        WebhookWish::Drop => Ok(true),
        WebhookWish::Progress { epoch, .. } | WebhookWish::Dead { epoch, .. } | WebhookWish::Halt { epoch, .. }
            if *epoch != row.epoch =>
        {
            Err(Rejection::OutOfDate)
        }
        // After a replay the same message may be given up again; it takes no second place.
        WebhookWish::Dead { first, .. }
            if WEBHOOK_DEAD_MAX <= row.dead.len() && row.dead.iter().all(|letter| letter.first != *first) =>
        {
            Err(Rejection::DeadLettersFull)
        }
        WebhookWish::Progress { .. } | WebhookWish::Dead { .. } | WebhookWish::Halt { .. } => Ok(true),
    }
}

/// Applies a granted wish to both rows. Returns the webhook's own row, or `None` if the webhook is dropped.
pub fn grant(
    all: &mut WebhooksRow,
    found: Option<WebhookRow>,
    name: &str,
    wish: &WebhookWish,
    by: &str,
    time: Micros,
) -> Option<WebhookRow> {
    if matches!(wish, WebhookWish::Create { .. } | WebhookWish::Replay { .. } | WebhookWish::Resume) {
        all.number += 1;
    }
    let Some(mut row) = found else { return create(all, name, wish, by, time) };
    match wish {
        WebhookWish::Create { .. } => unreachable!("it was checked that there is none"),
        WebhookWish::Drop => {
            all.names.retain(|other| other != name);
            return None;
        }
        WebhookWish::Pause => row.paused = Some(format!("by {by}")),
        WebhookWish::Resume => {
            // A new epoch makes the node that delivers begin anew, even one that has not noticed the pause.
            (row.epoch, row.paused, row.problem) = (all.number, None, None);
            // An operator who resumes has done something about the problem, so a failing message gets its full time
            // again.
            row.lanes.iter_mut().for_each(|lane| lane.failing = None);
        }
        WebhookWish::Rotate { secret } => {
            row.secrets.drain(..row.secrets.len().saturating_sub(1));
            row.secrets.retain(|oldest| oldest != secret);
            row.secrets.insert(0, *secret);
        }
        WebhookWish::Settle => row.secrets.truncate(1),
        WebhookWish::Replay { from } => {
            (row.epoch, row.problem) = (all.number, None);
            for at in from {
                if let Some(lane) = row.lane(at.partition) {
                    *lane = LaneRow { at: *at, failing: None };
                }
            }
        }
        WebhookWish::Redelivered { first } => row.dead.retain(|letter| letter.first != *first),
        WebhookWish::Progress { lanes, problem, .. } => {
            lanes.iter().for_each(|lane| row.advance(*lane));
            row.problem = Some(problem.clone()).filter(|problem| !problem.is_empty());
            return Some(row);
        }
        WebhookWish::Dead { first, last, failing, problem, .. } => {
            // Delivery continues after the dead letter.
            row.advance(LaneRow { at: *last, failing: None });
            row.dead.retain(|other| other.first != *first);
            let (first, last, failing, problem) = (*first, *last, *failing, problem.clone());
            row.dead.push(DeadRow { first, last, failing, time: time.0, problem });
            (row.problem, row.dead_total) = (None, row.dead_total + 1);
            return Some(row);
        }
        WebhookWish::Halt { is_full, .. } => row.paused = Some(if *is_full { FULL } else { GONE }.to_owned()),
    }
    (row.by, row.time) = (by.to_owned(), time.0);
    Some(row)
}

/// Applies a step in a webhook's life to its rows.
pub fn webhook_stepped(tx: &mut Tx<'_>, machine: &str, webhook: &str, by: &str, wish: &WebhookWish) {
    let mut all: WebhooksRow = tx.read(webhooks_suffix(machine)).unwrap_or_default();
    let (before, found) = (all.clone(), tx.read(webhook_suffix(machine, webhook)));
    match grant(&mut all, found, webhook, wish, by, Micros(tx.time())) {
        Some(row) => tx.write(webhook_suffix(machine, webhook), &row),
        None => tx.delete(webhook_suffix(machine, webhook)),
    }
    if all != before {
        tx.write(webhooks_suffix(machine), &all);
    }
}

fn create(all: &mut WebhooksRow, name: &str, wish: &WebhookWish, by: &str, time: Micros) -> Option<WebhookRow> {
    let WebhookWish::Create { url, keys, kinds, batch, secret, begin } = wish else { return None };
    all.names.push(name.to_owned());
    all.names.sort();
    Some(WebhookRow {
        number: all.number,
        epoch: all.number,
        url: url.clone(),
        keys: keys.clone(),
        kinds: kinds.clone(),
        batch: *batch,
        secrets: vec![*secret],
        paused: None,
        by: by.to_owned(),
        time: time.0,
        lanes: begin.iter().map(|at| LaneRow { at: *at, failing: None }).collect(),
        problem: None,
        dead: Vec::new(),
        dead_total: 0,
    })
}

pub fn webhooks_suffix(machine: &str) -> String {
    format!("{WEBHOOKS}{machine}")
}

pub fn webhook_suffix(machine: &str, webhook: &str) -> String {
    format!("{WEBHOOK}{machine}/{webhook}")
}

/// A webhook as a value for people to read. It shows the fingerprints of its secrets.
pub fn webhook_value(row: &WebhookRow) -> Value {
    let texts = |texts: &[String]| Value::Array(texts.iter().map(|text| Value::text(text.as_str())).collect());
    let position = |lane: &LaneRow| Value::Text(lane.at.position().to_string());
    Value::map([
        ("number", Value::Int(row.number.into())),
        ("url", Value::text(row.url.as_str())),
        ("keys", texts(&row.keys)),
        ("types", texts(&row.kinds)),
        ("batch", Value::Int(row.batch.into())),
        ("secrets", Value::Array(row.secrets.iter().map(fingerprint_value).collect())),
        ("paused", row.paused.as_deref().map_or(Value::Null, Value::text)),
        ("positions", Value::Array(row.lanes.iter().map(position).collect())),
        ("dead_letters", Value::Int(row.dead.len() as i128)),
    ])
}

fn fingerprint_value(fingerprint: &[u8; 32]) -> Value {
    Value::text(blake3::Hash::from_bytes(*fingerprint).to_hex().as_str())
}

/// A step as a value for people to read.
pub fn webhook_step_value(machine: &str, webhook: &str, wish: &WebhookWish) -> Value {
    let more = match wish {
        WebhookWish::Create { url, secret, .. } => {
            vec![("url", Value::text(url.as_str())), ("secret", fingerprint_value(secret))]
        }
        WebhookWish::Rotate { secret } => vec![("secret", fingerprint_value(secret))],
        WebhookWish::Dead { first, problem, .. } => {
            vec![("position", Value::Text(first.position().to_string())), ("problem", Value::text(problem.as_str()))]
        }
        _ => Vec::new(),
    };
    let named =
        [("machine", Value::text(machine)), ("webhook", Value::text(webhook)), ("step", Value::text(wish.name()))];
    Value::map(named.into_iter().chain(more))
}

#[cfg(test)]
mod tests;
