//! Applying an activation, on any replica: its module is loaded, the rows are migrated and put in place, and only then
//! the next entry is taken.
//!
//! ```text
//! committed ─▶ module ─▶ rows: own, or migrated now ─▶ digest equals the entry's? ─▶ in place ─▶ as any other entry
//! ```
//! In: a committed activation, then the results of what is done for it beside the executor, which holds meanwhile. Out:
//! the module that decides from then on. This file does not know how anything is loaded, migrated or put in place.

use std::sync::Arc;

use crate::ids::ModuleId;
use crate::machine::logic::Logic;
use crate::machine::replica::{AppliedEntry, ApplyError};
use crate::partition::actions::{Action, Actions};
use crate::partition::error::{HaltReason, store_failed};
use crate::partition::hold::{Hold, PendingActivation};
use crate::partition::migrate::{Hindrance, Invariants, Migrated, MigrationEnd};
use crate::partition::run::Executor;
use crate::store::{StoreError, WrittenRows};

impl Executor {
    /// Begins to apply an activation, which is effective at the journal's head.
    pub(super) fn begin_activation(
        &mut self,
        pending: Box<PendingActivation>,
        out: &mut Actions,
    ) -> Result<(), HaltReason> {
        let module = pending.activation.module;
        match self.base.modules.find_loaded(module) {
            Some(logic) => self.migrate(pending, logic, out),
            None => {
                out.push(Action::Load(module));
                self.hold = Some(Hold::Module(pending));
                Ok(())
            }
        }
    }

    pub(super) fn on_loaded(
        &mut self,
        id: ModuleId,
        loaded: Result<Arc<dyn Logic>, String>,
        out: &mut Actions,
    ) -> Result<(), HaltReason> {
        if let Some(leader) = self.role.leader() {
            leader.on_loaded(&mut self.base, id, &loaded, out);
        }
        let is_it = |hold: &mut Hold| matches!(hold, Hold::Module(pending) if pending.activation.module == id);
        let Some(Hold::Module(pending)) = self.hold.take_if(is_it) else { return Ok(()) };
        let logic = loaded.map_err(|reason| HaltReason::Module { id, reason })?;
        self.migrate(pending, logic, out)
    }

    /// The leader already has the rows, unless another entry intervened. On any other replica they are migrated now.
    fn migrate(
        &mut self,
        pending: Box<PendingActivation>,
        logic: Arc<dyn Logic>,
        out: &mut Actions,
    ) -> Result<(), HaltReason> {
        let key = pending.key();
        if let Some(own) = self.base.migrated.take().filter(|own| own.key == key) {
            return self.replace(pending, logic, own, out);
        }
        if !self.base.is_migrating {
            let begun = self.base.begin_migration(&logic, key.activation, Invariants::Trusted, out);
            let index = pending.entry.header().index;
            let ready = begun.map_err(|source| HaltReason::Apply(ApplyError::Migration { index, source }))?;
            if let Some(migrated) = ready {
                return self.replace(pending, logic, migrated, out);
            }
        }
        self.hold = Some(Hold::Migration(pending, logic));
        Ok(())
    }

    /// A migration has ended: for the activation that is to be applied, for one that this leader wants to propose, or
    /// for one that was given up.
    pub(super) fn on_migrated(&mut self, end: MigrationEnd, out: &mut Actions) -> Result<(), HaltReason> {
        let Self { base, role, hold } = self;
        base.is_migrating = false;
        let MigrationEnd { key, invariants, result } = end;
        match hold.take_if(|hold| matches!(hold, Hold::Migration(..))) {
            Some(Hold::Migration(pending, logic)) => {
                match result {
                    Ok(migrated) => base.migrated = Some(migrated),
                    Err(hindrance) if pending.key() == key && invariants == Invariants::Trusted => {
                        return Err(why_not_migrated(&pending, hindrance));
                    }
                    // It was begun to propose an entry, or for another one.
                    Err(_) => {}
                }
                self.migrate(pending, logic, out)
            }
            _ => {
                match (result, role.leader()) {
                    // If it was given up, its file is removed.
                    (Ok(migrated), _) => {
                        base.migrated = Some(migrated).filter(|_| key.parent == base.at.journal().head)
                    }
                    (Err(hindrance), Some(leader)) => leader.on_hindered(base, key, hindrance, out)?,
                    (Err(_), None) => {}
                }
                Ok(())
            }
        }
    }

    fn replace(
        &mut self,
        mut pending: Box<PendingActivation>,
        logic: Arc<dyn Logic>,
        migrated: Migrated,
        out: &mut Actions,
    ) -> Result<(), HaltReason> {
        let (index, expected) = (pending.entry.header().index, pending.entry.header().digest);
        let found = migrated.digest;
        if found != expected {
            return Err(HaltReason::Apply(ApplyError::Digest { index, expected, found }));
        }
        pending.row_count = migrated.rows.as_ref().map_or(0, WrittenRows::count);
        match migrated.rows {
            None => {
                self.base.store.apply([], pending.meta.clone(), pending.entry.payload().len() as u64);
                self.finish_activation(pending, logic, out)
            }
            Some(rows) => {
                out.push(Action::Replace(Box::new((rows, pending.meta.clone()))));
                self.hold = Some(Hold::Rows(pending, logic));
                Ok(())
            }
        }
    }

    /// If the disk is full, the partition is reopened and the entry applied again, until there is room.
    pub(super) fn on_replaced(
        &mut self,
        replaced: Result<(), StoreError>,
        out: &mut Actions,
    ) -> Result<(), HaltReason> {
        let Some(Hold::Rows(pending, logic)) = self.hold.take() else {
            unreachable!("rows are replaced while the executor holds for that");
        };
        replaced.map_err(store_failed)?;
        self.finish_activation(pending, logic, out)
    }

    /// The rows are in place.
    fn finish_activation(
        &mut self,
        pending: Box<PendingActivation>,
        logic: Arc<dyn Logic>,
        out: &mut Actions,
    ) -> Result<(), HaltReason> {
        let PendingActivation { id, entry, activation, after, row_count, .. } = *pending;
        tracing::info!(
            partition = %self.base.partition, module = %activation.module.short(), migrated = row_count,
            "module activated"
        );
        self.base.at.on_activated(logic);
        self.base.is_draining = false;
        self.finish_effective(id, after, &AppliedEntry::without_writes(entry), Vec::new(), out)
    }
}

fn why_not_migrated(pending: &PendingActivation, hindrance: Hindrance) -> HaltReason {
    let index = pending.entry.header().index;
    match hindrance {
        Hindrance::Module(source) => HaltReason::Apply(ApplyError::Migration { index, source }),
        Hindrance::Store(error) => store_failed(error),
        Hindrance::Ended => HaltReason::Store("the executor has ended".to_owned()),
    }
}
