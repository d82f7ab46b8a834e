//! `audit log`: the journals of a machine as text, command by command, in one causal order: by time, then partition,
//! then index.
//!
//! In: partitions. Out: one line per command with its outcome, rendered by the module that decided it. Each event of a
//! command on several partitions appears once, where it happened. What one partition causes in another is recorded
//! there at a later time. A call therefore appears after the start of its command and before the line that says its
//! outcome was heard. Entries with the same time are independent of each other. This file does not know how lines are
//! printed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use statehouse_abi::cold::{CommandFacts, EventBytes, EventFacts, Rejection, RenderItem};
use statehouse_abi::outcome::GroupOutcome;
use statehouse_abi::value::Value;

use crate::audit::error::AuditError;
use crate::audit::heads::Heads;
use crate::audit::source::{PartitionSource, ReadEntry, Source};
use crate::ids::{CommandId, Micros, ModuleId, NodeId, PartitionId};
use crate::machine::entry::{Batch, Entry, EntryKind, Part};
use crate::machine::journal::{Journal, Verdict};
use crate::machine::replica::position_count;
use crate::saga::{Call, CallKey, CallProgress, Order, OrderKind, Outcome};

/// One line of the journal.
#[derive(Clone, Debug)]
pub struct Line {
    pub position: String,
    pub time: Micros,
    pub kind: EntryKind,
    pub what: LineContent,
}

#[derive(Clone, Debug)]
pub enum LineContent {
    Tick,
    Activation {
        module: ModuleLabel,
        schema: u32,
        /// The module that decided until then.
        replaced: Option<ModuleLabel>,
    },
    /// What was heard of a call in another partition.
    Heard {
        id: CommandId,
        step: String,
        /// `done`, `refused CODE` or `nothing done`.
        outcome: String,
        /// Where the other partition has recorded it.
        position: Option<String>,
    },
    /// What an operator has ordered about a command in flight.
    Ordered {
        id: CommandId,
        /// `abort` or `settle`.
        order: &'static str,
        by: String,
        /// The node that told the leader who gave the order, if the journal says so.
        vouched: Option<NodeId>,
        why: String,
    },
    Command {
        /// The id of the command that a client sent, even if this is only a call that belongs to it.
        id: CommandId,
        part: LinePart,
        name: String,
        caller: String,
        /// The node that told the leader who the caller is, if the entry says so.
        vouched: Option<NodeId>,
        request_id: String,
        body: Value,
        events: Vec<Value>,
        rejection: Option<Rejection>,
    },
}

/// A module, with its version if it can be loaded.
#[derive(Clone, Debug)]
pub struct ModuleLabel {
    pub id: ModuleId,
    pub version: Option<String>,
}

impl ModuleLabel {
    fn of(source: &Source, id: ModuleId) -> Self {
        Self { id, version: source.load(id).ok().map(|logic| logic.describe().version.clone()) }
    }
}

/// The part of a command that a line is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinePart {
    Whole,
    /// Its first step was done here; the other steps are asked of other partitions.
    Start,
    /// A step of a command that another partition coordinates.
    Call {
        step: String,
        home: PartitionId,
    },
    /// The command is over; its events appear where its steps are.
    End,
}

/// `step 2`, `undo of step 1`, `claim for step 3`, and the number of the attempt if it is not the first.
pub(super) fn step_text(key: CallKey) -> String {
    let what = match key.call {
        Call::Do => "",
        Call::Undo => "undo of ",
        Call::Claim => "claim for ",
    };
    let again = if key.attempt == 0 { String::new() } else { format!(", attempt {}", key.attempt + 1) };
    format!("{what}step {}{again}", key.branch + 1)
}

fn heard(progress: &CallProgress) -> LineContent {
    let outcome = match &progress.outcome {
        Outcome::Done { .. } => "done".to_owned(),
        Outcome::Refused { code, .. } => format!("refused {code}"),
        Outcome::NothingDone => "nothing done".to_owned(),
    };
    LineContent::Heard {
        id: progress.command(),
        step: step_text(progress.key),
        outcome,
        position: progress.at.position.clone(),
    }
}

fn ordered(order: &Order) -> LineContent {
    let name = match order.kind {
        OrderKind::Abort => "abort",
        OrderKind::Settle => "settle",
    };
    let (by, vouched, why) = (order.by.clone(), order.vouched(), order.why.clone());
    LineContent::Ordered { id: order.command(), order: name, by, vouched, why }
}

/// Passes every line of these partitions to `each`, in order, until it breaks. If an entity is named, only what was
/// done to that entity is passed.
pub fn list(
    source: &Source,
    partitions: &[PartitionSource],
    entity: Option<&str>,
    mut each: impl FnMut(Line) -> ControlFlow<()>,
) -> Result<(), AuditError> {
    let mut walks: Vec<PartitionWalk<'_>> = partitions.iter().map(PartitionWalk::new).collect();
    let mut next: BTreeMap<(Micros, PartitionId), (usize, EffectiveEntry)> = BTreeMap::new();
    for (at, walk) in walks.iter_mut().enumerate() {
        next.extend(walk.next_effective()?.map(|effective| (walk.place(), (at, effective))));
    }
    while let Some((_, (at, effective))) = next.pop_first() {
        for line in lines(source, walks[at].partition, entity, &effective)? {
            if each(line).is_break() {
                return Ok(());
            }
        }
        let walk = &mut walks[at];
        next.extend(walk.next_effective()?.map(|effective| (walk.place(), (at, effective))));
    }
    Ok(())
}

/// The entries of one partition.
struct PartitionWalk<'p> {
    partition: &'p PartitionSource,
    entries: Box<dyn Iterator<Item = Result<ReadEntry, AuditError>> + 'p>,
    journal: Journal,
    heads: Heads,
}

/// An effective entry.
struct EffectiveEntry {
    entry: Entry,
    /// The journal after it.
    journal: Journal,
    /// The module that decided before it.
    module_before: ModuleId,
}

impl<'p> PartitionWalk<'p> {
    fn new(partition: &'p PartitionSource) -> Self {
        let (journal, entries) = (partition.genesis, partition.entries());
        Self { partition, entries, journal, heads: Heads::new(&journal) }
    }

    fn next_effective(&mut self) -> Result<Option<EffectiveEntry>, AuditError> {
        for read in &mut self.entries {
            let entry = read?.entry;
            let judged = self.journal.judge(&entry).map_err(|error| self.partition.replay_failed(error.into()))?;
            self.heads.check(&entry, &judged).map_err(|stray| self.partition.stray(stray))?;
            if let Verdict::Effective(journal) = judged {
                let before = std::mem::replace(&mut self.journal, journal);
                return Ok(Some(EffectiveEntry { entry, journal, module_before: before.module }));
            }
        }
        self.heads.finish().map_err(|stray| self.partition.stray(stray))?;
        Ok(None)
    }

    /// Where the entry that was returned last stands among those of all partitions.
    fn place(&self) -> (Micros, PartitionId) {
        (self.journal.time, self.partition.partition)
    }
}

fn lines(
    source: &Source,
    partition: &PartitionSource,
    entity: Option<&str>,
    EffectiveEntry { entry, journal, module_before }: &EffectiveEntry,
) -> Result<Vec<Line>, AuditError> {
    let header = entry.header();
    let line = |n, what| {
        let position = journal.position(partition.partition, n).to_string();
        Line { position, time: header.time, kind: header.kind, what }
    };
    if entity.is_some() && header.kind != EntryKind::Batch {
        return Ok(Vec::new());
    }
    let Some(batch) = entry.batch() else {
        let what = match entry.activation() {
            Ok(activation) => LineContent::Activation {
                module: ModuleLabel::of(source, activation.module),
                schema: activation.schema,
                replaced: (*module_before != ModuleId::ZERO).then(|| ModuleLabel::of(source, *module_before)),
            },
            Err(_) => LineContent::Tick,
        };
        return Ok(vec![line(0, what)]);
    };
    let logic = source.load(header.decider).map_err(AuditError::Query)?;
    let mut lines: Vec<Line> = entry.records().progress.iter().map(|progress| line(0, heard(progress))).collect();
    lines.extend(entry.records().orders().iter().map(|order| line(0, ordered(order))));
    let mut n = 0;
    for at in 0..batch.outcome.group_count() {
        let before = n;
        n += position_count(batch.outcome.group(at));
        if !is_about(&batch, at, entity) {
            continue;
        }
        let position = journal.position(partition.partition, before).to_string();
        let number = batch.ops.group(at).command;
        let command = batch.command(number as usize);
        let (id, part) = match entry.part(number) {
            Part::Whole => (command.id, LinePart::Whole),
            Part::Start => (command.id, LinePart::Start),
            Part::End => (command.id, LinePart::End),
            Part::Call(origin) => {
                (origin.parent(), LinePart::Call { step: step_text(origin.key), home: origin.home() })
            }
        };
        let (items, rejection) = items_of(&batch, at, entity, id, header.time, &position);
        let rendered = logic.render(&items).map_err(|fault| AuditError::Query(fault.to_string()))?;
        let mut rendered = rendered.into_iter();
        let body = rendered.next().unwrap_or(Value::Null);
        let events = if part == LinePart::End { Vec::new() } else { rendered.collect() };
        let what = LineContent::Command {
            id,
            part,
            name: command.name.to_owned(),
            caller: command.caller.to_owned(),
            vouched: command.vouched,
            request_id: command.request_id.to_owned(),
            body,
            events,
            rejection: rejection.clone(),
        };
        lines.push(line(before, what));
    }
    Ok(lines)
}

/// Whether the group has a step of the entity.
fn is_about(batch: &Batch<'_>, group: usize, entity: Option<&str>) -> bool {
    let Some(entity) = entity else { return true };
    let group = batch.ops.group(group);
    let mut ops = group.first_op..group.first_op + group.op_count;
    ops.any(|at| batch.ops.op(at as usize).entity == entity.as_bytes())
}

/// The command's body, then its events; only those of the entity if one is named.
fn items_of(
    batch: &Batch<'_>,
    group: usize,
    entity: Option<&str>,
    id: CommandId,
    time: Micros,
    position: &str,
) -> (Vec<RenderItem>, Option<Rejection>) {
    let command = batch.command(batch.ops.group(group).command as usize);
    let rejection = match batch.outcome.group(group) {
        GroupOutcome::Rejected(bytes) => minicbor::decode::<Rejection>(bytes).ok(),
        _ => None,
    };
    let facts = CommandFacts {
        command: command.name.to_owned(),
        id: id.0,
        body: command.body.to_vec(),
        time: time.0,
        position: position.to_owned(),
        events: Vec::new(),
        rejection: rejection.clone(),
        phases: Vec::new(),
    };
    let mut items = vec![RenderItem::Body(facts)];
    if let GroupOutcome::Events { first, count } = batch.outcome.group(group) {
        let events = (first..first + count).map(|at| batch.outcome.event(at as usize));
        let events = events.map(|event| (batch.ops.op(event.op as usize), event));
        let events = events.filter(|(op, _)| entity.is_none_or(|entity| op.entity == entity.as_bytes()));
        items.extend(events.map(|(op, event)| {
            let bytes =
                EventBytes { entity: op.entity.to_vec(), op: op.payload.to_vec(), event: event.payload.to_vec() };
            RenderItem::Event(EventFacts {
                event: bytes,
                command: command.name.to_owned(),
                id: id.0,
                body: command.body.to_vec(),
                time: time.0,
                position: position.to_owned(),
            })
        }));
    }
    (items, rejection)
}
