//! The wall clock and the monotonic clock, reached through a trait so that a simulator can supply them.
//!
//! Only partitions, the comparison of clocks and the API ask for the time. Machine code gets it from the entry.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::ids::Micros;

/// Linux gives each boot a random id.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

pub trait Clock: Send + Sync {
    /// Microseconds since 1970 UTC. It may jump in either direction.
    fn now(&self) -> Micros;

    /// The time since the machine booted, including sleep. It never jumps and never goes back.
    fn running(&self) -> Duration;

    /// The id of the boot from which `running` counts; `None` if it is not known.
    fn boot(&self) -> Option<String>;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Micros {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Micros(i64::try_from(since.as_micros()).expect("the year 294,000 is far"))
    }

    fn running(&self) -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a `timespec` that outlives the call.
        let failed = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
        assert_eq!(failed, 0, "every Linux has this clock");
        let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
        Duration::new(seconds.expect("it starts at 0"), nanos.expect("less than a second"))
    }

    fn boot(&self) -> Option<String> {
        let name = std::fs::read_to_string(BOOT_ID).ok()?;
        Some(name.trim().to_owned()).filter(|name| !name.is_empty())
    }
}

/// Clocks that stand still until they are set.
#[derive(Debug, Default)]
pub struct ManualClock {
    wall: AtomicI64,
    /// In microseconds.
    running: AtomicU64,
    boots: AtomicU64,
}

impl ManualClock {
    /// Moves only the wall clock.
    pub fn set(&self, now: Micros) {
        self.wall.store(now.0, Ordering::SeqCst);
    }

    /// Lets time pass on both clocks.
    pub fn pass(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).expect("a test is short");
        self.wall.fetch_add(micros as i64, Ordering::SeqCst);
        self.running.fetch_add(micros, Ordering::SeqCst);
    }

    /// The machine boots again. Its wall clock continues.
    pub fn reboot(&self) {
        self.boots.fetch_add(1, Ordering::SeqCst);
        self.running.store(0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Micros {
        Micros(self.wall.load(Ordering::SeqCst))
    }

    fn running(&self) -> Duration {
        Duration::from_micros(self.running.load(Ordering::SeqCst))
    }

    fn boot(&self) -> Option<String> {
        Some(self.boots.load(Ordering::SeqCst).to_string())
    }
}
