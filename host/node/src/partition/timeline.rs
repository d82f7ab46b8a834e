//! The present time of a partition's journal. It never goes back.
//!
//! ```text
//! wall clock   ────────────╮ an hour back
//!                          ╰──────────────────────────────── … ───╮
//! the journal  ────────────── half as fast as time ────────────── ╰─── as the wall clock again
//! ```
//! In: the node's clock, and the time of the last entry. Out: the time that the next entry would have. While a journal
//! is ahead of the clock its time runs at half speed. So every wait for it ends, and the lead shrinks. This file does
//! not know whether the clock is right.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::ids::Micros;

pub struct Timeline {
    clock: Arc<dyn Clock>,
    /// Since when the journal has been ahead of the clock, and its time at that moment.
    ahead: Mutex<Option<Ahead>>,
}

#[derive(Clone, Copy)]
struct Ahead {
    time: Micros,
    since: Duration,
}

impl Timeline {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, ahead: Mutex::new(None) }
    }

    /// The present time if the last entry has the time `journal`; never earlier than that.
    pub fn present(&self, journal: Micros) -> Micros {
        self.present_at(journal, self.clock.now(), self.clock.running())
    }

    /// The same by clocks that were looked up a moment ago. Another thread may have looked at them since.
    pub fn present_at(&self, journal: Micros, wall: Micros, running: Duration) -> Micros {
        let mut ahead = self.ahead.lock();
        let slow = ahead.map(|Ahead { time, since }| {
            let passed = running.saturating_sub(since) / 2;
            Micros(time.0.saturating_add(i64::try_from(passed.as_micros()).unwrap_or(i64::MAX)))
        });
        let slow = slow.filter(|slow| journal <= *slow).or_else(|| {
            // It was not ahead until now, or an entry carried it further ahead.
            *ahead = (wall < journal).then_some(Ahead { time: journal, since: running });
            ahead.map(|ahead| ahead.time)
        });
        match slow {
            Some(slow) if wall < slow => slow,
            _ => {
                *ahead = None;
                wall
            }
        }
    }

    /// How far a journal is ahead of the node's clock.
    pub fn lead(&self, journal: Micros) -> Duration {
        Duration::from_micros(u64::try_from(journal.0.saturating_sub(self.clock.now().0)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::clock::ManualClock;

    const SECOND: i64 = 1_000_000;
    const DAY: i64 = 86_400 * SECOND;

    fn timeline(now: i64) -> (Arc<ManualClock>, Timeline) {
        let clock = Arc::new(ManualClock::default());
        clock.set(Micros(now));
        (clock.clone(), Timeline::new(clock))
    }

    /// The time of the next entry.
    fn next(timeline: &Timeline, journal: Micros) -> Micros {
        Micros(timeline.present(journal).0.max(journal.0 + 1))
    }

    #[test]
    fn a_journal_goes_by_the_wall_clock_unless_that_stands_before_it() {
        let (clock, timeline) = timeline(1000 * SECOND);
        assert_eq!(timeline.present(Micros(0)), Micros(1000 * SECOND));
        assert_eq!(timeline.present(Micros(1000 * SECOND)), Micros(1000 * SECOND));
        let journal = Micros(1010 * SECOND);
        assert_eq!(timeline.present(journal), journal);
        for second in 1..20 {
            clock.pass(Duration::from_secs(1));
            assert_eq!(timeline.present(journal), Micros(journal.0 + second * SECOND / 2), "half as fast as time");
        }
        clock.pass(Duration::from_secs(1));
        assert_eq!(timeline.present(journal), Micros(1020 * SECOND), "caught up");
        clock.pass(Duration::from_secs(1));
        assert_eq!(timeline.present(journal), Micros(1021 * SECOND), "as fast as time again");
    }

    #[test]
    fn what_waits_for_a_day_ahead_ends_and_the_lead_shrinks() {
        let (clock, timeline) = timeline(1000 * SECOND);
        let mut journal = Micros(1000 * SECOND + DAY);
        let wanted = Micros(journal.0 + 5 * SECOND);
        let mut looks = 0;
        while journal <= wanted {
            clock.pass(Duration::from_millis(100));
            journal = next(&timeline, journal);
            looks += 1;
        }
        assert!((100..=102).contains(&looks), "twice as long as five seconds: {looks}");
        assert_eq!(timeline.lead(journal).as_secs(), 86_394, "five seconds less");
    }

    /// Clocks leap forth and back, entries are carried ahead, and time passes in between. No entry is earlier than the
    /// last one, none is later than it should be, and in the end the journal has the wall clock's time.
    #[test]
    fn whatever_clocks_do_time_never_goes_back_and_is_caught_up() {
        for seed in 0..500 {
            let mut random = StdRng::seed_from_u64(seed);
            let (clock, timeline) = timeline(1000 * DAY);
            let mut journal = Micros(1000 * DAY);
            for _ in 0..random.random_range(1..200) {
                match random.random_range(0..8) {
                    0 => clock.set(Micros(clock.now().0 + random.random_range(-2 * DAY..2 * DAY))),
                    1 => clock.set(Micros(clock.now().0 + random.random_range(-2 * SECOND..2 * SECOND))),
                    2 => journal = Micros(journal.0 + random.random_range(1..DAY)),
                    3..6 => clock.pass(Duration::from_micros(random.random_range(0..10_000_000))),
                    _ => {
                        let before = (clock.running(), journal, timeline.present(journal));
                        clock.pass(Duration::from_micros(random.random_range(0..1_000_000)));
                        let time = next(&timeline, journal);
                        assert!(journal < time, "seed {seed}");
                        let passed = (clock.running() - before.0).as_micros() as i64;
                        let latest = clock.now().0.max(before.2.0 + passed / 2 + 1);
                        assert!(time.0 <= latest, "seed {seed}: {time:?} is ahead of its time");
                        journal = time;
                    }
                }
            }
            let lead = timeline.lead(timeline.present(journal));
            clock.pass(lead * 2 + Duration::from_secs(1));
            assert_eq!(timeline.present(journal), clock.now(), "seed {seed}: caught up after twice the lead");
        }
    }
}
