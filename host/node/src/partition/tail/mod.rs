//! The tail of a partition: its effective entries in order, from any place of its journal, and then each new one as it
//! is applied here.
//!
//! ```text
//! Tail::open(&partition, Start::After(position), deadline) ─▶ next().await ─▶ TailEntry ─▶ commands() ─▶ events(), …
//! ```
//! In: a place in the journal. Out: the entries that follow it, each once. At the end it waits to be notified; it never
//! polls. Void entries and the records of consensus itself are left out. It reads the log on threads that may block and
//! never asks the executor for anything; it holds at most [`limits::TAIL_READ_BYTES`] and one entry. It knows neither
//! what events mean nor who reads.

mod entry;
mod reader;
#[cfg(test)]
pub(super) mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

pub use entry::{TailCommand, TailEntry, TailEvent};
pub use reader::{Bound, Gap, Place, Read, Reader, log_index_of};
use reader::{from_elsewhere, head8};

use crate::consensus::{ConsensusError, StopReason};
use crate::ids::{JournalIndex, PartitionId, Position};
use crate::limits;
use crate::machine::journal::Journal;
use crate::machine::logic::Logic;
use crate::machine::modules::Modules;
use crate::partition::error::{HaltReason, PartitionError};
use crate::partition::handle::Partition;
use crate::partition::status::{Progress, RunState};

/// Where a tail begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first entry of the journal.
    Genesis,
    /// With the entry that is applied next.
    Now,
    /// After the entry of this position, whatever its `n`. Position 0 is genesis.
    After(Position),
    /// With the entry of this position: for a reader that has read only some of its events.
    At(Position),
}

/// The entries that follow a place in a partition's journal. It does not keep the partition open: once that is closed,
/// [`Tail::next`] says so. To continue, a reader opens another tail [`Start::After`] [`Tail::position`], on this node's
/// next replica or on another node.
pub struct Tail {
    reader: Arc<Reader>,
    modules: Arc<dyn Modules>,
    progress: watch::Receiver<Progress>,
    state: watch::Receiver<RunState>,
    /// The place after `ready`.
    place: Place,
    ready: VecDeque<TailEntry>,
    /// The position of the last entry that was returned.
    position: Position,
}

/// How much is read ahead.
const AHEAD: Bound = Bound { bytes: limits::TAIL_READ_BYTES, entries: limits::TAIL_READ_ENTRIES };

impl Tail {
    /// Waits until the partition has applied what `start` names, but not past `deadline`.
    ///
    /// # Errors
    /// * [`PartitionError::OtherHistory`]: the position is not in this journal: it is from before a restore, or from
    ///   another cluster.
    /// * [`PartitionError::Released`]: what follows is no longer on this node. [`Tail::next`] may say so too, if the
    ///   reader was so slow that entries were released before it read them. What is in the archive is read there.
    /// * [`PartitionError::Deadline`]: this replica has not reached the position in time.
    /// * [`PartitionError::Halted`] and others if the partition no longer runs.
    pub async fn open(partition: &Partition, start: Start, deadline: Instant) -> Result<Self, PartitionError> {
        let (parts, reader) = (&partition.parts, partition.reader());
        let (progress, state) = (parts.board.progress.subscribe(), parts.board.state.subscribe());
        Self::begin(reader, parts.modules.clone(), &parts.genesis, (progress, state), start, deadline).await
    }

    async fn begin(
        reader: Reader,
        modules: Arc<dyn Modules>,
        genesis: &Journal,
        (progress, state): (watch::Receiver<Progress>, watch::Receiver<RunState>),
        start: Start,
        deadline: Instant,
    ) -> Result<Self, PartitionError> {
        let place = match start {
            Start::Genesis => Place::after(genesis),
            Start::Now => {
                let now = *progress.borrow();
                Place { log: Some((now.log_index.next(), now.journal.head)), ..Place::after(&now.journal) }
            }
            Start::After(at) | Start::At(at) => Place { index: at.index, head8: at.head8, log: None },
        };
        let partition = reader.partition;
        let position = Position { partition, index: place.index, n: 0, head8: place.head8 };
        if let Start::After(at) | Start::At(at) = start
            && at.partition != partition
        {
            return Err(PartitionError::OtherHistory(at));
        }
        let (reader, ready) = (Arc::new(reader), VecDeque::new());
        let mut tail = Self { reader, modules, progress, state, place, ready, position };
        tokio::time::timeout_at(deadline, tail.reach(place.index)).await.map_err(|_| PartitionError::Deadline)??;
        match start {
            Start::At(at) if at.index != genesis.index => tail.step_back(at).await?,
            Start::At(_) | Start::Genesis | Start::Now | Start::After(_) => {}
        }
        if tail.place.log.is_none() {
            tail.fill().await?;
        }
        Ok(tail)
    }

    /// The next entry, as soon as it is applied here. The future may be dropped and `next` called again: nothing is
    /// lost.
    ///
    /// # Errors
    /// See [`Tail::open`]; the tail keeps its place.
    pub async fn next(&mut self) -> Result<TailEntry, PartitionError> {
        loop {
            if let Some(entry) = self.next_ready() {
                return Ok(entry);
            }
            let applied = self.progress.borrow_and_update().log_index;
            let is_behind = self.place.log.is_none_or(|(next, _)| next <= applied);
            if !is_behind || !self.fill().await? {
                self.wait().await?;
            }
        }
    }

    /// The next entry if it was read already: for a reader that handles several at once and never waits for more.
    pub fn next_ready(&mut self) -> Option<TailEntry> {
        let entry = self.ready.pop_front()?;
        self.position = entry.position();
        Some(entry)
    }

    pub fn partition(&self) -> PartitionId {
        self.reader.partition
    }

    /// Whether the partition still runs, so that more entries may follow.
    pub fn is_open(&self) -> bool {
        matches!(*self.state.borrow(), RunState::Running)
    }

    /// Where the next entry follows: the last position of the entry that was returned last, or where the tail began.
    pub fn position(&self) -> Position {
        self.position
    }

    /// How many entries are applied here that were not returned yet.
    pub fn lag(&self) -> u64 {
        self.position.index.distance_to(self.progress.borrow().journal.index)
    }

    /// The module that decided an entry. It renders the entry's events, and knows its label (`describe().version`).
    ///
    /// # Errors
    /// It is not on this node and cannot be fetched from another node now.
    pub async fn decider(&self, entry: &TailEntry) -> Result<Arc<dyn Logic>, PartitionError> {
        let id = entry.decider();
        if let Some(logic) = self.modules.find_loaded(id) {
            return Ok(logic);
        }
        let modules = self.modules.clone();
        let loaded = blocking(move || modules.load(id)).await?;
        loaded.map_err(|reason| PartitionError::Halted(HaltReason::Module { id, reason }))
    }

    /// Waits until this entry is applied.
    async fn reach(&mut self, index: JournalIndex) -> Result<(), PartitionError> {
        while self.progress.borrow_and_update().journal.index < index {
            self.wait().await?;
        }
        Ok(())
    }

    /// Waits until more is applied than at the last look at `progress`.
    async fn wait(&mut self) -> Result<(), PartitionError> {
        let (progress, state) = (&mut self.progress, &mut self.state);
        let stopped = tokio::select! {
            biased;
            changed = progress.changed() => match changed {
                Ok(()) => return Ok(()),
                Err(_) => None,
            },
            state = state.wait_for(|state| !matches!(state, RunState::Running)) =>
                state.ok().map(|state| state.clone()),
        };
        Err(stopped.map_or_else(|| RunState::Closed.reason(), |state| state.reason()))
    }

    /// Moves before the entry of a position, so that the whole entry is read again.
    async fn step_back(&mut self, at: Position) -> Result<(), PartitionError> {
        let (reader, applied) = (self.reader.clone(), *self.progress.borrow());
        let found = blocking(move || reader.find(at.index, &applied)).await?;
        let found = match (found, &self.reader.past) {
            (Err(error @ PartitionError::Released { .. }), Some(past)) => {
                let before = JournalIndex(at.index.0 - 1);
                Arc::new(from_elsewhere(past.entries_after(before, 0).await?.into_iter().next().ok_or(error)?))
            }
            (found, _) => found?,
        };
        if head8(found.head()) != at.head8 {
            return Err(PartitionError::OtherHistory(at));
        }
        let before = found.entry.header();
        let index = JournalIndex(at.index.0 - 1);
        let log = log_index_of(&found).map(|index| (index, before.parent));
        self.place = Place { index, head8: head8(before.parent), log };
        self.position = Position { index, n: 0, head8: self.place.head8, ..at };
        Ok(())
    }

    /// Reads what follows, as far as it is applied and fits. Returns `false` if the log holds nothing more.
    async fn fill(&mut self) -> Result<bool, PartitionError> {
        assert!(self.ready.is_empty());
        let (reader, place, applied) = (self.reader.clone(), self.place, *self.progress.borrow());
        let (place, entries) = match blocking(move || reader.read(place, &applied, AHEAD)).await? {
            Err(error @ PartitionError::Released { .. }) => self.reader.read_elsewhere(place, error, AHEAD).await?,
            read => read?,
        };
        let is_further = !entries.is_empty() || place.log_next() != self.place.log_next();
        let partition = self.partition();
        self.place = place;
        self.ready = entries.into_iter().map(|recorded| TailEntry::new(partition, recorded)).collect();
        Ok(is_further)
    }
}

/// Runs work that may wait for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, PartitionError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        // The process is ending.
        Err(_) => Err(PartitionError::Consensus(ConsensusError::Stopped(StopReason::Shutdown))),
    }
}
