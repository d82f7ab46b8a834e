//! An isolated walk that begins in the middle of a journal and continues with entries as they are applied.
//!
//! In: the rows of a partition at one moment, then its entries from there on. Out: counts of differences, and the first
//! of each class. The rows of an entity are taken from that moment when the entity first occurs, so memory holds no
//! more than what was touched since. It reads no log, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use statehouse_abi::key::{LOCAL, key};

use crate::audit::error::AuditError;
use crate::audit::replay::class::Class;
use crate::audit::replay::error::ReplayFault;
use crate::audit::replay::history::History;
use crate::audit::replay::isolated::Walk;
use crate::audit::replay::plans::EntityPlaces;
use crate::audit::replay::report::Difference;
use crate::audit::replay::request::Request;
use crate::audit::replay::state::PartitionRows;
use crate::audit::replay::tally::Tally;
use crate::ids::PartitionId;
use crate::machine::entry::{Entry, EntryKind};
use crate::machine::journal::Journal;
use crate::machine::logic::Logic;
use crate::machine::migration::{Migration, MigrationError};
use crate::partition::ReadPoint;
use crate::saga::status::ENTITY;
use crate::store::KeyRow;

/// A partition that is followed from a moment on.
pub struct LivePartition<'a> {
    walk: Walk<'a>,
    point: ReadPoint,
    candidate: Arc<dyn Logic>,
    loaded: BTreeSet<Vec<u8>>,
    bytes: usize,
}

/// What was found so far.
#[derive(Default)]
pub struct LiveFindings {
    pub decisions: u64,
    pub classes: BTreeMap<Class, u64>,
    pub first: BTreeMap<Class, Difference>,
}

impl LiveFindings {
    fn of(tally: Tally) -> Self {
        Self {
            decisions: tally.counts.decisions,
            classes: tally.classes.into_iter().map(|(class, found)| (class, found.count)).collect(),
            first: tally.first.into_iter().map(|(class, (_, difference))| (class, difference)).collect(),
        }
    }

    /// Adds the finds of a later part of the same journal, or of another partition.
    pub fn add(&mut self, later: Self) {
        self.decisions += later.decisions;
        for (class, count) in later.classes {
            *self.classes.entry(class).or_default() += count;
        }
        for (class, difference) in later.first {
            self.first.entry(class).or_insert(difference);
        }
    }
}

impl<'a> LivePartition<'a> {
    /// Begins at a moment; `recorder` is the module that decides then.
    pub fn begin(
        history: &'a dyn History,
        request: &'a Request,
        here: PartitionId,
        point: ReadPoint,
        recorder: Arc<dyn Logic>,
    ) -> Result<Self, ReplayFault> {
        let places = EntityPlaces { here, count: history.partition_count() };
        let mut walk = Walk::new(history, request, places, point.journal);
        let is_migrating = recorder.describe().schema != request.candidate.describe().schema;
        walk.own = is_migrating.then(PartitionRows::default);
        walk.recorder = Some(recorder);
        let (loaded, candidate) = (BTreeSet::new(), request.candidate.clone());
        let mut live = Self { walk, point, candidate, loaded, bytes: 0 };
        // Loads what is in flight between partitions, which the host itself reads.
        let in_flight = live.scan(ENTITY.as_ref())?;
        in_flight.iter().for_each(|(key, row)| live.walk.recorded.put(key, Some(row)));
        Ok(live)
    }

    pub fn journal(&self) -> &Journal {
        &self.walk.journal
    }

    /// Bytes of rows that were taken so far; entries have changed about as much in them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the next entry in Raft's order. Returns `false` if it cannot continue because another module becomes
    /// active.
    pub fn on_entry(&mut self, entry: &Entry) -> Result<bool, ReplayFault> {
        if entry.header().parent != self.walk.journal.head {
            return Ok(true);
        }
        if entry.header().kind == EntryKind::Activate {
            return Ok(false);
        }
        if let Some(batch) = entry.batch().filter(|_| entry.header().kind == EntryKind::Batch) {
            self.load(LOCAL)?;
            for at in 0..batch.ops.op_count() {
                self.load(batch.ops.op(at).entity)?;
            }
        }
        self.walk.on_entry(entry)?;
        Ok(true)
    }

    /// What was found since the last call.
    pub fn take(&mut self) -> LiveFindings {
        LiveFindings::of(std::mem::take(&mut self.walk.tally))
    }

    fn scan(&self, entity: &[u8]) -> Result<Vec<KeyRow>, ReplayFault> {
        let found = self.point.view.scan(&key(entity, b""), None, usize::MAX);
        found.map_err(|error| AuditError::Live(error.to_string()).into())
    }

    /// Takes an entity's rows as they were at the beginning: no entry has touched them since.
    fn load(&mut self, entity: &[u8]) -> Result<(), ReplayFault> {
        if self.loaded.contains(entity) {
            return Ok(());
        }
        let rows = self.scan(entity)?;
        self.loaded.insert(entity.to_vec());
        self.bytes += rows.iter().map(|(key, row)| key.len() + row.len()).sum::<usize>();
        rows.iter().for_each(|(key, row)| self.walk.recorded.put(key, Some(row)));
        let Some(own) = &mut self.walk.own else { return Ok(()) };
        rows.iter().for_each(|(key, row)| own.put(key, Some(row)));
        let failed = |error: MigrationError| ReplayFault::from(AuditError::Live(error.to_string()));
        let mut migration = Migration::new(self.candidate.as_ref(), self.point.journal.schema).map_err(failed)?;
        if migration.is_needed() {
            rows.iter().try_for_each(|(key, row)| migration.row(key, row)).map_err(failed)?;
            let migrated = migration.finish().map_err(failed)?;
            migrated.iter().for_each(|(key, row)| own.put(key, row.as_deref()));
        }
        Ok(())
    }
}
