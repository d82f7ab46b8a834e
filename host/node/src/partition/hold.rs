//! Holds: why an executor takes no input but the one that ends the hold, and what is to be done then.
//!
//! In: an entry that cannot be applied to its end at once, or too much that waits to be written. Out: the same, for
//! the input that ends the hold. A hold is not a wait: the thread is free, and the partition can be stopped. This file
//! does not know how a hold ends.

use std::sync::Arc;

use crate::log::EntryId;
use crate::machine::entry::{Activation, Entry};
use crate::machine::journal::Journal;
use crate::machine::logic::Logic;
use crate::partition::migrate::MigrationKey;
use crate::store::Meta;

/// Why other inputs wait.
pub(super) enum Hold {
    /// Too much of what others have proposed waits to be written. A leader never holds for that: it proposes nothing
    /// meanwhile, and what it has proposed is little.
    Room,
    /// The module of this activation is loaded.
    Module(Box<PendingActivation>),
    /// The rows are migrated; or an earlier migration must end first, because both write the same file.
    Migration(Box<PendingActivation>, Arc<dyn Logic>),
    /// The migrated rows are put in place.
    Rows(Box<PendingActivation>, Arc<dyn Logic>),
}

/// An activation that is committed, and not applied yet.
pub(super) struct PendingActivation {
    pub id: EntryId,
    pub entry: Entry,
    pub activation: Activation,
    /// The journal after it, and the meta row that says so.
    pub after: Journal,
    pub meta: Meta,
    /// How many rows it changes, once that is known.
    pub row_count: u64,
}

impl PendingActivation {
    pub fn key(&self) -> MigrationKey {
        MigrationKey { activation: self.activation, parent: self.entry.header().parent }
    }
}
