//! The executor: the state of a partition's replica, and the only caller of the stages.
//!
//! ```text
//! Submit ─▶ admit ─▶ queue ─▶ execute ─▶ propose ──▶ (consensus) ──▶ Committed ─▶ apply ─▶ answer
//!                               ▲                                       │
//!                               └───── speculation ◀──── promote ───────┘
//! ```
//! In: one input a step. Out: row writes, and actions for the driver. All its state is its own. This file does not know
//! who sends the inputs, nor how an action is carried out.

use crate::consensus::{Leadership, StopReason};
use crate::limits;
use crate::log::EntryId;
use crate::partition::actions::{Actions, NextStep, OneshotReply};
use crate::partition::base::Base;
use crate::partition::error::{HaltReason, store_failed};
use crate::partition::hold::Hold;
use crate::partition::leader::ReplicaRole;
use crate::partition::message::Input;
use crate::partition::propose::Proposing;
use crate::partition::requests::NotOrdered;
use crate::sequencer::submission::{NotNow, Refusal, Reply};

/// The executor's state: what every replica has, and what this one is at the moment. Each stage is in its own file.
pub struct Executor {
    pub(super) base: Base,
    pub(super) role: ReplicaRole,
    pub(super) hold: Option<Hold>,
}

impl Executor {
    /// Takes one input. What is to be done is in `out`, in order, also if the partition halts.
    pub fn step(&mut self, input: Input, out: &mut Actions) -> Result<(), HaltReason> {
        assert!(self.hold.is_none() || input.passes_hold(), "other inputs wait until the hold ends");
        let Self { base, role, hold } = self;
        match input {
            Input::Quiet => match hold {
                None => return self.on_quiet(out),
                Some(Hold::Room) => return self.look_for_room(out),
                Some(Hold::Module(_) | Hold::Migration(..) | Hold::Rows(..)) => out.next = NextStep::Message,
            },
            Input::Submit(submissions) => role.admit(base, submissions, out)?,
            Input::Committed(entry) => {
                self.on_committed(entry, out)?;
                return self.hold_while_behind();
            }
            Input::Leadership(leadership) => return self.on_leadership(leadership, out),
            Input::Activate(wanted) => base.activation = Some(wanted),
            Input::Drain(is_draining) => base.is_draining = is_draining,
            Input::AskDrained(reply) => {
                base.is_draining = true;
                out.tell(OneshotReply::Drained(reply, self.is_drained()));
            }
            Input::Recalled(recalled) => base.on_recalled(role, recalled, out)?,
            Input::Loaded(id, loaded) => return self.on_loaded(id, loaded, out),
            Input::Migrated(end) => return self.on_migrated(*end, out),
            Input::Replaced(replaced) => return self.on_replaced(replaced, out),
            Input::Checkpoint(request) => base.begin_checkpoint(request),
            Input::Snapshot(asked) => base.on_snapshot_asked(asked, out),
            Input::Halt(reason) => return Err(reason),
            Input::Order(ordered) => match role {
                ReplicaRole::Leading(leader) => leader.coordinator.on_order(ordered, &base.now(), out),
                ReplicaRole::Following | ReplicaRole::Restoring => ordered.refuse(NotOrdered::NotLeading, out),
            },
            // The rest means something to a leader alone. A client that waits for a time asks again, and what a former
            // leader has proposed or called is the next leader's.
            Input::ProposalLost { head, is_appended } => {
                if let Some(leader) = role.leader() {
                    leader.on_proposal_lost(base, head, is_appended, out);
                }
            }
            Input::WaitForTime(time) => {
                if let Some(leader) = role.leader() {
                    leader.on_time_wanted(base, time);
                }
            }
            Input::Answered(answers) => {
                if let Some(leader) = role.leader() {
                    leader.on_answered(&base.now(), answers);
                }
            }
        }
        Ok(())
    }

    /// No message is left, or a time has come: a leader calls, and decides at most one entry. Says when the next such
    /// step is due.
    fn on_quiet(&mut self, out: &mut Actions) -> Result<(), HaltReason> {
        let Self { base, role, .. } = self;
        base.read_wanted(out);
        let mut now = base.now();
        // Every replica notices that its journal is ahead of the clock: the journal's time passes from then on.
        let present = base.present(&now);
        out.next = NextStep::Message;
        let Some(leader) = role.leader() else { return Ok(()) };
        leader.make_calls(base, &now, out);
        leader.report_stuck(base, present);
        if !out.is_empty() {
            // What is read or called now need not wait until a batch is decided.
            out.next = NextStep::Again;
            return Ok(());
        }
        let proposing = leader.propose_next(base, &mut now, out)?;
        if proposing == Proposing::More || role.admit_unheld(base, out)? {
            out.next = NextStep::Again;
            return Ok(());
        }
        let Some(leader) = role.leader() else { return Ok(()) };
        // What is queued may be proposed a whole decision later, so what was heard before that is not enough.
        if !leader.queue.is_empty() && !base.environment.is_heard() {
            leader.refuse_queue(base, Refusal::NotNow(NotNow::NoMajority), out);
        }
        let patience = leader.patience(base, &now);
        let is_looking = proposing == Proposing::NoRoom;
        out.next = NextStep::Within(if is_looking { patience.min(limits::ROOM_LOOK) } else { patience });
        Ok(())
    }

    /// Whether only what ends the hold may be taken, and what halts or stops.
    pub fn is_holding(&self) -> bool {
        self.hold.is_some()
    }

    /// Ends a hold once the writers have caught up.
    fn look_for_room(&mut self, out: &mut Actions) -> Result<(), HaltReason> {
        self.hold = None;
        self.hold_while_behind()?;
        out.next = if self.hold.is_some() { NextStep::Within(limits::ROOM_LOOK) } else { NextStep::Again };
        Ok(())
    }

    /// What others propose is applied no faster than it is written. A replica that has no space halts, so that it does
    /// not lead; it is opened again until it has.
    fn hold_while_behind(&mut self) -> Result<(), HaltReason> {
        let is_leading = matches!(self.role, ReplicaRole::Leading(_));
        if !is_leading && self.hold.is_none() && self.base.is_behind().map_err(store_failed)? {
            self.hold = Some(Hold::Room);
        }
        Ok(())
    }

    /// Answers all who wait, when the executor ends. Their proposals may or may not be committed.
    pub fn end(&mut self, refusal: Refusal, out: &mut Actions) {
        let Self { base, role, .. } = self;
        role.step_down(base, refusal, out);
        base.waiters.answer_orphans(&Reply::Unknown, out);
        base.waiters.answer_ends(&Reply::Unknown, out);
        base.give_up_recalls(refusal, out);
        base.activation = None;
    }

    /// Whether this leader knows that nothing is under way between partitions, neither applied nor proposed nor queued.
    fn is_drained(&self) -> bool {
        let ReplicaRole::Leading(leader) = &self.role else { return false };
        !leader.is_beginning() && self.base.table.under_way().0 == 0
    }

    /// A change of term drops all speculation. A leader admits once it has applied the blank entry of its own term;
    /// consensus announces it at that point.
    fn on_leadership(&mut self, leadership: Leadership, out: &mut Actions) -> Result<(), HaltReason> {
        let Self { base, role, .. } = self;
        match leadership {
            Leadership::Leader { term } => role.on_elected(term, base, out),
            Leadership::Follower { .. } => role.step_down(base, Refusal::NotNow(NotNow::NotLeading), out),
            Leadership::Stopped { reason: StopReason::Shutdown } => {
                role.step_down(base, Refusal::NotNow(NotNow::NotLeading), out);
                // This replica will never lead again, so it is not activated here.
                base.activation = None;
            }
            Leadership::Stopped { reason } => return Err(HaltReason::Consensus(reason.to_string())),
        }
        Ok(())
    }

    /// The blank entry of a newer leader is applied: what was proposed in an earlier term stands before it in the log,
    /// or will never be in the log.
    pub(super) fn on_blank(&mut self, blank: EntryId, out: &mut Actions) {
        let Self { base, role, .. } = self;
        if role.leader().is_some_and(|leader| leader.term < blank.term) {
            role.step_down(base, Refusal::NotNow(NotNow::NotLeading), out);
        }
        if role.leader().is_none_or(|leader| leader.term == blank.term) {
            base.waiters.answer_orphans(&Reply::Refused(Refusal::NotNow(NotNow::LeftOut)), out);
        }
    }
}
