//! Submissions that came too late: nothing is said of them before it is certain that they are never executed.
//!
//! In: submissions that expire before the next entry, or that nobody waits for any more by the clock that only runs; times of committed entries.
//! Out: *expired*, once an entry later than that is committed. Before, a copy of the submission that another leader has may still be executed.
//! It does not know why it is late.

use tokio::time::Instant;

use crate::ids::{CommandId, Micros};
use crate::limits;
use crate::partition::error::HaltReason;
use crate::partition::run::{Executor, store_failed};
use crate::sequencer::submission::{Refusal, Reply, Submission, Ticket};

/// Those who are to be told. They are dropped when nobody waits for them any more.
#[derive(Default)]
pub struct Expired(Vec<Late>);

struct Late {
    id: CommandId,
    expires: Micros,
    ticket: Ticket,
}

impl Expired {
    /// Of what was not executed here, nothing more is known.
    pub fn refuse_all(&mut self, refusal: Refusal) {
        for late in self.0.drain(..) {
            late.ticket.reply(Reply::Refused(refusal));
        }
    }

    fn push(&mut self, late: Late) {
        if self.0.len() == self.0.capacity() {
            self.0.retain(|late| !late.ticket.is_abandoned());
        }
        if limits::EXPIRED_WAITING_MAX <= self.0.len() {
            return late.ticket.reply(Reply::Unknown);
        }
        self.0.push(late);
    }
}

impl Submission {
    /// Whether nobody waits for it any more, whatever the clocks of journals say.
    pub(super) fn is_given_up(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

impl Executor {
    /// Takes a submission out of the queue that is too late for the next entry, and sees to it that there is one past the time it expires at.
    pub(super) fn expire(&mut self, submission: Submission) -> Result<(), HaltReason> {
        self.board.release(submission.size);
        let Submission { id, expires, ticket, .. } = submission;
        for follower in self.in_flight.take(id) {
            // It came later, so it may be in time: its node asks again.
            follower.reply(Reply::Refused(Refusal::NoLeader));
        }
        self.expired.push(Late { id, expires, ticket });
        if self.journal.time <= expires {
            self.times_wanted.ask(expires, self.present());
        }
        self.answer_expired()
    }

    /// An entry is committed: what expired before its time is executed by nobody.
    pub(super) fn answer_expired(&mut self) -> Result<(), HaltReason> {
        let time = self.journal.time;
        if self.expired.0.iter().all(|late| time <= late.expires) {
            return Ok(());
        }
        for late in self.expired.0.extract_if(.., |late| late.expires < time).collect::<Vec<_>>() {
            // Sent again meanwhile by somebody else, it may have been in time.
            let is_known =
                self.in_flight.is_held(late.id) || self.ids.lookup(&late.id).map_err(store_failed)?.is_some();
            late.ticket.reply(if is_known { Reply::Refused(Refusal::NoLeader) } else { Reply::Expired });
        }
        Ok(())
    }
}
