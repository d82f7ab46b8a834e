//! When a message that was not taken is sent again, and when it is given up.
//!
//! ```text
//! 1 s, 2 s, 4 s … an hour, each less up to a half by chance; not before `Retry-After`; given up after three days
//! ```
//! In: since when and how often it was tried, the time, a random number. Out: a pause, or the end. It has no clock of
//! its own.

use std::time::Duration;

use crate::ids::Micros;
use crate::limits::{WEBHOOK_RETRY_FIRST, WEBHOOK_RETRY_MAX};
use crate::system::webhook_row::FailingDelivery;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    Again(Duration),
    GiveUp,
}

/// What follows a failed attempt, which `failing` counts. `chance` is a random number from 0 up to 1.
pub fn after_failure(
    failing: &FailingDelivery,
    now: Micros,
    retry_after: Option<Duration>,
    retry_for: Duration,
    chance: f64,
) -> RetryDecision {
    // A clock that went back gives it more time, never less.
    let tried = Duration::from_micros(u64::try_from(now.0.saturating_sub(failing.since)).unwrap_or(0));
    let Some(left) = retry_for.checked_sub(tried).filter(|left| !left.is_zero()) else { return RetryDecision::GiveUp };
    let doublings = failing.attempts.saturating_sub(1).min(31);
    let whole = WEBHOOK_RETRY_FIRST.saturating_mul(1 << doublings).min(WEBHOOK_RETRY_MAX);
    // The random part spreads the messages that reach a receiver once it is back.
    let pause = whole.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0);
    let pause = pause.max(retry_after.unwrap_or_default().min(WEBHOOK_RETRY_MAX));
    // The last attempt is made when the time is over, and not up to an hour before.
    RetryDecision::Again(pause.min(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const DAYS: Duration = Duration::from_secs(3 * 86_400);

    fn micros(time: Duration) -> Micros {
        Micros(i64::try_from(time.as_micros()).expect("some days fit"))
    }

    /// The pause after so many attempts, right after the first one.
    fn pause(attempts: u32, retry_after: Option<Duration>, chance: f64) -> RetryDecision {
        after_failure(&FailingDelivery { since: 0, attempts }, Micros(0), retry_after, DAYS, chance)
    }

    #[test]
    fn pauses_double_up_to_an_hour_and_vary() {
        for (attempts, seconds) in [(1, 1), (2, 2), (3, 4), (10, 512), (12, 2048), (13, 3600), (1000, 3600)] {
            assert_eq!(pause(attempts, None, 0.0), RetryDecision::Again(seconds * SECOND), "{attempts}");
            assert_eq!(pause(attempts, None, 1.0), RetryDecision::Again(seconds * SECOND / 2), "{attempts}");
        }
    }

    #[test]
    fn a_receiver_may_ask_for_more_but_not_for_ever() {
        assert_eq!(pause(1, Some(90 * SECOND), 0.5), RetryDecision::Again(90 * SECOND));
        assert_eq!(pause(12, Some(SECOND), 0.0), RetryDecision::Again(2048 * SECOND), "nor for less");
        assert_eq!(pause(1, Some(DAYS), 0.0), RetryDecision::Again(3600 * SECOND));
    }

    /// A fake clock that sleeps as it is told to.
    #[test]
    fn a_message_is_tried_for_three_days_and_at_their_very_end() {
        let (mut now, mut failing) = (Duration::ZERO, FailingDelivery { since: 0, attempts: 0 });
        let mut chance = 0.0;
        loop {
            failing.attempts += 1;
            match after_failure(&failing, micros(now), None, DAYS, chance) {
                RetryDecision::Again(pause) => {
                    assert!(pause <= WEBHOOK_RETRY_MAX && !pause.is_zero());
                    now += pause;
                }
                RetryDecision::GiveUp => break,
            }
            chance = (chance + 0.37) % 1.0;
        }
        assert_eq!(now, DAYS);
        assert!((84..168).contains(&failing.attempts), "{}", failing.attempts);
    }

    #[test]
    fn a_clock_that_goes_back_ends_nothing() {
        let failing = FailingDelivery { since: 1_000_000, attempts: 1 };
        assert_eq!(after_failure(&failing, Micros(0), None, 5 * SECOND, 0.0), RetryDecision::Again(SECOND));
        assert_eq!(after_failure(&failing, Micros(6_000_000), None, 5 * SECOND, 0.0), RetryDecision::GiveUp);
    }
}
