//! Where a replay reads from: the journals of a machine's partitions, and the modules that decided them.
//!
//! In: a data folder, or what a test made up. Out: entries in Raft's order. It does not know what is done with them.

use std::sync::Arc;

use crate::audit::error::AuditError;
use crate::audit::source::{PartitionSource, ReadEntry, Source};
use crate::ids::{Micros, ModuleId, PartitionId, Position};
use crate::machine::entry::Entry;
use crate::machine::journal::{Journal, Verdict};
use crate::machine::logic::Logic;
use crate::registry::{GuardedLogic, Stop};

/// The history of one machine.
pub trait History: Sync {
    /// The cluster's uuid.
    fn cluster(&self) -> String;

    fn machine(&self) -> &str;

    fn partition_count(&self) -> u32;

    /// Reads and checks one partition's log; slow, and safe to call from several threads.
    fn open(&self, partition: PartitionId) -> Result<Box<dyn PartitionJournal>, AuditError>;

    /// Loads a module that decided; the error says what is missing.
    fn load(&self, id: ModuleId) -> Result<Arc<dyn Logic>, String>;
}

/// One partition's journal.
pub trait PartitionJournal: Send + Sync {
    fn genesis(&self) -> Journal;

    /// About how many bytes its entries have, to show progress.
    fn byte_count(&self) -> u64;

    /// Where it ends now. It may grow while it is read; a journal that does not grow needs no end.
    fn end(&self) -> u64 {
        u64::MAX
    }

    /// The entries that existed when [`PartitionJournal::end`] returned `end`.
    fn entries_until(&self, _end: u64) -> Box<dyn Iterator<Item = Result<Entry, AuditError>> + '_> {
        self.entries()
    }

    /// In Raft's order, void ones included.
    fn entries(&self) -> Box<dyn Iterator<Item = Result<Entry, AuditError>> + '_>;
}

/// A machine in a data folder.
pub struct FolderHistory<'s> {
    source: &'s Source,
    machine: String,
    partition_count: u32,
}

impl<'s> FolderHistory<'s> {
    pub fn new(source: &'s Source, machine: &str) -> Result<Self, AuditError> {
        source.machine(machine)?;
        let count = source.partitions(machine)?.len();
        let partition_count = u32::try_from(count).expect("at most one partition per slot");
        Ok(Self { source, machine: machine.to_owned(), partition_count })
    }
}

impl History for FolderHistory<'_> {
    fn cluster(&self) -> String {
        self.source.cluster()
    }

    fn machine(&self) -> &str {
        &self.machine
    }

    fn partition_count(&self) -> u32 {
        self.partition_count
    }

    fn open(&self, partition: PartitionId) -> Result<Box<dyn PartitionJournal>, AuditError> {
        Ok(Box::new(self.source.partition(&self.machine, partition)?))
    }

    fn load(&self, id: ModuleId) -> Result<Arc<dyn Logic>, String> {
        self.source.load(id)
    }
}

/// A history whose modules are limited like the candidate: one of them may be hostile, too.
pub struct GuardedHistory<'h> {
    history: &'h dyn History,
    stop: Arc<Stop>,
}

impl<'h> GuardedHistory<'h> {
    pub fn new(history: &'h dyn History, stop: &Arc<Stop>) -> Self {
        Self { history, stop: stop.clone() }
    }
}

impl History for GuardedHistory<'_> {
    fn cluster(&self) -> String {
        self.history.cluster()
    }

    fn machine(&self) -> &str {
        self.history.machine()
    }

    fn partition_count(&self) -> u32 {
        self.history.partition_count()
    }

    fn open(&self, partition: PartitionId) -> Result<Box<dyn PartitionJournal>, AuditError> {
        self.history.open(partition)
    }

    fn load(&self, id: ModuleId) -> Result<Arc<dyn Logic>, String> {
        Ok(GuardedLogic::around_recorded(self.history.load(id)?, &self.stop))
    }
}

impl PartitionJournal for PartitionSource {
    fn genesis(&self) -> Journal {
        self.genesis
    }

    fn byte_count(&self) -> u64 {
        Self::byte_count(self)
    }

    fn end(&self) -> u64 {
        Self::end(self)
    }

    fn entries_until(&self, end: u64) -> Box<dyn Iterator<Item = Result<Entry, AuditError>> + '_> {
        let is_there =
            move |read: &Result<ReadEntry, AuditError>| read.as_ref().map_or(true, |read| read.number <= end);
        Box::new(Self::entries(self).take_while(is_there).map(|read| Ok(read?.entry)))
    }

    fn entries(&self) -> Box<dyn Iterator<Item = Result<Entry, AuditError>> + '_> {
        Box::new(Self::entries(self).map(|read| Ok(read?.entry)))
    }
}

/// The time of the entry that has a position.
///
/// # Errors
/// The position is not in this history, or the history cannot be read.
pub fn time_of(history: &dyn History, position: Position) -> Result<Micros, AuditError> {
    let machine = history.machine().to_owned();
    if history.partition_count() <= position.partition.0 {
        return Err(AuditError::NoPartition { machine, partition: position.partition.0 });
    }
    let opened = history.open(position.partition)?;
    let mut journal = opened.genesis();
    for entry in opened.entries() {
        let stream = || format!("{machine}/{}", position.partition);
        let verdict = journal.judge(&entry?);
        let verdict = verdict.map_err(|error| AuditError::Replay { stream: stream(), source: error.into() })?;
        if let Verdict::Effective(after) = verdict {
            journal = after;
        }
        if journal.index == position.index {
            let is_here = journal.position(position.partition, position.n) == position;
            return if is_here { Ok(journal.time) } else { Err(AuditError::Gone) };
        }
    }
    Err(AuditError::Gone)
}
