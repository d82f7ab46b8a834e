//! openraft's log storage over `log/`. It decides what must be durable when, and nothing else.
//!
//! * `append` is readable on return and reported once durable, in order; appends are pipelined.
//! * `save_vote` is durable on return, and so is every earlier append: both use the log's one stream.
//! * `committed` is a hint that nobody waits for, so it is cut to what the log holds when it is read.
//! * A slow disk blocks its group but no thread: waits for room or for a sync are asynchronous.
//! * A failed disk is final. A *full* one is not: an append waits for room instead of failing (see
//!   [`Storage::append`]).
//! * A reader waits for damage in a sealed segment to be mended, since other nodes have it; nobody else waits.

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

/// The most bytes read in one step when openraft asks for a long range, to apply or to replicate.
const READ_BYTES_MAX: usize = 4 << 20;
/// The most bytes of entries given to the log at once. It is also the size of the log's smallest segment.
const APPEND_BYTES_MAX: usize = 4 << 20;
/// The delay before an append that met a full disk tries again. Nothing signals that there is space again.
const FULL_RETRY: Duration = Duration::from_millis(50);
/// The delay before a failed read is repeated. It is repeated at once when the log reports that the damage is mended.
const UNREADABLE_RETRY: Duration = Duration::from_millis(500);

/// The log as openraft's storage and as its readers. All clones are the same log.
#[derive(Clone)]
pub(super) struct Storage {
    log: Log,
    /// Becomes true when the group shuts down, so that an append that waits for room gives up.
    stopping: watch::Receiver<bool>,
}

impl Storage {
    pub(super) fn new(log: Log, stopping: watch::Receiver<bool>) -> Self {
        Self { log, stopping }
    }

    /// The part of `range` that the log has: neither purged nor in the future.
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
        // A log that was never purged may begin above 0. Its reader skips earlier indexes.
        start.max(first)..end.min(next)
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        self.log.read(LogIndex(range.start)..LogIndex(range.end), bytes_max)
    }

    /// Waits a moment after this error if a later read may succeed. That is so if the log has not failed and only a
    /// sealed segment is damaged, because another node's entries mend it.
    ///
    /// # Errors
    /// The same error, if a later read cannot succeed or the group shuts down.
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

    /// The next piece of `range` for a stream, and the rest of the range; `None` at its end. Entries to apply are read
    /// here, so a hole is an error, even at the edges of a piece.
    async fn read_next(&mut self, range: Range<u64>) -> io::Result<Option<EntryPiece>> {
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

    /// Appends once there is room. The report of a refused attempt is kept for the next one.
    async fn append_when_room(&mut self, entries: Vec<LogEntry>, report: DurabilityReport) -> Result<(), LogError> {
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

    /// A disk that hangs must not block a group that shuts down.
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
            // The sender is gone, so nobody can stop the group any more.
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

    /// The entries to send to a follower. An error would stop the group and with it all other followers. If there are
    /// no entries, openraft asks again after it has checked that it still leads.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<RaftEntry>> {
        match self.read(self.present(&(start..end)), READ_BYTES_MAX) {
            Ok(entries) => raft_entries(entries),
            Err(error) => self.wait_for_mending(error).await.map(|()| Vec::new()).map_err(io_error),
        }
    }

    /// Reads as it is pulled, so that a follower with a large lag, or a long apply, never has its whole range in
    /// memory.
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

    /// The vote is checked before *and* after each piece. A vote only ever grows, so in between it was the leader's
    /// too, and nothing was truncated.
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

    /// The *last* entry of each leader, whatever the trait's documentation says: openraft's own search returns that,
    /// and its suite checks it. The answer is in memory; openraft would search the whole log for it at start.
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

    /// A commit can be ahead of this disk (a majority of *other* disks is enough), and openraft refuses to start if it
    /// must apply entries that are not there.
    async fn read_committed(&mut self) -> io::Result<Option<RaftLogId>> {
        let committed = clamp_committed(self.log.committed(), self.log.durable());
        Ok(committed.map(model::log_id))
    }

    /// The sequencer proposes nothing while the log is full. Earlier appends, and openraft's own blank and membership
    /// entries, may use the rest of the segment except the reserve for votes. So this is refused only once that is used
    /// up. A failure would stop the group for good over a condition that passes, so it waits. Meanwhile the group
    /// stands still, like that of a node that is down, and a majority elsewhere proceeds without it.
    ///
    /// An append that openraft merged is given to the log in pieces, so that none needs an oversized segment. The last
    /// piece is durable only after the others, so its report covers all.
    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Model>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut pieces = into_pieces(entries.into_iter().map(model::log_entry));
        let last = pieces.pop().unwrap_or_default();
        for piece in pieces {
            self.append_when_room(piece, DurabilityReport::nobody()).await.map_err(io_error)?;
        }
        self.append_when_room(last, DurabilityReport::to(callback)).await.map_err(io_error)
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

/// The party to tell when an append is durable. It is told once.
#[derive(Clone)]
struct DurabilityReport(Arc<Mutex<IOFlushed<Model>>>);

impl DurabilityReport {
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

/// Entries in runs of at most [`APPEND_BYTES_MAX`], or of one entry.
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

/// A piece of a range of entries, and the rest of the range.
type EntryPiece = (Vec<RaftEntry>, Range<u64>);

fn raft_entries(entries: Vec<LogEntry>) -> io::Result<Vec<RaftEntry>> {
    entries.into_iter().map(|entry| model::raft_entry(entry).map_err(io::Error::other)).collect()
}

/// One stream of the entries that `next` reads piece by piece, as they are pulled.
fn in_pieces<E: Send + 'static, F: Future<Output = Result<Option<EntryPiece>, E>> + Send + 'static>(
    range: Range<u64>,
    next: impl FnMut(Range<u64>) -> F + Send + 'static,
) -> BoxStream<'static, Result<RaftEntry, E>> {
    let pieces = stream::try_unfold(range, next);
    let entries = |piece: Vec<RaftEntry>| stream::iter(piece.into_iter().map(Ok));
    Box::pin(pieces.map_ok(entries).try_flatten())
}

/// The entries that may be applied at start: the saved commit, as far as this disk has it.
pub(super) fn clamp_committed(committed: Option<EntryId>, durable: Option<EntryId>) -> Option<EntryId> {
    match (committed, durable) {
        (Some(committed), Some(durable)) => Some(if durable.index < committed.index { durable } else { committed }),
        _ => None,
    }
}

/// Keeps the text of the cause, because openraft keeps only the text of an error.
fn io_error(error: LogError) -> io::Error {
    match &error {
        LogError::Disk { file, source } => io::Error::other(format!("disk error at {file}: {source}")),
        _ => io::Error::other(error),
    }
}
