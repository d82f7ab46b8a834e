//! `audit balance`: what an account held at any moment, recomputed from the first entry.
//!
//! In: an entity and a moment. Out: the module's own answer to its query on the rows of that moment. This file knows
//! nothing of money: the query is found by its parameter.

use statehouse_abi::cold::{QueryIn, QueryOut, Row, Scan, ScanRange};
use statehouse_abi::describe::QuerySource;
use statehouse_abi::key::{LOCAL, split_key};
use statehouse_abi::role;
use statehouse_abi::value::Value;

use crate::audit::error::AuditError;
use crate::audit::source::Source;
use crate::ids::{PartitionId, Position};
use crate::limits;
use crate::machine::entry::Entry;
use crate::machine::journal::{Journal, Moment};
use crate::machine::replay::{Replay, Rows};
use crate::machine::slots::partition_of;

/// An answer, and the journal at which it was read.
pub struct EntityAnswer {
    pub value: Value,
    pub journal: Journal,
    pub position: Position,
}

/// Answers the machine's query on one entity's rows as of a moment; `None` is the end of the journal.
pub fn entity_at(
    source: &Source,
    machine: &str,
    entity: &str,
    moment: Option<Moment>,
) -> Result<EntityAnswer, AuditError> {
    source.machine(machine)?;
    let count = u32::try_from(source.partitions(machine)?.len()).expect("at most one partition per slot");
    let partition = partition_of(entity.as_bytes(), count);
    let opened = source.partition(machine, partition)?;
    let replay = opened.replay_until(source, moment)?;
    // All entries up to one time are a consistent cut, in every partition.
    let until = match moment {
        None => None,
        Some(Moment::Time(time)) => Some(time),
        Some(Moment::Position(_)) => Some(replay.journal.time),
    };
    let others = || {
        let ids = (0..count).map(PartitionId).filter(|id| *id != partition);
        let rows = ids.map(|id| {
            let is_in = |entry: &Entry| until.is_none_or(|until| entry.header().time <= until);
            Ok(source.partition(machine, id)?.replay(source, is_in)?.rows)
        });
        rows.collect::<Result<Vec<Rows>, AuditError>>()
    };
    let value = ask(&replay, others, partition, entity)?;
    Ok(EntityAnswer { value, journal: replay.journal, position: replay.position(partition) })
}

/// `others` computes the rows of the other partitions. They are needed only if each of them has a share of the entity
/// among its `@local` rows.
fn ask(
    replay: &Replay,
    others: impl Fn() -> Result<Vec<Rows>, AuditError>,
    partition: PartitionId,
    entity: &str,
) -> Result<Value, AuditError> {
    let logic = replay.logic.as_ref().ok_or(AuditError::NoModule)?;
    let queries = &logic.describe().queries;
    let declared = queries.iter().find(|query| query.source == QuerySource::Rows && query.entity_param.is_some());
    let declared =
        declared.ok_or_else(|| AuditError::Query("the module has no query of one entity's rows".to_owned()))?;
    let param = declared.entity_param.clone().expect("just asked for");
    let mut query = QueryIn {
        name: declared.name.clone(),
        params: Value::map([(param, Value::text(entity))]),
        roles: role::ALL,
        time: replay.journal.time.0,
        position: replay.position(partition).to_string(),
        rows: Vec::new(),
        scans: Vec::new(),
    };
    for _ in 0..limits::QUERY_ROUNDS_MAX {
        match logic.query(&query).map_err(|fault| AuditError::Query(fault.to_string()))? {
            QueryOut::Done(value) => return Ok(value),
            QueryOut::NotFound(refusal) | QueryOut::Refused(refusal) => return Err(AuditError::Query(refusal.detail)),
            QueryOut::Need(need) => {
                for key in need.keys {
                    let row = replay.rows.get(&key.0).cloned();
                    query.rows.push(Row { key: key.0, row });
                }
                for range in need.scans {
                    let is_local = split_key(&range.prefix).is_some_and(|(entity, _)| entity == LOCAL);
                    let mut scan = scan(&replay.rows, range);
                    for rows in if is_local { others()? } else { Vec::new() } {
                        let other = self::scan(&rows, scan.range.clone());
                        scan.rows.extend(other.rows);
                        scan.more |= other.more;
                    }
                    query.scans.push(scan);
                }
            }
        }
    }
    Err(AuditError::Query(format!("the query still needs rows after {} rounds", limits::QUERY_ROUNDS_MAX)))
}

fn scan(rows: &Rows, range: ScanRange) -> Scan {
    let behind = |key: &[u8]| range.after.as_deref().is_none_or(|after| after < key);
    let found = rows.range(range.prefix.clone()..);
    let found = found.take_while(|(key, _)| key.starts_with(&range.prefix)).filter(|(key, _)| behind(key));
    let limit = range.limit as usize;
    let mut rows: Vec<Row> =
        found.take(limit + 1).map(|(key, row)| Row { key: key.clone(), row: Some(row.clone()) }).collect();
    let more = limit < rows.len();
    rows.truncate(limit);
    Scan { range, rows, more }
}
