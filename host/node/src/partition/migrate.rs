//! A migration, carried out beside the executor: the rows of one moment are brought to the schema of a module, into a
//! file beside the state.
//!
//! In: a module, and a view of the rows. Out: the rows that change, in a file, with their digest; or what hinders.
//! Memory never holds more of these rows than those of one entity. There is one file, so there is one job at a time.
//! This file does not know why the rows are migrated, nor when they are put in place.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::ids::{Digest, Head};
use crate::machine::entry::Activation;
use crate::machine::logic::Logic;
use crate::machine::migration::{MigratedDigest, Migration, MigrationError};
use crate::store::{RowsFile, Store, StoreError, View, WrittenRows};

/// What is migrated. Migrations of the same key have the same rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrationKey {
    pub activation: Activation,
    /// The head of the journal that has the rows.
    pub parent: Head,
}

/// Rows that are migrated, but not yet put in place.
pub struct Migrated {
    pub key: MigrationKey,
    pub digest: Digest,
    /// `None` if no row changes.
    pub rows: Option<WrittenRows>,
}

/// Why the rows were not migrated.
pub enum Hindrance {
    /// The module failed.
    Module(MigrationError),
    Store(StoreError),
    /// The executor has ended.
    Ended,
}

/// Whether the module is also asked to check its invariants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invariants {
    Checked,
    /// The leader has checked them.
    Trusted,
}

/// A migration that is to be carried out.
pub struct MigrationJob {
    pub key: MigrationKey,
    pub logic: Arc<dyn Logic>,
    pub invariants: Invariants,
    /// The schema of the rows.
    pub schema: u32,
    pub view: View,
    pub store: Arc<Store>,
}

/// How a migration has ended.
pub struct MigrationEnd {
    pub key: MigrationKey,
    pub invariants: Invariants,
    pub result: Result<Migrated, Hindrance>,
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

impl MigrationJob {
    /// Waits for the module and the disk, perhaps for minutes. Ends soon once `is_ended` is set.
    pub fn run(self, is_ended: &AtomicBool) -> MigrationEnd {
        MigrationEnd { key: self.key, invariants: self.invariants, result: self.migrate(is_ended) }
    }

    fn migrate(&self, is_ended: &AtomicBool) -> Result<Migrated, Hindrance> {
        let mut migration = match self.invariants {
            Invariants::Checked => Migration::checked(self.logic.as_ref(), self.schema)?,
            Invariants::Trusted => Migration::new(self.logic.as_ref(), self.schema)?,
        };
        let mut digest = MigratedDigest::default();
        let mut file = self.store.begin_rows()?;
        let mut put = |file: &mut RowsFile<'_>, rows: Vec<(Vec<u8>, Option<Vec<u8>>)>| {
            rows.iter().try_for_each(|(key, row)| {
                digest.add(key, row.as_deref());
                file.put(key, row.as_deref())
            })
        };
        let mut hindered = None;
        self.view.visit(&[], |key, row| {
            let migrated = if is_ended.load(Ordering::Relaxed) {
                Err(Hindrance::Ended)
            } else {
                migration.row(key, row).map_err(Hindrance::Module)
            };
            let written = migrated.and_then(|()| Ok(put(&mut file, migration.take())?));
            hindered = written.err();
            if hindered.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if let Some(hindrance) = hindered {
            return Err(hindrance);
        }
        put(&mut file, migration.finish()?)?;
        let rows = file.finish()?;
        Ok(Migrated { key: self.key, digest: digest.finish(), rows })
    }
}
