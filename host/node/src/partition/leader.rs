//! What a replica is at the moment, and all that it has only while it leads.
//!
//! ```text
//! Following ──Leader, in a new term──▶ LeaderState::begin ──another term, or another leader──▶ LeaderState::end
//! ```
//! In: changes of leadership. Out: a [`LeaderState`], whose methods admit, decide, propose and call; a replica without
//! one can do none of that. At its end everybody in it is answered, or keeps waiting in `Waiters`. This file does not
//! know who is elected, and why.

use std::sync::Arc;
use std::time::Duration;

use crate::ids::{Micros, ModuleId, Term};
use crate::limits;
use crate::machine::logic::Logic;
use crate::partition::actions::Actions;
use crate::partition::base::Base;
use crate::partition::canonical::until_midnight;
use crate::partition::coordinate::Coordinator;
use crate::partition::expired::Expired;
use crate::partition::now::Now;
use crate::partition::restore::Leading;
use crate::partition::timers::Timers;
use crate::partition::times::WantedTimes;
use crate::sequencer::admission::RejectionMeter;
use crate::sequencer::queue::SubmissionQueue;
use crate::sequencer::speculation::Speculation;
use crate::sequencer::submission::{NotNow, Refusal};

pub(super) enum ReplicaRole {
    /// It applies what others propose.
    Following,
    Leading(Box<LeaderState>),
    /// It applies what it is given, and decides nothing, even if it is elected.
    Restoring,
}

/// What a leader has, from the blank entry of its term on until the term ends.
pub(super) struct LeaderState {
    pub term: Term,
    pub queue: SubmissionQueue,
    pub speculation: Speculation,
    pub coordinator: Coordinator,
    pub meter: RejectionMeter,
    pub times_wanted: WantedTimes,
    /// Submissions that came too late, until it is certain that they are never executed.
    pub expired: Expired,
    pub timers: Timers,
    pub next_module: NextModule,
    /// Entries with records and entries with commands take turns, where both wait.
    pub is_turn_of_batch: bool,
}

/// The module of the activation that was asked for.
#[derive(Default)]
pub(super) enum NextModule {
    #[default]
    Unknown,
    /// It is loaded beside the executor, which continues to decide.
    Loading(ModuleId),
    Loaded(Arc<dyn Logic>),
}

impl ReplicaRole {
    pub fn new(leading: Leading) -> Self {
        match leading {
            Leading::Decides => Self::Following,
            Leading::Restores => Self::Restoring,
        }
    }

    pub fn leader(&mut self) -> Option<&mut LeaderState> {
        match self {
            Self::Leading(leader) => Some(leader),
            Self::Following | Self::Restoring => None,
        }
    }

    /// This node is elected, and has applied the blank entry of its term.
    pub fn on_elected(&mut self, term: Term, base: &mut Base, out: &mut Actions) {
        match self {
            Self::Restoring => return,
            Self::Leading(leader) if leader.term == term => return,
            Self::Leading(_) | Self::Following => {}
        }
        self.step_down(base, Refusal::NotNow(NotNow::NotLeading), out);
        *self = Self::Leading(Box::new(LeaderState::begin(term, base)));
    }

    /// Gives up leading, if this node leads. The refusal is for what was certainly not proposed.
    pub fn step_down(&mut self, base: &mut Base, refusal: Refusal, out: &mut Actions) {
        if !matches!(self, Self::Leading(_)) {
            return;
        }
        if let Self::Leading(leader) = std::mem::replace(self, Self::Following) {
            leader.end(base, refusal, out);
        }
    }
}

impl LeaderState {
    fn begin(term: Term, base: &Base) -> Self {
        Self {
            term,
            queue: SubmissionQueue::default(),
            speculation: Speculation::default(),
            coordinator: Coordinator::new(&base.table),
            meter: RejectionMeter::default(),
            times_wanted: WantedTimes::default(),
            expired: Expired::default(),
            timers: Timers::default(),
            next_module: NextModule::default(),
            is_turn_of_batch: false,
        }
    }

    /// What was queued was certainly not executed; what was proposed may still be committed.
    fn end(self, base: &mut Base, refusal: Refusal, out: &mut Actions) {
        // Every field is named, so that a new one does not compile until it is dealt with here. Those who wait for a
        // time ask again, and the next leader makes the calls.
        let Self {
            term: _,
            mut queue,
            mut speculation,
            coordinator,
            meter: _,
            times_wanted: _,
            mut expired,
            timers: _,
            next_module: _,
            is_turn_of_batch: _,
        } = self;
        coordinator.end();
        for batch in speculation.drain() {
            batch.submissions.into_iter().for_each(|submission| base.waiters.orphan(submission, out));
        }
        refuse_unproposed(&mut queue, &mut expired, base, refusal, out);
    }

    /// Somebody waits until the journal's time has passed this.
    pub fn on_time_wanted(&mut self, base: &Base, time: Micros) {
        if base.at.journal().time <= time {
            self.times_wanted.ask(time, base.present(&base.now()));
        }
    }

    /// How long this leader may sleep if nothing arrives.
    pub fn patience(&self, base: &Base, now: &Now) -> Duration {
        let until_wanted = self.times_wanted.next().map(|wanted| {
            let left = wanted.0.saturating_sub(base.present(now).0).clamp(0, 60_000_000) as u64;
            Duration::from_micros(left + 1000)
        });
        // If proposals are stuck, the queue after them must not wait for good.
        let until_look = (!self.queue.is_empty()).then_some(limits::QUEUE_LOOK);
        let until_report = self.until_stuck_report(base, now);
        let until_timer = self.timers.next().map(|due| due.saturating_duration_since(now.instant));
        [until_wanted, until_look, until_report, until_timer]
            .into_iter()
            .flatten()
            .fold(until_midnight(base, now), Duration::min)
    }

    /// Refuses everything that is not proposed yet.
    pub fn refuse_queue(&mut self, base: &mut Base, refusal: Refusal, out: &mut Actions) {
        refuse_unproposed(&mut self.queue, &mut self.expired, base, refusal, out);
    }
}

fn refuse_unproposed(
    queue: &mut SubmissionQueue,
    expired: &mut Expired,
    base: &mut Base,
    refusal: Refusal,
    out: &mut Actions,
) {
    expired.refuse_all(refusal, out);
    let (in_flight, clashes) = queue.take_all();
    base.waiters.refuse_queued(in_flight, refusal, out);
    for submission in clashes {
        out.release(submission.size);
        out.refuse(submission.ticket, refusal);
    }
    // Those who asked for it ask again and find the new leader.
    base.activation = None;
}
