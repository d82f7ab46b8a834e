//! Admission: is the id known, is it in flight, has its time passed, has its caller caused too many rejections?
//!
//! In: submissions. Out: those to be decided; the others are answered. It remembers who waits for an id that is in
//! flight, and which calls are about to claim a client's id. It decides nothing about the content of a
//! command.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::ids::{CommandId, Fingerprint, Micros};
use crate::limits;
use crate::sequencer::submission::{Refusal, Submission, Ticket};

/// The ids that wait or are being replicated.
#[derive(Default)]
pub struct InFlight {
    ids: HashMap<CommandId, WaitingCommand>,
    /// Clients' ids that calls among them claim.
    // INVARIANT: one for each of `ids` with a claim.
    claimed: HashSet<CommandId>,
}

struct WaitingCommand {
    fingerprint: Fingerprint,
    /// The client's id that it claims, being a call.
    claim: Option<CommandId>,
    /// Requests with the same id and content that came after the first.
    followers: Vec<Ticket>,
}

/// What admission says to a submission whose id is not recorded.
pub enum Admission {
    /// It is the first with this id.
    First(Submission),
    /// The same command is in flight; its answer goes to both.
    Follows,
    /// Another command with the same id is in flight, or about to claim it; look again when that one is recorded.
    Clashes(Submission),
}

impl InFlight {
    /// `claim` is the client's id that the submission claims, being a call.
    pub fn admit(&mut self, submission: Submission, claim: Option<CommandId>) -> Admission {
        let is_held = self.claimed.contains(&submission.id) || claim.is_some_and(|id| self.is_held(id));
        match self.ids.get_mut(&submission.id) {
            None if is_held => Admission::Clashes(submission),
            None => {
                let waiting = WaitingCommand { fingerprint: submission.fingerprint, claim, followers: Vec::new() };
                self.ids.insert(submission.id, waiting);
                self.claimed.extend(claim);
                Admission::First(submission)
            }
            Some(waiting) if waiting.fingerprint == submission.fingerprint => {
                if waiting.followers.len() == waiting.followers.capacity() {
                    waiting.followers.retain(|ticket| !ticket.is_abandoned());
                }
                waiting.followers.push(submission.ticket);
                Admission::Follows
            }
            Some(_) => Admission::Clashes(submission),
        }
    }

    pub fn contains(&self, id: CommandId) -> bool {
        self.ids.contains_key(&id)
    }

    /// Whether an id is that of a command in flight, or one that a call in flight claims.
    pub fn is_held(&self, id: CommandId) -> bool {
        self.ids.contains_key(&id) || self.claimed.contains(&id)
    }

    /// Whether a call in flight claims its command's id.
    pub fn is_claiming(&self, call: CommandId) -> bool {
        self.ids.get(&call).is_some_and(|waiting| waiting.claim.is_some())
    }

    /// Whether nobody waits any more of those who followed the first request.
    pub fn is_abandoned(&self, id: CommandId) -> bool {
        self.ids.get(&id).is_none_or(|waiting| waiting.followers.iter().all(Ticket::is_abandoned))
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Ends an id's flight; those who followed the first request are still to be answered.
    pub fn take(&mut self, id: CommandId) -> Vec<Ticket> {
        let Some(waiting) = self.ids.remove(&id) else { return Vec::new() };
        if let Some(claim) = waiting.claim {
            self.claimed.remove(&claim);
        }
        waiting.followers
    }

    /// Ends all flights; those who follow in one are still to be answered.
    pub fn take_all(&mut self) -> impl Iterator<Item = Ticket> + '_ {
        self.claimed.clear();
        self.ids.drain().flat_map(|(_, waiting)| waiting.followers)
    }
}

/// Counts recorded rejections, in all and per caller, within the current second of journal time.
#[derive(Default)]
pub struct RejectionMeter {
    second: i64,
    total: u32,
    counts: HashMap<Arc<str>, u32>,
}

impl RejectionMeter {
    pub fn record(&mut self, time: Micros, caller: &Arc<str>) {
        self.roll(time);
        self.total += 1;
        *self.counts.entry(caller.clone()).or_insert(0) += 1;
    }

    pub fn check(&mut self, time: Micros, caller: &str) -> Result<(), Refusal> {
        self.roll(time);
        if limits::REJECTIONS_PER_SECOND_MAX <= self.total {
            return Err(Refusal::RejectionLimit);
        }
        match self.counts.get(caller) {
            Some(count) if *count >= limits::REJECTIONS_PER_CALLER_PER_SECOND_MAX => Err(Refusal::RejectionLimit),
            _ => Ok(()),
        }
    }

    fn roll(&mut self, time: Micros) {
        let second = time.0.div_euclid(1_000_000);
        if second != self.second {
            self.second = second;
            self.total = 0;
            self.counts.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejections_are_bounded_per_caller_and_in_all() {
        let mut meter = RejectionMeter::default();
        let callers: Vec<Arc<str>> = (0..6).map(|number: u32| number.to_string().into()).collect();
        let time = Micros(5_000_000);
        let mut recorded = 0;
        for caller in &callers {
            while meter.check(time, caller).is_ok() {
                meter.record(time, caller);
                recorded += 1;
            }
            let of_one = limits::REJECTIONS_PER_CALLER_PER_SECOND_MAX;
            assert!(recorded % of_one == 0, "{recorded} after {caller}");
        }
        assert_eq!(recorded, limits::REJECTIONS_PER_SECOND_MAX, "however many callers there are");
        let next = Micros(6_000_000);
        assert!(callers.iter().all(|caller| meter.check(next, caller).is_ok()), "the next second is another one");
    }
}
