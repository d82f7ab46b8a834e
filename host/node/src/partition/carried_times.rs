//! Times that calls and their outcomes carry from other partitions: an effect is always later than its cause.
//!
//! In: the time of an entry of another partition, which is a recorded fact. Out: the time of the entry that follows
//! from it, whatever the clock shows. A time far ahead of the clock is logged and counted, because it means that some
//! clock was wrong. This file does not know which clock.

use crate::features;
use crate::ids::Micros;
use crate::limits::CARRIED_AHEAD_MAX;
use crate::partition::base::Base;
use crate::partition::now::Now;
use crate::sequencer::submission::{BranchCall, Refusal};

/// The earliest time of an entry that was caused by something at this time.
fn after(carried: Option<Micros>) -> Micros {
    carried.map_or(Micros(i64::MIN), |carried| Micros(carried.0.saturating_add(1)))
}

/// How many seconds `carried` is ahead of `now`, if that is far.
fn far_ahead(carried: Micros, now: Micros) -> Option<i64> {
    let ahead = carried.0.saturating_sub(now.0);
    let ahead_max = i64::try_from(CARRIED_AHEAD_MAX.as_micros()).expect("half a minute fits");
    (ahead_max < ahead).then_some(ahead / 1_000_000)
}

impl Base {
    /// Checks whether a call may carry its time into this journal.
    ///
    /// # Errors
    /// The time is far ahead, and not all nodes accept such times yet. The call is postponed.
    pub(super) fn check_carried(&self, called: &BranchCall, now: &Now, present: Micros) -> Result<(), Refusal> {
        let Some(seconds) = far_ahead(called.carried, present).filter(|_| !now.has(features::TIMELINES)) else {
            return Ok(());
        };
        let (partition, home) = (self.partition, called.home);
        tracing::warn!(%partition, %home, seconds, "a call carries a time that is too far ahead");
        Err(Refusal::Overloaded)
    }

    /// The time of an entry that follows from what happened at `carried`, and that would otherwise have the time
    /// `time`.
    pub(super) fn time_after(&self, time: Micros, carried: Option<Micros>) -> Micros {
        if let Some(seconds) = carried.and_then(|carried| far_ahead(carried, time)) {
            metrics::counter!("statehouse_carried_ahead_total").increment(1);
            let partition = self.partition;
            tracing::warn!(
                %partition, seconds,
                "the time of another partition is far ahead of the clock, and this partition takes it over"
            );
        }
        time.max(after(carried))
    }
}
