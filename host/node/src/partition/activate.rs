//! Activation: from a certain entry on another module decides, and the same entry migrates the rows to its schema.
//!
//! ```text
//! leader: load ─▶ nothing under way ─▶ migrate ─▶ file beside the state, digest ─▶ entry ─▶ committed ─▶ file in place
//! others: entry ─▶ load ─▶ migrate ─▶ the same file ─▶ its digest equals the entry's? ─▶ file in place
//! ```
//! In: the activation that `system` has decided, once nothing is under way; modules and rows that are ready. Out: an
//! entry with the digest of the rows that change. No reader sees half of them: the rows and the place in the log are
//! put in place together. A crash finds both or neither; if neither, the entry is applied again. An activation whose
//! rows cannot be migrated is not proposed. This file has the leader's half.

use std::sync::Arc;

use crate::guest::check_successor;
use crate::ids::{Digest, ModuleId};
use crate::machine::entry::{Activation, Entry, EntryKind, Header};
use crate::machine::journal::Journal;
use crate::machine::logic::Logic;
use crate::machine::migration::{Migration, MigrationError};
use crate::partition::actions::{Action, Actions, OneshotReply};
use crate::partition::base::Base;
use crate::partition::error::{HaltReason, store_failed};
use crate::partition::leader::{LeaderState, NextModule};
use crate::partition::migrate::{Hindrance, Invariants, Migrated, MigrationJob, MigrationKey};
use crate::partition::now::Now;

impl LeaderState {
    /// Proposes the activation that was asked for, if there is one, it is prepared and nothing else is under way.
    /// Returns `true` if nothing else may be decided before the activation is applied.
    pub(super) fn propose_activation(&mut self, base: &mut Base, now: &Now, out: &mut Actions) -> bool {
        let Some(wanted) = &base.activation else { return false };
        let activation = wanted.activation;
        if base.at.logic().is_some() && activation.number <= base.at.journal().activation {
            base.answer_activation(Ok(base.at.journal()), out);
            return false;
        }
        // While it is loaded, and as long as it must wait, what is under way continues.
        let Some(logic) = self.find_next(base, activation.module, out) else { return false };
        if base.must_wait(logic.as_ref()) {
            return false;
        }
        if !self.speculation.is_empty() || base.is_migrating {
            return true;
        }
        let key = MigrationKey { activation, parent: base.at.journal().head };
        let migrated = match base.migrated.take().filter(|migrated| migrated.key == key) {
            Some(migrated) => migrated,
            None => match base.begin_migration(&logic, activation, Invariants::Checked, out) {
                Ok(Some(migrated)) => migrated,
                Ok(None) => return true,
                Err(error) => {
                    base.answer_activation(Err(error.to_string()), out);
                    return false;
                }
            },
        };
        let header = base.header_without_module(EntryKind::Activate, &base.at.journal(), now);
        let header = Header { digest: migrated.digest, ..header };
        base.migrated = Some(migrated);
        self.propose(base, Entry::activate(header, activation), Vec::new(), Vec::new(), out);
        true
    }

    /// The module, if it is in memory. Otherwise it is loaded, once.
    fn find_next(&mut self, base: &Base, id: ModuleId, out: &mut Actions) -> Option<Arc<dyn Logic>> {
        match &self.next_module {
            NextModule::Loaded(logic) if logic.id() == id => return Some(logic.clone()),
            NextModule::Loading(loading) if *loading == id => return None,
            NextModule::Unknown | NextModule::Loading(_) | NextModule::Loaded(_) => {}
        }
        let found = base.modules.find_loaded(id);
        self.next_module = match &found {
            Some(logic) => NextModule::Loaded(logic.clone()),
            None => {
                out.push(Action::Load(id));
                NextModule::Loading(id)
            }
        };
        found
    }

    pub(super) fn on_loaded(
        &mut self,
        base: &mut Base,
        id: ModuleId,
        loaded: &Result<Arc<dyn Logic>, String>,
        out: &mut Actions,
    ) {
        if !matches!(self.next_module, NextModule::Loading(loading) if loading == id) {
            return;
        }
        self.next_module = loaded.as_ref().map_or(NextModule::Unknown, |logic| NextModule::Loaded(logic.clone()));
        if let Err(reason) = loaded
            && base.activation.as_ref().is_some_and(|wanted| wanted.activation.module == id)
        {
            base.answer_activation(Err(reason.clone()), out);
        }
    }

    /// The rows of this activation cannot be migrated.
    pub(super) fn on_hindered(
        &mut self,
        base: &mut Base,
        key: MigrationKey,
        hindrance: Hindrance,
        out: &mut Actions,
    ) -> Result<(), HaltReason> {
        let is_wanted = base.activation.as_ref().is_some_and(|wanted| wanted.activation == key.activation);
        if !is_wanted || key.parent != base.at.journal().head {
            return Ok(());
        }
        let reason = match hindrance {
            Hindrance::Module(error) => error.to_string(),
            Hindrance::Store(error) if error.is_passing() => error.to_string(),
            Hindrance::Store(error) => return Err(store_failed(error)),
            Hindrance::Ended => return Ok(()),
        };
        base.answer_activation(Err(reason), out);
        Ok(())
    }
}

impl Base {
    /// A module that is not a successor of the current one may not understand what is under way between partitions.
    fn must_wait(&self, next: &dyn Logic) -> bool {
        let (Some(current), (1.., _)) = (self.at.logic(), self.table.under_way()) else { return false };
        !check_successor(current.describe(), next.describe()).is_empty()
    }

    fn answer_activation(&mut self, result: Result<Journal, String>, out: &mut Actions) {
        if let Some(wanted) = self.activation.take() {
            out.tell(OneshotReply::Activated(wanted.reply, result));
        }
    }

    /// Has the rows migrated that stand at the journal's head. Returns what is ready at once: that no row changes.
    pub(super) fn begin_migration(
        &mut self,
        logic: &Arc<dyn Logic>,
        activation: Activation,
        invariants: Invariants,
        out: &mut Actions,
    ) -> Result<Option<Migrated>, MigrationError> {
        assert!(!self.is_migrating, "one file, one migration");
        let journal = self.at.journal();
        let key = MigrationKey { activation, parent: journal.head };
        if !Migration::new(logic.as_ref(), journal.schema)?.is_needed() {
            return Ok(Some(Migrated { key, digest: Digest::ZERO, rows: None }));
        }
        // The next file is written at the same path, so the old one is removed first.
        self.migrated = None;
        self.is_migrating = true;
        let (logic, view, store) = (logic.clone(), self.store.read(), self.store.clone());
        let job = MigrationJob { key, logic, invariants, schema: journal.schema, view, store };
        out.push(Action::Migrate(Box::new(job)));
        Ok(None)
    }
}
