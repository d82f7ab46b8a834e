//! What the handles of a log and its two threads have in common: the state under its lock, and who waits for what.
//!
//! It decides nothing about bytes; it waits, wakes, and spreads the news of a failure.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::watch;

use crate::log::disk::Disk;
use crate::log::state::{Reserve, Room, State};
use crate::log::{EntryId, LogError, LogOptions};

pub(super) struct Shared {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub options: LogOptions,
    pub state: Mutex<State>,
    /// The writer waits here for work.
    pub work: Condvar,
    /// Appends wait here for room.
    pub room: Condvar,
    /// The spare's thread waits here for a wish.
    pub spare_wanted: Condvar,
    pub durable: watch::Sender<Option<EntryId>>,
}

impl Shared {
    /// Waits until frames of these sizes have room, all of them, and returns with the lock held.
    ///
    /// While the disk is full, appends (`Reserve::Keep`) may use what is left of the segment but its reserve, and are refused
    /// then; other records are refused only if the reserve is used up as well.
    pub fn admit(&self, sizes: &[usize], reserve: Reserve) -> Result<MutexGuard<'_, State>, LogError> {
        assert!(!sizes.is_empty());
        let bytes: usize = sizes.iter().sum();
        let mut state = self.state.lock();
        loop {
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            if state.is_closing {
                return Err(LogError::Closed);
            }
            let is_backlog = state.pending_bytes > 0 && self.options.pending_bytes_max < state.pending_bytes + bytes;
            match state.room_for(sizes, reserve) {
                Room::Ready if !is_backlog || reserve == Reserve::Use => return Ok(state),
                Room::Ready => {}
                Room::NeedsSpare(_) if state.is_full => return Err(LogError::Full),
                Room::NeedsSpare(size) => {
                    state.spare_bytes_wanted = state.spare_bytes_wanted.max(size);
                    self.spare_wanted.notify_one();
                }
            }
            self.room.wait(&mut state);
        }
    }

    /// Wakes whoever has something to do after frames were placed.
    pub fn on_placed(&self, state: MutexGuard<'_, State>) {
        let wants_spare = state.spare.is_none();
        assert!(!state.queue.is_empty());
        drop(state);
        self.work.notify_one();
        if wants_spare {
            self.spare_wanted.notify_one();
        }
    }

    /// Tells those who watch what is durable now. Called with the lock held, so that news arrive in order.
    pub fn announce_durable(&self, state: &State) {
        let last = state.durable_last();
        self.durable.send_if_modified(|known| std::mem::replace(known, last) != last);
    }

    /// Ends the log: the first error is kept for everybody who comes. The writer thread tells those who wait, in order.
    pub fn fail(&self, error: LogError) {
        {
            let mut state = self.state.lock();
            if state.failed.is_none() {
                let reason = error.reason();
                tracing::error!(dir = %self.dir.display(), reason, "the log failed; open it again to recover");
            }
            state.failed.get_or_insert(error);
        }
        self.wake_all();
    }

    pub fn close(&self) {
        self.state.lock().is_closing = true;
        self.wake_all();
    }

    fn wake_all(&self) {
        self.work.notify_all();
        self.room.notify_all();
        self.spare_wanted.notify_all();
    }

    /// Runs a thread's body. An assertion that does not hold there ends this log, not the process.
    pub fn guard(&self, body: impl FnOnce()) {
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(body)) {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            self.fail(LogError::Panicked(text.unwrap_or_default()));
        }
    }
}
