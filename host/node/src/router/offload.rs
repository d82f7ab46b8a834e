//! Where guest calls of requests run: on the runtime's own threads, where they cost least, or on blocking threads,
//! where they delay no other request.
//!
//! In: calls. Out: their results. A call takes microseconds. A slow module must not occupy the few threads that answer
//! all requests of all machines, so once one of its calls was slow, its calls run on blocking threads for a while, a
//! few at a time. It knows nothing of what is called.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant as Deadline, timeout_at};

use crate::limits::{GUEST_CALL_INLINE_MAX, GUEST_CALLS_OFFLOADED_FOR, GUEST_CALLS_OFFLOADED_MAX};

/// The calls of one machine.
pub struct Offload {
    slow_since: Mutex<Option<Instant>>,
    turns: Semaphore,
}

impl Default for Offload {
    fn default() -> Self {
        Self { slow_since: Mutex::default(), turns: Semaphore::new(GUEST_CALLS_OFFLOADED_MAX) }
    }
}

impl Offload {
    /// Runs a call. Returns `None` if its turn does not come before the deadline, or the runtime shuts down meanwhile.
    pub async fn run<T: Send + 'static>(
        &self,
        deadline: Deadline,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if !self.is_slow() {
            let begun = Instant::now();
            let result = call();
            self.took(begun.elapsed());
            return Some(result);
        }
        let _turn = timeout_at(deadline, self.turns.acquire()).await.ok()?.ok()?;
        let (result, took) = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let result = call();
            (result, begun.elapsed())
        })
        .await
        .ok()?;
        self.took(took);
        Some(result)
    }

    /// Makes all calls wait for a turn, and takes all turns.
    #[cfg(test)]
    pub fn hold_all(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.took(2 * GUEST_CALL_INLINE_MAX);
        self.turns.try_acquire_many(GUEST_CALLS_OFFLOADED_MAX as u32).expect("nothing is called")
    }

    fn is_slow(&self) -> bool {
        self.slow_since.lock().is_some_and(|since| since.elapsed() < GUEST_CALLS_OFFLOADED_FOR)
    }

    fn took(&self, took: Duration) {
        if GUEST_CALL_INLINE_MAX < took {
            *self.slow_since.lock() = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn what_was_slow_once_runs_beside_the_runtime() {
        let offload = Offload::default();
        let here = thread::current().id();
        let deadline = Deadline::now() + Duration::from_secs(600);
        assert_eq!(offload.run(deadline, || thread::current().id()).await, Some(here));
        offload.took(2 * GUEST_CALL_INLINE_MAX);
        let elsewhere = offload.run(deadline, || thread::current().id()).await.expect("the runtime is there");
        assert_ne!(elsewhere, here);
        assert_eq!(offload.turns.available_permits(), GUEST_CALLS_OFFLOADED_MAX);
    }
}
