//! A submission: a planned command that waits to be decided, and the slot its answer goes to.
//!
//! `Plan → Submission`: made by the router, consumed by the sequencer. It knows nothing of what the answer looks like
//! to a client.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use statehouse_abi::ops::OpRole;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::ids::{CommandId, Fingerprint, Head, LogIndex, Micros, ModuleId, NodeId, PartitionId, Position};
use crate::machine::entry::Entry;
use crate::machine::plan::{Plan, PlanView};
use crate::machine::replica::position_count;
use crate::saga::{Call, CallKey, Derivation, Identity, SagaPlan};

/// A planned command on its way to a decision; before it is submitted it has no ticket yet.
#[derive(Clone)]
pub struct Submission<T = Ticket> {
    pub id: CommandId,
    pub fingerprint: Fingerprint,
    /// Name in the planning module's `describe`.
    pub name: Arc<str>,
    pub plan: Plan,
    pub planner: ModuleId,
    pub caller: Arc<str>,
    pub roles: u32,
    /// The node that says so: it has asked the caller for its token, or coordinates the command.
    pub vouched: NodeId,
    pub request_id: Arc<str>,
    /// The command is not executed in an entry with a later time. It is a time of the partition's journal; until that
    /// time is known, it is the earliest possible one.
    pub expires: Micros,
    /// While a client waits: the command is not executed after this either.
    pub deadline: Option<Instant>,
    /// Bytes it counts for in the queue.
    pub size: usize,
    /// What follows on other partitions; the plan is only the first branch then.
    pub saga: Option<Arc<SagaPlan>>,
    /// Who has called, if it is the call of a coordinator.
    pub called: Option<Arc<BranchCall>>,
    pub ticket: T,
}

/// A call of a branch, made by the coordinator of the command that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchCall {
    pub parent: CommandId,
    /// The partition that coordinates.
    pub home: PartitionId,
    pub key: CallKey,
    /// What it undoes must never happen from now on, if it has not.
    pub is_cancel: bool,
    /// The time at the coordinator: whatever this causes is later.
    pub carried: Micros,
    pub derivation: Derivation,
    /// It is refused where the client's id is another command's.
    pub needs_claim: bool,
}

impl BranchCall {
    /// The command that calls; `fingerprint` is that of the call.
    pub fn identity(&self, fingerprint: Fingerprint) -> Identity {
        Identity { command: self.parent, home: self.home, fingerprint, derivation: self.derivation }
    }
}

pub type UnticketedSubmission = Submission<()>;

impl UnticketedSubmission {
    pub fn with_ticket(&self, ticket: Ticket) -> Submission {
        Submission {
            id: self.id,
            fingerprint: self.fingerprint,
            name: self.name.clone(),
            plan: self.plan.clone(),
            planner: self.planner,
            caller: self.caller.clone(),
            roles: self.roles,
            vouched: self.vouched,
            request_id: self.request_id.clone(),
            expires: self.expires,
            deadline: self.deadline,
            size: self.size,
            saga: self.saga.clone(),
            called: self.called.clone(),
            ticket,
        }
    }
}

impl<T> Submission<T> {
    /// The plan as it is to be carried out.
    pub fn plan_view(&self) -> PlanView<'_> {
        let is_undo = self.called.as_ref().is_some_and(|called| called.key.call == Call::Undo);
        self.plan.view().with_role(if is_undo { OpRole::Undo } else { OpRole::Step })
    }
}

/// An effective entry and where it stands: all that an answer is made of.
#[derive(Debug)]
pub struct RecordedEntry {
    pub entry: Entry,
    pub log_index: LogIndex,
    head: Head,
    /// Number of positions before each group, and of all, made when first asked for.
    positions: OnceLock<Vec<u32>>,
}

impl RecordedEntry {
    pub fn new(entry: Entry, log_index: LogIndex) -> Self {
        let head = entry.head_after();
        Self { entry, log_index, head, positions: OnceLock::new() }
    }

    pub fn head(&self) -> Head {
        self.head
    }

    /// How many positions the entry has: one for each event, one for each rejection.
    pub fn position_count(&self) -> u32 {
        self.positions().last().copied().unwrap_or_default()
    }

    /// Position of the first event, or of the rejection, of a command. Group and command have the same number.
    pub fn position(&self, partition: PartitionId, command: u32) -> Position {
        let [a, b, c, d, ..] = self.head.0;
        let n = self.positions().get(command as usize).copied().unwrap_or_default();
        Position { partition, index: self.entry.header().index, n, head8: [a, b, c, d] }
    }

    /// The last one: all of the entry has happened there.
    pub fn last_position(&self, partition: PartitionId) -> Position {
        Position { n: self.position_count().saturating_sub(1), ..self.position(partition, 0) }
    }

    fn positions(&self) -> &[u32] {
        self.positions.get_or_init(|| {
            let Some(batch) = self.entry.batch() else { return Vec::new() };
            let mut next = 0;
            let end_of = |at| {
                next += position_count(batch.outcome.group(at));
                next
            };
            let ends = (0..batch.outcome.group_count()).map(end_of);
            std::iter::once(0).chain(ends).collect()
        })
    }
}

/// What the partition says to one submission.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Its outcome is recorded as command `command` of the entry.
    Recorded { recorded: Arc<RecordedEntry>, command: u32, is_replayed: bool },
    /// The id is known with another fingerprint.
    Conflict { body_recorded: Vec<u8>, name_recorded: String, position: Position },
    /// Certainly not executed, and will not be: an entry later than its time is committed.
    Expired,
    /// Certainly not accepted.
    Refused(Refusal),
    /// Accepted by a leader that lost its office or failed: it may be committed or not.
    Unknown,
}

/// Why a partition accepts nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Overloaded,
    RejectionLimit,
    StorageFull,
    /// Nothing is wrong with the submission: the caller sends it again, perhaps to another node.
    NotNow(NotNow),
    Halted,
    ShuttingDown,
    /// The id was decided before, and the entry that says how was released.
    OutcomeReleased,
    /// No command on several partitions begins for a while.
    Draining,
}

/// Why a submission was certainly not accepted this time, although another time it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotNow {
    /// This replica does not lead the partition, or not any more.
    NotLeading,
    /// It leads, but no majority of the voters answers it.
    NoMajority,
    /// It leads, but the module that decides is not on this node yet.
    NoModule,
    /// The module that planned it is not active any more: another one must plan it.
    PlannedByAnother,
    /// The entry that had it was not appended.
    NotAppended,
    /// It was proposed in an earlier term, and no log will ever have it.
    LeftOut,
    /// It is a call, and who owns the client's id must be asked anew.
    ClaimUnknown,
    /// A submission with the same id came too late, or is under way; this one may be in time.
    OtherCopy,
    /// Nobody waits for the answer.
    NobodyWaits,
}

/// The answers of one request, collected until all are there.
pub struct Replies {
    slots: Mutex<Vec<Option<Reply>>>,
    missing: AtomicUsize,
    complete: Notify,
}

impl Replies {
    pub fn new(count: usize) -> Arc<Self> {
        let slots = Mutex::new((0..count).map(|_| None).collect());
        Arc::new(Self { slots, missing: AtomicUsize::new(count), complete: Notify::new() })
    }

    /// The ticket of a slot; each slot has one.
    pub fn ticket(self: &Arc<Self>, slot: usize) -> Ticket {
        Ticket { replies: Arc::downgrade(self), slot: slot as u32 }
    }

    /// Waits until every slot has its reply.
    pub async fn wait(&self) {
        while self.missing.load(Ordering::Acquire) > 0 {
            let notified = self.complete.notified();
            if self.missing.load(Ordering::Acquire) == 0 {
                return;
            }
            notified.await;
        }
    }

    /// Takes what is there; a slot without a reply stays unanswered.
    pub fn take(&self) -> Vec<Option<Reply>> {
        self.slots.lock().iter_mut().map(Option::take).collect()
    }
}

/// The slot of one answer, as long as somebody waits for it.
///
/// A ticket that is dropped without an answer says [`Reply::Unknown`]: its holder has failed, and nobody else can say
/// more.
pub struct Ticket {
    /// Empty once the slot is answered.
    replies: Weak<Replies>,
    slot: u32,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ticket {}", self.slot)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.answer(Reply::Unknown);
    }
}

impl Ticket {
    pub fn reply(mut self, reply: Reply) {
        self.answer(reply);
    }

    fn answer(&mut self, reply: Reply) {
        let Some(replies) = std::mem::take(&mut self.replies).upgrade() else { return };
        replies.slots.lock()[self.slot as usize] = Some(reply);
        if replies.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            replies.complete.notify_waiters();
        }
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_abandoned(&self) -> bool {
        self.replies.strong_count() == 0
    }
}
