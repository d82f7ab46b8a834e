//! The smallest thing that can play a view: rows in a map, told of what a module decided batch by batch, asked at its newest moment.
//!
//! Events are rendered by the module first, as a host does. Partitions are only numbers here: the module plays in one world, and the
//! scenario says as whose a batch is told.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use minicbor::{Decode, Encode};
use statehouse_abi::cold::Row;
use statehouse_abi::describe::Describe;
use statehouse_abi::value::Value;
use statehouse_projection::Projection;
use statehouse_projection::abi::{
    Decision, Followed, Happened, Order, Part, ProjectIn, ProjectOut, QueryIn, QueryOut, Scan, ScanRange, ViewRow,
    position,
};
use statehouse_projection::native::{self, Export};

use crate::engine::{Engine, EngineError, Twin, Wasm, agreed, trapping};
use crate::world::{Command, Outcome, Played, World};

const ROUNDS_MAX: usize = 8;
const HEAD: [u8; 4] = [0xab; 4];

pub trait ViewEngine {
    /// Calls an export on a clean view.
    ///
    /// # Errors
    /// [`EngineError::Trap`] is the view's doing, everything else means that the test itself has failed.
    fn call(&self, export: Export, input: &[u8]) -> Result<Vec<u8>, EngineError>;
}

/// The view as compiled into this binary.
pub struct NativeView<P>(PhantomData<P>);

impl<P> Default for NativeView<P> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<P: Projection> ViewEngine for NativeView<P> {
    fn call(&self, export: Export, input: &[u8]) -> Result<Vec<u8>, EngineError> {
        trapping(|| native::call::<P>(export, input))
    }
}

impl ViewEngine for Wasm {
    fn call(&self, export: Export, input: &[u8]) -> Result<Vec<u8>, EngineError> {
        self.call_named(export.name(), (export != Export::Describe).then_some(input))
    }
}

impl<P: Projection> ViewEngine for Twin<NativeView<P>, Wasm> {
    fn call(&self, export: Export, input: &[u8]) -> Result<Vec<u8>, EngineError> {
        agreed(export.name(), self.native.call(export, input), ViewEngine::call(&self.wasm, export, input))
    }
}

/// What is asked of a view.
pub struct Asked {
    pub params: Value,
    pub roles: u32,
    pub at: Option<i64>,
    pub home: Option<u32>,
}

pub struct ViewWorld {
    engine: Box<dyn ViewEngine>,
    rows: BTreeMap<(u32, Vec<u8>), Vec<u8>>,
    /// Number and time of the last batch, by partition.
    followed: BTreeMap<u32, (u64, i64)>,
}

impl ViewWorld {
    /// # Errors
    /// The view does not describe itself.
    pub fn new(engine: Box<dyn ViewEngine>) -> Result<Self, EngineError> {
        let _: Describe = decode(&engine.call(Export::Describe, &[])?)?;
        Ok(Self { engine, rows: BTreeMap::new(), followed: BTreeMap::new() })
    }

    /// Tells of a batch that the module has played.
    ///
    /// # Errors
    /// The view traps, or gives output that is not of the ABI.
    pub fn tell<E: Engine>(
        &mut self,
        source: &World<E>,
        partition: u32,
        commands: &[Command],
        played: &[Played],
    ) -> Result<(), EngineError> {
        let recorded = commands.iter().zip(played).filter(|(_, played)| !matches!(played.outcome, Outcome::Refused(_)));
        let (index, _) = self.followed.get(&partition).copied().unwrap_or_default();
        let mut n = 0;
        let mut decisions = Vec::new();
        for (command, played) in recorded {
            let decision = decision(source, (partition, index + 1, n), command, played)?;
            n += decision.events.len().max(1) as u32;
            decisions.push(decision);
        }
        let Some(time) = decisions.first().map(|decision| decision.time) else { return Ok(()) };
        let mut input = ProjectIn { decisions, rows: Vec::new() };
        for _ in 0..ROUNDS_MAX {
            match decode(&self.engine.call(Export::Project, &encode(&input)?)?)? {
                ProjectOut::Need(keys) => {
                    let row = |key: Vec<u8>| Row { row: self.rows.get(&(partition, key.clone())).cloned(), key };
                    input.rows.extend(keys.into_iter().map(|key| row(key.0)));
                    input.rows.sort_by(|a, b| a.key.cmp(&b.key));
                }
                ProjectOut::Writes(writes) => {
                    for Row { key, row } in writes {
                        match row {
                            Some(row) => self.rows.insert((partition, key), row),
                            None => self.rows.remove(&(partition, key)),
                        };
                    }
                    self.followed.insert(partition, (index + 1, time));
                    return Ok(());
                }
            }
        }
        Err(EngineError::Module(format!("rows are still unknown after {ROUNDS_MAX} rounds")))
    }

    /// # Errors
    /// The view traps, gives output that is not of the ABI, or asks too often.
    pub fn query(&self, name: &str, asked: Asked) -> Result<QueryOut, EngineError> {
        let followed = |(partition, (index, time)): (&u32, &(u64, i64))| Followed {
            partition: *partition,
            position: position(*partition, *index, 0, HEAD),
            time: *time,
        };
        let Asked { params, roles, at, home } = asked;
        let partitions = self.followed.iter().map(followed).collect();
        let (name, rows, scans) = (name.to_string(), Vec::new(), Vec::new());
        let mut input = QueryIn { name, params, roles, at, partitions, home, rows, scans };
        for _ in 0..ROUNDS_MAX {
            match decode(&self.engine.call(Export::Query, &encode(&input)?)?)? {
                QueryOut::Need(need) => {
                    let row = |wanted: statehouse_projection::abi::WantedRow| {
                        let row = self.rows.get(&(wanted.partition, wanted.key.clone())).cloned();
                        ViewRow { partition: wanted.partition, key: wanted.key, row }
                    };
                    input.rows.extend(need.rows.into_iter().map(row));
                    input.scans.extend(need.scans.into_iter().map(|range| self.scan(range)));
                }
                done => return Ok(done),
            }
        }
        Err(EngineError::Module(format!("the query wants more rows after {ROUNDS_MAX} rounds")))
    }

    fn scan(&self, range: ScanRange) -> Scan {
        let is_in = |partition: u32, key: &[u8]| {
            let is_behind = |after: &Vec<u8>| match range.order {
                Order::Rising => after.as_slice() < key,
                Order::Falling => key < after.as_slice(),
            };
            range.partition.is_none_or(|wanted| wanted == partition)
                && key.starts_with(&range.prefix)
                && range.after.as_ref().is_none_or(is_behind)
        };
        let found = self.rows.iter().filter(|((partition, key), _)| is_in(*partition, key));
        let row = |((partition, key), row): (&(u32, Vec<u8>), &Vec<u8>)| ViewRow {
            partition: *partition,
            key: key.clone(),
            row: Some(row.clone()),
        };
        let mut rows: Vec<ViewRow> = found.map(row).collect();
        rows.sort_by(|a, b| (&a.key, a.partition).cmp(&(&b.key, b.partition)));
        if range.order == Order::Falling {
            rows.reverse();
        }
        let more = (range.limit as usize) < rows.len();
        rows.truncate(range.limit as usize);
        Scan { range, rows, more }
    }
}

fn decision<E: Engine>(
    source: &World<E>,
    (partition, index, n): (u32, u64, u32),
    command: &Command,
    played: &Played,
) -> Result<Decision, EngineError> {
    let facts = &played.facts;
    let values = source.render(&World::<E>::event_items(played))?;
    let entity = |event: &statehouse_abi::cold::EventBytes| String::from_utf8_lossy(&event.entity).into_owned();
    let events = facts.events.iter().zip(values);
    let events: Vec<Happened> = events.map(|(event, value)| Happened { entity: entity(event), value }).collect();
    let mut entities: Vec<String> = events.iter().map(|event| event.entity.clone()).collect();
    entities.push(String::from_utf8_lossy(&played.home).into_owned());
    entities.sort();
    entities.dedup();
    Ok(Decision {
        partition,
        index,
        n,
        head8: HEAD,
        time: facts.time,
        command: facts.command.clone(),
        id: facts.id,
        part: Part::Whole,
        caller: command.caller.clone(),
        request_id: format!("request-{index}"),
        module: [0xcd; 32],
        body: decode(&facts.body)?,
        entities,
        events,
        rejection: facts.rejection.clone(),
    })
}

fn encode<T: Encode<()>>(value: &T) -> Result<Vec<u8>, EngineError> {
    minicbor::to_vec(value).map_err(|error| EngineError::Module(error.to_string()))
}

fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, EngineError> {
    minicbor::decode(bytes).map_err(|error| EngineError::Module(error.to_string()))
}
