//! Activation: another module decides from an entry on, and the rows are brought to its schema in the same entry.
//!
//! In: what `system` has decided, once nothing is under way. Out: an entry with the digest of the rows that change. Every replica computes
//! them again when it applies the entry, and stores them together with the place in the log: a crash finds both or neither.

use std::ops::ControlFlow;

use crate::machine::entry::{Activation, Entry, EntryKind, Header};
use crate::machine::logic::Logic;
use crate::machine::migration::{self, InvariantCheck, Migrated, Migration, MigrationError};
use crate::machine::replica::{Applied, ApplyError};
use crate::partition::error::HaltReason;
use crate::partition::run::{Executor, store_failed};

impl Executor {
    /// Proposes the activation that is asked for, if there is one and nothing else is under way. `true`: nothing else is to be decided
    /// before it is applied.
    pub(super) fn propose_activation(&mut self) -> Result<bool, HaltReason> {
        let Some(wanted) = &self.activation else { return Ok(false) };
        if !self.speculation.is_empty() {
            return Ok(true);
        }
        let activation = wanted.activation;
        let refused = if self.is_activated(&activation) {
            Ok(self.journal)
        } else {
            match self.prepare_activation(&activation)? {
                Ok(migrated) => {
                    let header = self.header_without_module(EntryKind::Activate, &self.journal);
                    let header = Header { digest: migration::digest(&migrated), ..header };
                    self.propose(Entry::activate(header, activation), Vec::new(), Vec::new());
                    return Ok(true);
                }
                Err(reason) => Err(reason),
            }
        };
        if let Some(wanted) = self.activation.take() {
            // Whoever asked may have stopped waiting.
            drop(wanted.reply.send(refused));
        }
        Ok(false)
    }

    fn is_activated(&self, activation: &Activation) -> bool {
        self.logic.is_some() && activation.number <= self.journal.activation
    }

    /// The rows that the activation changes, or why it cannot be.
    fn prepare_activation(&self, activation: &Activation) -> Result<Result<Migrated, String>, HaltReason> {
        let logic = match self.modules.load(activation.module) {
            Ok(logic) => logic,
            Err(reason) => return Ok(Err(reason)),
        };
        let migrated = match self.migrate(logic.as_ref())? {
            Ok(migrated) => migrated,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let checked =
            if migrated.is_empty() { Ok(()) } else { self.check_invariants(logic.as_ref(), migrated.clone())? };
        Ok(checked.map(|()| migrated).map_err(|error| error.to_string()))
    }

    fn migrate(&self, logic: &dyn Logic) -> Result<Result<Migrated, MigrationError>, HaltReason> {
        let mut migration = match Migration::new(logic, self.journal.schema) {
            Ok(migration) => migration,
            Err(error) => return Ok(Err(error)),
        };
        let mut failed = None;
        if migration.is_needed() {
            let visited = self.store.read().visit(&[], |key, row| match migration.row(key, row) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            });
            visited.map_err(store_failed)?;
        }
        Ok(failed.map_or_else(|| migration.finish(), Err))
    }

    /// Asks the module whether its invariants hold over all rows as they will be.
    fn check_invariants(
        &self,
        logic: &dyn Logic,
        migrated: Migrated,
    ) -> Result<Result<(), MigrationError>, HaltReason> {
        let mut check = InvariantCheck::new(logic);
        let mut changed = migrated.into_iter().peekable();
        let mut checked = Ok(());
        let visited = self.store.read().visit(&[], |key, row| {
            checked = (|| {
                while let Some((key, row)) = changed.next_if(|(changed, _)| changed.as_slice() < key) {
                    row.map_or(Ok(()), |row| check.row(key, row))?;
                }
                match changed.next_if(|(changed, _)| changed == key) {
                    Some((key, row)) => row.map_or(Ok(()), |row| check.row(key, row)),
                    None => check.row(key.to_vec(), row.to_vec()),
                }
            })();
            if checked.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        visited.map_err(store_failed)?;
        let finish = || {
            for (key, row) in changed {
                row.map_or(Ok(()), |row| check.row(key, row))?;
            }
            check.finish()
        };
        Ok(checked.and_then(|()| finish()))
    }

    /// Applies an activation on any replica: loads the module and repeats the migration.
    pub(super) fn apply_activation(&mut self, entry: Entry) -> Result<Applied, HaltReason> {
        let index = entry.header().index;
        let activation = entry.activation().map_err(|source| HaltReason::Entry { index: index.0, source })?;
        let load = self.modules.load(activation.module);
        let logic = load.map_err(|reason| HaltReason::Module { id: activation.module, reason })?;
        let migrated = self.migrate(logic.as_ref())?;
        let migrated = migrated.map_err(|source| HaltReason::Apply(ApplyError::Migration { index, source }))?;
        let applied = Applied::migrated(entry, migrated).map_err(HaltReason::Apply)?;
        let migrated = applied.rows().count();
        tracing::info!(partition = %self.partition, module = %activation.module.short(), migrated, "module activated");
        self.logic = Some(logic);
        Ok(applied)
    }
}
