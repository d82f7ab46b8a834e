//! The phase status table in memory: the commands that continue on other partitions, as the journal has them.
//!
//! In: changes of applied entries. Out: the row of a command, and the commands by age. Every replica has the same
//! table. This file does not know what is done about a command.

use std::collections::{BTreeMap, BTreeSet};

use statehouse_abi::key::key;

use crate::ids::{CommandId, Micros};
use crate::machine::table::{Change, Table};
use crate::partition::error::{HaltReason, PartitionError};
use crate::saga::Saga;
use crate::saga::status::ENTITY;
use crate::store::View;

pub(super) struct SagaTable {
    rows: BTreeMap<CommandId, Saga>,
    /// The same commands, oldest first.
    by_start: BTreeSet<(Micros, CommandId)>,
}

impl Table for SagaTable {
    fn find(&self, command: CommandId) -> Option<Saga> {
        self.rows.get(&command).cloned()
    }
}

impl SagaTable {
    pub fn new(table: Vec<Saga>) -> Self {
        let by_start = table.iter().map(|saga| (saga.started(), saga.command.id())).collect();
        Self { rows: table.into_iter().map(|saga| (saga.command.id(), saga)).collect(), by_start }
    }

    /// Takes over what an applied entry has changed.
    pub fn on_applied(&mut self, change: &Change) {
        for (id, saga) in &change.rows {
            let before = match saga {
                Some(saga) => {
                    self.by_start.insert((saga.started(), *id));
                    self.rows.insert(*id, saga.clone())
                }
                None => self.rows.remove(id),
            };
            if let Some(before) = before.filter(|_| saga.is_none()) {
                self.by_start.remove(&(before.started(), *id));
            }
        }
    }

    pub fn row(&self, command: CommandId) -> Option<&Saga> {
        self.rows.get(&command)
    }

    pub fn commands(&self) -> impl Iterator<Item = CommandId> {
        self.rows.keys().copied()
    }

    /// How many commands are under way, and when the oldest of them has started.
    pub fn under_way(&self) -> (usize, Option<Micros>) {
        (self.rows.len(), self.by_start.first().map(|(started, _)| *started))
    }

    /// The commands under way, oldest first.
    pub fn oldest(&self) -> impl Iterator<Item = &Saga> {
        self.by_start.iter().filter_map(|(_, id)| self.rows.get(id))
    }
}

/// Reads the commands in flight from a partition's rows.
///
/// # Errors
/// The store cannot be read, or a row is of a later version.
pub fn read_table(view: &View) -> Result<Vec<Saga>, PartitionError> {
    let rows = view.scan(&key(ENTITY, b""), None, usize::MAX)?;
    let read = |(_, row): &(Vec<u8>, Vec<u8>)| Saga::of_row(row).map_err(HaltReason::Store);
    Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
}
