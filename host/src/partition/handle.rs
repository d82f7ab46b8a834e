//! The handle by which the rest of the host talks to a partition.
//!
//! In: submissions, reads, questions. Out: replies through tickets, consistent views, status. Every wait ends at the
//! caller's deadline.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::consensus::{ConsensusError, Group, Leadership, StopReason};
use crate::ids::{CommandId, JournalIndex, LogIndex, Micros, PartitionId};
use crate::log::{Log, LogHealth};
use crate::machine::entry::Activation;
use crate::machine::journal::Journal;
use crate::partition::error::PartitionError;
use crate::partition::history;
use crate::partition::run::Message;
use crate::partition::status::{Board, PartitionStatus, Progress, RunState};
use crate::sequencer::decide::Diagnostic;
use crate::sequencer::submission::{Recorded, Refusal, Reply, Submission};
use crate::store::{IdIndex, IdRecord, Store, View};

/// A partition that runs on this node.
pub struct Partition {
    id: PartitionId,
    mailbox: Sender<Message>,
    board: Arc<Board>,
    group: Group,
    log: Log,
    store: Arc<Store>,
    ids: Arc<IdIndex>,
    genesis: Journal,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A moment to read at: rows and the journal they belong to.
pub struct ReadPoint {
    pub view: View,
    pub journal: Journal,
}

impl Partition {
    #[expect(clippy::too_many_arguments, reason = "the one place where the parts of a partition are put together")]
    pub(super) fn new(
        id: PartitionId,
        mailbox: Sender<Message>,
        board: Arc<Board>,
        group: Group,
        log: Log,
        store: Arc<Store>,
        ids: Arc<IdIndex>,
        genesis: Journal,
        thread: JoinHandle<()>,
    ) -> Self {
        Self { id, mailbox, board, group, log, store, ids, genesis, thread: Mutex::new(Some(thread)) }
    }

    pub fn id(&self) -> PartitionId {
        self.id
    }

    pub fn progress(&self) -> Progress {
        *self.board.progress.borrow()
    }

    /// Hands submissions to the executor; each is answered through its ticket. Never waits.
    pub fn submit(&self, submissions: Vec<Submission>) {
        let refuse = |submissions: &[Submission], refusal| {
            for submission in submissions {
                submission.ticket.reply(Reply::Refused(refusal));
            }
        };
        if !self.board.is_running() {
            return refuse(&submissions, Refusal::Halted);
        }
        let bytes = submissions.iter().map(|submission| submission.size).sum();
        if !self.board.reserve(bytes) {
            return refuse(&submissions, Refusal::Overloaded);
        }
        if let Err(unsent) = self.mailbox.send(Message::Submit(submissions)) {
            self.board.release(bytes);
            if let Message::Submit(submissions) = unsent.0 {
                refuse(&submissions, Refusal::ShuttingDown);
            }
        }
    }

    /// Makes another module decide from the next entry on; returns the journal once that is applied.
    pub async fn activate(&self, activation: Activation, deadline: Instant) -> Result<Journal, PartitionError> {
        let (reply, done) = oneshot::channel();
        self.send(Message::Activate(activation, reply))?;
        match tokio::time::timeout_at(deadline, done).await {
            Ok(Ok(journal)) => Ok(journal),
            Ok(Err(_)) => Err(self.not_running()),
            Err(_) => Err(PartitionError::Deadline),
        }
    }

    /// Waits until this node leads the partition.
    pub async fn wait_for_leader(&self, deadline: Instant) -> Result<(), PartitionError> {
        let mut leadership = self.group.leadership();
        let is_decided = |now: &Leadership| !matches!(now, Leadership::Follower { .. });
        match tokio::time::timeout_at(deadline, leadership.wait_for(is_decided)).await {
            Ok(Ok(now)) if matches!(&*now, Leadership::Leader { .. }) => Ok(()),
            Ok(_) => Err(self.not_running()),
            Err(_) => Err(PartitionError::Deadline),
        }
    }

    /// What this node has applied, at once.
    pub fn read_stale(&self) -> Result<ReadPoint, PartitionError> {
        let view = self.store.read();
        let journal = match view.meta() {
            Some(meta) => Journal {
                index: meta.journal,
                head: meta.head,
                time: meta.time,
                module: meta.module,
                schema: meta.schema,
                ..self.genesis
            },
            None => self.genesis,
        };
        Ok(ReadPoint { view, journal })
    }

    /// Everything that was acknowledged before the call.
    pub async fn read_linearizable(&self, deadline: Instant) -> Result<ReadPoint, PartitionError> {
        let barrier = tokio::time::timeout_at(deadline, self.group.read_barrier());
        let index = barrier.await.map_err(|_| PartitionError::Deadline)??;
        self.wait_applied(deadline, |progress| index <= progress.log_index).await?;
        self.read_stale()
    }

    /// At least this journal index.
    pub async fn read_at_least(&self, index: JournalIndex, deadline: Instant) -> Result<ReadPoint, PartitionError> {
        self.wait_applied(deadline, |progress| index <= progress.journal.index).await?;
        self.read_stale()
    }

    async fn wait_applied(
        &self,
        deadline: Instant,
        is_reached: impl Fn(&Progress) -> bool,
    ) -> Result<(), PartitionError> {
        let mut progress = self.board.progress.subscribe();
        let mut state = self.board.state.subscribe();
        let reached = async {
            tokio::select! {
                reached = progress.wait_for(|progress| is_reached(progress)) => reached.is_ok(),
                _ = state.wait_for(|state| !matches!(state, RunState::Running)) => false,
            }
        };
        match tokio::time::timeout_at(deadline, reached).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.not_running()),
            Err(_) => Err(PartitionError::Deadline),
        }
    }

    /// Where an id is recorded, if it is.
    pub fn find_id(&self, id: CommandId) -> Result<Option<IdRecord>, PartitionError> {
        Ok(self.ids.lookup(&id)?)
    }

    /// The effective entry with this journal index.
    pub fn find_entry(&self, index: JournalIndex) -> Result<Recorded, PartitionError> {
        let point = self.read_stale()?;
        history::find_entry(&self.log, index, self.applied_of(&point), &point.journal)
    }

    /// Walks the effective entries from the newest of `point` back.
    pub fn walk_back(
        &self,
        point: &ReadPoint,
        each: impl FnMut(Recorded) -> std::ops::ControlFlow<()>,
    ) -> Result<(), PartitionError> {
        history::walk_back(&self.log, self.applied_of(point), &point.journal, each)
    }

    fn applied_of(&self, point: &ReadPoint) -> Option<crate::log::EntryId> {
        let applied = point.view.meta()?.applied;
        Some(crate::log::EntryId { term: applied.term, node: applied.node, index: applied.index })
    }

    /// The last words of a guest on a command, if they are kept.
    pub fn find_panic(&self, id: CommandId) -> Option<Diagnostic> {
        self.board.panics.find(id)
    }

    /// Sees to it that the journal's time passes `time`, even when nobody submits anything.
    pub fn want_time(&self, time: Micros) {
        // A partition that does not run any more has no time.
        drop(self.mailbox.send(Message::WaitForTime(time)));
    }

    /// Waits until the journal's time has passed `time`.
    pub async fn wait_for_time(&self, time: Micros, deadline: Instant) -> Result<(), PartitionError> {
        self.want_time(time);
        self.wait_applied(deadline, |progress| time < progress.journal.time).await
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    pub fn genesis(&self) -> Journal {
        self.genesis
    }

    pub fn log_health(&self) -> LogHealth {
        self.log.health()
    }

    pub fn status(&self) -> PartitionStatus {
        PartitionStatus {
            partition: self.id,
            leadership: self.group.leadership().borrow().clone(),
            progress: self.progress(),
            queue_bytes: self.board.queue_bytes.load(Ordering::Relaxed),
            in_flight: self.board.in_flight.load(Ordering::Relaxed),
            log_bytes: self.log.bytes(),
            state: self.board.state.borrow().clone(),
        }
    }

    /// Stops taking part, waits for the executor, and writes what is applied.
    pub async fn close(&self) -> Result<(), PartitionError> {
        let result = match self.group.shutdown().await {
            Ok(()) | Err(ConsensusError::Stopped(_)) => Ok(()),
            Err(error) => Err(error.into()),
        };
        drop(self.mailbox.send(Message::Stop));
        let Some(thread) = self.thread.lock().take() else { return result };
        let (store, ids, log) = (self.store.clone(), self.ids.clone(), self.log.clone());
        let closing = tokio::task::spawn_blocking(move || {
            let joined = thread.join();
            assert!(joined.is_ok(), "the executor catches its own panics");
            store.flush()?;
            ids.flush()?;
            log.close()?;
            Ok::<(), PartitionError>(())
        });
        closing.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        result
    }

    fn send(&self, message: Message) -> Result<(), PartitionError> {
        self.mailbox.send(message).map_err(|_| self.not_running())
    }

    fn not_running(&self) -> PartitionError {
        match &*self.board.state.borrow() {
            RunState::Halted(reason) => PartitionError::Halted(reason.clone()),
            RunState::Running => PartitionError::NotLeading,
            RunState::Closed => PartitionError::Consensus(ConsensusError::Stopped(StopReason::Shutdown)),
        }
    }

    /// Raft's index of what is applied.
    pub fn log_index_applied(&self) -> LogIndex {
        self.progress().log_index
    }
}
