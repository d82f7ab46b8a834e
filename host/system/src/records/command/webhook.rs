//! The commands about webhooks: what their bodies mean.
//!
//! In: bodies. Out: commands, or a refusal that names the member. Two of the commands come from operators; the third
//! comes from the node that delivers. `webhook_row` decides what is granted.

use statehouse_guest::Refusal;

use crate::ids::Position;
use crate::records::command::member::{BodyMember, refusal};
use crate::records::command::webhook_body::{ChangeWebhook, CreateWebhook, DeadNote, LaneNote, NoteWebhook};
use crate::records::webhook_row::{FailingDelivery, LaneRow, RowPosition};

/// A webhook as it is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWebhook {
    pub machine: String,
    pub webhook: String,
    pub url: String,
    pub keys: Vec<String>,
    pub kinds: Vec<String>,
    pub batch: u32,
    /// Fingerprint of the secret.
    pub secret: [u8; 32],
    /// The position after which it begins, for each partition that it follows.
    pub begin: Vec<Position>,
}

/// A step that an operator takes in a webhook's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookChange {
    pub machine: String,
    pub webhook: String,
    pub step: ChangeStep,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeStep {
    Pause,
    Resume,
    /// Signs with the secret of this fingerprint from now on, and for a while with the one before as well.
    Rotate {
        secret: [u8; 32],
    },
    /// Stops signing with the one before.
    Settle,
    Replay {
        from: Vec<Position>,
    },
    /// A dead letter was delivered after all.
    Redelivered {
        letter: Position,
    },
    Drop,
}

/// What the node that delivers reports about an epoch of a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookReport {
    pub machine: String,
    pub webhook: String,
    pub epoch: u64,
    pub note: DeliveryNote,
}

/// What has become of a delivery, or of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryNote {
    Progress {
        lanes: Vec<LaneRow>,
        problem: Option<String>,
    },
    /// A message was given up.
    Dead {
        first: Position,
        last: Position,
        failing: FailingDelivery,
        problem: String,
    },
    /// The receiver wants no more.
    Gone,
    /// There is no room for another dead letter.
    Full,
}

impl BodyMember<CreateWebhook> for NewWebhook {
    fn read(body: &CreateWebhook) -> Result<Self, Refusal> {
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
        if !body.webhook.bytes().all(is_letter) {
            let detail = "a webhook's name has small letters, digits, `_` and `-` only";
            return Err(refusal("invalid_name", 422, detail, Some("webhook")));
        }
        if !body.url.is_ascii() || !(body.url.starts_with("https://") || body.url.starts_with("http://")) {
            return Err(refusal("invalid_url", 422, "a webhook's URL begins with https:// or http://", Some("url")));
        }
        let mut begin: Vec<Position> = BodyMember::read(&body.begin)?;
        begin.sort_by_key(|position| position.partition);
        if begin.is_empty() || begin.windows(2).any(|pair| pair[0].partition == pair[1].partition) {
            let detail = "a webhook begins behind one position of each partition that it follows";
            return Err(refusal("invalid_begin", 422, detail, Some("begin")));
        }
        Ok(Self {
            machine: body.machine.clone(),
            webhook: body.webhook.clone(),
            url: body.url.clone(),
            keys: body.keys.clone(),
            kinds: body.kinds.clone(),
            batch: body.batch,
            secret: BodyMember::read(&body.secret)?,
            begin,
        })
    }

    fn write(&self) -> CreateWebhook {
        CreateWebhook {
            machine: self.machine.clone(),
            webhook: self.webhook.clone(),
            url: self.url.clone(),
            keys: self.keys.clone(),
            kinds: self.kinds.clone(),
            batch: self.batch,
            secret: self.secret.write(),
            begin: self.begin.write(),
        }
    }
}

impl BodyMember<ChangeWebhook> for WebhookChange {
    fn read(body: &ChangeWebhook) -> Result<Self, Refusal> {
        let step = match body.step.as_str() {
            "pause" => ChangeStep::Pause,
            "resume" => ChangeStep::Resume,
            // A rotation without a secret is refused like one whose secret cannot be read.
            "rotate" => {
                ChangeStep::Rotate { secret: BodyMember::read(body.secret.as_ref().unwrap_or(&String::new()))? }
            }
            "settle" => ChangeStep::Settle,
            "replay" => ChangeStep::Replay { from: BodyMember::read(&body.positions)? },
            "drop" => ChangeStep::Drop,
            "redelivered" => match <Vec<Position>>::read(&body.positions)?.as_slice() {
                [letter] => ChangeStep::Redelivered { letter: *letter },
                _ => return Err(refusal("invalid_letter", 422, "name one position", Some("positions"))),
            },
            _ => return Err(refusal("invalid_step", 422, "this is no step of a webhook", Some("step"))),
        };
        Ok(Self { machine: body.machine.clone(), webhook: body.webhook.clone(), step })
    }

    fn write(&self) -> ChangeWebhook {
        let (step, secret, positions) = match &self.step {
            ChangeStep::Pause => ("pause", None, Vec::new()),
            ChangeStep::Resume => ("resume", None, Vec::new()),
            ChangeStep::Rotate { secret } => ("rotate", Some(secret.write()), Vec::new()),
            ChangeStep::Settle => ("settle", None, Vec::new()),
            ChangeStep::Replay { from } => ("replay", None, from.write()),
            ChangeStep::Redelivered { letter } => ("redelivered", None, vec![letter.write()]),
            ChangeStep::Drop => ("drop", None, Vec::new()),
        };
        let (machine, webhook) = (self.machine.clone(), self.webhook.clone());
        ChangeWebhook { machine, webhook, step: step.to_owned(), secret, positions }
    }
}

impl BodyMember<NoteWebhook> for WebhookReport {
    fn read(body: &NoteWebhook) -> Result<Self, Refusal> {
        // A halt counts before a dead letter, and both count before progress.
        let note = match (body.halt.as_str(), &body.dead) {
            ("gone", _) => DeliveryNote::Gone,
            ("full", _) => DeliveryNote::Full,
            ("", Some(DeadNote { first, last, since, attempts, problem })) => DeliveryNote::Dead {
                first: BodyMember::read(first)?,
                last: BodyMember::read(last)?,
                failing: FailingDelivery { since: *since, attempts: *attempts },
                problem: problem.clone(),
            },
            ("", None) => DeliveryNote::Progress {
                lanes: body.lanes.iter().map(LaneRow::read).collect::<Result<_, _>>()?,
                problem: Some(body.problem.clone()).filter(|problem| !problem.is_empty()),
            },
            _ => return Err(refusal("invalid_halt", 422, "a webhook is halted by `gone` or `full`", Some("halt"))),
        };
        Ok(Self { machine: body.machine.clone(), webhook: body.webhook.clone(), epoch: body.epoch, note })
    }

    fn write(&self) -> NoteWebhook {
        let (machine, webhook) = (self.machine.clone(), self.webhook.clone());
        let mut body = NoteWebhook {
            machine,
            webhook,
            epoch: self.epoch,
            lanes: Vec::new(),
            problem: String::new(),
            dead: None,
            halt: String::new(),
        };
        match &self.note {
            DeliveryNote::Progress { lanes, problem } => {
                body.lanes = lanes.iter().map(LaneRow::write).collect();
                body.problem = problem.clone().unwrap_or_default();
            }
            DeliveryNote::Dead { first, last, failing, problem } => {
                let FailingDelivery { since, attempts } = *failing;
                let (first, last, problem) = (first.write(), last.write(), problem.clone());
                body.dead = Some(DeadNote { first, last, since, attempts, problem });
            }
            DeliveryNote::Gone => body.halt = "gone".to_owned(),
            DeliveryNote::Full => body.halt = "full".to_owned(),
        }
        body
    }
}

impl BodyMember<LaneNote> for LaneRow {
    fn read(body: &LaneNote) -> Result<Self, Refusal> {
        let LaneNote { position, since, attempts } = body;
        let failing = (*since != 0).then_some(FailingDelivery { since: *since, attempts: *attempts });
        Position::read(position).map(|position| Self { at: RowPosition::of(position), failing })
    }

    fn write(&self) -> LaneNote {
        let (since, attempts) = self.failing.map_or((0, 0), |failing| (failing.since, failing.attempts));
        LaneNote { position: self.at.position().write(), since, attempts }
    }
}
