//! The executor: one thread per partition, and the only caller of the stages.
//!
//! ```text
//! Submit ─▶ admit ─▶ queue ─▶ execute ─▶ propose ──▶ (consensus) ──▶ Committed ─▶ apply ─▶ answer
//!                               ▲                                       │
//!                               └───── speculation ◀──── promote ───────┘
//! ```
//! In: messages. Out: proposals, row writes, replies. All its state is its own; what others may see is on the board.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::consensus::{Committed, Group, Leadership};
use crate::ids::{CommandId, Head, JournalIndex, Micros, PartitionId, Term};
use crate::limits;
use crate::log::{EntryId, LogEntry};
use crate::machine::entry::Activation;
use crate::machine::journal::Journal;
use crate::machine::modules::Modules;
use crate::partition::activate::Migrated;
use crate::partition::canonical::{Canonical, SnapshotRequest};
use crate::partition::claims::{Claim, LookedUp, claimed_by, claiming, granted};
use crate::partition::coordinate::{Answers, Cancel, Coordinator, Participants, cancelled};
use crate::partition::error::HaltReason;
use crate::partition::expired::Expired;
use crate::partition::journal_state::JournalState;
use crate::partition::known_ids::{Purpose, Recalled, Repeat};
use crate::partition::now::{Environment, Now};
use crate::partition::order::Ordered;
use crate::partition::recorded::RecordedEntries;
use crate::partition::release::checkpoint;
use crate::partition::restore::Leading;
use crate::partition::saga_table::SagaTable;
use crate::partition::status::{Board, RunState};
use crate::partition::timeline::Timeline;
use crate::partition::times::WantedTimes;
use crate::partition::waiters::Waiters;
use crate::sequencer::admission::{Admitted, RejectionMeter};
use crate::sequencer::queue::SubmissionQueue;
use crate::sequencer::speculation::Speculation;
use crate::sequencer::submission::{NotNow, Refusal, Reply, Submission};
use crate::store::{IdIndex, IdRecord, Meta, Store, StoreError};

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

/// The executor's state. `apply.rs` and `propose.rs` hold the two halves of its work.
pub struct Executor {
    pub(super) partition: PartitionId,
    /// The labels of this partition's metrics: machine and partition.
    pub(super) labels: [(&'static str, String); 2],
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) timeline: Arc<Timeline>,
    pub(super) modules: Arc<dyn Modules>,
    pub(super) entries: Arc<RecordedEntries>,
    pub(super) store: Arc<Store>,
    pub(super) ids: Arc<IdIndex>,
    pub(super) board: Arc<Board>,
    pub(super) canonical: Arc<Canonical>,
    pub(super) leading: Leading,
    pub(super) environment: Environment,
    pub(super) mailbox: std::sync::mpsc::Sender<Message>,
    pub(super) at: JournalState,
    pub(super) table: SagaTable,
    pub(super) waiters: Waiters,
    /// The term in which this node leads and whose blank entry it has applied.
    pub(super) term: Option<Term>,
    pub(super) queue: SubmissionQueue,
    pub(super) meter: RejectionMeter,
    pub(super) coordinator: Coordinator,
    /// When the commands that have been in flight for long were last reported.
    pub(super) stuck_reported: Option<Micros>,
    pub(super) participants: Arc<dyn Participants>,
    pub(super) speculation: Speculation,
    pub(super) activation: Option<ActivationRequest>,
    /// What this leader has migrated for the activation it has proposed.
    pub(super) migrated: Option<Migrated>,
    pub(super) times_wanted: WantedTimes,
    /// Submissions that came too late, until it is certain that they are never executed.
    pub(super) expired: Expired,
    /// While set, no command on several partitions begins.
    pub(super) is_draining: bool,
    /// The size of the next batch: small if the module cannot be given many commands at once.
    pub(super) batch_commands_max: usize,
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
        let mut now = self.environment.now();
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
            self.read_wanted();
            self.make_calls();
            now = self.environment.now();
            self.report_stuck(&now);
            self.propose_all(&mut now)?;
            if self.admit_unheld()? {
                now = self.environment.now();
                self.propose_all(&mut now)?;
            }
            // What is queued may be proposed a whole decision later, so what was heard before that is not enough.
            if !self.queue.is_empty() && !self.environment.is_heard() {
                self.refuse_queue(Refusal::NotNow(NotNow::NoMajority));
            }
            self.board.in_flight.store(self.waiters.in_flight.len(), std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn wait(&self, mailbox: &Receiver<Message>, now: &Now) -> Wake {
        let until_wanted = self.times_wanted.next().map(|wanted| {
            let left = wanted.0.saturating_sub(self.present(now).0).clamp(0, 60_000_000) as u64;
            Duration::from_micros(left + 1000)
        });
        // If proposals are stuck, the queue after them must not wait for good.
        let until_look = (!self.queue.is_empty()).then_some(limits::QUEUE_LOOK);
        let Some(patience) = [until_wanted, until_look, self.until_midnight(now), self.until_stuck_report(now)]
            .into_iter()
            .flatten()
            .min()
        else {
            return mailbox.recv().map_or(Wake::Closed, Wake::Message);
        };
        match mailbox.recv_timeout(patience) {
            Ok(message) => Wake::Message(message),
            Err(RecvTimeoutError::Timeout) => Wake::Due,
            Err(RecvTimeoutError::Disconnected) => Wake::Closed,
        }
    }

    fn on_message(&mut self, message: Message) -> Result<(), HaltReason> {
        match message {
            Message::Submit(submissions) => self.admit(submissions)?,
            Message::Committed(entries, permit) => {
                for entry in entries {
                    self.on_committed(entry)?;
                }
                // In normal operation a leader applies this backpressure before it proposes; a restore never proposes.
                if self.leading == Leading::Restores {
                    self.store.wait_while_behind().map_err(store_failed)?;
                }
                drop(permit);
            }
            Message::Leadership(leadership) => self.on_leadership(leadership)?,
            Message::ProposalLost { head, is_appended } => self.on_proposal_lost(head, is_appended),
            Message::Started(group) => self.environment.group = Some(group),
            Message::Activate(wanted) => self.activation = Some(wanted),
            Message::WaitForTime(time) => {
                // Only a leader makes time pass. If this node does not lead, the caller asks again.
                if self.term.is_some() && self.at.journal().time <= time {
                    self.times_wanted.ask(time, self.present(&self.environment.now()));
                }
            }
            Message::Drain(is_draining) => self.is_draining = is_draining,
            Message::AskDrained(reply) => {
                self.is_draining = true;
                let _ = reply.send(self.is_drained());
            }
            Message::Answered(answers) => self.on_answered(answers),
            Message::Order(ordered) => self.on_order(ordered, &self.environment.now()),
            Message::Recalled(recalled) => self.on_recalled(recalled)?,
            Message::CallAgain(commands) => self.on_call_again(commands),
            Message::Checkpoint(folder, reply) => {
                // The receiver may have stopped waiting.
                drop(reply.send(checkpoint(&self.store, &self.ids, &folder)));
            }
            Message::Snapshot(asked) => self.on_snapshot_asked(asked),
            Message::Halt(reason) => return Err(reason),
            Message::Stop => unreachable!("the loop handles it"),
        }
        Ok(())
    }

    /// The stage *admit*: a known id gets its recorded outcome, one in flight waits for it, and the others are queued.
    /// Submissions that nobody waits for are dropped before anything is looked up: the client was told that the outcome
    /// is unknown, or has gone.
    pub(super) fn admit(&mut self, mut submissions: Vec<Submission>) -> Result<(), HaltReason> {
        for gone in submissions.extract_if(.., |submission| submission.ticket.is_abandoned()) {
            self.board.release(gone.size);
        }
        let LookedUp { known, claims } = self.look_up(&submissions)?;
        let mut claims = claims.into_iter();
        // The index may have waited for its disk. What was heard before that does not count.
        let now = self.environment.now();
        let present = self.present(&now);
        // Each entry is looked up once, however many of its ids were sent.
        let mut by_entry: BTreeMap<JournalIndex, Vec<(Repeat, IdRecord)>> = BTreeMap::new();
        for (submission, known) in submissions.into_iter().zip(known) {
            let claim = claiming(&submission).and_then(|_| claims.next()).unwrap_or(Claim::NotNeeded);
            if let Some(known) = known {
                self.board.release(submission.size);
                by_entry.entry(known.journal).or_default().push((Repeat::of(submission), known));
            } else if let Err(refusal) = self.check_admittable(&submission, &now, present) {
                self.board.release(submission.size);
                submission.ticket.reply(Reply::Refused(refusal));
            } else {
                self.take_in(submission, claim)?;
            }
        }
        by_entry.into_iter().try_for_each(|(index, repeats)| self.answer_known(index, repeats))
    }

    fn take_in(&mut self, mut submission: Submission, claim: Claim) -> Result<(), HaltReason> {
        let cancel = match submission.called.clone().filter(|called| called.is_cancel) {
            Some(called) => self.cancel(&submission, &called)?,
            None => None,
        };
        let size = submission.size;
        let mut claimed = None;
        let rejection = match (cancel, claim) {
            (Some(Cancel::Answer(reply)), _) => {
                self.board.release(size);
                submission.ticket.reply(reply);
                return Ok(());
            }
            (Some(Cancel::Forbid(call)), _) => {
                submission.id = call;
                Some(cancelled())
            }
            (Some(Cancel::Recall(index)), _) => {
                self.recall(index, Purpose::Admit(Box::new(submission)));
                return Ok(());
            }
            (None, Claim::Other(holder)) => match self.refuse_reused(&submission, &holder) {
                Some(refusal) => Some(refusal),
                None => {
                    self.recall(holder.journal, Purpose::Admit(Box::new(submission)));
                    return Ok(());
                }
            },
            (None, claim) => {
                claimed = claimed_by(&submission, &claim);
                granted(&submission)
            }
        };
        match (self.waiters.in_flight.admit(submission, claimed), rejection) {
            (Admitted::First(submission), Some(rejection)) => self.queue.forbid(submission, rejection),
            (Admitted::First(submission), None) => self.queue.push(submission),
            (Admitted::Follows, _) => self.board.release(size),
            (Admitted::Clashes(submission), _) => self.queue.clash(submission),
        }
        Ok(())
    }

    /// Admits clashing submissions again once nothing holds their ids, even if the other was not recorded. Returns
    /// `false` if there is nothing to do.
    fn admit_unheld(&mut self) -> Result<bool, HaltReason> {
        let in_flight = &self.waiters.in_flight;
        let is_held = |submission: &Submission| {
            let claimed = claiming(submission).map(|called| called.parent);
            in_flight.is_held(submission.id) || claimed.is_some_and(|id| in_flight.is_held(id))
        };
        if self.queue.clashes().iter().all(is_held) {
            return Ok(false);
        }
        let clashes = self.queue.take_clashes();
        self.admit(clashes)?;
        Ok(true)
    }

    /// Whether this leader knows that nothing is under way between partitions, neither applied nor proposed nor queued.
    fn is_drained(&self) -> bool {
        let begins = |submission: &Submission| submission.saga.is_some();
        let is_proposed = self.speculation.batches().flat_map(|batch| &batch.submissions).any(begins);
        self.term.is_some() && !is_proposed && !self.queue.iter().any(begins) && self.table.under_way().0 == 0
    }

    fn check_admittable(&mut self, submission: &Submission, now: &Now, present: Micros) -> Result<(), Refusal> {
        if self.term.is_none() {
            return Err(Refusal::NotNow(NotNow::NotLeading));
        }
        if self.at.logic().is_none() {
            return Err(Refusal::NotNow(NotNow::NoModule));
        }
        if !now.is_heard {
            return Err(Refusal::NotNow(NotNow::NoMajority));
        }
        if !now.takes_entries() {
            return Err(Refusal::StorageFull);
        }
        if self.is_draining && submission.saga.is_some() {
            return Err(Refusal::Draining);
        }
        match &submission.called {
            None => self.meter.check(present, &submission.caller),
            Some(called) => self.check_carried(called, now, present),
        }
    }

    /// A change of term drops all speculation. A leader admits once it has applied the blank entry of its own term;
    /// consensus announces it at that point.
    fn on_leadership(&mut self, leadership: Leadership) -> Result<(), HaltReason> {
        let term = match leadership {
            Leadership::Leader { term } => (self.leading == Leading::Decides).then_some(term),
            Leadership::Follower { .. } => None,
            Leadership::Stopped { reason } => {
                if matches!(reason, crate::consensus::StopReason::Shutdown) {
                    self.step_down();
                    return Ok(());
                }
                return Err(HaltReason::Consensus(reason.to_string()));
            }
        };
        if term != self.term {
            if self.term.is_some() {
                self.step_down();
            }
            self.term = term;
            if term.is_some() {
                self.coordinator.begin(&self.table);
            }
        }
        Ok(())
    }

    /// The blank entry of a newer leader is applied: what was proposed in an earlier term stands before it in the log,
    /// or will never be in the log.
    pub(super) fn on_blank(&mut self, blank: EntryId) {
        if self.term.is_some_and(|term| term < blank.term) {
            self.step_down();
        }
        if self.term.is_none_or(|term| term == blank.term) {
            self.waiters.answer_orphans(&Reply::Refused(Refusal::NotNow(NotNow::LeftOut)));
        }
    }

    /// Gives up leading: what was queued was certainly not executed, what was proposed may still be committed.
    fn step_down(&mut self) {
        self.term = None;
        self.times_wanted.clear();
        self.coordinator.end();
        for batch in self.speculation.drain() {
            batch.submissions.into_iter().for_each(|submission| self.waiters.orphan(submission));
        }
        self.refuse_queue(Refusal::NotNow(NotNow::NotLeading));
    }

    /// Refuses everything that is not proposed yet.
    pub(super) fn refuse_queue(&mut self, refusal: Refusal) {
        self.expired.refuse_all(refusal);
        self.queue.refuse_all(refusal, &mut self.waiters.in_flight, |size| self.board.release(size));
        // Those who asked for it ask again and find the new leader.
        self.activation = None;
    }

    /// The present time of the journal as far as it is applied.
    pub(super) fn present(&self, now: &Now) -> Micros {
        now.present(&self.timeline, self.at.journal().time)
    }

    /// The journal on which the next batch is decided.
    pub(super) fn journal_speculative(&self) -> Journal {
        self.speculation.journal().unwrap_or(self.at.journal())
    }
}

pub(super) fn store_failed(error: crate::store::StoreError) -> HaltReason {
    HaltReason::Store(error.to_string())
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".to_owned())
}
