//! Canonical snapshots of the node that is asked: listed, and made of what it has applied.
//!
//! In: `GET` and `POST /v1/machines/{machine}/snapshots`. Out: a [`SnapshotPage`] each, also for snapshots that are
//! only in the archive. Those of 00:00 UTC are the same files on every node. It knows nothing of what is in them.

use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::handle::Api;
use super::pages;
use super::problem::Problem;
use super::route::HostRequest;
use crate::ids::PartitionId;
use crate::rfc3339::print_time;
use crate::snapshot::canonical::{ListedFile, parse_name};

/// How many days are named one by one; of more days, the last ones are.
const DAYS_NAMED_MAX: i64 = 366;

/// Where a snapshot is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotPlace {
    #[default]
    Here,
    /// Only in the archive. A midnight that this node should have is fetched automatically.
    Archive,
}

/// A canonical snapshot. If it is only in the archive, this is what its name says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPage {
    pub machine: String,
    pub partition: PartitionId,
    /// The file's name; it has the beginning of `blake3`.
    pub file: String,
    #[serde(default)]
    pub place: SnapshotPlace,
    /// The days on whose 00:00 UTC this was the state; if it is only in the archive, the last of them.
    pub days: Vec<String>,
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub content: Option<SnapshotContent>,
}

/// What is in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotContent {
    pub bytes: u64,
    pub rows: u64,
    /// The position of the last entry in it.
    pub position: String,
    pub time: String,
    pub head: String,
    pub module: String,
    pub schema: u32,
    pub state_digest: String,
    /// The hash at the end of the file.
    pub blake3: String,
}

impl SnapshotPage {
    pub fn of(listed: ListedFile) -> Self {
        let ListedFile { name, bytes, rows, state_digest, blake3, facts } = listed;
        let content = SnapshotContent {
            bytes,
            rows,
            position: facts.journal.position(facts.partition, 0).to_string(),
            time: print_time(facts.journal.time),
            head: facts.journal.head.to_string(),
            module: facts.journal.module.to_string(),
            schema: facts.journal.schema,
            state_digest: state_digest.to_string(),
            blake3: blake3.to_string(),
        };
        Self {
            partition: facts.partition,
            file: name,
            place: SnapshotPlace::Here,
            days: facts.days.map(|days| days.dates(DAYS_NAMED_MAX).collect()).unwrap_or_default(),
            machine: facts.machine,
            content: Some(content),
        }
    }

    fn elsewhere(machine: &str, partition: PartitionId, file: String) -> Self {
        let day = parse_name(&file).and_then(|(_, day)| day).map(str::to_owned);
        let days = day.into_iter().collect();
        Self { machine: machine.to_owned(), partition, file, place: SnapshotPlace::Archive, days, content: None }
    }
}

/// `GET`: also what only the archive has.
///
/// # Errors
/// 404 for an unknown machine.
pub async fn list(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let machine = request.machine_name();
    let elsewhere = api.cluster.snapshots_elsewhere(machine)?;
    let elsewhere = elsewhere.into_iter().map(|(partition, file)| SnapshotPage::elsewhere(machine, partition, file));
    let here = api.cluster.snapshots(machine)?;
    Ok(page(elsewhere.chain(here.into_iter().map(SnapshotPage::of))))
}

/// `POST`.
///
/// # Errors
/// 404 for an unknown machine; 422 if nothing can be made; 503 if too many were asked for already; 504 if it is not
/// done in time, and continues.
pub async fn take(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let (machine, context) = (request.machine_name(), request.context);
    tracing::info!(caller = context.caller.name, request_id = %context.request_id, machine, "a snapshot is requested");
    let taken = api.cluster.take_snapshots(machine, context.deadline).await?;
    Ok(page(taken.into_iter().map(SnapshotPage::of)))
}

fn page(listed: impl Iterator<Item = SnapshotPage>) -> Response {
    let mut listed: Vec<SnapshotPage> = listed.collect();
    // The names begin with the index.
    listed.sort_by(|a, b| (a.partition, &a.file).cmp(&(b.partition, &b.file)));
    pages::json(&listed)
}
