//! `--at POSITION --explain`: the life of one command, under the module that decided it and under the candidate.
//!
//! In: a position. Out: the rows it reads, its ops, and the events or the rejection: as recorded, as the recorded
//! module decides it now, and as the candidate decides it. What the host has rejected is decided here as well, so that
//! the panic can be read and its correction checked. It does not look at other commands.

use serde::Serialize;

use crate::audit::error::AuditError;
use crate::audit::replay::blocks::ExtraKeys;
use crate::audit::replay::class::{Class, Decision};
use crate::audit::replay::error::ReplayFault;
use crate::audit::replay::examine::{deciding_side, recorded_side, rows_before};
use crate::audit::replay::history::History;
use crate::audit::replay::isolated::{Flow, Walk};
use crate::audit::replay::judge::{BatchTask, decide_alone};
use crate::audit::replay::plans::{EntityPlaces, FactTreatment, GroupItem, items_of};
use crate::audit::replay::report::{Difference, Side};
use crate::audit::replay::request::Request;
use crate::audit::replay::state::Overlay;
use crate::ids::{Micros, Position};
use crate::machine::entry::Entry;
use crate::machine::replica::position_count;

/// The life of one command.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The record compared with the candidate; the class may be `same`.
    #[serde(flatten)]
    pub difference: Difference,
    /// What the recorded module decides now. It is the same unless the host differs, with the panic text if there was
    /// one.
    pub control: Side,
}

/// Explains the command that has this position.
pub fn explain(history: &dyn History, request: &Request, position: Position) -> Result<Explanation, ReplayFault> {
    if history.partition_count() <= position.partition.0 {
        let machine = history.machine().to_owned();
        return Err(AuditError::NoPartition { machine, partition: position.partition.0 }.into());
    }
    let opened = history.open(position.partition)?;
    let places = EntityPlaces { here: position.partition, count: history.partition_count() };
    // Everything before it is only applied.
    let request = Request { from: Some(Micros(i64::MAX)), to: None, ..request.clone() };
    let mut walk = Walk::new(history, &request, places, opened.genesis());
    for entry in opened.entries() {
        let entry = entry?;
        let is_it = entry.header().parent == walk.journal.head && entry.header().index == position.index;
        if is_it {
            return explain_in(walk, &entry, position);
        }
        if walk.on_entry(&entry)? == Flow::Ends {
            break;
        }
    }
    Err(AuditError::Gone.into())
}

fn explain_in(mut walk: Walk<'_>, entry: &Entry, position: Position) -> Result<Explanation, ReplayFault> {
    let missing = || ReplayFault::NoCommand { position: position.to_string() };
    let batch = entry.batch().ok_or_else(missing)?;
    let mut n = 0;
    let mut groups = 0..batch.outcome.group_count();
    let group = groups.find(|group| {
        n += position_count(batch.outcome.group(*group));
        position.n < n
    });
    let group = group.ok_or_else(missing)?;
    let head_after = entry.head_after();
    if head_after.0[..4] != position.head8 {
        return Err(AuditError::Gone.into());
    }
    let recorder = walk.recorder()?;
    let candidate = walk.request.candidate.clone();
    let planned = items_of(candidate.as_ref(), recorder.as_ref(), entry, walk.places, FactTreatment::Decided);
    let control = items_of(recorder.as_ref(), recorder.as_ref(), entry, walk.places, FactTreatment::Decided);
    let none = ExtraKeys::new();
    let task = walk.task(candidate.as_ref(), entry, &batch, &planned);
    let control = walk.task(recorder.as_ref(), entry, &batch, &control);
    let own = walk.own.as_ref().unwrap_or(&walk.recorded);
    let rows = rows_before(&task, own, group, &none)?;
    let rows_recorded = rows_before(&control, &walk.recorded, group, &none)?;
    let recorded = Decision::recorded(&batch, group);
    let decided = decision(&task, &rows, group)?;
    let again = decision(&control, &rows_recorded, group)?;
    let is_alike = match &planned[group] {
        GroupItem::Decide(planned) => planned.is_alike,
        GroupItem::Fact | GroupItem::Decided(_) => true,
    };
    let class = Class::of(&recorded, &decided, is_alike);
    // Positions in the entry refer to the journal after it.
    walk.journal.index = entry.header().index;
    walk.journal.head = head_after;
    let brief = walk.brief(entry, &batch, group, class, true, [&recorded, &decided]);
    let mut control_side = None;
    let difference = walk.difference(brief, entry, &batch, group, recorder.as_ref(), |about| {
        control_side = Some(deciding_side(&control, &rows_recorded, group, &again, about)?);
        Ok([
            recorded_side(&control, &rows_recorded, group, about),
            deciding_side(&task, &rows, group, &decided, about)?,
        ])
    })?;
    let control = control_side.ok_or_else(missing)?;
    Ok(Explanation { difference, control })
}

fn decision(task: &BatchTask<'_>, rows: &Overlay<'_>, group: usize) -> Result<Decision, ReplayFault> {
    match &task.items[group] {
        GroupItem::Decide(planned) => decide_alone(task, rows, planned),
        GroupItem::Decided(decision) => Ok(decision.clone()),
        GroupItem::Fact => Ok(Decision::recorded(task.batch, group)),
    }
}
