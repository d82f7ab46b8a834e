//! How long a call of the fast code may run: so much of a processor's time.
//!
//! The wall clock says little about a module: on a busy machine, a thread waits for seconds until it may run again. So
//! the watchdog's ticks are only occasions to look at the time that the call's own thread has used. Only when a call
//! has lasted for many times what it may use is it stopped for that, because its caller cannot wait for ever. This
//! file knows nothing of calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use wasmtime::{Store, UpdateDeadline};

use crate::limits;

/// What all calls of an engine share: how long a tick is, and whether the process is about to end.
pub(super) struct EngineTicks {
    pub(super) tick: Duration,
    is_hurried: AtomicBool,
}

impl EngineTicks {
    pub(super) fn every(tick: Duration) -> Arc<Self> {
        Arc::new(Self { tick, is_hurried: AtomicBool::new(false) })
    }

    /// From now on the next tick stops every call.
    pub(super) fn hurry(&self) {
        self.is_hurried.store(true, Ordering::Release);
    }

    pub(super) fn is_hurried(&self) -> bool {
        self.is_hurried.load(Ordering::Acquire)
    }

    /// Gives the next call this many ticks of the time of the thread that makes it. The error is one tick.
    pub(super) fn allow(self: &Arc<Self>, store: &mut Store<()>, ticks: u32) {
        let (ticking, mut patience) = (self.clone(), Patience::new(self.tick, ticks));
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            if ticking.is_hurried() || patience.is_over(thread_time()) {
                return Ok(UpdateDeadline::Interrupt);
            }
            Ok(UpdateDeadline::Continue(1))
        });
    }
}

/// The patience with one call.
struct Patience {
    used_max: Duration,
    ticks_max: u32,
    ticks: u32,
    /// What the thread had used at the first tick: looking at its clock before each call would cost more than most
    /// calls.
    used_before: Option<Duration>,
}

impl Patience {
    fn new(tick: Duration, ticks: u32) -> Self {
        let ticks_max = ticks.saturating_mul(limits::GUEST_WATCHDOG_WAITS);
        Self { used_max: tick * ticks.saturating_sub(1), ticks_max, ticks: 0, used_before: None }
    }

    /// Called at each tick with the time that the thread has used.
    fn is_over(&mut self, used: Duration) -> bool {
        self.ticks += 1;
        let used_before = *self.used_before.get_or_insert(used);
        self.ticks_max <= self.ticks || self.used_max <= used.saturating_sub(used_before)
    }
}

/// The time for which this thread has run on a processor.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(250);

    /// At which tick a call is stopped that uses this share of each tick.
    fn stopped_at(ticks: u32, percent: u32) -> u32 {
        let mut patience = Patience::new(TICK, ticks);
        let used = |tick: u32| Duration::from_secs(7) + TICK * tick * percent / 100;
        (1..).find(|tick| patience.is_over(used(*tick))).expect("every call is stopped")
    }

    #[test]
    fn a_call_is_stopped_when_its_thread_has_used_its_time_and_at_last_by_the_wall_clock() {
        assert_eq!(stopped_at(8, 100), 8);
        assert_eq!(stopped_at(8, 50), 15, "seven ticks are used within fourteen");
        assert_eq!(stopped_at(8, 0), 8 * limits::GUEST_WATCHDOG_WAITS);
        assert_eq!(stopped_at(2, 100), 2);
        assert_eq!(stopped_at(2, 0), 2 * limits::GUEST_WATCHDOG_WAITS);
    }
}
