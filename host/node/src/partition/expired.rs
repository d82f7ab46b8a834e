//! Submissions that came too late: they are answered only when it is certain that they will never be executed.
//!
//! In: submissions that expire before the next entry, or whose deadline by the monotonic clock has passed; times of
//! committed entries. Out: *expired*, once an entry with a later time is committed. Before that, another leader may
//! still execute a copy of the submission. This file does not know why a submission is late.

use tokio::time::Instant;

use crate::ids::{CommandId, Micros};
use crate::limits;
use crate::partition::actions::Actions;
use crate::partition::base::Base;
use crate::partition::error::{HaltReason, store_failed};
use crate::partition::leader::LeaderState;
use crate::partition::now::Now;
use crate::sequencer::submission::{NotNow, Refusal, Reply, Submission, Ticket};

/// Submissions whose clients are to be told. They are dropped when their clients stop waiting.
#[derive(Default)]
pub struct Expired(Vec<Late>);

struct Late {
    id: CommandId,
    expires: Micros,
    ticket: Ticket,
}

impl Expired {
    /// Refuses all: nothing more is known about a submission that was not executed here.
    pub fn refuse_all(&mut self, refusal: Refusal, out: &mut Actions) {
        for late in self.0.drain(..) {
            out.refuse(late.ticket, refusal);
        }
    }

    fn push(&mut self, late: Late, out: &mut Actions) {
        if self.0.len() == self.0.capacity() {
            self.0.retain(|late| !late.ticket.is_abandoned());
        }
        if limits::EXPIRED_WAITING_MAX <= self.0.len() {
            return out.reply(late.ticket, Reply::Unknown);
        }
        self.0.push(late);
    }
}

impl Submission {
    /// Whether nobody waits for the submission any more, whatever the time of any journal.
    pub(super) fn is_given_up(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

impl LeaderState {
    /// Takes a submission that is too late for the next entry out of the queue. Makes sure that an entry with a time
    /// later than its expiry follows.
    pub(super) fn expire(
        &mut self,
        base: &mut Base,
        submission: Submission,
        now: &Now,
        out: &mut Actions,
    ) -> Result<(), HaltReason> {
        out.release(submission.size);
        let Submission { id, expires, ticket, .. } = submission;
        for follower in base.waiters.in_flight.take(id) {
            // The follower was sent later, so it may still be in time: its node asks again.
            out.refuse(follower, Refusal::NotNow(NotNow::OtherCopy));
        }
        self.expired.push(Late { id, expires, ticket }, out);
        if base.at.journal().time <= expires {
            self.times_wanted.ask(expires, base.present(now));
        }
        self.answer_expired(base, out)
    }

    /// An entry is committed: no node executes what expired before its time.
    pub(super) fn answer_expired(&mut self, base: &Base, out: &mut Actions) -> Result<(), HaltReason> {
        let time = base.at.journal().time;
        if self.expired.0.iter().all(|late| time <= late.expires) {
            return Ok(());
        }
        for late in self.expired.0.extract_if(.., |late| late.expires < time).collect::<Vec<_>>() {
            // Another copy of it may have been sent in time.
            let is_known =
                base.waiters.in_flight.is_held(late.id) || base.ids.lookup(&late.id).map_err(store_failed)?.is_some();
            let not_now = Reply::Refused(Refusal::NotNow(NotNow::OtherCopy));
            out.reply(late.ticket, if is_known { not_now } else { Reply::Expired });
        }
        Ok(())
    }
}
