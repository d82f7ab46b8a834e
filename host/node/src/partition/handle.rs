//! The handle by which the rest of the host talks to a partition.
//!
//! In: submissions, reads, questions. Out: replies through tickets, consistent views, status. Every wait ends at the
//! caller's deadline. This file does not know what the executor does with a message.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::archive::ArchivedJournal;
use crate::consensus::{Group, Leadership};
use crate::ids::{CommandId, Head, JournalIndex, LogIndex, Micros, NodeId, PartitionId, Position};
use crate::limits;
use crate::log::{Log, LogHealth};
use crate::machine::decide::Diagnostic;
use crate::machine::entry::Activation;
use crate::machine::journal::Journal;
use crate::machine::modules::Modules;
use crate::machine::transit::InTransit;
use crate::partition::canonical::Canonical;
use crate::partition::error::{HaltReason, PartitionError};
use crate::partition::in_transit;
use crate::partition::journal_lookup;
use crate::partition::journal_state::journal_of;
use crate::partition::message::{Input, Message};
use crate::partition::recorded::RecordedEntries;
use crate::partition::requests::{ActivationRequest, NotOrdered, Ordered};
use crate::partition::saga_table::read_table;
use crate::partition::status::{Board, PartitionStatus, Progress, RunState};
use crate::partition::timeline::Timeline;
use crate::peer::{Call, GroupPeers, Topic};
use crate::saga::status::row_key;
use crate::saga::{Order, Saga};
use crate::sequencer::submission::{RecordedEntry, Refusal, Reply, Submission};
use crate::snapshot::Snapshots;
use crate::store::{IdIndex, IdRecord, Store, View};

/// How long a leader may take to answer a request for time to pass.
const WANT_TIME_PATIENCE: Duration = Duration::from_secs(1);
/// How soon a request to the leader is tried again while no new leader is seen.
const LEADER_RETRY: Duration = Duration::from_millis(25);

/// The parts of a partition that runs here.
pub(super) struct Parts {
    pub id: PartitionId,
    pub mailbox: Sender<Message>,
    pub board: Arc<Board>,
    pub timeline: Arc<Timeline>,
    pub group: Group,
    pub peers: GroupPeers,
    pub modules: Arc<dyn Modules>,
    pub log: Log,
    pub entries: Arc<RecordedEntries>,
    pub store: Arc<Store>,
    pub ids: Arc<IdIndex>,
    pub snapshots: Arc<Snapshots>,
    pub canonical: Arc<Canonical>,
    pub genesis: Journal,
    /// The archived journal, if there is an archive.
    pub past: Option<Arc<ArchivedJournal>>,
}

/// A partition that runs on this node.
pub struct Partition {
    pub(super) parts: Parts,
    /// Held while a snapshot is made.
    pub(super) building: Arc<tokio::sync::Mutex<()>>,
    pub(super) thread: Mutex<Option<JoinHandle<()>>>,
}

/// A moment to read at: the rows, and the journal to which they belong.
pub struct ReadPoint {
    pub view: View,
    pub journal: Journal,
}

impl Partition {
    pub(super) fn new(parts: Parts, thread: JoinHandle<()>) -> Self {
        Self { parts, building: Arc::default(), thread: Mutex::new(Some(thread)) }
    }

    pub fn id(&self) -> PartitionId {
        self.parts.id
    }

    pub fn progress(&self) -> Progress {
        *self.parts.board.progress.borrow()
    }

    /// The present time of the journal by this node's clock. The leader's answer is the one that counts.
    pub fn present(&self) -> Micros {
        self.parts.timeline.present(self.progress().journal.time)
    }

    /// How far the journal is ahead of this node's clock.
    pub fn lead(&self) -> Duration {
        self.parts.timeline.lead(self.progress().journal.time)
    }

    /// Follows how far the partition has applied.
    pub fn watch_progress(&self) -> watch::Receiver<Progress> {
        self.parts.board.progress.subscribe()
    }

    /// The head of the journal after this index; `None` if the journal does not reach that far, or no longer has it.
    pub fn head_at(&self, index: JournalIndex) -> Result<Option<Head>, PartitionError> {
        if index == self.parts.genesis.index {
            return Ok(Some(self.parts.genesis.head));
        }
        match self.find_entry(index) {
            Ok(recorded) => Ok(Some(recorded.head())),
            Err(PartitionError::NoEntry(_) | PartitionError::Released { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stops the partition on this node, because its journal at `index` differs from its leader's.
    pub fn halt_diverged(&self, index: JournalIndex, leader: NodeId) {
        // The partition may have stopped on its own.
        drop(self.send(Input::Halt(HaltReason::Diverged { index, leader })));
    }

    /// Hands submissions to the executor; each is answered through its ticket. Never waits.
    pub fn submit(&self, submissions: Vec<Submission>) {
        let refuse = |submissions: Vec<Submission>, refusal| {
            for submission in submissions {
                submission.ticket.reply(Reply::Refused(refusal));
            }
        };
        if !self.parts.board.is_running() {
            return refuse(submissions, Refusal::Halted);
        }
        let bytes = submissions.iter().map(|submission| submission.size).sum();
        if !self.parts.board.reserve(bytes) {
            return refuse(submissions, Refusal::Overloaded);
        }
        if let Err(unsent) = self.parts.mailbox.send(Message::Input(Input::Submit(submissions))) {
            self.parts.board.release(bytes);
            if let Message::Input(Input::Submit(submissions)) = unsent.0 {
                refuse(submissions, Refusal::ShuttingDown);
            }
        }
    }

    /// Makes another module decide from the next entry on; returns the journal once that entry is applied.
    pub async fn activate(&self, activation: Activation, deadline: Instant) -> Result<Journal, PartitionError> {
        let (reply, done) = oneshot::channel();
        self.send(Input::Activate(ActivationRequest { activation, reply }))?;
        match tokio::time::timeout_at(deadline, done).await {
            Ok(Ok(Ok(journal))) => Ok(journal),
            Ok(Ok(Err(reason))) => Err(PartitionError::NotActivated { module: activation.module, reason }),
            Ok(Err(_)) => Err(self.not_running()),
            Err(_) => Err(PartitionError::Deadline),
        }
    }

    /// While this is set and this node leads, no command on several partitions begins here.
    pub fn set_draining(&self, is_draining: bool) {
        // A partition that does not run begins nothing.
        drop(self.send(Input::Drain(is_draining)));
    }

    /// Makes sure that no command on several partitions begins from now on. Returns whether all commands that this node
    /// coordinates are over.
    pub async fn drain(&self, deadline: Instant) -> Result<bool, PartitionError> {
        if !self.is_leader() {
            return Err(PartitionError::NotLeading);
        }
        let (reply, done) = oneshot::channel();
        self.send(Input::AskDrained(reply))?;
        match tokio::time::timeout_at(deadline, done).await {
            Ok(Ok(is_drained)) => Ok(is_drained),
            Ok(Err(_)) => Err(self.not_running()),
            Err(_) => Err(PartitionError::Deadline),
        }
    }

    /// Has an order about a command in flight recorded while this node leads; returns the journal index that records
    /// it.
    pub async fn order(
        &self,
        order: Order,
        deadline: Instant,
    ) -> Result<Result<JournalIndex, NotOrdered>, PartitionError> {
        let (reply, done) = oneshot::channel();
        self.send(Input::Order(Ordered { order, reply }))?;
        match tokio::time::timeout_at(deadline, done).await {
            Ok(Ok(recorded)) => Ok(recorded),
            // The order may be in an entry whose fate is not known.
            Ok(Err(_)) => Err(PartitionError::NotLeading),
            Err(_) => Err(PartitionError::Deadline),
        }
    }

    /// Waits until it is known who leads.
    pub async fn wait_for_leader(&self, deadline: Instant) -> Result<(), PartitionError> {
        let mut leadership = self.parts.group.leadership();
        let is_decided = |now: &Leadership| !matches!(now, Leadership::Follower { leader: None, .. });
        match tokio::time::timeout_at(deadline, leadership.wait_for(is_decided)).await {
            Ok(Ok(now)) if !matches!(&*now, Leadership::Stopped { .. }) => Ok(()),
            Ok(_) => Err(self.not_running()),
            Err(_) => Err(PartitionError::Deadline),
        }
    }

    /// The Raft group, for its members and its peers.
    pub fn group(&self) -> &Group {
        &self.parts.group
    }

    /// What this node has applied, without any wait.
    pub fn read_stale(&self) -> Result<ReadPoint, PartitionError> {
        let view = self.parts.store.read();
        let journal = view.meta().map_or(self.parts.genesis, journal_of);
        Ok(ReadPoint { view, journal })
    }

    /// Waits for a change of leadership, but only for a moment: then a request that found no leader is tried again.
    pub async fn wait_for_change(&self) {
        let mut leadership = self.parts.group.leadership();
        leadership.mark_unchanged();
        // In both cases it is time to try again.
        drop(tokio::time::timeout(LEADER_RETRY, leadership.changed()).await);
    }

    /// Waits until it is known that a node other than this one leads.
    pub async fn wait_while_led_by(&self, node: NodeId) {
        let mut leadership = self.parts.group.leadership();
        let is_over = |now: &Leadership| match now {
            Leadership::Leader { .. } => true,
            Leadership::Follower { leader, .. } => leader.is_some_and(|leader| leader != node),
            // A stopped group will not hear of another leader.
            Leadership::Stopped { .. } => false,
        };
        if leadership.wait_for(is_over).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The leader, as far as this node knows; it may be this node.
    pub fn leader(&self) -> Option<NodeId> {
        match &*self.parts.group.leadership().borrow() {
            Leadership::Leader { .. } => Some(self.parts.group.node()),
            Leadership::Follower { leader, .. } => *leader,
            Leadership::Stopped { .. } => None,
        }
    }

    /// How many of the entries that this leader was last heard to hold are missing here, if that is too many to call
    /// this replica level. Few may be missing until it is level for the first time since it was opened; later many may
    /// be.
    pub fn find_lag(&self, leader: NodeId) -> Option<u64> {
        let GroupPeers { group, seen, .. } = &self.parts.peers;
        let held = seen.held(leader, group).map_or(LogIndex(0), |held| held.index);
        let (lag, was_level) = (held.0.saturating_sub(self.progress().log_index.0), &self.parts.board.was_level);
        if lag <= limits::READY_LAG_MAX {
            was_level.store(true, Ordering::Relaxed);
        }
        let lag_max =
            if was_level.load(Ordering::Relaxed) { limits::READY_LAG_LEVEL_MAX } else { limits::READY_LAG_MAX };
        (lag_max < lag).then_some(lag)
    }

    /// Whether the executor takes submissions and entries.
    pub fn is_running(&self) -> bool {
        self.parts.board.is_running()
    }

    /// Whether this node may propose.
    pub fn is_leader(&self) -> bool {
        self.parts.board.is_running() && matches!(&*self.parts.group.leadership().borrow(), Leadership::Leader { .. })
    }

    /// Reads once at least this journal index is applied.
    pub async fn read_at_least(&self, index: JournalIndex, deadline: Instant) -> Result<ReadPoint, PartitionError> {
        self.wait_applied(deadline, |progress| index <= progress.journal.index).await?;
        self.read_stale()
    }

    /// Reads once the entry of this position is applied here. The caller must check that it is the entry that was
    /// meant.
    ///
    /// # Errors
    /// [`PartitionError::OtherHistory`]: everything that was ever committed is applied here, and the journal is
    /// shorter. The position is then from a history that this cluster was taken back from. [`PartitionError::Deadline`]
    /// and others: this cannot be found out now.
    pub async fn read_position(&self, position: Position, deadline: Instant) -> Result<ReadPoint, PartitionError> {
        let now = Instant::now();
        let soon = now + limits::REPLICA_LAG_USUAL.min(deadline.duration_since(now) / 2);
        match self.read_at_least(position.index, soon).await {
            Err(PartitionError::Deadline) => {}
            read => return read,
        }
        let point = self.read_linearizable(deadline).await?;
        if point.journal.index < position.index { Err(PartitionError::OtherHistory(position)) } else { Ok(point) }
    }

    pub(super) async fn wait_applied(
        &self,
        deadline: Instant,
        is_reached: impl Fn(&Progress) -> bool,
    ) -> Result<(), PartitionError> {
        let mut progress = self.parts.board.progress.subscribe();
        let mut state = self.parts.board.state.subscribe();
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
        Ok(self.parts.ids.lookup(&id)?)
    }

    /// What is known of a command in flight that this partition coordinates.
    pub fn find_in_flight(&self, id: CommandId) -> Result<Option<Saga>, PartitionError> {
        let row = self.parts.store.read().row(&row_key(id))?;
        let saga = row.map(|row| Saga::of_row(&row)).transpose();
        saga.map_err(|reason| PartitionError::Halted(HaltReason::Store(reason)))
    }

    /// All commands in flight that this partition coordinates.
    pub fn list_in_flight(&self) -> Result<Vec<Saga>, PartitionError> {
        read_table(&self.parts.store.read())
    }

    /// The effective entry with this journal index. May read from disk.
    pub fn find_entry(&self, index: JournalIndex) -> Result<Arc<RecordedEntry>, PartitionError> {
        let point = self.read_stale()?;
        let found = self.parts.entries.find(index, applied_index_of(&point), &point.journal);
        found.map_err(|error| self.with_position(&point, error))
    }

    /// The same for callers that must not block.
    pub async fn read_entry(self: &Arc<Self>, index: JournalIndex) -> Result<Arc<RecordedEntry>, PartitionError> {
        if let Some(kept) = self.parts.entries.find_kept(index) {
            return Ok(kept);
        }
        let this = self.clone();
        let reading = tokio::task::spawn_blocking(move || this.find_entry(index)).await;
        reading.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()))
    }

    /// Adds the position of the first entry that is still here.
    fn with_position(&self, point: &ReadPoint, error: PartitionError) -> PartitionError {
        let PartitionError::Released { first, .. } = error else { return error };
        let found = self.parts.entries.find(first, applied_index_of(point), &point.journal);
        PartitionError::Released { first, position: found.ok().map(|first| first.position(self.parts.id, 0)) }
    }

    /// Walks the effective entries back from the newest of `point`.
    pub fn walk_back(
        &self,
        point: &ReadPoint,
        each: impl FnMut(RecordedEntry) -> std::ops::ControlFlow<()>,
    ) -> Result<(), PartitionError> {
        let applied = point.view.meta().map(|meta| meta.applied);
        let walked = journal_lookup::walk_back(&self.parts.log, applied, &point.journal, each);
        walked.map_err(|error| self.with_position(point, error))
    }

    /// The last words of a guest about a command, if they are kept.
    pub fn find_panic(&self, id: CommandId) -> Option<Diagnostic> {
        self.parts.board.panics.find(id)
    }

    /// Makes the journal's time pass `time`, even if nobody submits anything. Only a leader can do that, so it is told.
    pub fn want_time(&self, time: Micros) {
        if let Some(leader) = self.leader().filter(|leader| *leader != self.parts.group.node()) {
            let GroupPeers { network, group, .. } = &self.parts.peers;
            let body = Bytes::copy_from_slice(&time.0.to_le_bytes());
            let call = Call { topic: Topic::WantTime, group: Some(group.clone()), body };
            // Those who wait ask again, so a lost message does no harm.
            tokio::spawn(network.call(leader, call, WANT_TIME_PATIENCE).map(drop));
            return;
        }
        // A partition that no longer runs has no time.
        drop(self.send(Input::WaitForTime(time)));
    }

    /// Handles the [`Topic::WantTime`] of another node.
    pub fn on_want_time(&self, body: &[u8]) -> Result<(), PartitionError> {
        let time = body.try_into().map(i64::from_le_bytes).map_err(|_| PartitionError::NotLeading)?;
        self.send(Input::WaitForTime(Micros(time)))
    }

    /// Waits until the journal's time has passed `time`.
    pub async fn wait_for_time(&self, time: Micros, deadline: Instant) -> Result<(), PartitionError> {
        self.want_time(time);
        self.wait_applied(deadline, |progress| time < progress.journal.time).await
    }

    /// What was in transit here at a moment, as far as this node has applied. `None`: a later moment has replaced it,
    /// or it is unknown.
    ///
    /// Reads from disk if the moment has passed without an entry, or if there are many rows.
    pub fn in_transit_at(&self, at: Micros) -> Option<InTransit> {
        let board = &self.parts.board;
        let shown = board.shown.lock().clone();
        if let Some(shown) = shown.filter(|shown| shown.at() == at) {
            let sum = shown.sum();
            if let Some(now) = board.shown.lock().as_mut().filter(|now| now.at() == at) {
                now.keep_sum(sum.clone());
            }
            return sum;
        }
        let now = self.read_stale().ok()?;
        if at <= now.journal.time {
            return None;
        }
        let Some(logic) = self.parts.modules.find_here(now.journal.module) else {
            // Nothing has happened in this partition yet.
            return (now.journal.index.0 == 0).then(InTransit::default);
        };
        let head = now.journal.head;
        let known = board.counted.lock().clone();
        if let Some((_, sum)) = known.filter(|(at, _)| *at == head) {
            return Some(sum);
        }
        let sum = in_transit::count(logic.as_ref(), &now.view)?;
        *board.counted.lock() = Some((head, sum.clone()));
        Some(sum)
    }

    pub fn log(&self) -> &Log {
        &self.parts.log
    }

    pub fn genesis(&self) -> Journal {
        self.parts.genesis
    }

    pub fn log_health(&self) -> LogHealth {
        self.parts.log.health()
    }

    pub fn status(&self) -> PartitionStatus {
        PartitionStatus {
            partition: self.parts.id,
            leadership: self.parts.group.leadership().borrow().clone(),
            progress: self.progress(),
            queue_bytes: self.parts.board.queue_bytes.load(Ordering::Relaxed),
            in_flight: self.parts.board.in_flight.load(Ordering::Relaxed),
            log_bytes: self.parts.log.bytes(),
            state: self.parts.board.state.borrow().clone(),
        }
    }

    pub(super) fn send(&self, input: Input) -> Result<(), PartitionError> {
        self.parts.mailbox.send(Message::Input(input)).map_err(|_| self.not_running())
    }

    pub(super) fn not_running(&self) -> PartitionError {
        self.parts.board.state.borrow().reason()
    }

    /// Raft's index of the last applied entry.
    pub fn log_index_applied(&self) -> LogIndex {
        self.progress().log_index
    }
}

fn applied_index_of(point: &ReadPoint) -> Option<LogIndex> {
    Some(point.view.meta()?.applied.index)
}
