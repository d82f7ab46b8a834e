//! The executor: one thread per partition, and the only caller of the stages.
//!
//! ```text
//! Submit ─▶ admit ─▶ queue ─▶ execute ─▶ propose ──▶ (consensus) ──▶ Committed ─▶ apply ─▶ answer
//!                               ▲                                       │
//!                               └───── speculation ◀──── promote ───────┘
//! ```
//! In: messages. Out: proposals, row writes, replies. All its state is its own; what others may see is on the board.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::consensus::{Committed, Group, Leadership, StopReason};
use crate::ids::{CommandId, Head, Micros};
use crate::log::{EntryId, LogEntry};
use crate::machine::entry::Activation;
use crate::machine::journal::Journal;
use crate::partition::base::Base;
use crate::partition::canonical::SnapshotRequest;
use crate::partition::coordinate::Answers;
use crate::partition::error::HaltReason;
use crate::partition::known_ids::Recalled;
use crate::partition::leader::ReplicaRole;
use crate::partition::now::Now;
use crate::partition::order::{NotOrdered, Ordered};
use crate::partition::release::checkpoint;
use crate::partition::status::RunState;
use crate::sequencer::submission::{NotNow, Refusal, Reply, Submission};
use crate::store::{Meta, StoreError};

/// What the executor is told.
pub enum Message {
    Submit(Vec<Submission>),
    /// Committed entries in log order; the permit bounds how many wait.
    Committed(Vec<Committed<LogEntry>>, OwnedSemaphorePermit),
    Leadership(Leadership),
    /// The entry that leads to this head was not appended, or its fate is unknown.
    ProposalLost {
        head: Head,
        is_appended: bool,
    },
    /// The group runs; proposals go there.
    Started(Group),
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
    /// These commands may have calls that must be repeated.
    CallAgain(Vec<CommandId>),
    /// Put state and ids into this folder, as they are between two entries.
    Checkpoint(PathBuf, oneshot::Sender<Result<Option<Meta>, StoreError>>),
    /// Make a canonical snapshot of what is applied.
    Snapshot(SnapshotRequest),
    /// Something is wrong that the executor cannot see itself.
    Halt(HaltReason),
    Stop,
}

/// Why the executor woke up.
enum Wake {
    Message(Message),
    /// A time that somebody waits for has come, or the queue has not moved for a while.
    Due,
    /// No sender is left.
    Closed,
}

/// An activation that somebody waits for.
pub struct ActivationRequest {
    pub activation: Activation,
    pub reply: oneshot::Sender<Result<Journal, String>>,
}

/// The executor's state: what every replica has, and what this one is at the moment. Each stage is in its own file.
pub struct Executor {
    pub(super) base: Base,
    pub(super) role: ReplicaRole,
}

impl Executor {
    /// Runs until it is stopped, or halts for good. A panic halts this partition only.
    pub fn run(mut self, mailbox: &Receiver<Message>) {
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| self.serve(mailbox)));
        let state = match result {
            Ok(Ok(())) => RunState::Closed,
            Ok(Err(reason)) => RunState::Halted(reason),
            Err(panic) => RunState::Halted(HaltReason::Panic(panic_text(&*panic))),
        };
        self.end(state, mailbox);
    }

    fn serve(&mut self, mailbox: &Receiver<Message>) -> Result<(), HaltReason> {
        let mut now = self.base.now();
        loop {
            let mut next = match self.wait(mailbox, &now) {
                Wake::Message(message) => Some(message),
                Wake::Due => None,
                Wake::Closed => return Ok(()),
            };
            // Takes all messages that are already there, so that a batch includes everybody who waits.
            while let Some(message) = next {
                if matches!(message, Message::Stop) {
                    return Ok(());
                }
                self.on_message(message)?;
                next = mailbox.try_recv().ok();
            }
            now = self.on_quiet()?;
        }
    }

    /// No message is left: a leader decides and calls. Returns the moment at which it has done so.
    pub(super) fn on_quiet(&mut self) -> Result<Now, HaltReason> {
        let Self { base, role } = self;
        base.read_wanted();
        let mut now = base.now();
        // Every replica notices that its journal is ahead of the clock: the journal's time passes from then on.
        let present = base.present(&now);
        if let Some(leader) = role.leader() {
            leader.make_calls(base);
            leader.report_stuck(base, present);
            leader.propose_all(base, &mut now)?;
        }
        if role.admit_unheld(base)?
            && let Some(leader) = role.leader()
        {
            now = base.now();
            leader.propose_all(base, &mut now)?;
        }
        // What is queued may be proposed a whole decision later, so what was heard before that is not enough.
        if let Some(leader) = role.leader()
            && !leader.queue.is_empty()
            && !base.environment.is_heard()
        {
            leader.refuse_queue(base, Refusal::NotNow(NotNow::NoMajority));
        }
        base.board.in_flight.store(base.waiters.in_flight.len(), std::sync::atomic::Ordering::Relaxed);
        Ok(now)
    }

    fn wait(&self, mailbox: &Receiver<Message>, now: &Now) -> Wake {
        let ReplicaRole::Leading(leader) = &self.role else {
            return mailbox.recv().map_or(Wake::Closed, Wake::Message);
        };
        match mailbox.recv_timeout(leader.patience(&self.base, now)) {
            Ok(message) => Wake::Message(message),
            Err(RecvTimeoutError::Timeout) => Wake::Due,
            Err(RecvTimeoutError::Disconnected) => Wake::Closed,
        }
    }

    pub(super) fn on_message(&mut self, message: Message) -> Result<(), HaltReason> {
        let Self { base, role } = self;
        match message {
            Message::Submit(submissions) => role.admit(base, submissions)?,
            Message::Committed(entries, permit) => {
                for entry in entries {
                    self.on_committed(entry)?;
                }
                // In normal operation a leader applies this backpressure before it proposes; a restore never proposes.
                if matches!(self.role, ReplicaRole::Restoring) {
                    self.base.store.wait_while_behind().map_err(store_failed)?;
                }
                drop(permit);
            }
            Message::Leadership(leadership) => self.on_leadership(leadership)?,
            Message::Started(group) => base.environment.group = Some(group),
            Message::Activate(wanted) => base.activation = Some(wanted),
            Message::Drain(is_draining) => base.is_draining = is_draining,
            Message::AskDrained(reply) => {
                base.is_draining = true;
                let _ = reply.send(self.is_drained());
            }
            Message::Recalled(recalled) => base.on_recalled(role, recalled)?,
            Message::Checkpoint(folder, reply) => {
                // The receiver may have stopped waiting.
                drop(reply.send(checkpoint(&base.store, &base.ids, &folder)));
            }
            Message::Snapshot(asked) => base.on_snapshot_asked(asked),
            Message::Halt(reason) => return Err(reason),
            Message::Stop => unreachable!("the loop handles it"),
            Message::Order(ordered) => match role {
                ReplicaRole::Leading(leader) => leader.coordinator.on_order(ordered, &base.now()),
                ReplicaRole::Following | ReplicaRole::Restoring => ordered.refuse(NotOrdered::NotLeading),
            },
            // The rest means something to a leader alone. A client that waits for a time asks again, and what a former
            // leader has proposed or called is the next leader's.
            Message::ProposalLost { head, is_appended } => {
                if let Some(leader) = role.leader() {
                    leader.on_proposal_lost(base, head, is_appended);
                }
            }
            Message::WaitForTime(time) => {
                if let Some(leader) = role.leader() {
                    leader.on_time_wanted(base, time);
                }
            }
            Message::Answered(answers) => {
                if let Some(leader) = role.leader() {
                    leader.on_answered(base, answers);
                }
            }
            Message::CallAgain(commands) => {
                if let Some(leader) = role.leader() {
                    leader.coordinator.call_again(commands);
                }
            }
        }
        Ok(())
    }

    /// Whether this leader knows that nothing is under way between partitions, neither applied nor proposed nor queued.
    fn is_drained(&self) -> bool {
        let ReplicaRole::Leading(leader) = &self.role else { return false };
        !leader.is_beginning() && self.base.table.under_way().0 == 0
    }

    /// A change of term drops all speculation. A leader admits once it has applied the blank entry of its own term;
    /// consensus announces it at that point.
    fn on_leadership(&mut self, leadership: Leadership) -> Result<(), HaltReason> {
        let Self { base, role } = self;
        match leadership {
            Leadership::Leader { term } => role.on_elected(term, base),
            Leadership::Follower { .. } => role.step_down(base, Refusal::NotNow(NotNow::NotLeading)),
            Leadership::Stopped { reason: StopReason::Shutdown } => {
                role.step_down(base, Refusal::NotNow(NotNow::NotLeading));
                // This replica will never lead again, so it is not activated here.
                base.activation = None;
            }
            Leadership::Stopped { reason } => return Err(HaltReason::Consensus(reason.to_string())),
        }
        Ok(())
    }

    /// The blank entry of a newer leader is applied: what was proposed in an earlier term stands before it in the log,
    /// or will never be in the log.
    pub(super) fn on_blank(&mut self, blank: EntryId) {
        let Self { base, role } = self;
        if role.leader().is_some_and(|leader| leader.term < blank.term) {
            role.step_down(base, Refusal::NotNow(NotNow::NotLeading));
        }
        if role.leader().is_none_or(|leader| leader.term == blank.term) {
            base.waiters.answer_orphans(&Reply::Refused(Refusal::NotNow(NotNow::LeftOut)));
        }
    }
}

pub(super) fn store_failed(error: crate::store::StoreError) -> HaltReason {
    HaltReason::Store(error.to_string())
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".to_owned())
}
