//! The one place where a test lets time pass, always within a bound.
//!
//! [`eventually`] is for what must happen by itself; [`hold`] for what must last, like a paused process. No test judges
//! by how long something took.

use std::time::Duration;

/// The longest single hold.
const HOLD_MAX: Duration = Duration::from_secs(2);
/// Between two questions of [`eventually`].
const PAUSE: Duration = Duration::from_millis(20);
/// Together with [`PAUSE`] far above anything the host promises, so that only a hang runs into it.
const QUESTION_COUNT_MAX: u32 = 3_000;

/// Lets `duration` pass, at most two seconds.
pub async fn hold(duration: Duration) {
    assert!(duration <= HOLD_MAX, "a test holds {HOLD_MAX:?} at most");
    tokio::time::sleep(duration).await;
}

/// Asks until there is an answer; panics with `what` when none comes.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..QUESTION_COUNT_MAX {
        if let Some(answer) = ask().await {
            return answer;
        }
        hold(PAUSE).await;
    }
    panic!("{what}: did not happen within {QUESTION_COUNT_MAX} questions");
}
