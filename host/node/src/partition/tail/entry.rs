//! An entry as a tail returns it: who asked for what, which module decided, and the events or the rejection of each
//! command.
//!
//! ```text
//! TailEntry ─▶ commands() ─▶ TailCommand ─▶ events() ─▶ TailEvent ─▶ facts(): what the deciding module renders
//!                                       └─▶ rejection()
//! ```
//! In: a recorded entry. Out: its parts, borrowed from its bytes; nothing is copied until somebody asks for it. This
//! file decides nothing, and does not know what an event means.

use std::sync::Arc;

use statehouse_abi::cold::{EventBytes, EventFacts, Rejection};
use statehouse_abi::outcome::GroupOutcome;

use crate::ids::{CommandId, Head, JournalIndex, LogIndex, Micros, ModuleId, PartitionId, Position};
use crate::machine::entry::{Batch, Entry, EntryCommand, EntryKind, Part};
use crate::machine::rejection::read_rejection;
use crate::machine::replica::position_count;
use crate::sequencer::submission::RecordedEntry;

/// An effective entry, applied on this replica. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TailEntry {
    partition: PartitionId,
    recorded: Arc<RecordedEntry>,
}

impl TailEntry {
    pub(super) fn new(partition: PartitionId, recorded: RecordedEntry) -> Self {
        Self { partition, recorded: Arc::new(recorded) }
    }

    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    pub fn index(&self) -> JournalIndex {
        self.recorded.entry.header().index
    }

    /// The journal's chain hash after the entry.
    pub fn head(&self) -> Head {
        self.recorded.head()
    }

    /// Rises strictly from entry to entry of a partition.
    pub fn time(&self) -> Micros {
        self.recorded.entry.header().time
    }

    pub fn kind(&self) -> EntryKind {
        self.recorded.entry.header().kind
    }

    /// The module that decided it, or [`ModuleId::ZERO`] before there was one; [`super::Tail::decider`] returns the
    /// module.
    pub fn decider(&self) -> ModuleId {
        self.recorded.entry.header().decider
    }

    /// Its place in this node's log; another replica may have it elsewhere.
    pub fn log_index(&self) -> LogIndex {
        self.recorded.log_index
    }

    /// The whole entry, as it is recorded.
    pub fn entry(&self) -> &Entry {
        &self.recorded.entry
    }

    /// How many positions it has: one for each event and one for each rejection.
    pub fn position_count(&self) -> u32 {
        self.recorded.position_count()
    }

    /// Its last position: a reader with this cursor has read the whole entry.
    pub fn position(&self) -> Position {
        self.position_of(self.position_count().saturating_sub(1))
    }

    /// The position of its `n`-th event or rejection, counted from 0.
    pub fn position_of(&self, n: u32) -> Position {
        Position { n, ..self.recorded.position(self.partition, 0) }
    }

    /// Its commands in order; a tick and an activation have none.
    pub fn commands(&self) -> impl Iterator<Item = TailCommand<'_>> {
        let batch = self.entry().batch();
        let count = batch.map_or(0, |batch| batch.command_count() as u32);
        let mut n = 0;
        (0..count).zip(std::iter::repeat(batch)).filter_map(move |(number, batch)| {
            let batch = batch?;
            let first = n;
            n += position_count(batch.outcome.group(number as usize));
            Some(TailCommand { of: self, batch, number, first, command: batch.command(number as usize) })
        })
    }
}

/// One command of an entry, or the part of it that happened in this partition.
#[derive(Clone, Copy)]
pub struct TailCommand<'a> {
    of: &'a TailEntry,
    batch: Batch<'a>,
    number: u32,
    /// `n` of its first position.
    first: u32,
    /// Name, caller with roles, request id and canonical body. If this is a call, `command.id` is that of the call: see
    /// [`TailCommand::id`].
    pub command: EntryCommand<'a>,
}

impl<'a> TailCommand<'a> {
    /// The id that the client chose, even if this is only a step of its command.
    pub fn id(&self) -> CommandId {
        match self.part() {
            Part::Call(origin) => origin.parent(),
            Part::Whole | Part::Start | Part::End => self.command.id,
        }
    }

    /// Which part of the client's command this is. A command on several partitions appears once as its start, once for
    /// each call, and once as its end; [`Part::is_outcome`] says which of them has its outcome.
    pub fn part(&self) -> Part<'a> {
        self.of.entry().part(self.number)
    }

    /// The position of its first event, or of its rejection.
    pub fn position(&self) -> Position {
        self.of.position_of(self.first)
    }

    /// The time of its entry.
    pub fn time(&self) -> Micros {
        self.of.time()
    }

    /// The entities of its steps here, in order.
    pub fn entities(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (ops, group) = (self.batch.ops, self.batch.ops.group(self.number as usize));
        (group.first_op..group.first_op + group.op_count).map(move |at| ops.op(at as usize).entity)
    }

    /// What happened here, in order. Each event is returned once, in the partition of its entity, and not again at the
    /// end of a command on several partitions. Empty if the command was rejected.
    pub fn events(&self) -> impl Iterator<Item = TailEvent<'a>> + use<'a> {
        let (command, part) = (*self, self.part());
        let outcome = self.batch.outcome.group(self.number as usize);
        let (first, count) = match outcome {
            GroupOutcome::Events { first, count } if part != Part::End => (first, count),
            GroupOutcome::Events { .. } | GroupOutcome::Rejected(_) | GroupOutcome::NeedsKeys => (0, 0),
        };
        (0..count).map(move |at| TailEvent::new(command, at, first + at))
    }

    /// Why it was refused, if it was. The refusal is that of the whole command if [`Part::is_outcome`] says so,
    /// otherwise only of what this partition was asked to do.
    pub fn rejection(&self) -> Option<Rejection> {
        match self.batch.outcome.group(self.number as usize) {
            // No version of this program has written what cannot be read.
            GroupOutcome::Rejected(bytes) => read_rejection(bytes).ok(),
            GroupOutcome::Events { .. } | GroupOutcome::NeedsKeys => None,
        }
    }
}

/// A validated fact.
#[derive(Clone, Copy)]
pub struct TailEvent<'a> {
    of: TailCommand<'a>,
    n: u32,
    op: u32,
    /// The entity whose rows it changes, beside those of `@local`.
    pub entity: &'a [u8],
    /// The op from which it came, as the module wrote it.
    pub op_payload: &'a [u8],
    /// The event, as the module wrote it.
    pub payload: &'a [u8],
}

impl<'a> TailEvent<'a> {
    fn new(of: TailCommand<'a>, at: u32, event: u32) -> Self {
        let event = of.batch.outcome.event(event as usize);
        let op = of.batch.ops.op(event.op as usize);
        Self { n: of.first + at, op: event.op, entity: op.entity, op_payload: op.payload, payload: event.payload, of }
    }

    pub fn position(&self) -> Position {
        self.of.of.position_of(self.n)
    }

    /// Keys of the rows on which its op was decided, and which it may change.
    pub fn keys(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let ops = self.of.batch.ops;
        ops.op(self.op as usize).keyrefs().map(move |key| ops.key(key as usize))
    }

    /// What the deciding module needs to render it.
    pub fn facts(&self) -> EventFacts {
        let command = &self.of.command;
        EventFacts {
            event: EventBytes {
                entity: self.entity.to_vec(),
                op: self.op_payload.to_vec(),
                event: self.payload.to_vec(),
            },
            command: command.name.to_owned(),
            id: self.of.id().0,
            body: command.body.to_vec(),
            time: self.of.of.time().0,
            position: self.position().to_string(),
        }
    }
}
