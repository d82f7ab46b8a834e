//! The stage *admit*: a known id gets its recorded outcome, one in flight waits for it, and a leader queues the others.
//!
//! In: submissions. Out: replies, entries to read, the leader's queue. Every replica answers what is recorded; only a
//! leader takes in what is not. This file does not know when what is queued is decided.

use std::collections::BTreeMap;

use crate::ids::{JournalIndex, Micros};
use crate::partition::actions::Actions;
use crate::partition::base::Base;
use crate::partition::claims::{Claim, LookedUp, claimed_by, claiming, granted};
use crate::partition::coordinate::{Cancel, cancelled};
use crate::partition::error::HaltReason;
use crate::partition::known_ids::{Purpose, Repeat};
use crate::partition::leader::{LeaderState, ReplicaRole};
use crate::partition::now::Now;
use crate::sequencer::admission::Admission;
use crate::sequencer::submission::{NotNow, Refusal, Submission};
use crate::store::IdRecord;

impl ReplicaRole {
    /// Submissions that nobody waits for are dropped before anything is looked up: the client was told that the outcome
    /// is unknown, or has gone.
    pub fn admit(
        &mut self,
        base: &mut Base,
        mut submissions: Vec<Submission>,
        out: &mut Actions,
    ) -> Result<(), HaltReason> {
        for gone in submissions.extract_if(.., |submission| submission.ticket.is_abandoned()) {
            out.release(gone.size);
        }
        let LookedUp { known, claims } = base.look_up(&submissions)?;
        let mut claims = claims.into_iter();
        // The index may have waited for its disk. What was heard before that does not count.
        let now = base.now();
        let present = base.present(&now);
        // Each entry is looked up once, however many of its ids were sent.
        let mut by_entry: BTreeMap<JournalIndex, Vec<(Repeat, IdRecord)>> = BTreeMap::new();
        for (submission, known) in submissions.into_iter().zip(known) {
            let claim = claiming(&submission).and_then(|_| claims.next()).unwrap_or(Claim::NotNeeded);
            if let Some(known) = known {
                out.release(submission.size);
                by_entry.entry(known.journal).or_default().push((Repeat::of(submission), known));
                continue;
            }
            match self {
                Self::Leading(leader) => match leader.check_admittable(base, &submission, &now, present) {
                    Ok(()) => leader.take_in(base, submission, claim, out)?,
                    Err(refusal) => refuse(submission, refusal, out),
                },
                Self::Following | Self::Restoring => {
                    refuse(submission, Refusal::NotNow(NotNow::NotLeading), out);
                }
            }
        }
        by_entry.into_iter().try_for_each(|(index, repeats)| base.answer_known(index, repeats, out))
    }

    /// Admits clashing submissions again once nothing holds their ids, even if the other was not recorded. Returns
    /// `false` if there is nothing to do.
    pub fn admit_unheld(&mut self, base: &mut Base, out: &mut Actions) -> Result<bool, HaltReason> {
        let Some(leader) = self.leader() else { return Ok(false) };
        let in_flight = &base.waiters.in_flight;
        let is_held = |submission: &Submission| {
            let claimed = claiming(submission).map(|called| called.parent);
            in_flight.is_held(submission.id) || claimed.is_some_and(|id| in_flight.is_held(id))
        };
        if leader.queue.clashes().iter().all(is_held) {
            return Ok(false);
        }
        let clashes = leader.queue.take_clashes();
        self.admit(base, clashes, out)?;
        Ok(true)
    }
}

/// Refuses a submission that holds room in the queue, but is not in flight.
fn refuse(submission: Submission, refusal: Refusal, out: &mut Actions) {
    out.release(submission.size);
    out.refuse(submission.ticket, refusal);
}

impl LeaderState {
    /// Whether a submission whose id is not recorded may be taken in.
    fn check_admittable(
        &mut self,
        base: &Base,
        submission: &Submission,
        now: &Now,
        present: Micros,
    ) -> Result<(), Refusal> {
        if base.at.logic().is_none() {
            return Err(Refusal::NotNow(NotNow::NoModule));
        }
        if !now.is_heard {
            return Err(Refusal::NotNow(NotNow::NoMajority));
        }
        if !now.takes_entries() {
            return Err(Refusal::StorageFull);
        }
        if base.is_draining && submission.saga.is_some() {
            return Err(Refusal::Draining);
        }
        match &submission.called {
            None => self.meter.check(present, &submission.caller),
            Some(called) => base.check_carried(called, now, present),
        }
    }

    fn take_in(
        &mut self,
        base: &mut Base,
        mut submission: Submission,
        claim: Claim,
        out: &mut Actions,
    ) -> Result<(), HaltReason> {
        let cancel = match submission.called.clone().filter(|called| called.is_cancel) {
            Some(called) => base.cancel(&submission, &called)?,
            None => None,
        };
        let size = submission.size;
        let mut claimed = None;
        let rejection = match (cancel, claim) {
            (Some(Cancel::Answer(reply)), _) => {
                out.release(size);
                out.reply(submission.ticket, reply);
                return Ok(());
            }
            (Some(Cancel::Forbid(call)), _) => {
                submission.id = call;
                Some(cancelled())
            }
            (Some(Cancel::Recall(index)), _) => {
                base.recall(index, Purpose::Admit(Box::new(submission)), out);
                return Ok(());
            }
            (None, Claim::Other(holder)) => match base.refuse_reused(&submission, &holder) {
                Some(refusal) => Some(refusal),
                None => {
                    base.recall(holder.journal, Purpose::Admit(Box::new(submission)), out);
                    return Ok(());
                }
            },
            (None, claim) => {
                claimed = claimed_by(&submission, &claim);
                granted(&submission)
            }
        };
        match (base.waiters.in_flight.admit(submission, claimed), rejection) {
            (Admission::First(submission), Some(rejection)) => self.queue.forbid(submission, rejection),
            (Admission::First(submission), None) => self.queue.push(submission),
            (Admission::Follows, _) => out.release(size),
            (Admission::Clashes(submission), _) => self.queue.clash(submission),
        }
        Ok(())
    }

    /// Whether a command on several partitions that this leader has admitted is not applied yet.
    pub fn is_beginning(&self) -> bool {
        let begins = |submission: &Submission| submission.saga.is_some();
        self.speculation.batches().flat_map(|batch| &batch.submissions).any(begins) || self.queue.iter().any(begins)
    }
}
