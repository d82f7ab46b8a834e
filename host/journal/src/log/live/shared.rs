//! The state that the handles of a log and its threads share, with its lock, and the places where they wait.
//!
//! It decides nothing about bytes. It waits, wakes threads, and announces a failure.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::{Notify, watch};

use crate::disk::Disk;
use crate::ids::Lsn;
use crate::log::live::rot;
use crate::log::live::sealed::SealedSegments;
use crate::log::live::state::{Reserve, Room, State};
use crate::log::{EntryId, LogError, LogOptions};

pub(super) struct SharedLog {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub options: LogOptions,
    pub state: Mutex<State>,
    /// The writer waits here for work.
    pub work: Condvar,
    /// Appends wait here for room.
    room: Condvar,
    /// The same for callers that must not block their thread.
    room_news: Notify,
    /// The spare thread waits here for a request.
    pub spare_wanted: Condvar,
    /// The sealer waits here for a segment.
    pub sealable: Condvar,
    pub sealed: SealedSegments,
    /// Held while closed segments are deleted or replaced.
    pub files: Mutex<()>,
    /// The damaged sealed segments, and how each is damaged.
    pub rot: watch::Sender<BTreeMap<Lsn, String>>,
    pub durable: watch::Sender<Option<EntryId>>,
    /// Why nothing more will be durable; `None` while the log works.
    pub ended: watch::Sender<Option<String>>,
}

impl SharedLog {
    pub fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        options: LogOptions,
        state: State,
        rot: BTreeMap<Lsn, String>,
    ) -> Self {
        Self {
            sealed: SealedSegments::new(disk.clone(), dir.clone()),
            sealable: Condvar::new(),
            files: Mutex::default(),
            rot: watch::Sender::new(rot),
            disk,
            dir,
            options,
            durable: watch::Sender::new(state.durable_last()),
            ended: watch::Sender::default(),
            state: Mutex::new(state),
            work: Condvar::new(),
            room: Condvar::new(),
            room_news: Notify::new(),
            spare_wanted: Condvar::new(),
        }
    }

    /// Waits until frames of these sizes have room, all of them, and returns with the lock held.
    ///
    /// While the disk is full, appends (`Reserve::Keep`) may use the rest of the segment except its reserve; after that
    /// they are refused. Other records are refused only when the reserve is used up as well.
    pub fn admit(&self, sizes: &[usize], reserve: Reserve) -> Result<MutexGuard<'_, State>, LogError> {
        let mut state = self.state.lock();
        while !self.has_room(&mut state, sizes, reserve)? {
            self.room.wait(&mut state);
        }
        Ok(state)
    }

    /// Like [`SharedLog::admit`], but does not block the thread. If the call is dropped, nothing has happened.
    pub async fn admitted(&self, sizes: &[usize], reserve: Reserve) -> Result<MutexGuard<'_, State>, LogError> {
        loop {
            // Registered before the check, so that no notification in between is missed.
            let mut news = std::pin::pin!(self.room_news.notified());
            news.as_mut().enable();
            {
                let mut state = self.state.lock();
                if self.has_room(&mut state, sizes, reserve)? {
                    return Ok(state);
                }
            }
            news.await;
        }
    }

    /// Whether frames of these sizes have room now. If a spare is missing, this requests one.
    fn has_room(&self, state: &mut State, sizes: &[usize], reserve: Reserve) -> Result<bool, LogError> {
        assert!(!sizes.is_empty());
        let bytes: usize = sizes.iter().sum();
        if let Some(error) = &state.failed {
            return Err(error.clone());
        }
        if state.is_closing {
            return Err(LogError::Closed);
        }
        let is_backlog = state.pending_bytes > 0 && self.options.pending_bytes_max < state.pending_bytes + bytes;
        match state.room_for(sizes, reserve) {
            Room::Ready => return Ok(!is_backlog || reserve == Reserve::Use),
            Room::NeedsSpare(_) if state.is_full => return Err(LogError::Full),
            Room::NeedsSpare(size) => {
                state.spare_bytes_wanted = state.spare_bytes_wanted.max(size);
                self.spare_wanted.notify_one();
            }
        }
        Ok(false)
    }

    /// Wakes everybody who waits for room: there may be room now, or none for good.
    pub fn tell_of_room(&self) {
        self.room.notify_all();
        self.room_news.notify_waiters();
    }

    /// Wakes the threads that have work to do after frames were placed.
    pub fn on_placed(&self, state: MutexGuard<'_, State>) {
        let wants_spare = state.spare.is_none();
        assert!(!state.queue.is_empty());
        drop(state);
        self.work.notify_one();
        if wants_spare {
            self.spare_wanted.notify_one();
        }
    }

    /// Tells the watchers what is durable now. The lock is held, so that the news arrives in order.
    pub fn announce_durable(&self, state: &State) {
        let last = state.durable_last();
        self.durable.send_if_modified(|known| std::mem::replace(known, last) != last);
    }

    /// Some of what was appended cannot be read. The log keeps running: it votes, and returns entries that are intact.
    pub fn on_rot(&self, first_lsn: Lsn, error: &LogError) {
        if !matches!(error, LogError::Corrupt { .. }) {
            return;
        }
        let reason = error.reason();
        let is_news = self.rot.send_if_modified(|known| {
            if known.contains_key(&first_lsn) {
                return false;
            }
            tracing::error!(dir = %self.dir.display(), reason, "a segment of the log is damaged");
            known.insert(first_lsn, reason);
            true
        });
        if is_news && let Err(error) = rot::mark(&*self.disk, &self.dir, first_lsn) {
            tracing::warn!(
                dir = %self.dir.display(), %first_lsn, %error,
                "it could not be recorded that a segment is damaged: a restart forgets it"
            );
        }
    }

    /// A segment was mended or released.
    pub fn on_whole(&self, first_lsn: Lsn) {
        self.sealed.forget(first_lsn);
        let is_news = self.rot.send_if_modified(|known| known.remove(&first_lsn).is_some());
        if is_news && let Err(error) = rot::unmark(&*self.disk, &self.dir, first_lsn) {
            tracing::warn!(
                dir = %self.dir.display(), %first_lsn, %error,
                "a segment that is not damaged any more stays marked as damaged"
            );
        }
    }

    /// Wakes the sealer if it has work to do.
    pub fn tell_of_sealable(&self, state: &State) {
        if state.sealable().is_some() {
            self.sealable.notify_one();
        }
    }

    /// Ends the log. Every later caller gets the first error. The writer thread tells those who wait, in order.
    pub fn fail(&self, error: LogError) {
        {
            let mut state = self.state.lock();
            if state.failed.is_none() {
                let reason = error.reason();
                tracing::error!(dir = %self.dir.display(), reason, "the log failed; open it again to recover");
            }
            let first = state.failed.get_or_insert(error);
            self.ended.send_replace(Some(first.reason()));
        }
        self.wake_all();
    }

    pub fn close(&self) {
        self.state.lock().is_closing = true;
        self.wake_all();
    }

    fn wake_all(&self) {
        self.work.notify_all();
        self.tell_of_room();
        self.spare_wanted.notify_all();
        self.sealable.notify_all();
    }

    /// Runs a thread's body. A failed assertion in it ends this log, not the process.
    pub fn guard(&self, body: impl FnOnce()) {
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(body)) {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            self.fail(LogError::Panicked(text.unwrap_or_default()));
        }
    }
}
