//! What a step of the executor says is to be done: each action is a value, and the driver carries them out in order.
//!
//! ```text
//! step ─▶ Publish, Reply, Answer, … ─▶ driver ─▶ board, clients, group, other partitions
//! ```
//! In: what the stages decide. Out: the same, in the order in which it was decided. A step itself changes only its own
//! state, the rows and the ids. This file does not know how an action is carried out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::ids::{CommandId, Head, JournalIndex, LogIndex, Micros, ModuleId, PartitionId, Term};
use crate::machine::decide::Diagnostic;
use crate::machine::journal::Journal;
use crate::machine::logic::Logic;
use crate::partition::error::PartitionError;
use crate::partition::migrate::MigrationJob;
use crate::partition::participants::DueCall;
use crate::partition::requests::{NotOrdered, SnapshotRequest};
use crate::partition::status::Progress;
use crate::sequencer::submission::{RecordedEntry, Refusal, Reply, Ticket};
use crate::snapshot::canonical::ListedFile;
use crate::store::{Meta, View, WrittenRows};

/// How many actions the list keeps room for, however many one step has needed.
const ROOM_KEPT_MAX: usize = 1024;

/// One thing that is to be done. It is no *effect*: the kernel calls that what a batch does to the rows.
pub enum Action {
    /// The partition has reached this point: everybody who waits for it may know.
    Publish(Progress),
    Reply(Ticket, Reply),
    Answer(EntryAnswers),
    Tell(Box<OneshotReply>),
    /// A guest's last words about a command.
    KeepWords(CommandId, Diagnostic),
    /// The payload of an entry that leads to this head. At most one in a step.
    Propose {
        term: Term,
        head: Head,
        payload: Bytes,
    },
    /// Calls of one partition.
    Call {
        partition: PartitionId,
        calls: Vec<DueCall>,
    },
    /// Read these entries of a journal that stands at `journal`.
    Recall {
        entries: Vec<JournalIndex>,
        applied: Option<LogIndex>,
        journal: Journal,
    },
    Load(ModuleId),
    Migrate(Box<MigrationJob>),
    /// Put these rows in place, and the meta row of their entry with them.
    Replace(Box<(WrittenRows, Meta)>),
    /// Show what these rows have in transit. They are those of the moment `at`.
    ShowInTransit {
        at: Micros,
        logic: Arc<dyn Logic>,
        view: Arc<View>,
    },
}

/// What is said to somebody who waits for one answer.
pub enum OneshotReply {
    Drained(oneshot::Sender<bool>, bool),
    Activated(oneshot::Sender<Result<Journal, String>>, Result<Journal, String>),
    Ordered(oneshot::Sender<Result<JournalIndex, NotOrdered>>, Result<JournalIndex, NotOrdered>),
    Snapshot(SnapshotRequest, Result<ListedFile, PartitionError>),
}

impl OneshotReply {
    pub fn send(self) {
        // The receiver may have stopped waiting.
        match self {
            Self::Drained(reply, is_drained) => drop(reply.send(is_drained)),
            Self::Activated(reply, activated) => drop(reply.send(activated)),
            Self::Ordered(reply, ordered) => drop(reply.send(ordered)),
            Self::Snapshot(mut request, made) => request.tell(made),
        }
    }
}

/// Who gets which outcome of one entry. Made by applying the entry, and by nothing else.
pub struct EntryAnswers {
    recorded: Arc<RecordedEntry>,
    waiting: Vec<EntryAnswer>,
}

impl std::fmt::Debug for EntryAnswers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "answer from entry {}: ", self.recorded.entry.header().index)?;
        f.debug_list().entries(self.waiting.iter().map(|answer| (answer.command, &answer.ticket))).finish()
    }
}

struct EntryAnswer {
    /// The number of the command in the entry.
    command: u32,
    ticket: Ticket,
    is_replayed: bool,
}

impl EntryAnswers {
    /// Nobody waits yet. The caller has applied the entry, and the point that it leads to is to be published.
    pub fn of(recorded: &Arc<RecordedEntry>) -> Self {
        Self { recorded: recorded.clone(), waiting: Vec::new() }
    }

    pub fn push(&mut self, command: u32, ticket: Ticket, is_replayed: bool) {
        self.waiting.push(EntryAnswer { command, ticket, is_replayed });
    }

    pub fn reserve(&mut self, count: usize) {
        self.waiting.reserve(count);
    }

    pub fn send(self) {
        for EntryAnswer { command, ticket, is_replayed } in self.waiting {
            ticket.reply(Reply::Recorded { recorded: self.recorded.clone(), command, is_replayed });
        }
    }
}

/// When the next step is due if nothing arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextStep {
    /// At once: there is more to decide.
    Again,
    Within(Duration),
    /// Only a message changes anything.
    Message,
}

/// What is to be done after a step, in order. The buffers are used again.
pub struct Actions {
    list: Vec<Action>,
    /// By how much the bytes of the queue change.
    queue_bytes: i64,
    /// Said by a step that finds no message left.
    pub next: NextStep,
}

impl Default for Actions {
    fn default() -> Self {
        Self { list: Vec::new(), queue_bytes: 0, next: NextStep::Message }
    }
}

impl Actions {
    pub fn push(&mut self, action: Action) {
        self.list.push(action);
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn reply(&mut self, ticket: Ticket, reply: Reply) {
        self.push(Action::Reply(ticket, reply));
    }

    pub fn refuse(&mut self, ticket: Ticket, refusal: Refusal) {
        self.reply(ticket, Reply::Refused(refusal));
    }

    pub fn answer(&mut self, answers: EntryAnswers) {
        if !answers.waiting.is_empty() {
            self.push(Action::Answer(answers));
        }
    }

    pub fn tell(&mut self, reply: OneshotReply) {
        self.push(Action::Tell(Box::new(reply)));
    }

    /// Something of this size has left the queue.
    pub fn release(&mut self, size: usize) {
        self.queue_bytes -= bytes(size);
    }

    /// Something of this size is in the queue again, even if there is no room for it.
    pub fn reserve(&mut self, size: usize) {
        self.queue_bytes += bytes(size);
    }

    /// Keeps what is said to somebody, and drops what begins something.
    pub fn keep_answers(&mut self) {
        self.list.retain(|action| match action {
            Action::Propose { .. } | Action::Call { .. } | Action::Recall { .. } => false,
            Action::Load(_) | Action::Migrate(_) | Action::Replace(_) => false,
            Action::Publish(_) | Action::Reply(..) | Action::Answer(_) | Action::Tell(_) => true,
            Action::KeepWords(..) | Action::ShowInTransit { .. } => true,
        });
    }

    pub fn take_queue_bytes(&mut self) -> i64 {
        std::mem::take(&mut self.queue_bytes)
    }

    pub fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.list)
    }

    /// Gives back the list that was taken, so that its room is used again. Its actions are carried out.
    pub fn give_back(&mut self, mut list: Vec<Action>) {
        assert!(list.is_empty(), "all actions are carried out");
        if self.list.is_empty() {
            list.shrink_to(ROOM_KEPT_MAX);
            self.list = list;
        }
    }
}

fn bytes(size: usize) -> i64 {
    i64::try_from(size).expect("a submission fits into memory")
}
