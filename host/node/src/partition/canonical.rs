//! Canonical snapshots of a running partition: at which entries they are due, and how a kept state becomes a file.
//!
//! ```text
//! executor: an entry of a later day, or the journal says so, or somebody asks ─▶ keep the state ─▶ next entry
//! writer:                kept, durable ─▶ queue ─▶ another thread, one file at a time: rows ─▶ file ─▶ listed
//! ```
//! In: entries that are about to be applied. Out: files. Every replica decides by the journal alone, so all replicas
//! have the same files, whichever of them leads. An entry of the later day is written only after the state before it is
//! kept, so a crash never skips a day. In an idle partition the leader proposes a tick. This file does not know what a
//! snapshot file contains.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use crate::archive::Boundary;
use crate::disk::RealDisk;
use crate::ids::{ClusterId, Head, JournalIndex, PartitionId};
use crate::limits;
use crate::machine::entry::{Entry, EntryKind};
use crate::machine::journal::Journal;
use crate::partition::actions::{Actions, OneshotReply};
use crate::partition::base::Base;
use crate::partition::error::{PartitionError, SnapshotMakingError};
use crate::partition::handle::Partition;
use crate::partition::journal_state::journal_of;
use crate::partition::leader::LeaderState;
use crate::partition::message::Input;
use crate::partition::now::Now;
use crate::partition::requests::SnapshotRequest;
use crate::snapshot::canonical::{CanonicalError, Days, DueSnapshot, Facts, ListedFile, SnapshotFile, SnapshotFolder};
use crate::store::{KeepWhat, StoreShared, open_kept};

/// How long to wait before a file that could not be made is tried again. A full disk may have room by then.
const AGAIN: Duration = Duration::from_secs(60);
/// How often somebody who waits for files looks again.
const LOOK: Duration = Duration::from_millis(10);

/// The proof that the head of a snapshot from another node belongs to this journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadProof {
    /// The log of this node, or the archive, contains its entry.
    Journal,
    /// If neither of them reaches back to its entry, all other nodes that have it must agree. This node's state came
    /// from them as well.
    JournalOrWord,
}

/// A file that is to be made from a kept state.
struct Job {
    due: DueSnapshot,
    asked: Option<SnapshotRequest>,
}

/// Files are made one at a time, in the order in which their states were kept.
#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    has_worker: bool,
}

/// Makes the canonical snapshots of one partition.
pub struct Canonical {
    pub folder: SnapshotFolder,
    pub cluster: ClusterId,
    pub machine: String,
    pub partition: PartitionId,
    pub store: StoreShared,
    /// If set, a snapshot is also made about every so many bytes of journal.
    pub every_bytes: Option<u64>,
    pub runtime: tokio::runtime::Handle,
    queue: Mutex<Queue>,
    /// Places for the snapshots that are asked for.
    places: Arc<Semaphore>,
    is_closing: AtomicBool,
    /// How many states of this start are kept, or are about to be, and have no file yet.
    under_way: AtomicUsize,
}

impl Canonical {
    pub fn new(
        folder: SnapshotFolder,
        (cluster, machine, partition): (ClusterId, String, PartitionId),
        store: StoreShared,
        every_bytes: Option<u64>,
    ) -> Arc<Self> {
        let runtime = tokio::runtime::Handle::current();
        let places = Arc::new(Semaphore::new(limits::SNAPSHOTS_ASKED_MAX));
        let (queue, is_closing, under_way) = (Mutex::default(), AtomicBool::new(false), AtomicUsize::new(0));
        Arc::new(Self {
            folder,
            cluster,
            machine,
            partition,
            store,
            every_bytes,
            runtime,
            queue,
            places,
            is_closing,
            under_way,
        })
    }

    /// Makes the files of states that were kept before the last start.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn go_on(self: &Arc<Self>) -> Result<(), CanonicalError> {
        for due in self.folder.list_due()? {
            tracing::info!(stream = %self.stream(), index = %due.index, "continuing a canonical snapshot");
            self.under_way.fetch_add(1, Ordering::Relaxed);
            self.make(Job { due, asked: None });
        }
        Ok(())
    }

    /// Queues a kept state. Another thread makes the file, after those that were queued before. Never waits.
    fn make(self: &Arc<Self>, job: Job) {
        let mut queue = self.queue.lock();
        queue.jobs.push_back(job);
        if !std::mem::replace(&mut queue.has_worker, true) {
            drop(self.runtime.spawn(self.clone().work()));
        }
    }

    fn next_job(&self) -> Option<Job> {
        let mut queue = self.queue.lock();
        let next = queue.jobs.pop_front();
        queue.has_worker = next.is_some();
        next
    }

    /// Occupies a thread only while there is a file to make.
    async fn work(self: Arc<Self>) {
        while let Some(job) = self.next_job() {
            let canonical = self.clone();
            if let Err(error) = self.runtime.spawn_blocking(move || canonical.carry_out(job)).await {
                self.under_way.fetch_sub(1, Ordering::Release);
                tracing::error!(
                    stream = %self.stream(), %error,
                    "making a canonical snapshot panicked; the next start makes it"
                );
            }
        }
    }

    fn carry_out(self: &Arc<Self>, mut job: Job) {
        let made = self.make_now(&job.due);
        self.under_way.fetch_sub(1, Ordering::Release);
        let error = made.as_ref().err().map(ToString::to_string);
        if let Some(asked) = &mut job.asked {
            asked.tell(made.map_err(PartitionError::from));
        }
        if let Some(error) = error {
            let index = job.due.index;
            tracing::error!(stream = %self.stream(), %index, error, "no canonical snapshot was made");
            metrics::counter!("statehouse_canonical_snapshots_failed_total").increment(1);
            // The kept state stays. It is tried again after a while, or at the next start.
            self.make_later(job);
        }
    }

    fn make_later(self: &Arc<Self>, job: Job) {
        let canonical = self.clone();
        drop(self.runtime.spawn(async move {
            tokio::time::sleep(AGAIN).await;
            if !canonical.is_closing.load(Ordering::Relaxed) {
                canonical.under_way.fetch_add(1, Ordering::Relaxed);
                canonical.make(job);
            }
        }));
    }

    fn make_now(&self, due: &DueSnapshot) -> Result<ListedFile, SnapshotMakingError> {
        // Without this check, every queued job would still be started.
        if self.is_closing.load(Ordering::Relaxed) {
            return Err(SnapshotMakingError::Closing);
        }
        if let Some(made) = self.folder.find(due) {
            self.folder.made(due, &made)?;
            return Ok(made);
        }
        let view = open_kept(&self.folder.due_folder(due), &self.store)?;
        let found = view.meta().map(journal_of);
        let elsewhere = |found| SnapshotMakingError::Elsewhere { expected: due.index, found };
        let journal = found.filter(|journal| journal.index == due.index);
        let journal = journal.ok_or_else(|| elsewhere(found.map_or(JournalIndex(0), |journal| journal.index)))?;
        let (cluster, machine, partition) = (self.cluster, self.machine.clone(), self.partition);
        let facts = Facts { cluster, machine, partition, journal, days: due.days };
        let mut writer = self.folder.begin_file(&facts)?;
        let mut put = Ok(());
        view.visit(&[], |key, row| {
            put = if self.is_closing.load(Ordering::Relaxed) {
                Err(SnapshotMakingError::Closing)
            } else {
                writer.put(key, row).map_err(SnapshotMakingError::from)
            };
            if put.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        put?;
        drop(view);
        let made = writer.finish()?;
        self.folder.made(due, &made)?;
        metrics::counter!("statehouse_canonical_snapshots_total").increment(1);
        let days = due.days.map(|days| days.to_string());
        tracing::info!(
            stream = %self.stream(), file = made.name, rows = made.rows, bytes = made.bytes, days,
            "made a canonical snapshot"
        );
        Ok(made)
    }

    /// Stops making files. What is not finished is left to the next start.
    pub fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }

    fn stream(&self) -> String {
        format!("{}/{}", self.machine, self.partition)
    }
}

impl Base {
    /// Keeps the states for the snapshots that are due at an effective entry that is about to be applied. The journal
    /// stands at `after` once it is applied.
    pub(super) fn keep_what_is_due(&self, entry: &Entry, after: &Journal, out: &mut Actions) {
        let before = self.at.journal();
        // Before the first entry there was no state on any day, so no snapshot is due.
        if let Some(days) = Days::between(before.time, after.time).filter(|_| before.index != JournalIndex(0)) {
            self.keep(KeepWhat::Applied, DueSnapshot { index: before.index, days: Some(days) }, None, out);
        }
        // An activation replaces rows in its own way, and its entry is never large.
        let boundary = self.canonical.every_bytes.map(|bytes| Boundary { bytes });
        let is_end = |boundary: Boundary| boundary.is_last(after.head, entry.payload().len());
        if boundary.is_some_and(is_end) && entry.header().kind != EntryKind::Activate {
            self.keep(KeepWhat::Next, DueSnapshot { index: after.index, days: None }, None, out);
        }
    }

    /// Makes a snapshot of what is applied, because somebody asked for it.
    pub(super) fn on_snapshot_asked(&self, asked: SnapshotRequest, out: &mut Actions) {
        let index = self.at.journal().index;
        if index == JournalIndex(0) {
            return out.tell(OneshotReply::Snapshot(asked, Err(PartitionError::NoEntry(JournalIndex(1)))));
        }
        self.keep(KeepWhat::Applied, DueSnapshot { index, days: None }, Some(asked), out);
    }

    fn keep(&self, what: KeepWhat, due: DueSnapshot, asked: Option<SnapshotRequest>, out: &mut Actions) {
        // If a journal is applied again, its files exist already.
        if let Some(made) = self.canonical.folder.find(&due) {
            if let Some(asked) = asked {
                out.tell(OneshotReply::Snapshot(asked, Ok(made)));
            }
            return;
        }
        let canonical = self.canonical.clone();
        let folder = canonical.folder.due_folder(&due);
        canonical.under_way.fetch_add(1, Ordering::Relaxed);
        self.store.keep(what, folder, Box::new(move || canonical.make(Job { due, asked })));
    }
}

impl LeaderState {
    /// Whether the clock of this leader has passed midnight while the time of the journal has not.
    pub(super) fn is_past_midnight(&self, base: &Base, now: &Now) -> bool {
        let journal = self.journal_speculative(base);
        let is_over = Days::between(journal.time, now.present(&base.timeline, journal.time)).is_some();
        is_over && journal.index != JournalIndex(0) && now.takes_entries()
    }
}

/// How long a leader may sleep before it looks at the clock again.
pub(super) fn until_midnight(base: &Base, now: &Now) -> Duration {
    let left = Days::next_midnight(base.at.journal().time).0.saturating_sub(base.present(now).0);
    // If midnight has passed already, a tick is under way, or none is possible now.
    let left = u64::try_from(left).map_or(limits::QUEUE_LOOK, Duration::from_micros);
    left.min(limits::MIDNIGHT_LOOK)
}

impl Partition {
    /// Makes a canonical snapshot of what this node has applied.
    ///
    /// # Errors
    /// Nothing has happened in the partition yet, the partition does not run, the disk failed, or too many snapshots
    /// that were asked for are not made yet. Snapshots that are due are never refused.
    pub async fn take_canonical(&self) -> Result<ListedFile, PartitionError> {
        let place = self.parts.canonical.places.clone().try_acquire_owned();
        let place = place.map_err(|_| PartitionError::SnapshotsAsked)?;
        let (reply, done) = oneshot::channel();
        self.send(Input::Snapshot(SnapshotRequest::new(reply, place)))?;
        done.await.map_err(|_| self.not_running())?
    }

    /// Waits until all snapshots that were due are made, or have failed.
    ///
    /// # Errors
    /// The writer of the store has stopped, so no more snapshots are made.
    pub async fn wait_for_canonical(&self) -> Result<(), PartitionError> {
        let mut looks = tokio::time::interval(LOOK);
        while 0 < self.parts.canonical.under_way.load(Ordering::Acquire) {
            self.parts.store.check_writer()?;
            looks.tick().await;
        }
        Ok(())
    }

    /// Whether a state is kept, or a file is being made.
    pub fn is_making_canonical(&self) -> bool {
        0 < self.parts.canonical.under_way.load(Ordering::Acquire)
    }

    /// Takes in a snapshot that another replica has made. First it checks that every byte is as it was written, and
    /// that the head of the snapshot belongs to this journal.
    ///
    /// # Errors
    /// One of the checks failed, or the disk failed.
    pub async fn take_in_canonical(&self, file: &Path, proof: HeadProof) -> Result<ListedFile, PartitionError> {
        let path = file.to_owned();
        let reading = self.parts.canonical.runtime.spawn_blocking(move || {
            let mut opened = SnapshotFile::open(&RealDisk, &path)?;
            opened.visit(|_, _| {})?;
            Ok::<_, CanonicalError>(opened.listed().clone())
        });
        let listed = reading.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        let Facts { cluster, machine, partition, journal, .. } = &listed.facts;
        let canonical = &self.parts.canonical;
        let is_ours = (*cluster, machine, *partition) == (canonical.cluster, &canonical.machine, canonical.partition);
        let own = match self.head_at(journal.index)? {
            Some(own) => Some(own),
            None => self.head_archived(journal.index).await?,
        };
        let is_past = journal.index < self.progress().journal.index;
        let is_on_its_chain = own.map_or(proof == HeadProof::JournalOrWord && is_past, |own| own == journal.head);
        if !is_ours || !is_on_its_chain {
            return Err(SnapshotMakingError::Foreign { file: listed.name }.into());
        }
        let (canonical, path, taken) = (canonical.clone(), file.to_owned(), listed.clone());
        let taking = canonical.runtime.clone().spawn_blocking(move || canonical.folder.take_in(&path, &taken));
        taking.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        tracing::info!(stream = %self.parts.canonical.stream(), file = listed.name, "took in a canonical snapshot");
        Ok(listed)
    }

    /// The head of the archived journal after this entry; `None` if the entry is not archived.
    async fn head_archived(&self, index: JournalIndex) -> Result<Option<Head>, PartitionError> {
        let Some(past) = &self.parts.past else { return Ok(None) };
        let before = JournalIndex(index.0.saturating_sub(1));
        let found = past.entries_after(before, 0).await?;
        Ok(found.first().filter(|entry| entry.header().index == index).map(Entry::head_after))
    }

    /// Deletes one of [`Self::canonical_snapshots`] from this node.
    ///
    /// # Errors
    /// The disk failed.
    pub fn delete_canonical(&self, listed: &ListedFile) -> Result<(), PartitionError> {
        Ok(self.parts.canonical.folder.delete(listed)?)
    }

    /// Opens one of [`Self::canonical_snapshots`].
    ///
    /// # Errors
    /// The file cannot be read, or is not what was written.
    pub fn open_canonical(&self, listed: &ListedFile) -> Result<SnapshotFile, CanonicalError> {
        self.parts.canonical.folder.open_file(listed)
    }

    /// The path of one of [`Self::canonical_snapshots`].
    pub fn canonical_file(&self, listed: &ListedFile) -> PathBuf {
        self.parts.canonical.folder.path().join(&listed.name)
    }

    /// The canonical snapshots of the partition on this node, oldest first.
    pub fn canonical_snapshots(&self) -> Vec<ListedFile> {
        self.parts.canonical.folder.list()
    }
}
