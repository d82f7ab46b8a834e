//! The thread that keeps one spare segment ready, so that appends never wait for the disk to allocate space.
//!
//! While the disk is full, or no descriptor or memory is left for another file, it keeps trying, and the log refuses
//! appends. Any other disk error ends the log. It knows nothing of frames.

use std::sync::Arc;
use std::time::Duration;

use crate::durable;
use crate::log::live::shared::SharedLog;
use crate::log::live::state::State;
use crate::log::segment::Spare;
use crate::log::{LogError, LogOptions};

/// The thread's body. It returns when the log closes or fails.
pub(super) fn run(shared: &Arc<SharedLog>) {
    let mut number = 0;
    while let Some(size) = wait_for_wish(shared) {
        number += 1;
        match Spare::prepare(&*shared.disk, &shared.dir, number, size) {
            Ok(spare) => offer(shared, spare),
            Err(error) if durable::is_passing(&error) => {
                wait_for_space(shared, &error.to_string(), shared.options.spare_retry);
            }
            Err(error) => shared.fail(LogError::disk(format!("spare-{number}.tmp"), error)),
        }
    }
}

/// The size that the next spare should have; `None` when no further spare is needed because the log ends.
fn wait_for_wish(shared: &SharedLog) -> Option<u64> {
    let mut state = shared.state.lock();
    loop {
        if state.is_closing || state.failed.is_some() {
            return None;
        }
        if state.spare.as_ref().is_none_or(|spare| spare.size < state.spare_bytes_wanted) {
            return Some(size_of_next(&state, &shared.options));
        }
        shared.spare_wanted.wait(&mut state);
    }
}

/// Segments double in size, so that a small partition stays small and a busy one rolls rarely.
fn size_of_next(state: &State, options: &LogOptions) -> u64 {
    let doubled = state.segment.size.saturating_mul(2).min(options.segment_bytes_max);
    let size = doubled.max(options.segment_bytes_min).max(state.spare_bytes_wanted).next_multiple_of(4096);
    assert!(state.spare_bytes_wanted <= size);
    size
}

fn offer(shared: &SharedLog, spare: Spare) {
    let replaced = {
        let mut state = shared.state.lock();
        assert!(state.spare.as_ref().is_none_or(|old| old.size < spare.size));
        state.is_full = false;
        state.size += spare.size;
        let replaced = state.spare.replace(spare);
        state.size -= replaced.as_ref().map_or(0, |spare| spare.size);
        replaced
    };
    shared.tell_of_room();
    if let Some(replaced) = replaced
        && let Err(error) = shared.disk.remove(&replaced.path)
    {
        shared.fail(LogError::disk(replaced.path.display().to_string(), error));
    }
}

fn wait_for_space(shared: &SharedLog, why: &str, retry: Duration) {
    let mut state = shared.state.lock();
    if !std::mem::replace(&mut state.is_full, true) {
        tracing::warn!(
            dir = %shared.dir.display(), why,
            "the next segment of the log cannot be prepared; appends are refused until it can"
        );
    }
    shared.tell_of_room();
    if !state.is_closing {
        shared.spare_wanted.wait_for(&mut state, retry);
    }
}
