//! Webhooks over HTTP: the routes about them, and their pages.
//!
//! In: requests. Out: pages. What is sent, when and by whom is in [`crate::webhooks`]; a route only records what is
//! wanted, or has a single request sent.

mod answer;
mod page;

pub use answer::{
    create, create_body, delete, list, pause, redeliver, redeliver_body, replay, replay_body, resume, rotate,
    rotate_body, show, test,
};
pub use page::{DeadPage, WebhookPage, WebhookSentPage, WebhooksPage};
