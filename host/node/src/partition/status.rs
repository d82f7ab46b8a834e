//! What others may see of a partition while it runs: how far it has applied, whether it has halted, and what guests
//! said.
//!
//! In: what the executor puts on the board. Out: the same, for anybody who asks, without waiting for the executor. The
//! board decides nothing, and its content is gone when the process ends. This file does not know who asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::consensus::{ConsensusError, Leadership, StopReason};
use crate::ids::{LogIndex, PartitionId};
use crate::limits;
use crate::machine::journal::Journal;
use crate::partition::error::{HaltReason, PartitionError};
use crate::partition::in_transit::{Counted, Shown};
use crate::partition::panics::Panics;

/// How far the partition has applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Raft's index; it also counts blank, membership and void entries.
    pub log_index: LogIndex,
    pub journal: Journal,
}

#[derive(Clone, Debug)]
pub enum RunState {
    Running,
    Halted(HaltReason),
    Closed,
}

impl RunState {
    /// Why the partition does not do what it was asked to do.
    pub fn reason(&self) -> PartitionError {
        match self {
            Self::Halted(reason) => PartitionError::Halted(reason.clone()),
            Self::Running => PartitionError::NotLeading,
            Self::Closed => PartitionError::Consensus(ConsensusError::Stopped(StopReason::Shutdown)),
        }
    }
}

/// A partition's figures, for people and for `/metrics`.
#[derive(Clone, Debug)]
pub struct PartitionStatus {
    pub partition: PartitionId,
    pub leadership: Leadership,
    pub progress: Progress,
    pub queue_bytes: usize,
    pub in_flight: usize,
    pub log_bytes: u64,
    pub state: RunState,
}

/// Shared between the executor thread and everybody who asks.
pub struct Board {
    pub progress: watch::Sender<Progress>,
    pub state: watch::Sender<RunState>,
    pub queue_bytes: AtomicUsize,
    pub in_flight: AtomicUsize,
    /// Whether, since it was opened, it once had all but a few of its leader's entries.
    pub was_level: AtomicBool,
    /// Somebody closes the partition and has ended what the executor waits for.
    pub is_closing: AtomicBool,
    pub panics: Panics,
    /// What was in transit at the last moment that an entry has passed.
    pub shown: Mutex<Option<Shown>>,
    /// What was in transit at the last entry, if moments have passed since.
    pub counted: Mutex<Option<Counted>>,
}

impl Board {
    pub fn new(progress: Progress, panics: Panics) -> Arc<Self> {
        Arc::new(Self {
            progress: watch::Sender::new(progress),
            state: watch::Sender::new(RunState::Running),
            queue_bytes: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            was_level: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
            panics,
            shown: Mutex::default(),
            counted: Mutex::default(),
        })
    }

    /// Reserves room in the queue; returns `false` if there is none.
    pub fn reserve(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limits::QUEUE_BYTES_MAX);
        self.queue_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok()
    }

    pub fn release(&self, bytes: usize) {
        let before = self.queue_bytes.fetch_sub(bytes, Ordering::AcqRel);
        assert!(bytes <= before, "only reserved bytes are released");
    }

    /// What a step has changed. It may take more room than there is.
    pub fn change_queue_bytes(&self, by: i64) {
        let bytes = usize::try_from(by.unsigned_abs()).expect("a queue fits into memory");
        match by {
            ..0 => self.release(bytes),
            0 => {}
            1.. => drop(self.queue_bytes.fetch_add(bytes, Ordering::AcqRel)),
        }
    }

    pub fn is_running(&self) -> bool {
        matches!(*self.state.borrow(), RunState::Running)
    }
}
