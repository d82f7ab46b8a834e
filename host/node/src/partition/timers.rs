//! The timers of a leader: what it does later, by the monotonic clock.
//!
//! In: what is to be done, and when. Out: the same, once that moment has passed; and the next such moment. Timers end
//! with the leader that has set them. This file does not know what is done.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::ids::{CommandId, PartitionId};
use crate::partition::participants::DueCall;

/// What is done later.
pub enum Timer {
    /// These calls of one partition are made.
    Call { partition: PartitionId, calls: Vec<DueCall> },
    /// These commands may have calls that must be repeated.
    CallAgain(Vec<CommandId>),
}

/// In the order in which they are due; those of one moment in the order in which they were set.
#[derive(Default)]
pub struct Timers(BTreeMap<Instant, Vec<Timer>>);

impl Timers {
    pub fn set(&mut self, due: Instant, timer: Timer) {
        self.0.entry(due).or_default().push(timer);
    }

    /// Takes the next timer that is due at `now`.
    pub fn take_due(&mut self, now: Instant) -> Option<Vec<Timer>> {
        let first = self.0.first_entry().filter(|first| *first.key() <= now)?;
        Some(first.remove())
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.0.first_key_value().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timers_are_due_in_order_and_none_too_soon() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        for (millis, number) in [(20, 1), (10, 2), (20, 3)] {
            timers.set(at(millis), Timer::CallAgain(vec![CommandId([number; 16])]));
        }
        let number = |timer: &Timer| match timer {
            Timer::CallAgain(commands) => commands[0].0[0],
            Timer::Call { .. } => panic!("none was set"),
        };
        let mut due = |millis| timers.take_due(at(millis)).map(|due| due.iter().map(number).collect::<Vec<_>>());
        assert_eq!((due(9), due(25), due(19), due(20), due(99)), (None, Some(vec![2]), None, Some(vec![1, 3]), None));
        timers.set(at(7), Timer::CallAgain(Vec::new()));
        assert_eq!(timers.next(), Some(at(7)));
    }
}
