//! Activation: from a certain entry on another module decides, and the same entry migrates the rows to its schema.
//!
//! ```text
//! leader: rows ─▶ migrate, entity by entity ─▶ file beside the state, digest ─▶ entry ─▶ committed ─▶ file in place
//! others: entry ─▶ migrate ─▶ the same file ─▶ its digest equals the entry's? ─▶ file in place
//! ```
//! In: the activation that `system` has decided, once nothing is under way. Out: an entry with the digest of the rows
//! that change. Memory never holds more of these rows than those of one entity. No reader sees half of them: the rows
//! and the place in the log are put in place together. A crash finds both or neither; if neither, the entry is applied
//! again. An activation whose rows cannot be migrated is not proposed.

use std::ops::ControlFlow;

use crate::guest::check_successor;
use crate::ids::{Digest, Head};
use crate::machine::entry::{Activation, Entry, EntryKind, Header};
use crate::machine::logic::Logic;
use crate::machine::migration::{MigratedDigest, Migration, MigrationError};
use crate::machine::replica::{AppliedEntry, ApplyError};
use crate::partition::actions::{Actions, OneshotReply};
use crate::partition::base::Base;
use crate::partition::error::{HaltReason, store_failed};
use crate::partition::leader::LeaderState;
use crate::store::{Meta, RowsFile, StoreError, WrittenRows};

/// Rows that are migrated, but not yet put in place.
pub struct Migrated {
    activation: Activation,
    /// The head of the journal on which they were computed.
    parent: Head,
    digest: Digest,
    /// `None` if no row changes.
    rows: Option<WrittenRows>,
}

/// Why the rows were not migrated.
enum Hindrance {
    /// The module failed.
    Module(MigrationError),
    Store(StoreError),
}

/// Whether the module is also asked to check its invariants.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Invariants {
    Checked,
    /// The leader has checked them.
    Trusted,
}

impl From<StoreError> for Hindrance {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<MigrationError> for Hindrance {
    fn from(error: MigrationError) -> Self {
        Self::Module(error)
    }
}

impl LeaderState {
    /// Proposes the activation that was asked for, if there is one and nothing else is under way. Returns `true` if
    /// nothing else may be decided before the activation is applied.
    pub(super) fn propose_activation(&mut self, base: &mut Base, out: &mut Actions) -> Result<bool, HaltReason> {
        let Some(wanted) = &base.activation else { return Ok(false) };
        let activation = wanted.activation;
        let is_done = base.at.logic().is_some() && activation.number <= base.at.journal().activation;
        if !is_done && base.must_wait(activation) {
            // What is under way continues first; the activation is proposed afterwards.
            return Ok(false);
        }
        if !is_done && !self.speculation.is_empty() {
            return Ok(true);
        }
        let refused = if is_done {
            Ok(base.at.journal())
        } else {
            // The next file is written at the same path, so drop the old one first.
            base.migrated = None;
            match base.prepare_activation(activation)? {
                Ok(migrated) => {
                    // Loading and migrating may have taken minutes.
                    let now = base.now();
                    let header = base.header_without_module(EntryKind::Activate, &base.at.journal(), &now);
                    let header = Header { digest: migrated.digest, ..header };
                    base.migrated = Some(migrated);
                    self.propose(base, Entry::activate(header, activation), Vec::new(), Vec::new(), out);
                    return Ok(true);
                }
                Err(reason) => Err(reason),
            }
        };
        if let Some(wanted) = base.activation.take() {
            out.tell(OneshotReply::Activated(wanted.reply, refused));
        }
        Ok(false)
    }
}

impl Base {
    /// A module that is not a successor of the current one may not understand what is under way between partitions.
    fn must_wait(&self, activation: Activation) -> bool {
        let (Some(current), (1.., _)) = (self.at.logic(), self.table.under_way()) else { return false };
        let next = self.modules.find_here(activation.module);
        next.is_some_and(|next| !check_successor(current.describe(), next.describe()).is_empty())
    }

    /// The rows that the activation changes, or the reason why it is not possible.
    fn prepare_activation(&self, activation: Activation) -> Result<Result<Migrated, String>, HaltReason> {
        let logic = match self.modules.load(activation.module) {
            Ok(logic) => logic,
            Err(reason) => return Ok(Err(reason)),
        };
        match self.migrate(logic.as_ref(), activation, Invariants::Checked) {
            Ok(migrated) => Ok(Ok(migrated)),
            Err(Hindrance::Module(error)) => Ok(Err(error.to_string())),
            Err(Hindrance::Store(error)) if error.is_passing() => Ok(Err(error.to_string())),
            Err(Hindrance::Store(error)) => Err(store_failed(error)),
        }
    }

    fn migrate(
        &self,
        logic: &dyn Logic,
        activation: Activation,
        invariants: Invariants,
    ) -> Result<Migrated, Hindrance> {
        let mut migration = match invariants {
            Invariants::Checked => Migration::checked(logic, self.at.journal().schema)?,
            Invariants::Trusted => Migration::new(logic, self.at.journal().schema)?,
        };
        let parent = self.at.journal().head;
        if !migration.is_needed() {
            return Ok(Migrated { activation, parent, digest: Digest::ZERO, rows: None });
        }
        let mut digest = MigratedDigest::default();
        let mut file = self.store.begin_rows()?;
        let mut put = |file: &mut RowsFile<'_>, rows: Vec<(Vec<u8>, Option<Vec<u8>>)>| {
            rows.iter().try_for_each(|(key, row)| {
                digest.add(key, row.as_deref());
                file.put(key, row.as_deref())
            })
        };
        let mut hindered = None;
        self.store.read().visit(&[], |key, row| {
            let migrated = migration.row(key, row).map_err(Hindrance::Module);
            let written = migrated.and_then(|()| Ok(put(&mut file, migration.take())?));
            hindered = written.err();
            if hindered.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if let Some(hindrance) = hindered {
            return Err(hindrance);
        }
        put(&mut file, migration.finish()?)?;
        let rows = file.finish()?;
        Ok(Migrated { activation, parent, digest: digest.finish(), rows })
    }

    /// Applies an activation on any replica and stores the rows it changes. The leader already has the rows, unless
    /// another entry intervened.
    pub(super) fn apply_activation(&mut self, entry: Entry, meta: Meta) -> Result<AppliedEntry, HaltReason> {
        let (index, parent, expected) = (entry.header().index, entry.header().parent, entry.header().digest);
        let activation = entry.activation().map_err(|source| HaltReason::Entry { index: index.0, source })?;
        let load = self.modules.load(activation.module);
        let logic = load.map_err(|reason| HaltReason::Module { id: activation.module, reason })?;
        let own = self.migrated.take().filter(|own| own.activation == activation && own.parent == parent);
        let migrated = match own {
            Some(own) => own,
            None => {
                let migrated = self.migrate(logic.as_ref(), activation, Invariants::Trusted);
                migrated.map_err(|hindrance| match hindrance {
                    Hindrance::Module(source) => HaltReason::Apply(ApplyError::Migration { index, source }),
                    Hindrance::Store(error) => store_failed(error),
                })?
            }
        };
        let found = migrated.digest;
        if found != expected {
            return Err(HaltReason::Apply(ApplyError::Digest { index, expected, found }));
        }
        let count = migrated.rows.as_ref().map_or(0, WrittenRows::count);
        match &migrated.rows {
            None => self.store.apply([], meta, entry.payload().len() as u64),
            // If the disk is full, the partition is reopened and the entry applied again, until there is room.
            Some(rows) => self.store.replace(rows, &meta).map_err(store_failed)?,
        }
        tracing::info!(
            partition = %self.partition, module = %activation.module.short(), migrated = count, "module activated"
        );
        self.at.on_activated(logic);
        self.is_draining = false;
        Ok(AppliedEntry::without_writes(entry))
    }
}
