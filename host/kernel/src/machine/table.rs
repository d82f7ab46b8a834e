//! The phase status table as entries change it: host rows beside the module's, in the same digest.
//!
//! In: an entry, and the rows of the commands that it names. Out: the rows after it, and the commands that end with it.
//! The same code runs on the leader that makes the entry, on its followers and in the audit. It does not know where
//! rows are kept.

use std::collections::BTreeMap;

use statehouse_abi::ops::{OpRole, OpsWriter};
use statehouse_abi::outcome::{GroupOutcome, OutcomeWriter};

use crate::ids::{CommandId, Micros};
use crate::machine::entry::{BatchWriter, Entry, EntryCommand, EntryKind, Header};
use crate::saga::status::{Command, EventRecord, row_key};
use crate::saga::{Advance, CallProgress, Derivation, FinishedSaga, Order, OrderRefused, PhaseMoment, Saga};

/// Finds the rows of commands in flight.
pub trait Table {
    fn find(&self, command: CommandId) -> Option<Saga>;
}

/// A table without rows.
pub struct EmptyTable;

impl Table for EmptyTable {
    fn find(&self, _: CommandId) -> Option<Saga> {
        None
    }
}

/// What one entry does to the table.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The rows after the entry, in the order in which they were first touched. `None` deletes a row.
    pub rows: Vec<(CommandId, Option<Saga>)>,
    /// In the order in which they end.
    pub finished: Vec<FinishedSaga>,
    /// The place in `rows` of each command that outcomes or orders have touched.
    places: BTreeMap<CommandId, usize>,
}

/// Why an entry cannot be the next one of its journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    #[error("outcome of command {0}, which is not in flight")]
    NotInFlight(CommandId),
    #[error("command {0}: an outcome that was not due")]
    NotDue(CommandId),
    #[error("command {0}: an order that the protocol does not allow: {1}")]
    NotAllowed(CommandId, OrderRefused),
    #[error("the commands that end with it are not those that it lists")]
    Listing,
}

impl Change {
    /// The change that a checked entry means.
    pub fn of(entry: &Entry, table: &dyn Table) -> Result<Self, TableError> {
        let records = entry.records();
        if records.is_empty() {
            return Ok(Self::default());
        }
        let header = entry.header();
        match header.kind {
            EntryKind::Batch => Ok(Self::of_starts(entry)),
            EntryKind::Saga => {
                let change = Self::of_progress(header, &records.progress, records.orders(), table)?;
                let batch = entry.batch().expect("its kind says so");
                let (_, ops, outcome) = list_finished(&change.finished);
                let is_listed = batch.ops.raw() == ops && batch.outcome.raw() == outcome;
                let ids = change.finished.iter().map(|finished| finished.saga.command.id());
                let marks = change.finished.iter().map(|finished| &finished.saga.marks);
                let is_listed = is_listed
                    && marks.eq(&records.marks)
                    && records.ended == derivations(&change.finished)
                    && ids.eq((0..batch.command_count()).map(|at| batch.command_id(at)));
                if is_listed { Ok(change) } else { Err(TableError::Listing) }
            }
            EntryKind::Tick | EntryKind::Activate => Ok(Self::default()),
        }
    }

    fn of_starts(entry: &Entry) -> Self {
        let header = entry.header();
        let batch = entry.batch().expect("its kind says so");
        let at = PhaseMoment::at_home(header.time, header.index.0);
        let mut change = Self::default();
        for start in &entry.records().starts {
            let GroupOutcome::Events { first, count } = batch.outcome.group(start.command as usize) else { continue };
            let first_op = batch.ops.group(start.command as usize).first_op;
            let event = |at: u32| {
                let event = batch.outcome.event(at as usize);
                EventRecord { step: event.op - first_op, event: event.payload.to_vec().into() }
            };
            let events = (first..first + count).map(event).collect();
            let EntryCommand { id, name, caller, roles, request_id, body, .. } = batch.command(start.command as usize);
            let command = Command::new(id, name, caller, roles, request_id, body);
            match Saga::start(command, start.plan.clone(), start.derivation(), events, &at) {
                Advance::GoesOn(saga) => change.rows.push((id, Some(*saga))),
                Advance::Finished(_) => unreachable!("a plan of several branches is not finished with the first"),
            }
        }
        change
    }

    /// The change that outcomes, and then orders, mean if an entry with this header records them.
    pub fn of_progress(
        header: &Header,
        progress: &[CallProgress],
        orders: &[Order],
        table: &dyn Table,
    ) -> Result<Self, TableError> {
        let at = PhaseMoment::at_home(header.time, header.index.0);
        let mut change = Self::default();
        for progress in progress {
            let id = progress.command();
            let before = change.find(id, table).ok_or(TableError::NotInFlight(id))?;
            let advanced = before.advance(progress.key, &progress.outcome, &progress.at, &at);
            change.set(id, advanced.map_err(|_| TableError::NotDue(id))?);
        }
        for order in orders {
            let id = order.command();
            let before = change.find(id, table).ok_or(TableError::NotInFlight(id))?;
            change.set(id, before.order(order, &at).map_err(|refused| TableError::NotAllowed(id, refused))?);
        }
        Ok(change)
    }

    /// The row of a command after what was set so far.
    pub fn find(&self, command: CommandId, table: &dyn Table) -> Option<Saga> {
        match self.places.get(&command) {
            Some(place) => self.rows[*place].1.clone(),
            None => table.find(command),
        }
    }

    /// Sets the new state of a command.
    pub fn set(&mut self, command: CommandId, advance: Advance) {
        let after = match advance {
            Advance::GoesOn(saga) => Some(*saga),
            Advance::Finished(finished) => {
                self.finished.push(*finished);
                None
            }
        };
        match self.places.get(&command) {
            Some(place) => self.rows[*place].1 = after,
            None => {
                self.places.insert(command, self.rows.len());
                self.rows.push((command, after));
            }
        }
    }

    /// Keys and rows as they are written.
    pub fn writes(&self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let write = |(id, saga): &(CommandId, Option<Saga>)| (row_key(*id), saga.as_ref().map(Saga::to_row));
        self.rows.iter().map(write).collect()
    }
}

/// How the ids of the commands that end with an entry are derived, as the entry records it: nothing if all are derived
/// as in the first release.
pub fn derivations(finished: &[FinishedSaga]) -> Option<Vec<Derivation>> {
    let all: Vec<Derivation> = finished.iter().map(|finished| finished.saga.identity().derivation).collect();
    all.iter().any(|derivation| derivation.recorded().is_some()).then_some(all)
}

/// The commands that end with an entry, as its batch lists them: commands, OPS block, OUTCOME block.
pub fn list_finished(finished: &[FinishedSaga]) -> (BatchWriter, Vec<u8>, Vec<u8>) {
    let (mut commands, mut ops, mut outcome) = (BatchWriter::default(), OpsWriter::default(), OutcomeWriter::default());
    let mut next_op = 0;
    for FinishedSaga { saga, rejection } in finished {
        let command = &saga.command;
        let number = commands.command(&EntryCommand {
            id: command.id(),
            name: &command.name,
            caller: &command.caller,
            roles: command.roles,
            vouched: None,
            request_id: &command.request_id,
            body: &command.body,
            expires: Micros(0),
        });
        ops.group(number);
        let first = outcome.event_count();
        let mut op_count = 0;
        if rejection.is_none() {
            for (entity, op, event) in saga.events() {
                ops.op(entity, op, std::iter::empty(), OpRole::Step);
                outcome.event_with(next_op + op_count, |out| out.extend_from_slice(event));
                op_count += 1;
            }
        }
        if op_count == 0 {
            // A group must have an op, even if nothing was carried out.
            let step = &saga.plan.branches[0].steps[0];
            ops.op(&step.entity, &step.op, std::iter::empty(), OpRole::Step);
            op_count = 1;
        }
        next_op += op_count;
        match rejection {
            Some(rejection) => outcome.reject(first, rejection),
            None => outcome.accept(first),
        }
    }
    (commands, ops.finish(Vec::new()), outcome.finish(Vec::new()))
}
