//! What a replica has whether it leads or not: its place in the journal, those who wait at it, and its rows, ids
//! and clocks.
//!
//! In: what each part is made of. Out: the parts, for the stages that every replica runs and for the leader's. The
//! rules of each part are in its own file, and so are the methods of each stage. This file does not know what a leader
//! has.

use std::sync::Arc;

use crate::ids::{Digest, Micros, NodeId, PartitionId};
use crate::machine::entry::{EntryKind, Header};
use crate::machine::journal::Journal;
use crate::machine::logic::Logic;
use crate::machine::modules::Modules;
use crate::partition::canonical::Canonical;
use crate::partition::journal_state::JournalState;
use crate::partition::migrate::Migrated;
use crate::partition::now::{Environment, Now};
use crate::partition::recorded::RecordedEntries;
use crate::partition::requests::ActivationRequest;
use crate::partition::saga_table::SagaTable;
use crate::partition::timeline::Timeline;
use crate::partition::waiters::Waiters;
use crate::store::{IdIndex, Store, StoreError};

pub(super) struct Base {
    pub partition: PartitionId,
    pub node: NodeId,
    /// The labels of this partition's metrics: machine and partition.
    pub labels: [(&'static str, String); 2],
    pub at: JournalState,
    pub table: SagaTable,
    pub waiters: Waiters,
    pub activation: Option<ActivationRequest>,
    /// What this node has migrated for an activation that is not applied yet.
    pub migrated: Option<Migrated>,
    /// Whether rows are migrated beside the executor. There is one file for them, so nothing else is migrated then.
    pub is_migrating: bool,
    /// While set, no command on several partitions begins.
    pub is_draining: bool,
    /// The size of the next batch: small if the module cannot be given many commands at once.
    pub batch_commands_max: usize,
    pub store: Arc<Store>,
    pub ids: Arc<IdIndex>,
    pub entries: Arc<RecordedEntries>,
    pub canonical: Arc<Canonical>,
    pub timeline: Arc<Timeline>,
    pub environment: Environment,
    pub modules: Arc<dyn Modules>,
}

impl Base {
    /// Looks the world up, at this moment.
    pub fn now(&self) -> Now {
        self.environment.now()
    }

    /// Whether so much waits to be written that nothing more should begin.
    ///
    /// # Errors
    /// It is so, and the writer of the rows or of the ids has no space, or has stopped.
    pub fn is_behind(&self) -> Result<bool, StoreError> {
        Ok(self.store.is_behind()? || self.ids.is_behind()?)
    }

    /// The present time of the journal as far as it is applied.
    pub fn present(&self, now: &Now) -> Micros {
        now.present(&self.timeline, self.at.journal().time)
    }

    /// The header of an entry after `journal` that the module decides.
    pub fn header(&self, kind: EntryKind, journal: &Journal, logic: &dyn Logic, now: &Now) -> Header {
        Header {
            seed: rand::random(),
            planner: logic.id(),
            decider: logic.id(),
            ..self.header_without_module(kind, journal, now)
        }
    }

    pub fn header_without_module(&self, kind: EntryKind, journal: &Journal, now: &Now) -> Header {
        Header {
            kind,
            index: journal.index.next(),
            time: journal.next_time(now.present(&self.timeline, journal.time)),
            parent: journal.head,
            seed: [0; 32],
            planner: journal.module,
            decider: journal.module,
            digest: Digest::ZERO,
        }
    }
}
