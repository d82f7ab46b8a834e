//! The section `[webhooks]`: how long messages are tried, and where they may go.
//!
//! In: its keys. Out: times and [`Receivers`]. It knows nothing of what is sent.

use std::time::Duration;

use serde::Deserialize;

use super::{ConfigError, Receivers};
use crate::limits::WEBHOOK_RETRY_FOR;

/// `[webhooks]`: how events are sent to receivers. It must be the same on all nodes, since any of them may have to
/// send. The webhooks themselves are not configured here: use `statehouse webhook create`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhooksConfig {
    /// How long a message is tried before it becomes a dead letter, in seconds, 1 … 2592000. Default: 259200, three
    /// days.
    pub(super) retry_seconds: u64,
    /// Allows URLs with plain http that lead to other machines, so that everybody on the way can read what is sent.
    /// Default: false, which allows http to loopback addresses only.
    pub plaintext: bool,
    /// Receivers that are not public: host names, addresses, or networks, as in `["hooks.internal", "10.2.0.0/16"]`.
    /// Without it, no request is sent to a loopback, private, link-local (a cloud's metadata) or multicast address,
    /// whatever a name resolves to. Default: none.
    allow: Vec<String>,
}

impl Default for WebhooksConfig {
    fn default() -> Self {
        Self { retry_seconds: WEBHOOK_RETRY_FOR.as_secs(), plaintext: false, allow: Vec::new() }
    }
}

impl WebhooksConfig {
    /// Those of `dev`, which knows who reads: receivers on this machine.
    pub fn on_this_machine() -> Self {
        Self { allow: Receivers::ON_THIS_MACHINE.map(str::to_owned).to_vec(), ..Self::default() }
    }

    /// Where requests may go.
    pub fn receivers(&self) -> Result<Receivers, ConfigError> {
        let receivers = Receivers::parse(self.allow.iter().map(String::as_str));
        receivers.map_err(ConfigError::Receiver)
    }

    pub fn retry_for(&self) -> Duration {
        Duration::from_secs(self.retry_seconds)
    }
}
