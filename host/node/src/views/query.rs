//! Querying a view: its query over the rows of one moment, after a wait if the caller has seen more than the view.
//!
//! In: a query. Out: a value, with the position and the lag at which it was answered. Every wait ends at the caller's
//! deadline. It changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use statehouse_abi::cold::Refusal;
use statehouse_abi::value::Value;
use statehouse_projection::abi::{self, Need, Order, QueryIn, QueryOut, Scan, ScanRange, ViewRow};
use tokio::time::Instant;

use crate::ids::{JournalIndex, Micros, ModuleId, PartitionId, Position};
use crate::limits::{GUEST_INPUT_BYTES_MAX, QUERY_ROUNDS_MAX, SCAN_ROWS_MAX};
use crate::machine::beginning::{groups_until, is_whole, may_change};
use crate::partition::{Partition, PartitionError};
use crate::sequencer::submission::RecordedEntry;
use crate::store::{KeyRow, OrderedRows};
use crate::views::View;
use crate::views::build::{Build, read_cursors, row_key, split_row_key};
use crate::views::cursor::ViewCursor;
use crate::views::error::ViewError;
use crate::views::status::Lag;

/// A query of a view.
#[derive(Clone, Debug)]
pub struct ViewQuery {
    pub query: Arc<str>,
    /// Satisfies the query's schema.
    pub params: Value,
    pub roles: u32,
    /// The moment that is asked about.
    pub at: Option<Micros>,
    /// The partition of the entity that the query names.
    pub home: Option<PartitionId>,
    pub freshness: Freshness,
    pub deadline: Instant,
    /// If set, only a view made by one of these modules may answer.
    pub only_by: Option<Arc<BTreeSet<ModuleId>>>,
}

/// What the view must have followed before it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Nothing in particular: it answers with what it has.
    Any,
    /// At least this position.
    AtLeast(Position),
    /// Everything that was acknowledged before the query.
    Newest,
    /// Everything up to this moment, in all partitions.
    Past(Micros),
}

#[derive(Clone, Debug)]
pub struct ViewAnswer {
    pub body: Value,
    /// Whether the view itself has named a position, of what it shows. Otherwise the body has the one below.
    pub names_position: bool,
    /// Where the view was in the home partition, or else in the first one.
    pub position: Position,
    pub lag: Lag,
    /// Name and version of the view.
    pub view: String,
}

#[derive(Clone, Debug)]
pub enum ViewQueryError {
    NotFound(Refusal),
    Refused(Refusal),
    /// The position belongs to another history: 410.
    Gone(Position),
    /// The view did not get that far before the deadline; the text says how far it is.
    Behind(String),
    /// The view cannot answer now; the text says why.
    NotServed(String),
    /// The view trapped or answered nonsense.
    Fault(String),
}

impl View {
    /// # Errors
    /// The view refuses the query, cannot answer now, or has not followed far enough.
    pub async fn query(self: &Arc<Self>, query: ViewQuery) -> Result<ViewAnswer, ViewQueryError> {
        let build = match query.freshness {
            Freshness::Any => self.serving().ok_or_else(|| self.not_served())?,
            Freshness::AtLeast(position) => {
                self.check_position(position, query.deadline).await?;
                self.wait_until(&[(position.partition, position.index)], query.deadline).await?
            }
            Freshness::Past(time) => self.wait_for_past(time, query.deadline).await?,
            Freshness::Newest => {
                let wanted = self.newest(query.home, query.deadline).await?;
                self.wait_until(&wanted, query.deadline).await?
            }
        };
        if let Some(modules) = &query.only_by
            && !modules.contains(&build.logic.id())
        {
            return Err(ViewQueryError::NotServed("it is built by a module that may not answer this".to_owned()));
        }
        let lag = self.lag_of(&build).unwrap_or_default();
        let view = self.clone();
        let asking = tokio::task::spawn_blocking(move || {
            let failed = |error: ViewError| ViewQueryError::Fault(error.to_string());
            let (out, cursors) = build.query(&query).map_err(failed)?;
            let home = query.home.or_else(|| cursors.keys().next().copied()).unwrap_or(PartitionId(0));
            let position = view.position(&cursors, home);
            let position = (view.source.find)(home).map_or(position, |replica| replica.last_position(position));
            match out {
                QueryOut::Done(body) => {
                    let name = format!("{} {}", view.name(), build.logic.describe().version);
                    let names_position = body.find("position").is_some();
                    Ok(ViewAnswer { body: with_position(body, position), names_position, position, lag, view: name })
                }
                QueryOut::NotFound(refusal) => Err(ViewQueryError::NotFound(refusal)),
                QueryOut::Refused(refusal) => Err(ViewQueryError::Refused(refusal)),
                QueryOut::Need(_) => {
                    Err(ViewQueryError::Fault(format!("the query still needs rows after {QUERY_ROUNDS_MAX} rounds")))
                }
            }
        });
        asking.await.unwrap_or_else(|_| Err(ViewQueryError::NotServed("the node is shutting down".to_owned())))
    }

    fn position(&self, cursors: &BTreeMap<PartitionId, ViewCursor>, partition: PartitionId) -> Position {
        let genesis = || (self.source.find)(partition).map(|replica| replica.genesis().position(partition, 0));
        let nowhere = Position { partition, index: JournalIndex(0), n: 0, head8: [0; 4] };
        cursors.get(&partition).map(|cursor| cursor.position(partition)).or_else(genesis).unwrap_or(nowhere)
    }

    fn not_served(&self) -> ViewQueryError {
        let status = self.status();
        let building = status.building.as_ref();
        let problem = building.and_then(|building| building.problem.clone()).or(status.problem);
        ViewQueryError::NotServed(match (problem, building) {
            (Some(problem), _) => format!("the view {} does not answer: {problem}", self.name()),
            (None, Some(building)) => {
                format!("the view {} is being built, {} entries are left", self.name(), building.lag.entries)
            }
            (None, None) => format!("the view {} is being started", self.name()),
        })
    }

    fn replica(&self, partition: PartitionId) -> Result<Arc<Partition>, ViewQueryError> {
        let missing = || ViewQueryError::NotServed(format!("partition {partition} is not open on this node"));
        (self.source.find)(partition).ok_or_else(missing)
    }

    /// Refuses a position of another history, and waits for one that lies ahead of this node.
    async fn check_position(&self, position: Position, deadline: Instant) -> Result<(), ViewQueryError> {
        if self.source.partition_count <= position.partition.0 {
            return Err(ViewQueryError::Gone(position));
        }
        let replica = self.replica(position.partition)?;
        replica.read_position(position, deadline).await.map_err(|error| match error {
            PartitionError::OtherHistory(position) => ViewQueryError::Gone(position),
            PartitionError::Deadline => ViewQueryError::Behind("the deadline passed".to_owned()),
            error => ViewQueryError::NotServed(error.to_string()),
        })?;
        let finding = tokio::task::spawn_blocking(move || replica.head_at(position.index));
        let head = finding.await.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
        let head = head.map_err(|error| ViewQueryError::NotServed(error.to_string()))?;
        if head.is_some_and(|head| head.0[..4] != position.head8) {
            return Err(ViewQueryError::Gone(position));
        }
        Ok(())
    }

    /// When an entry of this history was decided; `None` if it is not found by the deadline, here or in the archive.
    pub async fn time_of(&self, position: Position, deadline: Instant) -> Option<Micros> {
        Some(self.find_entry(position, deadline).await?.entry.header().time)
    }

    /// A time at which the state of an entity is the same as at a position. A view follows whole entries, so there is
    /// no such time if the entry may have changed the entity both up to the position and after it.
    pub async fn time_within(
        &self,
        position: Position,
        entity: Option<&str>,
        deadline: Instant,
    ) -> Option<Result<Micros, WithinEntry>> {
        let recorded = self.find_entry(position, deadline).await?;
        let time = recorded.entry.header().time;
        if is_whole(&recorded.entry, position.n) {
            return Some(Ok(time));
        }
        let batch = recorded.entry.batch()?;
        let cut = groups_until(&batch.outcome, position.n);
        let is_changed = |groups| entity.is_none_or(|entity| may_change(&batch, groups, entity.as_bytes()));
        Some(match (is_changed(0..cut), is_changed(cut..batch.outcome.group_count())) {
            (_, false) => Ok(time),
            (false, true) => Ok(Micros(time.0 - 1)),
            (true, true) => Err(WithinEntry),
        })
    }

    async fn find_entry(&self, position: Position, deadline: Instant) -> Option<Arc<RecordedEntry>> {
        let partition = (self.source.find)(position.partition)?;
        let finding = tokio::time::timeout_at(deadline, partition.find_entry_anywhere(position.index));
        let recorded = finding.await.ok()?.ok()?;
        (recorded.head().0[..4] == position.head8).then_some(recorded)
    }

    /// Waits until the build that serves cannot lack any entry up to this moment.
    async fn wait_for_past(&self, time: Micros, deadline: Instant) -> Result<Arc<Build>, ViewQueryError> {
        if let Some(build) = self.serving() {
            let has_passed = |id: u32| build.cursor(PartitionId(id)).is_some_and(|cursor| time <= cursor.time);
            if (0..self.source.partition_count).all(has_passed) {
                return Ok(build);
            }
        }
        let wanted = self.newest(None, deadline).await?;
        self.wait_until(&wanted, deadline).await
    }

    /// The newest entry of every partition that the query may read.
    async fn newest(
        &self,
        home: Option<PartitionId>,
        deadline: Instant,
    ) -> Result<Vec<(PartitionId, JournalIndex)>, ViewQueryError> {
        let ids: Vec<PartitionId> = match home {
            Some(home) => vec![home],
            None => (0..self.source.partition_count).map(PartitionId).collect(),
        };
        let mut wanted = Vec::new();
        for id in ids {
            let point = self.replica(id)?.read_linearizable(deadline).await.map_err(|error| match error {
                PartitionError::Deadline => ViewQueryError::Behind("the deadline passed".to_owned()),
                error => ViewQueryError::NotServed(error.to_string()),
            })?;
            wanted.push((id, point.journal.index));
        }
        Ok(wanted)
    }

    /// Waits until the build that serves has followed this far.
    async fn wait_until(
        &self,
        wanted: &[(PartitionId, JournalIndex)],
        deadline: Instant,
    ) -> Result<Arc<Build>, ViewQueryError> {
        let mut moved = self.moved();
        loop {
            moved.mark_unchanged();
            if let Some(build) = self.serving() {
                let is_reached = |(partition, index): &(PartitionId, JournalIndex)| {
                    *index == JournalIndex(0) || build.cursor(*partition).is_some_and(|cursor| *index <= cursor.index)
                };
                if wanted.iter().all(is_reached) {
                    return Ok(build);
                }
                let problem = build.problem.lock().clone().filter(|problem| problem.is_final);
                if let Some(problem) = problem {
                    return Err(ViewQueryError::NotServed(format!(
                        "the view {} has stopped: {}",
                        self.name(),
                        problem.text
                    )));
                }
            }
            if !matches!(tokio::time::timeout_at(deadline, moved.changed()).await, Ok(Ok(()))) {
                let Some(build) = self.serving() else { return Err(self.not_served()) };
                let lag = self.lag_of(&build).unwrap_or_default();
                return Err(ViewQueryError::Behind(format!(
                    "the view {} lags by {} entries, and did not catch up before the deadline",
                    self.name(),
                    lag.entries
                )));
            }
        }
    }
}

/// No time has the state that is asked about, so the journal must be replayed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WithinEntry;

/// Adds the position, unless the view's answer has one of its own.
fn with_position(body: Value, position: Position) -> Value {
    match body {
        Value::Map(pairs) if pairs.iter().all(|(name, _)| name != "position") => {
            let own = ("position".to_owned(), Value::Text(position.to_string()));
            Value::map(pairs.into_iter().chain([own]))
        }
        body => body,
    }
}

impl Build {
    /// The view's answer, and where the view was: both of one moment.
    fn query(&self, query: &ViewQuery) -> Result<(QueryOut, BTreeMap<PartitionId, ViewCursor>), ViewError> {
        self.store.read(|rows| {
            let cursors = read_cursors(rows)?;
            let followed = |(id, cursor): (&PartitionId, &ViewCursor)| abi::Followed {
                partition: id.0,
                position: cursor.position(*id).to_string(),
                time: cursor.time.0,
            };
            let mut input = QueryIn {
                name: query.query.to_string(),
                params: query.params.clone(),
                roles: query.roles,
                at: query.at.map(|at| at.0),
                partitions: cursors.iter().map(followed).collect(),
                home: query.home.map(|home| home.0),
                rows: Vec::new(),
                scans: Vec::new(),
            };
            for _ in 0..QUERY_ROUNDS_MAX {
                let out = self.view().and_then(|view| view.ask(&input));
                let out = out.map_err(|fault| ViewError::Host(fault.to_string()))?;
                let QueryOut::Need(need) = out else { return Ok((out, cursors)) };
                fetch(&mut input, need, rows, &cursors)?;
            }
            Ok((QueryOut::Need(Need::default()), cursors))
        })
    }
}

fn fetch(
    input: &mut QueryIn,
    need: Need,
    rows: &OrderedRows<'_>,
    cursors: &BTreeMap<PartitionId, ViewCursor>,
) -> Result<(), ViewError> {
    let size_of = |row: &ViewRow| row.key.len() + row.row.as_ref().map_or(0, Vec::len);
    let scanned = input.scans.iter().flat_map(|scan| &scan.rows);
    let mut size: usize = input.rows.iter().chain(scanned).map(size_of).sum();
    let check = |size: usize| {
        let text = "the query asks for more rows than fit into one call".to_owned();
        if size <= GUEST_INPUT_BYTES_MAX { Ok(()) } else { Err(ViewError::Host(text)) }
    };
    for wanted in need.rows {
        let row = rows.row(&row_key(PartitionId(wanted.partition), &wanted.key))?;
        size += wanted.key.len() + row.as_ref().map_or(0, Vec::len);
        check(size)?;
        input.rows.push(ViewRow { partition: wanted.partition, key: wanted.key, row });
    }
    for mut range in need.scans {
        range.limit = range.limit.min(SCAN_ROWS_MAX as u32);
        let scan = scan(range, rows, cursors)?;
        size += scan.rows.iter().map(size_of).sum::<usize>();
        check(size)?;
        input.scans.push(scan);
    }
    Ok(())
}

fn scan(
    range: ScanRange,
    rows: &OrderedRows<'_>,
    cursors: &BTreeMap<PartitionId, ViewCursor>,
) -> Result<Scan, ViewError> {
    let limit = range.limit as usize;
    let ids: Vec<PartitionId> = match range.partition {
        Some(id) => vec![PartitionId(id)],
        None => cursors.keys().copied().collect(),
    };
    let mut found: Vec<ViewRow> = Vec::new();
    for id in ids {
        let prefix = row_key(id, &range.prefix);
        let after = range.after.as_ref().map(|after| row_key(id, after));
        let page = match range.order {
            Order::Rising => rows.rising(&prefix, after.as_deref(), limit + 1)?,
            Order::Falling => rows.falling(&prefix, after.as_deref(), limit + 1)?,
        };
        let row = |(key, row): KeyRow| ViewRow { partition: id.0, key: split_row_key(&key).to_vec(), row: Some(row) };
        found.extend(page.into_iter().map(row));
    }
    found.sort_by(|a, b| (&a.key, a.partition).cmp(&(&b.key, b.partition)));
    if range.order == Order::Falling {
        found.reverse();
    }
    let more = limit < found.len();
    found.truncate(limit);
    Ok(Scan { range, rows: found, more })
}
