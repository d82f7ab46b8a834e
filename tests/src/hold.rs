//! The one place where a test lets time pass, always within a bound.
//!
//! [`eventually`] and [`within`] are for what must happen on its own; [`hold`] is for what must last, like a paused
//! process. No test judges by how long something took: every bound is far above what the host promises.

use std::time::Duration;

/// The longest single hold.
const HOLD_MAX: Duration = Duration::from_secs(2);
/// Far above any start, fail-over or catch-up in a test, even on a busy machine: a longer wait is a hang.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The pause between two questions of [`eventually`].
const PAUSE: Duration = Duration::from_millis(20);
/// Together with [`PAUSE`] this is far above anything the host promises, so that only a hang reaches it.
const QUESTION_COUNT_MAX: u32 = 10_000;

/// Lets `duration` pass, at most two seconds.
pub async fn hold(duration: Duration) {
    assert!(duration <= HOLD_MAX, "a test holds {HOLD_MAX:?} at most");
    tokio::time::sleep(duration).await;
}

/// Asks until there is an answer; panics with `what` when none comes. Questions are counted and time is not, so one
/// question may be work that takes long.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..QUESTION_COUNT_MAX {
        if let Some(answer) = ask().await {
            return answer;
        }
        hold(PAUSE).await;
    }
    panic!("{what}: did not happen within {QUESTION_COUNT_MAX} questions");
}

/// Like [`eventually`], where one question may itself take long, like a request to a node that is cut off. Gives up
/// after `patience`.
pub async fn within<T>(patience: Duration, what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    find_within(patience, ask).await.unwrap_or_else(|| panic!("{what}: did not happen within {patience:?}"))
}

/// Like [`within`], for a caller that has more to say when there is no answer.
pub async fn find_within<T>(patience: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            hold(PAUSE).await;
        }
    };
    tokio::time::timeout(patience, asking).await.ok()
}
