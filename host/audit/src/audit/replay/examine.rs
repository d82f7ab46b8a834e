//! Looks at one group in detail, as one module sees it: its ops, the rows it reads, what it decides, and the rows
//! afterwards.
//!
//! In: a batch, the rows before it, and the group. Out: one side of a difference, rendered by that module. It costs a
//! few guest calls, so it is done only for the first difference of each class and for commands that somebody asks
//! about. It does not know why the group differs.

use statehouse_abi::ops::{OpRole, OpsBlock};
use statehouse_abi::rows::WritesBlock;

use crate::audit::list::step_text;
use crate::audit::replay::blocks::{ExtraKeys, part_of};
use crate::audit::replay::class::Decision;
use crate::audit::replay::error::ReplayFault;
use crate::audit::replay::judge::{BatchTask, apply_recorded};
use crate::audit::replay::plans::GroupItem;
use crate::audit::replay::render::{self, CommandContext, hex, key_text, text_of};
use crate::audit::replay::report::{ModuleFacts, OpText, RowChange, Side};
use crate::audit::replay::state::{Overlay, PartitionRows};
use crate::ids::CommandId;
use crate::machine::decide::decide;
use crate::machine::entry::{Entry, Part};
use crate::machine::logic::Logic;
use crate::machine::replica;

/// The rows before a group: those before the batch, with the recorded events of earlier groups applied.
pub fn rows_before<'s>(
    task: &BatchTask<'_>,
    state: &'s PartitionRows,
    group: usize,
    extra: &ExtraKeys,
) -> Result<Overlay<'s>, ReplayFault> {
    let mut overlay = Overlay::on(state);
    if 0 < group {
        apply_recorded(task, &mut overlay, 0..group, extra)?;
    }
    Ok(overlay)
}

/// What was recorded, as the module that recorded it sees it.
pub fn recorded_side(task: &BatchTask<'_>, rows: &Overlay<'_>, group: usize, about: CommandContext<'_>) -> Side {
    let decision = Decision::recorded(task.batch, group);
    let (ops, outcome) = part_of(task.batch, group..group + 1, &ExtraKeys::new());
    let parsed = OpsBlock::parse_trusted(&ops).expect("the host wrote this block");
    let writes = replica::apply_recorded(task.logic, task.entry, &parsed, &rows.fetch(&parsed), &outcome).ok();
    side(task.logic, &decision, Some((&parsed, writes.as_deref())), rows, about)
}

/// What the module decides about the group alone, on these rows; `decision` is what it decided in its batch.
pub fn deciding_side(
    task: &BatchTask<'_>,
    rows: &Overlay<'_>,
    group: usize,
    decision: &Decision,
    about: CommandContext<'_>,
) -> Result<Side, ReplayFault> {
    let GroupItem::Decide(planned) = &task.items[group] else {
        return Ok(side(task.logic, decision, None, rows, about));
    };
    let fetch = |ops: &OpsBlock<'_>| Ok::<_, ReplayFault>(rows.fetch(ops));
    let decided = decide(task.logic, task.entry.header().context(), &[planned.view()], fetch)?;
    let ops = OpsBlock::parse_trusted(&decided.ops).expect("the host wrote this block");
    Ok(side(task.logic, decision, Some((&ops, Some(&decided.writes))), rows, about))
}

/// One side of a difference; `ops` is a block of one group, with the writes of its events.
pub fn side(
    logic: &dyn Logic,
    decision: &Decision,
    ops: Option<(&OpsBlock<'_>, Option<&[u8]>)>,
    rows: &Overlay<'_>,
    about: CommandContext<'_>,
) -> Side {
    let mut side = Side {
        module: ModuleFacts::of(logic.id(), logic.describe()),
        outcome: outcome_name(decision),
        code: decision.code().map(str::to_owned),
        detail: None,
        panic: None,
        backtrace: Vec::new(),
        ops: Vec::new(),
        events: Vec::new(),
        rows: Vec::new(),
    };
    match decision {
        Decision::Rejected { detail, .. } | Decision::Refused { detail, .. } => side.detail = Some(detail.clone()),
        Decision::Trapped { diagnostic, .. } => {
            side.panic = Some(diagnostic.text.clone());
            side.backtrace.clone_from(&diagnostic.backtrace);
        }
        Decision::NotAsked { why } => side.detail = Some((*why).to_owned()),
        Decision::Accepted { .. } => {}
    }
    let Some((ops, writes)) = ops else { return side };
    side.ops = ops_of(ops);
    side.rows = changes(logic, ops, writes, rows);
    if let Decision::Accepted { events } = decision {
        let event = |(number, event): &(u32, Vec<u8>)| {
            let op = ((*number as usize) < ops.op_count()).then(|| ops.op(*number as usize));
            let (entity, payload) = op.map_or((&[][..], &[][..]), |op| (op.entity, op.payload));
            render::event(logic, about, entity, payload, event)
        };
        side.events = events.iter().map(event).collect();
    }
    side
}

fn outcome_name(decision: &Decision) -> &'static str {
    match decision {
        Decision::Accepted { .. } => "accepted",
        Decision::Rejected { .. } => "rejected",
        Decision::Refused { .. } => "refused",
        Decision::Trapped { .. } => "trapped",
        Decision::NotAsked { .. } => "not asked",
    }
}

fn ops_of(ops: &OpsBlock<'_>) -> Vec<OpText> {
    let text = |at: usize| {
        let op = ops.op(at);
        let role = if op.role == OpRole::Undo as u32 { "undo" } else { "step" };
        OpText { entity: text_of(op.entity), role, bytes: hex(op.payload) }
    };
    (0..ops.op_count()).map(text).collect()
}

fn changes(logic: &dyn Logic, ops: &OpsBlock<'_>, writes: Option<&[u8]>, rows: &Overlay<'_>) -> Vec<RowChange> {
    let written = writes.and_then(|writes| WritesBlock::parse(writes, ops.key_count()).ok());
    let change = |(at, key): (usize, &[u8])| {
        let before = rows.find(key);
        let after = written.and_then(|written| written.writes().find(|(key, _)| *key as usize == at));
        let after = after.map_or(before, |(_, row)| row);
        let (entity, key_name) = key_text(key);
        RowChange {
            entity,
            key: key_name,
            before: render::row(logic, key, before),
            after: render::row(logic, key, after),
        }
    };
    ops.keys().enumerate().map(change).collect()
}

/// The command of which the group is a part, as a client sent it, and which part it is.
pub fn command_of(entry: &Entry, id: CommandId, number: u32) -> (CommandId, String) {
    match entry.part(number) {
        // It was rejected before it asked another partition.
        Part::Whole if entry.records().start(number).is_some() => (id, "start".to_owned()),
        Part::Whole => (id, "whole".to_owned()),
        Part::Start => (id, "start".to_owned()),
        Part::End => (id, "end".to_owned()),
        Part::Call(origin) => (origin.parent(), step_text(origin.key)),
    }
}

/// `accepted`, or the code.
pub fn short(decision: &Decision) -> String {
    match decision.code() {
        Some(code) => code.to_owned(),
        None => outcome_name(decision).to_owned(),
    }
}
