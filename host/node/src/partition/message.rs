//! What an executor is told.
//!
//! In: what other threads and tasks send. Out: an [`Input`] for each step of the executor, and the few messages that
//! only its driver understands. This file does not know what is done about them.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::consensus::{CommittedValue, Group, Leadership};
use crate::ids::{Head, Micros, ModuleId};
use crate::log::LogEntry;
use crate::machine::logic::Logic;
use crate::partition::error::HaltReason;
use crate::partition::migrate::MigrationEnd;
use crate::partition::participants::Answers;
use crate::partition::recorded::Recalled;
use crate::partition::requests::{ActivationRequest, CheckpointRequest, Ordered, SnapshotRequest};
use crate::sequencer::submission::Submission;
use crate::store::StoreError;

/// A message for an executor's driver.
pub enum Message {
    Input(Input),
    /// Committed entries in log order, of which each is an input; the permit bounds how many wait.
    Committed(Vec<CommittedValue<LogEntry>>, OwnedSemaphorePermit),
    /// The group runs; proposals go there.
    Started(Group),
    Stop,
}

/// What a step is about.
pub enum Input {
    Submit(Vec<Submission>),
    /// The next entry of the log is committed.
    Committed(CommittedValue<LogEntry>),
    Leadership(Leadership),
    /// The entry that leads to this head was not appended, or its fate is unknown.
    ProposalLost {
        head: Head,
        is_appended: bool,
    },
    /// Make another module decide from the next entry on. The reply follows once the entry is applied, or says why not.
    Activate(ActivationRequest),
    /// Somebody waits until the journal's time has passed this.
    WaitForTime(Micros),
    /// If set, no command on several partitions may begin.
    Drain(bool),
    /// Begin no command on several partitions from now on. The reply says whether all are over.
    AskDrained(oneshot::Sender<bool>),
    /// The answers of participants to calls, or their silence.
    Answered(Answers),
    /// An operator's order about a command that this partition coordinates.
    Order(Ordered),
    /// Entries that somebody waits for.
    Recalled(Recalled),
    /// A module, or why it cannot be loaded.
    Loaded(ModuleId, Result<Arc<dyn Logic>, String>),
    Migrated(Box<MigrationEnd>),
    /// Migrated rows are in place, or not.
    Replaced(Result<(), StoreError>),
    Checkpoint(CheckpointRequest),
    /// Make a canonical snapshot of what is applied.
    Snapshot(SnapshotRequest),
    /// Something is wrong that the executor cannot see itself.
    Halt(HaltReason),
    /// No message is left, or a moment has come that the last step named: decide at most one entry.
    Quiet,
}

impl Message {
    /// Whether the driver takes it while the executor holds. Others wait, in their order.
    pub fn passes_hold(&self) -> bool {
        match self {
            Self::Started(_) | Self::Stop => true,
            Self::Input(input) => input.passes_hold(),
            Self::Committed(..) => false,
        }
    }
}

impl Input {
    /// Whether an executor that holds takes it: what may end the hold, and what ends the executor.
    pub fn passes_hold(&self) -> bool {
        matches!(self, Self::Loaded(..) | Self::Migrated(_) | Self::Replaced(_) | Self::Halt(_) | Self::Quiet)
    }
}
