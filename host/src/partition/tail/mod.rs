//! The tail of a partition: its effective entries in order, from any place of its journal on, and then each one as it is applied here.
//!
//! ```text
//! Tail::open(&partition, Start::After(position), deadline) ─▶ next().await ─▶ TailEntry ─▶ commands() ─▶ events(), rejection()
//! ```
//! In: a place in the journal. Out: what follows it, each entry once; at the end it waits to be told, it never polls. What is void, and what
//! consensus itself has written, is left out. It reads the log on threads of its own kind and never asks the executor anything; it holds
//! [`limits::TAIL_READ_BYTES`] and an entry at most. It knows neither what events mean nor who reads.

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
use crate::partition::error::{HaltReason, PartitionError};
use crate::partition::handle::Partition;
use crate::partition::open::Modules;
use crate::partition::status::{Progress, RunState};

/// Where a tail begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first entry there is.
    Genesis,
    /// With the entry that is applied next.
    Now,
    /// Behind the entry of this position, whatever its `n`. Position 0 is genesis.
    After(Position),
    /// With the entry of this position: for whoever has had only some of its events.
    At(Position),
}

/// What follows a place in a partition's journal. It does not keep the partition open: once that is closed, [`Tail::next`] says so, and
/// whoever wants to go on opens another tail [`Start::After`] [`Tail::position`], on this node's next replica or on another node.
pub struct Tail {
    reader: Arc<Reader>,
    modules: Arc<dyn Modules>,
    progress: watch::Receiver<Progress>,
    state: watch::Receiver<RunState>,
    /// Behind `ready`.
    place: Place,
    ready: VecDeque<TailEntry>,
    /// Of the last entry that was given out.
    position: Position,
}

/// How much is read ahead.
const AHEAD: Bound = Bound { bytes: limits::TAIL_READ_BYTES, entries: limits::TAIL_READ_ENTRIES };

impl Tail {
    /// Waits until the partition has applied what `start` names, but not past `deadline`.
    ///
    /// # Errors
    /// * [`PartitionError::OtherHistory`]: the position is none of this journal's: it came from before a restore, or from another cluster.
    /// * [`PartitionError::Released`]: what follows is not on this node any more. [`Tail::next`] may say so too, to a reader so slow that it
    ///   was released before it was read. What is in the archive is read there.
    /// * [`PartitionError::Deadline`]: this replica has not got there in time.
    /// * [`PartitionError::Halted`] and others when the partition does not run any more.
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

    /// The next entry, as soon as it is applied here. May be dropped and called again: nothing is lost.
    ///
    /// # Errors
    /// See [`Tail::open`]; the tail stays where it is.
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

    /// The next entry if it is read already: for whoever does several at once, and never waits for more.
    pub fn next_ready(&mut self) -> Option<TailEntry> {
        let entry = self.ready.pop_front()?;
        self.position = entry.position();
        Some(entry)
    }

    pub fn partition(&self) -> PartitionId {
        self.reader.partition
    }

    /// Whether the partition still runs, so that more may come.
    pub fn is_open(&self) -> bool {
        matches!(*self.state.borrow(), RunState::Running)
    }

    /// Where the next entry follows: the last position of the one that was given out last, or where the tail has begun.
    pub fn position(&self) -> Position {
        self.position
    }

    /// How many entries are applied here that were not given out yet.
    pub fn lag(&self) -> u64 {
        self.position.index.distance_to(self.progress.borrow().journal.index)
    }

    /// The module that decided an entry, which is the one to render its events and knows its label (`describe().version`).
    ///
    /// # Errors
    /// It is not on this node and cannot be fetched from any other now.
    pub async fn decider(&self, entry: &TailEntry) -> Result<Arc<dyn Logic>, PartitionError> {
        let id = entry.decider();
        if let Some(logic) = self.modules.find_loaded(id) {
            return Ok(logic);
        }
        let modules = self.modules.clone();
        let loaded = blocking(move || modules.load(id)).await?;
        loaded.map_err(|reason| PartitionError::Halted(HaltReason::Module { id, reason }))
    }

    /// Until this entry is applied.
    async fn reach(&mut self, index: JournalIndex) -> Result<(), PartitionError> {
        while self.progress.borrow_and_update().journal.index < index {
            self.wait().await?;
        }
        Ok(())
    }

    /// Until more is applied than when `progress` was looked at last.
    async fn wait(&mut self) -> Result<(), PartitionError> {
        let (progress, state) = (&mut self.progress, &mut self.state);
        let stopped = tokio::select! {
            biased;
            changed = progress.changed() => match changed {
                Ok(()) => return Ok(()),
                Err(_) => None,
            },
            state = state.wait_for(|state| !matches!(state, RunState::Running)) => state.ok().map(|state| state.clone()),
        };
        Err(stopped.map_or_else(|| RunState::Closed.reason(), |state| state.reason()))
    }

    /// Goes before the entry of a position, all of which is to be read again.
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

    /// Reads what follows, as far as it is applied and fits; `false` when nothing more is in the log.
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

/// Runs what may wait for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, PartitionError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        // The process ends.
        Err(_) => Err(PartitionError::Consensus(ConsensusError::Stopped(StopReason::Shutdown))),
    }
}
