//! Where a replica stands: the last applied entry, the journal after it, the members, and the module that decides next.
//!
//! In: entries that were applied. Out: the place and the meta row that says it. Every replica has this.
//! This file does not know what an entry changes in the rows.

use std::sync::Arc;

use bytes::Bytes;

use crate::ids::LogIndex;
use crate::log::EntryId;
use crate::machine::journal::Journal;
use crate::machine::logic::Logic;
use crate::store::Meta;

pub(super) struct JournalState {
    applied: Option<EntryId>,
    membership: Option<Bytes>,
    journal: Journal,
    /// Whether void entries have followed the last effective one.
    ends_with_void: bool,
    /// The module that decides at `journal`.
    logic: Option<Arc<dyn Logic>>,
}

impl JournalState {
    pub fn new(
        applied: Option<EntryId>,
        membership: Option<Bytes>,
        journal: Journal,
        logic: Option<Arc<dyn Logic>>,
    ) -> Self {
        Self { applied, membership, journal, ends_with_void: false, logic }
    }

    pub fn journal(&self) -> Journal {
        self.journal
    }

    pub fn logic(&self) -> Option<&Arc<dyn Logic>> {
        self.logic.as_ref()
    }

    /// Whether the last entries of the log had no effect. As long as nothing effective follows, an auditor cannot tell
    /// them from what remains when an entry is removed.
    pub fn ends_with_void(&self) -> bool {
        self.ends_with_void
    }

    pub fn on_void(&mut self) {
        self.ends_with_void = true;
    }

    /// Raft's index of the last applied entry.
    pub fn log_index(&self) -> Option<LogIndex> {
        self.applied.map(|applied| applied.index)
    }

    /// The meta row of the state after this entry of the log.
    pub fn meta(&self, id: EntryId, journal: &Journal) -> Meta {
        meta_of(id, journal, self.membership.as_ref())
    }

    pub fn on_membership(&mut self, membership: Bytes) {
        self.membership = Some(membership);
    }

    /// Another module decides from the next entry on.
    pub fn on_activated(&mut self, logic: Arc<dyn Logic>) {
        self.logic = Some(logic);
    }

    /// An entry of the log is applied; the journal stands at `journal` after it.
    pub fn advance(&mut self, id: EntryId, journal: Journal) {
        self.check_next(id);
        self.applied = Some(id);
        self.ends_with_void &= journal.index == self.journal.index;
        self.journal = journal;
    }

    /// Asserts that this entry of the log is the next one.
    pub fn check_next(&self, id: EntryId) {
        if let Some(applied) = self.applied {
            assert!(id.index == applied.index.next(), "consensus hands entries over in order, without a gap");
        }
    }
}

/// The meta row of a state in which this entry is the last one that is applied.
pub fn meta_of(applied: EntryId, journal: &Journal, membership: Option<&Bytes>) -> Meta {
    Meta {
        applied,
        journal: journal.index,
        head: journal.head,
        time: journal.time,
        module: journal.module,
        schema: journal.schema,
        activation: journal.activation,
        membership: membership.cloned(),
    }
}

/// Where the journal of a state stands.
pub fn journal_of(meta: &Meta) -> Journal {
    let Meta { journal: index, head, time, module, schema, activation, .. } = *meta;
    Journal { index, head, time, module, schema, activation }
}
