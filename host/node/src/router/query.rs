//! Reads: rows through the module's query, the history of an entity, the outcome of a command.
//!
//! In: a query. Out: a value and the position it was read at. All rows of a query come from one position, in every
//! round. It does not change anything.

mod failed;
mod past;

use std::ops::ControlFlow;
use std::sync::Arc;

use statehouse_abi::cold::{
    EventBytes, EventFacts, Need, Phase, QueryIn, QueryOut, Refusal, RenderItem, Row, Scan, ScanRange,
};
use statehouse_abi::describe::{QueryDecl, QuerySource};
use statehouse_abi::key::{LOCAL, split_key};
use statehouse_abi::outcome::GroupOutcome;
use statehouse_abi::value::Value;

use crate::ids::{CommandId, Micros, Position};
use crate::limits;
use crate::machine::entry::{EntryKind, Part};
use crate::machine::journal::Moment;
use crate::machine::logic::{Fault, Logic};
use crate::machine::replay::Rows;
use crate::partition::{Partition, PartitionError, ReadPoint};
use crate::router::answer::{
    CommandLookup, CommandQuestion, CommandStatus, Consistency, Obstacle, QueryAnswer, QueryError, QueryRequest,
    UnavailableReason,
};
use crate::router::machine::{Machine, position_text, unavailable};
use crate::router::reply::{render_items, with_position};
use crate::saga::status::ENTITY;
use crate::sequencer::submission::RecordedEntry;
use crate::store::{KeyRow, View};

pub use failed::partition_error;

impl Machine {
    pub async fn query(&self, request: QueryRequest) -> Result<QueryAnswer, QueryError> {
        let logic = self.logic();
        let declared = find_query(logic.as_ref(), &request.query)?;
        let entity =
            declared.entity_param.as_deref().and_then(|name| request.params.find(name)).and_then(Value::as_text);
        match declared.source {
            QuerySource::Command => self.query_command(entity, &request).await,
            QuerySource::Rows => {
                let partition = self
                    .replica(self.partition_id_of(entity.unwrap_or_default().as_bytes()))
                    .map_err(QueryError::Unavailable)?;
                self.query_rows(&logic, declared, &partition, &request).await
            }
            QuerySource::History => {
                let entity = entity.unwrap_or_default().as_bytes().to_vec();
                let partition = self.replica(self.partition_id_of(&entity)).map_err(QueryError::Unavailable)?;
                self.query_history(&partition, entity, &request).await
            }
        }
    }

    async fn query_command(&self, id: Option<&str>, request: &QueryRequest) -> Result<QueryAnswer, QueryError> {
        let refusal = |code: &str, status, detail: &str| Refusal {
            code: code.to_owned(),
            status,
            detail: detail.to_owned(),
            field: None,
        };
        let id: CommandId = id
            .and_then(|id| id.parse().ok())
            .ok_or_else(|| QueryError::Refused(refusal("invalid_id", 400, "the id must be a hyphenated uuid")))?;
        let question = CommandQuestion { home: request.home.clone(), ..CommandQuestion::of(id) };
        let lookup = self.find_command(question, request.caller.clone(), request.deadline).await;
        let lookup = lookup.map_err(QueryError::Unavailable)?;
        if let CommandLookup::Recorded { status, .. } | CommandLookup::InFlight(status) = &lookup
            && !request.caller.may_see(&status.caller)
        {
            let detail = "another caller sent this command, and this token is bound to entities: ask with the token \
                that sent it";
            return Err(QueryError::Refused(refusal("entity_forbidden", 403, detail)));
        }
        match lookup {
            CommandLookup::Recorded { status, rendered } => {
                let home = status.home.filter(|_| request.home.is_none());
                Ok(QueryAnswer { body: rendered, home, position: status.position, time: status.time })
            }
            CommandLookup::InFlight(status) => {
                let home = status.home.clone().filter(|_| request.home.is_none());
                Ok(QueryAnswer { home, ..in_flight(*status) })
            }
            CommandLookup::Ambiguous(ambiguity) => Err(QueryError::Ambiguous(ambiguity)),
            CommandLookup::Taken { .. } => {
                let detail = "no command of this home is executed under this id: another command has it; use a new id";
                Err(QueryError::NotFound(refusal("unknown_command", 404, detail)))
            }
            CommandLookup::NotExecuted | CommandLookup::Undecided { .. } => Err(QueryError::NotFound(refusal(
                "unknown_command",
                404,
                "no outcome is recorded under this id; if you have sent it, send the same id again",
            ))),
        }
    }

    async fn query_rows(
        &self,
        logic: &Arc<dyn Logic>,
        declared: &QueryDecl,
        partition: &Arc<Partition>,
        request: &QueryRequest,
    ) -> Result<QueryAnswer, QueryError> {
        // Rows of one entity lie in one partition. Only `@local` rows are in every partition, and few queries ask for
        // them.
        let alone = self.partition_count() == 1;
        let first = self
            .ask(
                logic,
                declared,
                partition,
                request,
                if alone { OtherPartitions::None } else { OtherPartitions::NotAsked },
            )
            .await;
        match first {
            Err(QueryStop::AllPartitions) => self.ask(logic, declared, partition, request, OtherPartitions::All).await,
            other => other,
        }
        .map_err(|stop| match stop {
            QueryStop::Error(error) => error,
            QueryStop::AllPartitions => unreachable!("all partitions were asked"),
        })
    }

    async fn ask(
        &self,
        logic: &Arc<dyn Logic>,
        declared: &QueryDecl,
        partition: &Arc<Partition>,
        request: &QueryRequest,
        others: OtherPartitions,
    ) -> Result<QueryAnswer, QueryStop> {
        let further = self.partition_ids().filter(|other| others == OtherPartitions::All && *other != partition.id());
        let further: Vec<Arc<Partition>> =
            further.map(|other| self.replica(other)).collect::<Result<_, _>>().map_err(QueryError::Unavailable)?;
        if let Some(moment) = request.at {
            return self.ask_past(moment, (logic, declared), (partition, &further), request, others).await;
        }
        let point = self.read_point(partition, request).await?;
        // The rows have the schema of this module, whichever module plans requests by now.
        let logic = self.logic_of(point.journal.module);
        find_query(logic.as_ref(), &declared.name)?;
        let mut rows = vec![point.view];
        for other in &further {
            let consistency = match request.consistency {
                Consistency::AtLeast(_) => Consistency::Stale,
                other => other,
            };
            let other = self.read_point(other, &QueryRequest { consistency, ..request.clone() }).await?;
            if other.journal.schema != point.journal.schema {
                // Another module is becoming active, and some partitions have not switched yet.
                let reason = UnavailableReason::NotNow(Obstacle::ModuleChanging);
                return Err(QueryError::Unavailable(unavailable(reason)).into());
            }
            rows.push(other.view);
        }
        let (name, request, partition) = (declared.name.clone(), request.clone(), partition.clone());
        let sources = Sources { rows, others };
        let (deadline, journal) = (request.deadline, point.journal);
        let asked = move || {
            let position = partition.last_position(journal.position(partition.id(), 0));
            run_query(logic.as_ref(), &name, &request, (position, journal.time), &sources)
        };
        self.offload.run(deadline, asked).await.unwrap_or_else(|| Err(QueryError::Deadline.into()))
    }

    async fn read_point(&self, partition: &Partition, request: &QueryRequest) -> Result<ReadPoint, QueryError> {
        match request.consistency {
            // A removed node would wait for a leader that does not listen to it.
            Consistency::Linearizable if self.is_removed() => {
                return Err(QueryError::Unavailable(unavailable(UnavailableReason::Removed)));
            }
            Consistency::Linearizable => partition.read_linearizable(request.deadline).await,
            Consistency::Stale => partition.read_stale(),
            Consistency::AtLeast(position) => {
                let point = partition.read_position(position, request.deadline).await.map_err(partition_error)?;
                check_position(partition, position)?;
                Ok(point)
            }
        }
        .map_err(partition_error)
    }

    async fn query_history(
        &self,
        partition: &Arc<Partition>,
        entity: Vec<u8>,
        request: &QueryRequest,
    ) -> Result<QueryAnswer, QueryError> {
        let point = self.read_point(partition, request).await?;
        // This module reads the events of all modules before it.
        let logic = self.logic_of(point.journal.module);
        let (partition, deadline) = (partition.clone(), request.deadline);
        if let Some(cursor) = request.cursor {
            check_position(&partition, cursor)?;
        }
        let (cursor, limit) = (request.cursor, request.limit.clamp(1, limits::PAGE_ITEMS_MAX) as usize);
        let walking = tokio::task::spawn_blocking(move || {
            let (page, is_cut) = walk_history(&partition, &point, &entity, cursor, limit, deadline)?;
            // If older events were released, the page has a cursor all the same: a client that continues from it is
            // told so.
            let last = page.len().min(limit).checked_sub(1).map(|last| page[last].0);
            let next = last.filter(|_| is_cut || limit < page.len());
            let items: Vec<RenderItem> = page.into_iter().take(limit).map(|(_, item)| item).collect();
            let items = Value::Array(render_items(logic.as_ref(), &items));
            let next = next.map_or(Value::Null, |next| Value::Text(position_text(next)));
            let position = partition.last_position(point.journal.position(partition.id(), 0));
            let body = Value::map([("items", items), ("next_cursor", next)]);
            Ok(QueryAnswer {
                body: with_position(body, position_text(position)),
                home: None,
                position,
                time: point.journal.time,
            })
        });
        walking.await.unwrap_or_else(|_| Err(QueryError::Unavailable(unavailable(UnavailableReason::ShuttingDown))))
    }
}

fn find_query<'l>(logic: &'l dyn Logic, name: &str) -> Result<&'l QueryDecl, QueryError> {
    let declared = logic.describe().queries.iter().find(|declared| *declared.name == *name);
    declared.ok_or_else(|| {
        let detail = format!("the module that was active there has no query `{name}`");
        QueryError::NotFound(Refusal { code: "unknown_query".to_owned(), status: 404, detail, field: None })
    })
}

/// The answer for a command in flight: no module has anything to say about it yet.
fn in_flight(status: CommandStatus) -> QueryAnswer {
    let phase = |phase: Phase| {
        let detail = phase.detail.map(|detail| ("detail", Value::Text(detail)));
        let members = [
            ("phase", Value::Text(phase.name)),
            ("time", Value::Int(phase.time.into())),
            ("position", Value::Text(phase.position)),
        ];
        Value::map(members.into_iter().chain(detail))
    };
    let (position, time) = (status.position, status.time);
    let body = Value::map([
        ("Status", Value::text("in_flight")),
        ("id", Value::Text(status.id.to_string())),
        ("command", Value::Text(status.command)),
        ("phases", Value::Array(status.phases.into_iter().map(phase).collect())),
    ]);
    QueryAnswer { body: with_position(body, position_text(position)), home: None, position, time }
}

/// The newest events of an entity before `cursor`, up to one more than `limit`, and whether older ones may have been
/// released.
fn walk_history(
    partition: &Partition,
    point: &ReadPoint,
    entity: &[u8],
    cursor: Option<Position>,
    limit: usize,
    deadline: tokio::time::Instant,
) -> Result<(Vec<(Position, RenderItem)>, bool), QueryError> {
    let mut page = Vec::new();
    let mut is_late = false;
    let walked = partition.walk_back(point, |recorded| {
        is_late = deadline <= tokio::time::Instant::now();
        if is_late {
            return ControlFlow::Break(());
        }
        let index = recorded.entry.header().index;
        if cursor.is_none_or(|cursor| index <= cursor.index) {
            let mut found = events_of(partition, &recorded, entity);
            found.retain(|(position, _)| {
                cursor.is_none_or(|cursor| (position.index, position.n) < (cursor.index, cursor.n))
            });
            page.extend(found.into_iter().rev());
        }
        if page.len() > limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let is_cut = matches!(walked, Err(PartitionError::Released { .. }));
    match walked {
        _ if is_late => Err(QueryError::Deadline),
        Err(error) if !is_cut || page.is_empty() => Err(partition_error(error)),
        _ => Ok((page, is_cut)),
    }
}

/// An entry's events on one entity, in order.
fn events_of(partition: &Partition, recorded: &RecordedEntry, entity: &[u8]) -> Vec<(Position, RenderItem)> {
    // An entry of this kind ends commands whose events happened in other entries.
    let batch = recorded.entry.batch().filter(|_| recorded.entry.header().kind != EntryKind::Saga);
    let Some(batch) = batch else { return Vec::new() };
    let mut found = Vec::new();
    for group in 0..batch.outcome.group_count() {
        let GroupOutcome::Events { first, count } = batch.outcome.group(group) else { continue };
        let mut position = recorded.position(partition.id(), group as u32);
        for at in first..first + count {
            let event = batch.outcome.event(at as usize);
            let op = batch.ops.op(event.op as usize);
            if op.entity == entity {
                let number = batch.ops.group(group).command;
                let command = batch.command(number as usize);
                let id = match recorded.entry.part(number) {
                    Part::Call(origin) => origin.parent(),
                    Part::Whole | Part::Start | Part::End => command.id,
                };
                let event =
                    EventBytes { entity: entity.to_vec(), op: op.payload.to_vec(), event: event.payload.to_vec() };
                let facts = EventFacts {
                    event,
                    command: command.name.to_owned(),
                    id: id.0,
                    body: command.body.to_vec(),
                    time: recorded.entry.header().time.0,
                    position: position_text(position),
                };
                found.push((position, RenderItem::Event(facts)));
            }
            position.n += 1;
        }
    }
    found
}

/// Refuses a position that is not one of this partition's history.
fn check_position(partition: &Partition, position: Position) -> Result<(), QueryError> {
    if position.partition != partition.id() {
        return Err(QueryError::Gone(position));
    }
    let genesis = partition.genesis();
    if position.index == genesis.index {
        let is_here = genesis.position(partition.id(), position.n) == position;
        return if is_here { Ok(()) } else { Err(QueryError::Gone(position)) };
    }
    let recorded = partition.find_entry(position.index).map_err(|error| match error {
        PartitionError::Released { .. } => partition_error(error),
        _ => QueryError::Gone(position),
    })?;
    let is_here = recorded.position(partition.id(), 0).head8 == position.head8;
    if is_here { Ok(()) } else { Err(QueryError::Gone(position)) }
}

/// Whether the `@local` rows of other partitions belong to a query's rows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OtherPartitions {
    /// There are no other partitions.
    None,
    /// There are others, and they have not been read.
    NotAsked,
    All,
}

/// Why a query has no answer.
enum QueryStop {
    Error(QueryError),
    /// It scans `@local` rows, and those of the other partitions have not been read.
    AllPartitions,
}

impl From<QueryError> for QueryStop {
    fn from(error: QueryError) -> Self {
        Self::Error(error)
    }
}

/// The rows of the entity's partition, then those of the others.
struct Sources<S> {
    rows: Vec<S>,
    others: OtherPartitions,
}

impl<S: RowSource> Sources<S> {
    /// Rows, and whether there are more. A scan of `@local` goes through all partitions, in order.
    fn scan(&self, range: &ScanRange) -> Result<(Vec<KeyRow>, bool), QueryStop> {
        let is_local = split_key(&range.prefix).is_some_and(|(entity, _)| entity == LOCAL);
        if is_local && self.others == OtherPartitions::NotAsked {
            return Err(QueryStop::AllPartitions);
        }
        let (mut found, mut more) = (Vec::new(), false);
        for rows in self.rows.iter().take(if is_local { self.rows.len() } else { 1 }) {
            let mut page = rows.scan(range)?;
            more |= page.len() > range.limit as usize;
            page.truncate(range.limit as usize);
            found.extend(page);
        }
        Ok((found, more))
    }
}

/// Where a query's rows come from.
trait RowSource {
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, QueryError>;
    fn scan(&self, range: &ScanRange) -> Result<Vec<KeyRow>, QueryError>;
}

impl RowSource for View {
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, QueryError> {
        View::row(self, key).map_err(|error| partition_error(error.into()))
    }

    fn scan(&self, range: &ScanRange) -> Result<Vec<KeyRow>, QueryError> {
        let limit = range.limit as usize + 1;
        View::scan(self, &range.prefix, range.after.as_deref(), limit).map_err(|error| partition_error(error.into()))
    }
}

impl RowSource for Rows {
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, QueryError> {
        Ok(self.get(key).cloned())
    }

    fn scan(&self, range: &ScanRange) -> Result<Vec<KeyRow>, QueryError> {
        let behind = |key: &[u8]| range.after.as_deref().is_none_or(|after| after < key);
        let rows = self.range(range.prefix.clone()..).take_while(|(key, _)| key.starts_with(&range.prefix));
        let rows = rows.filter(|(key, _)| behind(key)).take(range.limit as usize + 1);
        Ok(rows.map(|(key, row)| (key.clone(), row.clone())).collect())
    }
}

/// Asks the module until it has all rows that it wants. All rows are those of one position and one time.
fn run_query(
    logic: &dyn Logic,
    name: &str,
    request: &QueryRequest,
    (position, time): (Position, Micros),
    sources: &Sources<impl RowSource>,
) -> Result<QueryAnswer, QueryStop> {
    let mut query = QueryIn {
        name: name.to_owned(),
        params: request.params.clone(),
        roles: request.caller.roles,
        time: time.0,
        position: position_text(position),
        rows: Vec::new(),
        scans: Vec::new(),
    };
    for _ in 0..limits::QUERY_ROUNDS_MAX {
        match logic.query(&query).map_err(fault_of)? {
            QueryOut::Done(body) => {
                let body = with_position(body, position_text(position));
                return Ok(QueryAnswer { body, home: None, position, time });
            }
            QueryOut::NotFound(refusal) => return Err(QueryError::NotFound(refusal).into()),
            QueryOut::Refused(refusal) => return Err(QueryError::Refused(refusal).into()),
            QueryOut::Need(need) => fetch(&mut query, need, sources)?,
        }
    }
    Err(QueryError::Fault(format!("the query still needs rows after {} rounds", limits::QUERY_ROUNDS_MAX)).into())
}

fn fault_of(fault: Fault) -> QueryError {
    match fault {
        // This says nothing about the module: memory is short, or the process is about to end.
        Fault::Host { .. } => QueryError::Unavailable(unavailable(UnavailableReason::Overloaded)),
        Fault::Trap { .. } | Fault::Budget | Fault::Watchdog | Fault::Output { .. } => {
            QueryError::Fault(fault.to_string())
        }
    }
}

fn fetch(query: &mut QueryIn, need: Need, sources: &Sources<impl RowSource>) -> Result<(), QueryStop> {
    // The module must not see the host's own rows.
    let is_of_host = |key: &[u8]| split_key(key).is_some_and(|(entity, _)| entity == ENTITY);
    let size_of = |row: &Row| row.key.len() + row.row.as_ref().map_or(0, Vec::len);
    let scanned = query.scans.iter().flat_map(|scan| &scan.rows);
    let mut size: usize = query.rows.iter().chain(scanned).map(size_of).sum();
    let check = |size: usize| {
        let what = "the query asks for more rows than fit into one call";
        if size <= limits::GUEST_INPUT_BYTES_MAX { Ok(()) } else { Err(QueryError::Fault(what.to_owned())) }
    };
    for key in need.keys {
        let row = if is_of_host(&key.0) { None } else { sources.rows[0].row(&key.0)? };
        query.rows.push(Row { key: key.0, row });
        size += query.rows.last().map_or(0, size_of);
        check(size)?;
    }
    for mut range in need.scans {
        range.limit = range.limit.min(limits::SCAN_ROWS_MAX as u32);
        let (mut found, more) = sources.scan(&range)?;
        found.retain(|(key, _)| !is_of_host(key));
        let rows: Vec<Row> = found.into_iter().map(|(key, row)| Row { key, row: Some(row) }).collect();
        size += rows.iter().map(size_of).sum::<usize>();
        check(size)?;
        query.scans.push(Scan { range, rows, more });
    }
    Ok(())
}
