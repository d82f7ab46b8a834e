//! The bodies of the commands about webhooks, as the description of `system` declares them and as they are recorded.
//!
//! In: values. Out: bodies whose members keep their bounds. A position is a text here, spelt as it was sent; what it
//! means is read in `webhook.rs`.

use statehouse_guest::Body;

use crate::limits::{
    WEBHOOK_BATCH_MAX, WEBHOOK_KEYS_MAX, WEBHOOK_KINDS_MAX, WEBHOOK_PARTITIONS_MAX, WEBHOOK_PROBLEM_CHARS_MAX,
    WEBHOOK_URL_CHARS_MAX,
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
