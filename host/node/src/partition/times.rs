//! The times that somebody waits for the journal to pass. The earliest is first; an idle leader writes a tick for it.
//!
//! In: times, any number of them and however far away. Out: the next one that needs a tick. A tick costs log for ever,
//! so times close to each other share one, and no time is further away than a command may wait. Callers that are not
//! answered in time ask again. This file does not know why somebody waits.

use std::collections::BTreeSet;

use crate::ids::Micros;
use crate::limits;

/// In ascending order.
#[derive(Default)]
pub struct WantedTimes(BTreeSet<Micros>);

fn micros(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_micros()).expect("limits are short")
}

impl WantedTimes {
    /// Somebody waits until the journal's time has passed this.
    pub fn ask(&mut self, time: Micros, now: Micros) {
        let step = micros(limits::TICK_STEP);
        let latest = now.0.saturating_add(micros(limits::DEADLINE_MAX));
        // A time in the past is due now, however long ago it was.
        let time = time.0.clamp(now.0.min(latest), latest);
        self.0.insert(Micros(time.div_euclid(step).saturating_add(1).saturating_mul(step)));
        if limits::TIMES_WANTED_MAX < self.0.len() {
            self.0.pop_last();
        }
    }

    /// Forgets the times that the journal has passed.
    pub fn on_time(&mut self, journal: Micros) {
        while self.0.first().is_some_and(|wanted| *wanted < journal) {
            self.0.pop_first();
        }
    }

    pub fn next(&self) -> Option<Micros> {
        self.0.first().copied()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros(1_000_000_000_000);

    fn after(millis: i64) -> Micros {
        Micros(NOW.0 + millis * 1000)
    }

    #[test]
    fn the_soonest_time_comes_first_and_none_is_lost_or_far_away() {
        let mut times = WantedTimes::default();
        for far in [Micros(i64::MAX), after(3_600_000), after(700), Micros(i64::MIN), after(90), after(700)] {
            times.ask(far, NOW);
        }
        let mut ticks = Vec::new();
        while let Some(next) = times.next() {
            ticks.push(next);
            // The tick's own time is later than the time it is for.
            times.on_time(Micros(next.0 + 1));
        }
        let step = micros(limits::TICK_STEP);
        let wanted = [NOW, after(90), after(700), after(30_000)];
        assert_eq!(ticks.len(), wanted.len(), "{ticks:?}");
        for (tick, wanted) in ticks.iter().zip(wanted) {
            assert!(wanted < *tick && tick.0 <= wanted.0 + step, "{tick:?} for {wanted:?}");
        }
    }

    #[test]
    fn many_times_cost_few_ticks_and_a_bounded_memory() {
        let mut times = WantedTimes::default();
        for micros in 0..200_000 {
            times.ask(Micros(NOW.0 + micros), NOW);
        }
        let steps = 200_000 / micros(limits::TICK_STEP) as usize;
        assert!((steps..=steps + 1).contains(&times.0.len()), "{}", times.0.len());
        // A journal whose time stands still for hours.
        for second in 0..20_000 {
            times.ask(Micros(i64::MAX), after(second * 1000));
        }
        assert_eq!(times.0.len(), limits::TIMES_WANTED_MAX);
        assert!(times.next().is_some_and(|next| next <= after(1000)), "the soonest stays");
    }
}
