//! Decides one recorded batch again with one module, and compares it with the record group by group.
//!
//! In: an entry, the plans of its groups, and the rows before it. Out: the groups that are decided otherwise. Up to a
//! difference the module's own decisions apply, which equal the recorded ones. After it the rest of the batch is
//! decided on the rows that the *recorded* events give, so that a difference is never the consequence of the one
//! before. This file does not know which module is the candidate.

use statehouse_abi::ops::OpsBlock;
use statehouse_abi::outcome::{GroupOutcome, OutcomeBlock};

use crate::audit::replay::blocks::{ExtraKeys, add_extra, part_of};
use crate::audit::replay::class::{Class, Decision};
use crate::audit::replay::error::ReplayFault;
use crate::audit::replay::plans::{GroupItem, GroupPlan};
use crate::audit::replay::state::{Overlay, PartitionRows};
use crate::ids::PartitionId;
use crate::machine::decide::{DecidedBatch, decide};
use crate::machine::entry::{Batch, Entry};
use crate::machine::logic::{Fault, Logic};
use crate::machine::plan::PlanView;
use crate::machine::replica::{self, ApplyError, is_all_rejected, no_writes};

/// A batch that is examined.
#[derive(Clone, Copy)]
pub struct BatchTask<'a> {
    pub logic: &'a dyn Logic,
    pub partition: PartitionId,
    pub entry: &'a Entry,
    pub batch: &'a Batch<'a>,
    /// One item for each group.
    pub items: &'a [GroupItem],
}

/// A group that is decided otherwise than it was.
#[derive(Clone, Debug)]
pub struct GroupDifference {
    pub group: usize,
    pub class: Class,
    pub decision: Decision,
}

/// The result of deciding a batch again.
#[derive(Default)]
pub struct Judgement {
    pub differences: Vec<GroupDifference>,
    /// Keys that the module needs beside the recorded ones.
    pub extra: ExtraKeys,
    /// What `apply` makes of the recorded events; present only if everything, including the keys, is as recorded.
    pub writes: Option<Vec<u8>>,
}

/// Decides the batch on the rows before it.
pub fn judge(task: &BatchTask<'_>, state: &PartitionRows) -> Result<Judgement, ReplayFault> {
    let mut judgement = Judgement::default();
    let mut overlay = Overlay::on(state);
    let group_count = task.items.len();
    let (mut next, mut chunk) = (0, group_count);
    while next < group_count {
        match &task.items[next] {
            GroupItem::Fact => {
                next += 1;
                continue;
            }
            GroupItem::Decided(decision) => {
                judgement.compare(task, next, decision.clone(), true);
                if next + 1 < group_count && is_accepted(task, next) {
                    apply_recorded(task, &mut overlay, next..next + 1, &judgement.extra)?;
                }
                next += 1;
                continue;
            }
            GroupItem::Decide(_) => {}
        }
        let end = run_end(task.items, next, chunk);
        let (decided, groups) = decide_run(task, &overlay, next..end)?;
        if groups.len() == group_count && is_as_recorded(task, &decided) {
            judgement.writes = Some(decided.writes);
            return Ok(judgement);
        }
        match judgement.compare_run(task, &decided, &groups) {
            Some(differing) => {
                if differing + 1 < group_count {
                    apply_recorded(task, &mut overlay, next..differing + 1, &judgement.extra)?;
                }
                (next, chunk) = (differing + 1, 1);
            }
            None => {
                let last = *groups.last().expect("a batch has at least one group");
                if last + 1 < group_count {
                    let ops = OpsBlock::parse_trusted(&decided.ops).expect("the host wrote this block");
                    overlay.write(&ops, &decided.writes);
                }
                (next, chunk) = (last + 1, chunk.saturating_mul(2));
            }
        }
    }
    Ok(judgement)
}

/// The end of the groups that can be decided in one call: it lies before a group that cannot be decided.
fn run_end(items: &[GroupItem], start: usize, chunk: usize) -> usize {
    let limit = items.len().min(start.saturating_add(chunk));
    let is_decidable = |item: &GroupItem| !matches!(item, GroupItem::Decided(_));
    items[start..limit].iter().position(|item| !is_decidable(item)).map_or(limit, |at| start + at)
}

/// Decides some groups, leaving out facts, and returns which; they are fewer than asked for if an entry would not hold
/// more.
fn decide_run(
    task: &BatchTask<'_>,
    overlay: &Overlay<'_>,
    groups: std::ops::Range<usize>,
) -> Result<(DecidedBatch, Vec<usize>), ReplayFault> {
    let mut views: Vec<PlanView<'_>> = Vec::with_capacity(groups.len());
    let mut numbers = Vec::with_capacity(groups.len());
    for at in groups {
        if let GroupItem::Decide(planned) = &task.items[at] {
            views.push(planned.view());
            numbers.push(at);
        }
    }
    let context = task.entry.header().context();
    let fetch = |ops: &OpsBlock<'_>| Ok::<_, ReplayFault>(overlay.fetch(ops));
    let decided = decide(task.logic, context, &views, fetch)?;
    numbers.truncate(decided.plan_count);
    Ok((decided, numbers))
}

/// Whether everything is byte for byte as recorded, keys included. Then its writes are those of the recorded events.
fn is_as_recorded(task: &BatchTask<'_>, decided: &DecidedBatch) -> bool {
    decided.plan_count == task.items.len()
        && decided.ops == task.batch.ops.raw()
        && decided.outcome == task.batch.outcome.raw()
        && task.items.iter().all(|item| matches!(item, GroupItem::Decide(planned) if planned.is_alike))
}

fn is_accepted(task: &BatchTask<'_>, group: usize) -> bool {
    matches!(task.batch.outcome.group(group), GroupOutcome::Events { .. })
}

impl Judgement {
    /// Compares groups with the record, up to the first difference that changes rows; returns the number of that group.
    fn compare_run(&mut self, task: &BatchTask<'_>, decided: &DecidedBatch, groups: &[usize]) -> Option<usize> {
        let ops = OpsBlock::parse_trusted(&decided.ops).expect("the host wrote this block");
        let is_keys_alike = decided.ops == task.batch.ops.raw();
        for (at, group) in groups.iter().copied().enumerate() {
            if !is_keys_alike {
                add_extra(&mut self.extra, task.batch, group, &ops, at);
            }
            let GroupItem::Decide(planned) = &task.items[group] else { continue };
            let decision = decision_of(decided, &ops, at);
            let is_effect_here = decision.is_accepted() || is_accepted(task, group);
            if self.compare(task, group, decision, planned.is_alike) && is_effect_here {
                return Some(group);
            }
        }
        None
    }

    /// Compares the decision with the recorded one, and notes a difference. Returns whether they differ.
    fn compare(&mut self, task: &BatchTask<'_>, group: usize, decision: Decision, is_alike: bool) -> bool {
        let recorded = Decision::recorded(task.batch, group);
        let class = Class::of(&recorded, &decision, is_alike);
        if class == Class::Same {
            return false;
        }
        self.differences.push(GroupDifference { group, class, decision });
        true
    }
}

/// What the module decides about one command alone, on these rows.
pub fn decide_alone(task: &BatchTask<'_>, rows: &Overlay<'_>, planned: &GroupPlan) -> Result<Decision, ReplayFault> {
    let fetch = |ops: &OpsBlock<'_>| Ok::<_, ReplayFault>(rows.fetch(ops));
    let decided = decide(task.logic, task.entry.header().context(), &[planned.view()], fetch)?;
    let ops = OpsBlock::parse_trusted(&decided.ops).expect("the host wrote this block");
    Ok(decision_of(&decided, &ops, 0))
}

/// What was decided about the group with this number among the decided ones.
pub fn decision_of(decided: &DecidedBatch, ops: &OpsBlock<'_>, at: usize) -> Decision {
    let outcome = OutcomeBlock::parse_trusted(&decided.outcome).expect("the outcome was checked when it was made");
    match outcome.group(at) {
        GroupOutcome::Events { first, count } => {
            let first_op = ops.group(at).first_op;
            let event = |at: u32| {
                let event = outcome.event(at as usize);
                (event.op - first_op, event.payload.to_vec())
            };
            Decision::Accepted { events: (first..first + count).map(event).collect() }
        }
        GroupOutcome::Rejected(bytes) => {
            let rejected = Decision::rejected(bytes);
            // A rejection by the host itself has a diagnostic beside it.
            match (decided.diagnostics.iter().find(|(plan, _)| *plan == at), rejected) {
                (Some((_, diagnostic)), Decision::Rejected { code, .. }) => {
                    Decision::Trapped { code, diagnostic: diagnostic.clone() }
                }
                (_, rejected) => rejected,
            }
        }
        GroupOutcome::NeedsKeys => unreachable!("a decided batch needs no keys"),
    }
}

/// Writes what the module makes of the recorded events of some groups.
pub fn apply_recorded(
    task: &BatchTask<'_>,
    overlay: &mut Overlay<'_>,
    groups: std::ops::Range<usize>,
    extra: &ExtraKeys,
) -> Result<(), ReplayFault> {
    let (ops, outcome) = part_of(task.batch, groups, extra);
    let parsed = OpsBlock::parse_trusted(&ops).expect("the host wrote this block");
    let writes = apply(task, &parsed, &overlay.fetch(&parsed), &outcome)?;
    overlay.write(&parsed, &writes);
    Ok(())
}

/// What the module makes of the recorded events of the whole batch: the ops, with more keys if it needs them, and its
/// WRITES.
pub fn apply_all(
    task: &BatchTask<'_>,
    state: &PartitionRows,
    extra: &ExtraKeys,
) -> Result<(Vec<u8>, Vec<u8>), ReplayFault> {
    let (ops, outcome) = if extra.is_empty() {
        (task.batch.ops.raw().to_vec(), task.batch.outcome.raw().to_vec())
    } else {
        part_of(task.batch, 0..task.batch.ops.group_count(), extra)
    };
    let parsed = OpsBlock::parse_trusted(&ops).expect("the host wrote this block, or checked it");
    let writes = apply(task, &parsed, &state.fetch(&parsed), &outcome)?;
    Ok((ops, writes))
}

fn apply(task: &BatchTask<'_>, ops: &OpsBlock<'_>, rows: &[u8], outcome: &[u8]) -> Result<Vec<u8>, ReplayFault> {
    let applied = match replica::apply_recorded(task.logic, task.entry, ops, rows, outcome) {
        // There are no events to apply. Replicas do not ask the module either if it fails at that.
        Err(ApplyError::Fault { .. } | ApplyError::Writes { .. }) if is_without_events(outcome) => Ok(no_writes()),
        other => other,
    };
    applied.map_err(|error| ReplayFault::Apply {
        partition: task.partition,
        index: task.entry.header().index,
        reason: match error {
            ApplyError::Fault { fault: Fault::Trap { text, .. }, .. } => text,
            other => other.to_string(),
        },
    })
}

fn is_without_events(outcome: &[u8]) -> bool {
    OutcomeBlock::parse_trusted(outcome).is_ok_and(|outcome| is_all_rejected(&outcome))
}
