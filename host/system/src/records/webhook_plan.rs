//! Planning of commands about webhooks.
//!
//! In: bodies of commands. Out: ops, or a refusal that names the field. Two of the commands come from operators, the
//! third comes from the node that delivers. `webhook_row` decides what is granted.

use statehouse_guest::{Body, Caller, Refusal, Tx, role};

use crate::ids::Micros;
use crate::limits::{
    WEBHOOK_BATCH_MAX, WEBHOOK_KEYS_MAX, WEBHOOK_KINDS_MAX, WEBHOOK_PARTITIONS_MAX, WEBHOOK_PROBLEM_CHARS_MAX,
    WEBHOOK_URL_CHARS_MAX,
};
use crate::records::logic::{Command, Op};
use crate::records::module_plan::refusal;
use crate::records::webhook_row::{
    self, At, Failing, LaneRow, WebhookWish, WebhooksRow, webhook_suffix, webhooks_suffix,
};

#[derive(Body)]
pub struct CreateWebhook {
    /// Name of the machine
    #[body(name, max_chars = 32)]
    pub machine: String,
    /// Name of the webhook
    #[body(name, max_chars = 32)]
    pub webhook: String,
    /// Where its requests go
    #[body(min_chars = 8, max_chars = WEBHOOK_URL_CHARS_MAX)]
    pub url: String,
    /// Only events about these entities, unless the list is empty
    #[body(max_items = WEBHOOK_KEYS_MAX)]
    pub keys: Vec<String>,
    /// Only events of these kinds, unless the list is empty
    #[body(max_items = WEBHOOK_KINDS_MAX)]
    pub kinds: Vec<String>,
    /// How many events one request has at most
    #[body(min = 1, max = WEBHOOK_BATCH_MAX)]
    pub batch: u32,
    /// Fingerprint of the secret, hexadecimal
    #[body(min_chars = 64, max_chars = 64)]
    pub secret: String,
    /// The position after which it begins, for each partition that it follows
    #[body(max_items = WEBHOOK_PARTITIONS_MAX)]
    pub begin: Vec<String>,
}

#[derive(Body)]
pub struct ChangeWebhook {
    /// Name of the machine
    #[body(name, max_chars = 32)]
    pub machine: String,
    /// Name of the webhook
    #[body(name, max_chars = 32)]
    pub webhook: String,
    /// `pause`, `resume`, `rotate`, `settle`, `replay`, `redelivered` or `drop`
    #[body(max_chars = 16)]
    pub step: String,
    /// Fingerprint of the new secret, for a rotation
    pub secret: Option<String>,
    /// Positions: for a replay those after which delivery continues, for a redelivery that of the dead letter
    #[body(max_items = WEBHOOK_PARTITIONS_MAX)]
    pub positions: Vec<String>,
}

#[derive(Body)]
pub struct NoteWebhook {
    /// Name of the machine
    #[body(name, max_chars = 32)]
    pub machine: String,
    /// Name of the webhook
    #[body(name, max_chars = 32)]
    pub webhook: String,
    /// The epoch that the note is about
    pub epoch: u64,
    /// How far delivery is in some partitions
    #[body(max_items = WEBHOOK_PARTITIONS_MAX)]
    pub lanes: Vec<LaneNote>,
    /// What holds up delivery, or empty
    #[body(max_chars = WEBHOOK_PROBLEM_CHARS_MAX)]
    pub problem: String,
    /// What was given up
    pub dead: Option<DeadNote>,
    /// `gone`: the receiver wants no more. `full`: there is no room for another dead letter. Or empty
    #[body(max_chars = 16)]
    pub halt: String,
}

#[derive(Body)]
pub struct LaneNote {
    /// Everything up to it was delivered or is not wanted
    pub position: String,
    /// When the next message was tried first, microseconds since 1970; 0 if it was not tried or did not fail
    pub since: i64,
    /// How often it was tried
    pub attempts: u32,
}

#[derive(Body)]
pub struct DeadNote {
    /// Position of its first event
    pub first: String,
    /// Position of its last event
    pub last: String,
    /// When it was tried first, microseconds since 1970
    pub since: i64,
    /// How often it was tried
    pub attempts: u32,
    /// Result of the last attempt
    #[body(max_chars = WEBHOOK_PROBLEM_CHARS_MAX)]
    pub problem: String,
}

/// The op of a step in a webhook's life; `None` if the command is about something else.
pub fn plan_webhook(command: &Command, caller: &Caller<'_>) -> Result<Option<Op>, Refusal> {
    let (machine, webhook, wish) = match command {
        Command::CreateWebhook(create) => (&create.machine, &create.webhook, plan_create(create)?),
        Command::ChangeWebhook(change) => (&change.machine, &change.webhook, plan_change(change)?),
        Command::NoteWebhook(note) => (&note.machine, &note.webhook, plan_note(note)?),
        _ => return Ok(None),
    };
    if !caller.has_role(role::OPERATOR) && !caller.has_role(role::ADMIN) {
        return Err(refusal("forbidden", 403, "only an operator or an admin changes which webhooks there are", None));
    }
    let (machine, webhook, by) = (machine.clone(), webhook.clone(), caller.name.to_owned());
    Ok(Some(Op::Webhook { machine, webhook, by, wish }))
}

fn plan_create(create: &CreateWebhook) -> Result<WebhookWish, Refusal> {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    if !create.webhook.bytes().all(is_letter) {
        let detail = "a webhook's name has small letters, digits, `_` and `-` only";
        return Err(refusal("invalid_name", 422, detail, Some("webhook")));
    }
    if !create.url.is_ascii() || !(create.url.starts_with("https://") || create.url.starts_with("http://")) {
        return Err(refusal("invalid_url", 422, "a webhook's URL begins with https:// or http://", Some("url")));
    }
    let mut begin = plan_positions(&create.begin)?;
    begin.sort_by_key(|at| at.partition);
    if begin.is_empty() || begin.windows(2).any(|pair| pair[0].partition == pair[1].partition) {
        let detail = "a webhook begins behind one position of each partition that it follows";
        return Err(refusal("invalid_begin", 422, detail, Some("begin")));
    }
    Ok(WebhookWish::Create {
        url: create.url.clone(),
        keys: create.keys.clone(),
        kinds: create.kinds.clone(),
        batch: create.batch,
        secret: plan_secret(Some(&create.secret))?,
        begin,
    })
}

fn plan_change(change: &ChangeWebhook) -> Result<WebhookWish, Refusal> {
    Ok(match change.step.as_str() {
        "pause" => WebhookWish::Pause,
        "resume" => WebhookWish::Resume,
        "rotate" => WebhookWish::Rotate { secret: plan_secret(change.secret.as_ref())? },
        "settle" => WebhookWish::Settle,
        "replay" => WebhookWish::Replay { from: plan_positions(&change.positions)? },
        "drop" => WebhookWish::Drop,
        "redelivered" => match plan_positions(&change.positions)?.as_slice() {
            [first] => WebhookWish::Redelivered { first: *first },
            _ => return Err(refusal("invalid_letter", 422, "name one position", Some("positions"))),
        },
        _ => return Err(refusal("invalid_step", 422, "this is no step of a webhook", Some("step"))),
    })
}

fn plan_note(note: &NoteWebhook) -> Result<WebhookWish, Refusal> {
    let epoch = note.epoch;
    match note.halt.as_str() {
        "" => {}
        halt @ ("gone" | "full") => return Ok(WebhookWish::Halt { epoch, is_full: halt == "full" }),
        _ => return Err(refusal("invalid_halt", 422, "a webhook is halted by `gone` or `full`", Some("halt"))),
    }
    if let Some(DeadNote { first, last, since, attempts, problem }) = &note.dead {
        let failing = Failing { since: *since, attempts: *attempts };
        let (first, last) = (plan_position(first)?, plan_position(last)?);
        return Ok(WebhookWish::Dead { epoch, first, last, failing, problem: problem.clone() });
    }
    let lane = |LaneNote { position, since, attempts }: &LaneNote| {
        let failing = (*since != 0).then_some(Failing { since: *since, attempts: *attempts });
        plan_position(position).map(|at| LaneRow { at, failing })
    };
    let lanes = note.lanes.iter().map(lane).collect::<Result<_, _>>()?;
    Ok(WebhookWish::Progress { epoch, lanes, problem: note.problem.clone() })
}

fn plan_positions(texts: &[String]) -> Result<Vec<At>, Refusal> {
    texts.iter().map(|text| plan_position(text)).collect()
}

fn plan_position(text: &str) -> Result<At, Refusal> {
    let detail = "a position is partition.index.n~head8";
    text.parse().map(At::of).map_err(|_| refusal("invalid_position", 422, detail, Some("position")))
}

fn plan_secret(text: Option<&String>) -> Result<[u8; 32], Refusal> {
    let detail = "the fingerprint of a secret is 64 hexadecimal digits";
    let hash = text.and_then(|text| blake3::Hash::from_hex(text).ok());
    hash.map(|hash| *hash.as_bytes()).ok_or_else(|| refusal("invalid_secret", 422, detail, Some("secret")))
}

/// Applies a step in a webhook's life to its rows.
pub fn webhook_stepped(tx: &mut Tx<'_>, machine: &str, webhook: &str, by: &str, wish: &WebhookWish) {
    let mut all: WebhooksRow = tx.read(webhooks_suffix(machine)).unwrap_or_default();
    let (before, found) = (all.clone(), tx.read(webhook_suffix(machine, webhook)));
    match webhook_row::grant(&mut all, found, webhook, wish, by, Micros(tx.time())) {
        Some(row) => tx.write(webhook_suffix(machine, webhook), &row),
        None => tx.delete(webhook_suffix(machine, webhook)),
    }
    if all != before {
        tx.write(webhooks_suffix(machine), &all);
    }
}
