//! Why nothing is sent to a receiver.
//!
//! In: what is wrong with a webhook or its secrets. Out: texts that say what to do. It knows nothing of answers: what a
//! receiver said is a [`PostOutcome`](super::post::PostOutcome).

use super::post::PLAINTEXT;

#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// A URL that is given cannot be one of a webhook.
    #[error("`url` {0}")]
    Url(String),
    /// The recorded URL is one that this version does not understand.
    #[error("{url}: {reason}")]
    Recorded { url: String, reason: String },
    #[error("{PLAINTEXT}")]
    Plaintext,
    #[error("no node has the secret of this webhook any more: give it another one with `webhook rotate`")]
    NoSecret,
    #[error("the deadline passed before the secrets of the webhook were found")]
    Deadline,
}
