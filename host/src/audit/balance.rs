//! `audit balance`: what an account held at any moment, recomputed from the first entry on.
//!
//! In: an entity and a moment. Out: the module's own answer to its query on the rows of that moment. It knows nothing of
//! money: the query is found by its parameter.

use statehouse_abi::cold::{QueryIn, QueryOut, Row, Scan};
use statehouse_abi::describe::QuerySource;
use statehouse_abi::role;
use statehouse_abi::value::Value;

use crate::audit::error::AuditError;
use crate::audit::source::Source;
use crate::ids::PartitionId;
use crate::limits;
use crate::machine::journal::Journal;
use crate::machine::replay::Replay;
use crate::router::answer::Moment;
use crate::router::slots::partition_of;

/// An answer and the journal it was read at.
pub struct Found {
    pub value: Value,
    pub journal: Journal,
    pub partition: PartitionId,
}

/// Answers the machine's query of one entity's rows as of a moment; `None` is the end of the journal.
pub fn entity_at(source: &Source, machine: &str, entity: &str, moment: Option<Moment>) -> Result<Found, AuditError> {
    source.machine(machine)?;
    let count = u32::try_from(source.partitions(machine)?.len()).expect("at most one partition per slot");
    let partition = partition_of(entity.as_bytes(), count);
    let opened = source.partition(machine, partition)?;
    let replay = opened.replay(source, |entry| match moment {
        None => true,
        Some(Moment::Time(time)) => entry.header().time <= time,
        Some(Moment::Position(position)) => entry.header().index <= position.index,
    })?;
    if let Some(Moment::Position(position)) = moment
        && replay.journal.position(partition, position.n) != position
    {
        return Err(AuditError::Gone);
    }
    let value = ask(&replay, partition, entity)?;
    Ok(Found { value, journal: replay.journal, partition })
}

fn ask(replay: &Replay, partition: PartitionId, entity: &str) -> Result<Value, AuditError> {
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
        position: replay.journal.position(partition, 0).to_string(),
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
                    let behind = |key: &[u8]| range.after.as_deref().is_none_or(|after| after < key);
                    let found = replay.rows.range(range.prefix.clone()..);
                    let found =
                        found.take_while(|(key, _)| key.starts_with(&range.prefix)).filter(|(key, _)| behind(key));
                    let mut rows: Vec<Row> = found
                        .take(range.limit as usize + 1)
                        .map(|(key, row)| Row { key: key.clone(), row: Some(row.clone()) })
                        .collect();
                    let more = rows.len() > range.limit as usize;
                    rows.truncate(range.limit as usize);
                    query.scans.push(Scan { range, rows, more });
                }
            }
        }
    }
    Err(AuditError::Query(format!("the query still needs rows after {} rounds", limits::QUERY_ROUNDS_MAX)))
}
