//! The live log: the handle through which one node appends to a log, and the threads that write, prepare and seal.
//!
//! Entries, votes, truncations and purges go in. Entries come out, and so does the news of what is durable. This is the
//! only part of the crate that needs a runtime, and the feature `live` turns it on. It does not know what a scan of the
//! same folder is for.

mod append;
mod cut;
mod mend;
mod read;
mod repair;
mod rot;
mod salvage;
mod scrub;
mod sealed;
mod sealer;
mod shared;
mod spare;
mod state;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

pub use repair::{DamagedLog, RepairReport};
pub use scrub::{ScrubPace, SealedSegment};
pub use state::OnDurable;

use crate::disk::Disk;
use crate::ids::Lsn;
use crate::limits;
use crate::log::book::PurgePolicy;
use crate::log::frame::{self, Record};
use crate::log::recover::{Access, RecoveredLog, recover, releasable};
use crate::log::segment::{HEADER_SIZE, SegmentHeader, Spare, file_name};
use crate::log::{EntryId, LogError, StreamId, Vote, seal};
use shared::SharedLog;
use state::{LogStart, Reserve, SMALL_FRAME_SIZE, State, WriterWork};

/// Bytes that stay free at the end of a segment, for votes while the disk is full.
const RESERVE_BYTES_MAX: u64 = 64 << 10;

/// The settings of a log. [`LogOptions::new`] uses the values of `limits.rs`; tests use smaller ones.
#[derive(Clone, Debug)]
pub struct LogOptions {
    pub stream: StreamId,
    pub segment_bytes_min: u64,
    pub segment_bytes_max: u64,
    pub pending_bytes_max: usize,
    pub tail_bytes_max: usize,
    /// The stream is idle after this long without work.
    pub idle: Duration,
    /// The delay between two attempts to prepare a segment on a full disk.
    pub spare_retry: Duration,
}

impl LogOptions {
    pub fn new(stream: StreamId) -> Self {
        Self {
            stream,
            segment_bytes_min: limits::SEGMENT_BYTES_MIN,
            segment_bytes_max: limits::SEGMENT_BYTES_MAX,
            pending_bytes_max: limits::LOG_PENDING_BYTES_MAX,
            tail_bytes_max: limits::LOG_TAIL_BYTES_MAX,
            idle: Duration::from_millis(5),
            spare_retry: Duration::from_millis(500),
        }
    }
}

/// Whether a log accepts appends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogHealth {
    Ok,
    /// There is no room for the next segment, so nobody should propose. Appends that are already under way may use the
    /// rest of this segment; after that appends are refused, while reads and votes continue. The log recovers on its
    /// own.
    Full,
    /// The log has failed for good. The text is the reason.
    Failed(String),
}

/// A handle to the log of one partition. It is cheap to clone. The log closes when the last handle is dropped.
#[derive(Clone)]
pub struct Log {
    threads: Arc<Threads>,
}

struct Threads {
    shared: Arc<SharedLog>,
    running: Mutex<Vec<JoinHandle<()>>>,
    /// Each thread holds a strong reference: nobody else may open the log before all threads have ended.
    open: Weak<()>,
}

impl Log {
    /// Opens the log in `dir`, or creates it. All acknowledged entries are in it, and everything found is durable on
    /// return.
    ///
    /// Returns [`LogError::Corrupt`] if acknowledged bytes are damaged. Nothing was changed then, and [`DamagedLog`]
    /// may be able to repair the log. Nobody else may have the log open.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: LogOptions) -> Result<Self, LogError> {
        let on_disk = |error| LogError::disk(dir.display().to_string(), error);
        assert!(HEADER_SIZE as u64 * 2 <= options.segment_bytes_min);
        assert!(options.segment_bytes_min <= options.segment_bytes_max);
        disk.create_dir_all(dir).map_err(on_disk)?;
        repair::finish_swap(&*disk, dir)?;
        for name in disk.list(dir).map_err(on_disk)?.iter().filter(|name| name.ends_with(".tmp")) {
            disk.remove(&dir.join(name)).map_err(on_disk)?;
        }
        let recovered = match recover(&*disk, dir, Access::Write, PurgePolicy::Dropped)? {
            Some(recovered) => recovered,
            None => {
                create_first_segment(&*disk, dir, &options)?;
                recover(&*disk, dir, Access::Write, PurgePolicy::Dropped)?.expect("there is a segment now")
            }
        };
        if recovered.stream != options.stream {
            let (expected, found) = (options.stream.to_string(), recovered.stream.to_string());
            return Err(LogError::ForeignStream { segment: recovered.segment.name.clone(), expected, found });
        }
        recovered.repair(&*disk, dir)?;
        let seals_size = recovered.write_seals(&*disk, dir)?;
        let rot = rot::found(&*disk, dir, &recovered.seals)?;
        Self::start(disk, dir, options, RecoveredLog { size: recovered.size + seals_size, ..recovered }, rot)
    }

    fn start(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
        recovered: RecoveredLog,
        rot: BTreeMap<Lsn, String>,
    ) -> Result<Self, LogError> {
        let state = State::new(LogStart {
            stream: recovered.stream,
            book: recovered.book,
            segment: recovered.segment,
            end: recovered.end,
            data_end: recovered.data_end,
            marked: recovered.watermark,
            size: recovered.size,
            reserve: RESERVE_BYTES_MAX.min(options.segment_bytes_min / 8),
            closed: recovered.closed,
            seals: recovered.seals,
        });
        let shared = Arc::new(SharedLog::new(disk, dir.to_owned(), options, state, rot));
        let open = Arc::new(());
        let threads = Threads { shared, running: Mutex::default(), open: Arc::downgrade(&open) };
        let log = Self { threads: Arc::new(threads) };
        log.spawn("log-writer", open.clone(), writer::run)?;
        log.spawn("log-spare", open.clone(), |shared| shared.guard(|| spare::run(shared)))?;
        log.spawn("log-sealer", open, |shared| shared.guard(|| sealer::run(shared)))?;
        Ok(log)
    }

    fn spawn(
        &self,
        name: &str,
        open: Arc<()>,
        body: impl FnOnce(&Arc<SharedLog>) + Send + 'static,
    ) -> Result<(), LogError> {
        let shared = self.threads.shared.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _open = open;
            body(&shared);
        });
        self.threads.running.lock().push(thread.map_err(|error| LogError::disk(name, error))?);
        Ok(())
    }

    fn after_all(&self, on_durable: OnDurable) -> Result<(), LogError> {
        let shared = &self.threads.shared;
        let mut state = shared.admit(&[0], Reserve::Use)?;
        state.queue.push(WriterWork::Done(on_durable));
        shared.on_placed(state);
        Ok(())
    }

    /// The newest vote given to [`Log::save_vote`]. It may not be durable yet.
    pub fn vote(&self) -> Option<Vote> {
        self.threads.shared.state.lock().book.vote
    }

    /// Saves a vote. On return the vote and every earlier append are durable. It works on a full disk too. If the call
    /// is dropped, the vote may or may not have been saved.
    pub async fn save_vote(&self, vote: Vote) -> Result<(), LogError> {
        let (done, durable) = oneshot::channel();
        self.wait_for_bytes(SMALL_FRAME_SIZE).await?;
        // The receiver is gone if the caller gave up waiting.
        self.place_vote(vote, Box::new(move |result| _ = done.send(result)))?;
        durable.await.unwrap_or(Err(LogError::Closed))
    }

    fn place_vote(&self, vote: Vote, on_durable: OnDurable) -> Result<(), LogError> {
        let shared = &self.threads.shared;
        let mut state = shared.admit(&[SMALL_FRAME_SIZE], Reserve::Use)?;
        state.book.vote = Some(vote);
        state.record(Record::Vote(vote));
        state.queue.push(WriterWork::Done(on_durable));
        shared.on_placed(state);
        Ok(())
    }

    /// Remembers what is committed. This reaches the disk with the next append, or when the stream goes idle.
    pub fn save_committed(&self, id: EntryId) {
        let shared = &self.threads.shared;
        let mut state = shared.state.lock();
        state.book.committed = Some(id);
        shared.tell_of_sealable(&state);
        if state.writer_dozes {
            shared.work.notify_one();
        }
    }

    /// The last id given to [`Log::save_committed`]. After opening it is never beyond the last entry.
    pub fn committed(&self) -> Option<EntryId> {
        self.threads.shared.state.lock().book.committed
    }

    /// Drops the entries after `last`; `None` drops all that are not purged. The truncation is durable with the next
    /// append. Returns [`LogError::Sealed`] if some of the entries are known to be committed, which stay; see
    /// [`Log::cut_after`].
    pub fn truncate_after(&self, last: Option<EntryId>) -> Result<(), LogError> {
        let shared = &self.threads.shared;
        let mut state = shared.admit(&[SMALL_FRAME_SIZE], Reserve::Use)?;
        let purged = state.book.last_purged();
        if let (Some(last), Some(purged)) = (last, purged)
            && last.index < purged.index
        {
            return Err(LogError::Purged { index: last.index, purged });
        }
        let last = last.or(purged);
        if state.book.last().map(|found| found.index) <= last.map(|last| last.index) {
            return Ok(());
        }
        state.check_droppable(last.map(|last| last.index))?;
        state.truncate_after(last);
        shared.announce_durable(&state);
        shared.on_placed(state);
        Ok(())
    }

    /// Forgets the entries up to `upto`. `upto` may be beyond the last entry; the next entry then follows `upto`. The
    /// bytes of the entries stay in the journal. The purge is durable with the next append.
    pub fn purge(&self, upto: EntryId) -> Result<(), LogError> {
        let shared = &self.threads.shared;
        let hash = match self.hash_of(upto) {
            Ok(hash) => hash,
            Err(error) => {
                // The entry stays until the segment is mended, or until a later entry is purged.
                tracing::warn!(
                    %upto, reason = error.reason(), "the log is not purged up to an entry that cannot be read"
                );
                return Ok(());
            }
        };
        let mut state = shared.admit(&[SMALL_FRAME_SIZE + 32], Reserve::Use)?;
        if state.book.last_purged().is_some_and(|purged| upto.index <= purged.index) {
            return Ok(());
        }
        state.record(Record::Purge { upto, hash });
        state.book.purge(upto, hash);
        assert_eq!(state.book.last_purged(), Some(upto));
        shared.on_placed(state);
        Ok(())
    }

    /// Records that a snapshot has everything up to `upto`, whose chain hash is `hash`. The log forgets the entries up
    /// to `upto`, and all later ones too unless they follow it. This is durable on return.
    pub fn skip_to(&self, upto: EntryId, hash: [u8; 32]) -> Result<(), LogError> {
        let shared = &self.threads.shared;
        let known = self.hash_of(upto).ok().filter(|known| *known != frame::NO_HASH);
        let mut state = shared.admit(&[SMALL_FRAME_SIZE, SMALL_FRAME_SIZE + 32], Reserve::Use)?;
        if state.book.last_purged().is_none_or(|purged| purged.index < upto.index) {
            let hash = match state.book.find_id(upto.index) {
                Some(found) if found == upto => known.unwrap_or(hash),
                Some(_) => {
                    let purged = state.book.last_purged();
                    state.truncate_after(purged);
                    hash
                }
                None => hash,
            };
            state.record(Record::Purge { upto, hash });
            state.book.purge(upto, hash);
            shared.announce_durable(&state);
            shared.on_placed(state);
        } else {
            drop(state);
        }
        self.wait_until_durable()
    }

    /// Waits until everything that was accepted is durable.
    fn wait_until_durable(&self) -> Result<(), LogError> {
        let (done, durable) = std::sync::mpsc::channel();
        // The receiver waits below.
        self.after_all(Box::new(move |result| _ = done.send(result)))?;
        durable.recv().unwrap_or(Err(LogError::Closed))
    }

    /// Deletes the files of segments whose entries are all purged, oldest first, and returns how many bytes that freed.
    /// A file is deleted only when the newest segment's header permits it, so some purged entries stay until the log
    /// next rolls.
    pub fn release(&self) -> Result<u64, LogError> {
        let shared = &self.threads.shared;
        let (disk, dir) = (&*shared.disk, &*shared.dir);
        let on_disk = |error| LogError::disk(dir.display().to_string(), error);
        let _files = shared.files.lock();
        let mut freed = 0;
        for (first_lsn, size) in releasable(disk, dir)? {
            let name = file_name(first_lsn);
            shared.state.lock().on_release(first_lsn);
            // The name of the segment that permits the deletion must be durable first. Segments are deleted one by one,
            // so that there is never a gap between two of them.
            disk.sync_dir(dir).map_err(on_disk)?;
            let seal_size = seal::remove(disk, dir, first_lsn).map_err(|error| LogError::disk(&name, error))?;
            disk.remove(&dir.join(&name)).map_err(|error| LogError::disk(&name, error))?;
            disk.sync_dir(dir).map_err(on_disk)?;
            shared.on_whole(first_lsn);
            let mut state = shared.state.lock();
            state.size = state.size.saturating_sub(size + seal_size);
            freed += size + seal_size;
        }
        Ok(freed)
    }

    /// The last entry, or the last purged one if no entry follows it.
    pub fn last(&self) -> Option<EntryId> {
        self.threads.shared.state.lock().book.last()
    }

    pub fn last_purged(&self) -> Option<EntryId> {
        self.threads.shared.state.lock().book.last_purged()
    }

    /// The first entry of each leader's uninterrupted run, oldest first.
    pub fn term_starts(&self) -> Vec<EntryId> {
        self.threads.shared.state.lock().book.term_starts()
    }

    /// The last entry that is durable.
    pub fn durable(&self) -> Option<EntryId> {
        *self.threads.shared.durable.borrow()
    }

    pub fn watch_durable(&self) -> watch::Receiver<Option<EntryId>> {
        self.threads.shared.durable.subscribe()
    }

    /// Watches the reason why nothing more will become durable: `None` while the log works. A watcher does not keep the
    /// log open.
    pub fn watch_ended(&self) -> watch::Receiver<Option<String>> {
        self.threads.shared.ended.subscribe()
    }

    /// The mark is gone once no thread writes any more. Only then may the log be opened again. [`Log::close`] waits for
    /// that, unless the disk hangs.
    pub fn open_mark(&self) -> Weak<()> {
        self.threads.open.clone()
    }

    /// Watches which sealed segments are damaged, keyed by their first lsn, and how. It has what reads have found so
    /// far, including reads before a restart.
    pub fn watch_rot(&self) -> watch::Receiver<BTreeMap<Lsn, String>> {
        self.threads.shared.rot.subscribe()
    }

    /// Whether a log that is not open has sealed segments that are known to be damaged.
    pub fn is_marked(disk: &dyn Disk, dir: &Path) -> bool {
        rot::is_any(disk, dir)
    }

    /// Whether any sealed segment is known to be damaged.
    pub fn is_damaged(&self) -> bool {
        !self.threads.shared.rot.borrow().is_empty()
    }

    pub fn health(&self) -> LogHealth {
        let state = self.threads.shared.state.lock();
        match &state.failed {
            Some(error) => LogHealth::Failed(error.reason()),
            None if state.is_full => LogHealth::Full,
            None => LogHealth::Ok,
        }
    }

    /// Bytes that the log's files occupy on disk, including the prepared spare.
    pub fn bytes(&self) -> u64 {
        self.threads.shared.state.lock().size
    }

    /// Writes and syncs what was accepted, then ends the threads. Handles can still read afterwards; every other call
    /// returns [`LogError::Closed`].
    pub fn close(&self) -> Result<(), LogError> {
        self.threads.close();
        let failed = self.threads.shared.state.lock().failed.clone();
        failed.map_or(Ok(()), Err)
    }
}

impl Threads {
    fn close(&self) {
        self.shared.close();
        for thread in self.running.lock().drain(..) {
            // A panic in the thread was already turned into a failure of the log.
            let _ = thread.join();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.close();
    }
}

fn create_first_segment(disk: &dyn Disk, dir: &Path, options: &LogOptions) -> Result<(), LogError> {
    let spare = Spare::prepare(disk, dir, 0, options.segment_bytes_min);
    let spare = spare.map_err(|error| LogError::disk(dir.display().to_string(), error))?;
    let (stream, nonce) = (options.stream.clone(), rand::random());
    let header = SegmentHeader { stream, nonce, first_lsn: Lsn(0), before: None, checkpoint: Default::default() };
    spare.become_segment(disk, dir, &header)
}
