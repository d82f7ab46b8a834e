//! openraft's log storage over `log/`: what must be durable when, and nothing else.
//!
//! * `append` is readable on return and reported once durable, in order; appends are pipelined.
//! * `save_vote` is durable on return, and so is every append before it: both go through the log's one stream.
//! * `committed` is a hint that is never waited for, so it is cut to what the log holds when it is read.
//! * A slow disk holds up its group and no thread: whatever waits for room or a sync is awaited.
//! * A failed disk is final. A *full* one is not: an append waits for room instead of failing (see [`Storage::append`]).
//! * What is damaged of a sealed segment is waited for, since others have it: whoever needs it waits, and nobody else.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, TryStreamExt};
use openraft::storage::{IOFlushed, LeaderBoundedStreamError, LeaderBoundedStreamResult, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::model::{self, Model, RaftEntry, RaftLeaderId, RaftLogId, RaftVote};
use crate::durable;
use crate::ids::LogIndex;
use crate::log::{EntryId, Log, LogEntry, LogError, LogHealth};

/// Entries read in one step where openraft asks for a long range: to apply, to replicate.
const READ_BYTES_MAX: usize = 4 << 20;
/// Entries given to the log at once; also the size of its smallest segment.
const APPEND_BYTES_MAX: usize = 4 << 20;
/// How soon an append that met a full disk tries again. Room comes from outside, so there is nothing to wait on.
const FULL_RETRY: Duration = Duration::from_millis(50);
/// How soon what could not be read is read again; at once where it is known to be mended.
const UNREADABLE_RETRY: Duration = Duration::from_millis(500);

/// The log as openraft's storage and as its readers; all clones are the same log.
#[derive(Clone)]
pub(super) struct Storage {
    log: Log,
    /// Turns true when the group shuts down, so that an append waiting for room lets go.
    stopping: watch::Receiver<bool>,
}

impl Storage {
    pub(super) fn new(log: Log, stopping: watch::Receiver<bool>) -> Self {
        Self { log, stopping }
    }

    /// The part of `range` that the log has: neither purged nor yet to come.
    fn present(&self, range: &impl RangeBounds<u64>) -> Range<u64> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let first = self.log.last_purged().map_or(0, |purged| purged.index.0 + 1);
        let next = self.log.last().map_or(0, |last| last.index.0 + 1);
        // A log that was never purged may begin above 0: its reader skips what lies before.
        start.max(first)..end.min(next)
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        self.log.read(LogIndex(range.start)..LogIndex(range.end), bytes_max)
    }

    /// Waits a moment after this error, if what could not be read may be readable by then: a log that has not failed has lost something of a
    /// sealed segment, which another node mends.
    ///
    /// # Errors
    /// The same: it will not be, or the group shuts down.
    async fn wait_for_mending(&mut self, error: LogError) -> Result<(), LogError> {
        let may_pass = match &error {
            LogError::Corrupt { .. } => !matches!(self.log.health(), LogHealth::Failed(_)),
            LogError::Disk { source, .. } => durable::is_scarcity(source),
            _ => false,
        };
        if !may_pass {
            return Err(error);
        }
        let mut rot = self.log.watch_rot();
        tokio::select! {
            () = self.stopped() => Err(error),
            _ = rot.changed() => Ok(()),
            () = tokio::time::sleep(UNREADABLE_RETRY) => Ok(()),
        }
    }

    /// The next piece of `range` for a stream, and what remains of it; none at its end. What is applied comes from here, so a hole is an
    /// error, also at the edges of a piece.
    async fn read_next(&mut self, range: Range<u64>) -> io::Result<Option<Piece>> {
        if range.is_empty() {
            return Ok(None);
        }
        let entries = loop {
            match self.read(range.clone(), READ_BYTES_MAX) {
                Ok(entries) => break raft_entries(entries)?,
                Err(error) => self.wait_for_mending(error).await.map_err(io_error)?,
            }
        };
        let next = entries.iter().try_fold(range.start, |next, entry| (entry.log_id.index == next).then_some(next + 1));
        match next {
            Some(next) if range.start < next => Ok(Some((entries, next..range.end))),
            _ => {
                let hole = format!("the log did not give entries {}..{} without a hole", range.start, range.end);
                Err(io::Error::new(io::ErrorKind::InvalidData, hole))
            }
        }
    }

    fn check_leader(&self, leader: RaftLeaderId) -> Result<(), LeaderBoundedStreamError<Model>> {
        let vote = self.log.vote().map(model::raft_vote).transpose()?;
        if vote.is_some_and(|vote| vote.is_committed() && *vote.leader_id() == leader) {
            return Ok(());
        }
        Err(openraft::errors::LeaderChanged::new(leader, vote).into())
    }

    /// Appends once there is room; the report of a refused attempt is kept for the next one.
    async fn append_when_room(&mut self, entries: Vec<LogEntry>, report: Report) -> Result<(), LogError> {
        let mut is_waiting = false;
        loop {
            let report = report.clone();
            let log = self.log.clone();
            let appending = log.append_in_turn(entries.clone(), Box::new(move |result| report.complete(result)));
            match self.unless_stopping(appending).await {
                Err(LogError::Full) => {
                    if !std::mem::replace(&mut is_waiting, true) {
                        tracing::warn!("an append waits for disk space");
                    }
                    self.wait_for_room().await?;
                }
                result => {
                    if is_waiting {
                        tracing::info!("an append has found disk space");
                    }
                    return result;
                }
            }
        }
    }

    /// A disk that hangs must not keep a group that shuts down.
    async fn unless_stopping(
        &mut self,
        work: impl Future<Output = Result<(), LogError>> + Send,
    ) -> Result<(), LogError> {
        tokio::select! {
            biased;
            result = work => result,
            () = self.stopped() => Err(LogError::Closed),
        }
    }

    async fn stopped(&mut self) {
        if self.stopping.wait_for(|stopping| *stopping).await.is_err() {
            // Nobody is left who could say so.
            std::future::pending::<()>().await;
        }
    }

    async fn wait_for_room(&mut self) -> Result<(), LogError> {
        tokio::select! {
            () = tokio::time::sleep(FULL_RETRY) => Ok(()),
            () = self.stopped() => Err(LogError::Full),
        }
    }
}

impl RaftLogReader<Model> for Storage {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<RaftEntry>>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        raft_entries(self.read(self.present(&range), usize::MAX).map_err(io_error)?)
    }

    /// What a follower is sent. An error would stop the group, and with it all other followers; without entries openraft asks again, once it
    /// has looked whether it leads still.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<RaftEntry>> {
        match self.read(self.present(&(start..end)), READ_BYTES_MAX) {
            Ok(entries) => raft_entries(entries),
            Err(error) => self.wait_for_mending(error).await.map(|()| Vec::new()).map_err(io_error),
        }
    }

    /// Reads as it is pulled, so that a follower far behind, or a long apply, never has its whole range in memory.
    async fn entries_stream<R>(&mut self, range: R) -> impl Stream<Item = io::Result<RaftEntry>> + OptionalSend
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let storage = self.clone();
        in_pieces(self.present(&range), move |range| {
            let mut storage = storage.clone();
            async move { storage.read_next(range).await }
        })
    }

    /// The vote is looked at before *and* after each piece: a vote only ever grows, so in between it was the leader's too, and
    /// nothing was truncated.
    async fn leader_bounded_stream<R>(
        &mut self,
        leader: RaftLeaderId,
        range: R,
    ) -> impl Stream<Item = LeaderBoundedStreamResult<Model>> + OptionalSend
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let storage = self.clone();
        in_pieces(self.present(&range), move |range| {
            let mut storage = storage.clone();
            async move {
                storage.check_leader(leader)?;
                let piece = storage.read_next(range).await?;
                storage.check_leader(leader)?;
                Ok::<_, LeaderBoundedStreamError<Model>>(piece)
            }
        })
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        self.log.vote().map(model::raft_vote).transpose()
    }

    /// The *last* entry of each leader, whatever the trait's documentation says: that is what openraft's own search returns and what its
    /// suite checks. From memory; openraft would look for them all over the log at start.
    async fn get_key_log_ids(&mut self, range: RangeInclusive<RaftLogId>) -> io::Result<Vec<RaftLogId>> {
        let starts = self.log.term_starts();
        let ends = starts.iter().zip(starts.iter().skip(1)).map(|(start, next)| {
            assert!(start.index < next.index, "leaders follow each other in the log");
            RaftLogId::new(model::leader_id(start.term, start.node), next.index.0 - 1)
        });
        let last = *range.end();
        Ok(ends.filter(|end| range.start().index <= end.index && end.index < last.index).chain([last]).collect())
    }
}

impl RaftLogStorage<Model> for Storage {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Model>> {
        let purged = self.log.last_purged();
        let last = self.log.last().or(purged);
        Ok(LogState { last_purged_log_id: purged.map(model::log_id), last_log_id: last.map(model::log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        let log = self.log.clone();
        self.unless_stopping(log.save_vote(model::vote(vote))).await.map_err(io_error)
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.log.save_committed(model::entry_id(&committed));
        }
        Ok(())
    }

    /// Commit can run ahead of this disk (a majority of *other* disks is enough), and openraft refuses to start when asked to apply
    /// what is not there.
    async fn read_committed(&mut self) -> io::Result<Option<RaftLogId>> {
        let committed = clamp_committed(self.log.committed(), self.log.durable());
        Ok(committed.map(model::log_id))
    }

    /// The sequencer proposes nothing while the log says it is full; what was already on its way then, and openraft's own blank and
    /// membership entries, may use the rest of the segment, all but the reserve for votes. So this is refused only once that is used
    /// up too. To fail would stop the group for good over something that passes; so it waits. The group stands still meanwhile, as a
    /// node that is down would, and a majority elsewhere goes on without it.
    ///
    /// What openraft merged into one append goes to the log in pieces, so that none needs an outsized segment; the last piece is durable
    /// only after the others, so its report is that of all.
    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Model>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut pieces = into_pieces(entries.into_iter().map(model::log_entry));
        let last = pieces.pop().unwrap_or_default();
        for piece in pieces {
            self.append_when_room(piece, Report::nobody()).await.map_err(io_error)?;
        }
        self.append_when_room(last, Report::to(callback)).await.map_err(io_error)
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> io::Result<()> {
        let log = self.log.clone();
        self.unless_stopping(log.wait_for_room()).await.map_err(io_error)?;
        self.log.truncate_after(last.map(|last| model::entry_id(&last))).map_err(io_error)
    }

    async fn purge(&mut self, upto: RaftLogId) -> io::Result<()> {
        let log = self.log.clone();
        self.unless_stopping(log.wait_for_room()).await.map_err(io_error)?;
        self.log.purge(model::entry_id(&upto)).map_err(io_error)
    }
}

/// Who wants to know that an append is durable; told once.
#[derive(Clone)]
struct Report(Arc<Mutex<IOFlushed<Model>>>);

impl Report {
    fn to(flushed: IOFlushed<Model>) -> Self {
        Self(Arc::new(Mutex::new(flushed)))
    }

    fn nobody() -> Self {
        Self::to(IOFlushed::noop())
    }

    fn complete(&self, result: Result<(), LogError>) {
        let flushed = std::mem::replace(&mut *self.0.lock(), IOFlushed::noop());
        flushed.io_completed(result.map_err(io_error));
    }
}

/// Entries in runs of at most [`APPEND_BYTES_MAX`], or of one.
fn into_pieces(entries: impl Iterator<Item = LogEntry>) -> Vec<Vec<LogEntry>> {
    let mut pieces: Vec<Vec<LogEntry>> = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        bytes += entry.payload.size();
        match pieces.last_mut().filter(|_| bytes <= APPEND_BYTES_MAX) {
            Some(piece) => piece.push(entry),
            None => {
                bytes = entry.payload.size();
                pieces.push(vec![entry]);
            }
        }
    }
    pieces
}

/// A piece of a range of entries, and what remains of the range.
type Piece = (Vec<RaftEntry>, Range<u64>);

fn raft_entries(entries: Vec<LogEntry>) -> io::Result<Vec<RaftEntry>> {
    entries.into_iter().map(|entry| model::raft_entry(entry).map_err(io::Error::other)).collect()
}

/// One stream of what `next` reads piece by piece, as it is pulled.
fn in_pieces<E: Send + 'static, F: Future<Output = Result<Option<Piece>, E>> + Send + 'static>(
    range: Range<u64>,
    next: impl FnMut(Range<u64>) -> F + Send + 'static,
) -> BoxStream<'static, Result<RaftEntry, E>> {
    let pieces = stream::try_unfold(range, next);
    let entries = |piece: Vec<RaftEntry>| stream::iter(piece.into_iter().map(Ok));
    Box::pin(pieces.map_ok(entries).try_flatten())
}

/// What may be applied at start: the saved commit, as far as this disk has it.
pub(super) fn clamp_committed(committed: Option<EntryId>, durable: Option<EntryId>) -> Option<EntryId> {
    match (committed, durable) {
        (Some(committed), Some(durable)) => Some(if durable.index < committed.index { durable } else { committed }),
        _ => None,
    }
}

/// Keeps the words of the cause: openraft keeps only the text of an error.
fn io_error(error: LogError) -> io::Error {
    match &error {
        LogError::Disk { file, source } => io::Error::other(format!("disk error at {file}: {source}")),
        _ => io::Error::other(error),
    }
}
