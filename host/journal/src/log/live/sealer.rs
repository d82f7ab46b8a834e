//! The thread that seals closed segments, oldest first, once everything in a segment is durable and committed.
//!
//! ```text
//! closed, durable, committed ─▶ read, check, hash ─▶ write the seal ─▶ the book forgets its entries
//! ```
//! A seal only saves reading. If one cannot be written the log keeps running, and the segment is read at the next
//! start. This file does not know who reads sealed segments.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::durable;
use crate::ids::LogIndex;
use crate::limits::LOG_SEAL_AGAIN;
use crate::log::frame::NO_HASH;
use crate::log::live::shared::SharedLog;
use crate::log::recover::read_segment;
use crate::log::seal::{self, Point, Seal};
use crate::log::segment::ClosedSegment;
use crate::log::{Damage, LogError};

/// Held while a segment is in memory to be sealed: all logs together seal one at a time.
static SEALING: Mutex<()> = Mutex::new(());
/// How often a thread that waits for its turn checks whether the log closes.
const LOOK: Duration = Duration::from_millis(50);

/// The thread's body. It returns when the log closes or fails, or when nothing more can be sealed.
pub(super) fn run(shared: &Arc<SharedLog>) {
    while let Some(closed) = wait_for_closed(shared) {
        let Some(turn) = SEALING.try_lock_for(LOOK) else { continue };
        let started = Instant::now();
        let surveyed = survey(shared, &closed);
        drop(turn);
        let sealed = surveyed.and_then(|(seal, points)| {
            let size = seal.write(&*shared.disk, &shared.dir, &points);
            let size = size.map_err(|error| LogError::disk(&closed.segment.name, error))?;
            Ok((seal, size))
        });
        match sealed {
            Ok((seal, size)) => {
                let first_lsn = seal.first_lsn();
                if !shared.state.lock().on_sealed(Arc::new(seal), size) {
                    // The segment was released meanwhile. If the seal stays, the next start deletes it.
                    let _ = seal::remove(&*shared.disk, &shared.dir, first_lsn);
                }
                // A log without any seals has many segments to seal: half of the time is left to others.
                pause(shared, started.elapsed());
            }
            Err(LogError::Disk { source, .. }) if durable::is_passing(&source) => pause(shared, LOG_SEAL_AGAIN),
            // The segment still counts as the tail: the log is repaired when it is opened again.
            Err(error @ LogError::Corrupt { .. }) => return shared.fail(error),
            Err(error) => {
                let reason = error.reason();
                tracing::warn!(
                    dir = %shared.dir.display(), reason, "no more segments are sealed before the next start"
                );
                return;
            }
        }
    }
}

/// The next segment that can be sealed; `None` when the log ends.
fn wait_for_closed(shared: &SharedLog) -> Option<ClosedSegment> {
    let mut state = shared.state.lock();
    loop {
        if state.is_closing || state.failed.is_some() {
            return None;
        }
        if let Some(closed) = state.sealable() {
            return Some(closed.clone());
        }
        shared.sealable.wait(&mut state);
    }
}

/// Waits for `time` while there is more to seal, or until the log closes.
fn pause(shared: &SharedLog, time: Duration) {
    let until = Instant::now() + time;
    let mut state = shared.state.lock();
    while !state.is_closing && state.failed.is_none() && state.sealable().is_some() {
        if shared.sealable.wait_until(&mut state, until).timed_out() {
            return;
        }
    }
}

/// Reads the segment back, so that the seal describes what is on disk. It must agree with what the log knows.
fn survey(shared: &SharedLog, closed: &ClosedSegment) -> Result<(Seal, Vec<Point>), LogError> {
    let segment = &closed.segment;
    let bytes = read_segment(segment)?;
    let (seal, points) = Seal::survey(&segment.header, closed.end, &bytes)?;
    let known = seal.last.and_then(|last| shared.state.lock().book.hash_of(last).ok());
    if known.is_some_and(|known| known != NO_HASH && known != seal.last_hash) {
        let index = seal.last.map_or(LogIndex(0), |last| last.index);
        return Err(LogError::Corrupt { segment: segment.name.clone(), offset: 0, index, damage: Damage::Chain });
    }
    Ok((seal, points))
}
