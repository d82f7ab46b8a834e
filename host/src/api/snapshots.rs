//! Canonical snapshots of the asked node: listed, and made of what it has applied.
//!
//! In: `GET` and `POST /v1/machines/{machine}/snapshots`. Out: a [`SnapshotPage`] each. Those of 00:00 UTC are the same files on every node. It
//! knows nothing of what is in them.

use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::asked::Asked;
use super::handle::Api;
use super::pages;
use super::problem::Problem;
use super::route::Page;
use super::time::print_time;
use crate::ids::PartitionId;
use crate::snapshot::canonical::Listed;

/// Days that are named one by one; of more, the last ones.
const DAYS_NAMED_MAX: i64 = 366;

/// A canonical snapshot of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPage {
    pub machine: String,
    pub partition: PartitionId,
    /// File name; it has the beginning of `blake3`.
    pub file: String,
    pub bytes: u64,
    pub rows: u64,
    /// Of the last entry in it.
    pub position: String,
    pub time: String,
    /// 00:00 UTC of each of these days was with this state.
    pub days: Vec<String>,
    pub head: String,
    pub module: String,
    pub schema: u32,
    pub state_digest: String,
    /// What stands at the end of the file.
    pub blake3: String,
}

impl SnapshotPage {
    pub fn of(listed: Listed) -> Self {
        let Listed { name, bytes, rows, state_digest, blake3, facts } = listed;
        Self {
            partition: facts.partition,
            file: name,
            bytes,
            rows,
            position: facts.journal.position(facts.partition, 0).to_string(),
            time: print_time(facts.journal.time),
            days: facts.days.map(|days| days.dates(DAYS_NAMED_MAX).collect()).unwrap_or_default(),
            head: facts.journal.head.to_string(),
            module: facts.journal.module.to_string(),
            schema: facts.journal.schema,
            state_digest: state_digest.to_string(),
            blake3: blake3.to_string(),
            machine: facts.machine,
        }
    }
}

/// Answers both routes.
///
/// # Errors
/// 404 for an unknown machine; 422 where nothing can be made; 504 where it is not done in time and goes on.
pub async fn answer(api: &Api, page: Page, machine: &str, asked: Asked) -> Result<Response, Problem> {
    let listed = if page == Page::SnapshotTake {
        tracing::info!(caller = asked.caller.name, request_id = %asked.request_id, machine, "a snapshot is asked for");
        api.cluster.take_snapshots(machine, asked.deadline).await?
    } else {
        api.cluster.snapshots(machine)?
    };
    Ok(pages::json(&listed.into_iter().map(SnapshotPage::of).collect::<Vec<_>>()))
}
