//! Plans the commands of a recorded entry again, and takes the calls in it as they were made.
//!
//! In: an entry and a module. Out: for each group, what is to be decided now, and whether its plan is as it was. A call
//! was planned at another partition, so its recorded ops are taken. Declared keys are not compared: they cannot change
//! what is decided. This file decides nothing.

use statehouse_abi::cold::{Refusal, host_rejection};
use statehouse_abi::key::{LOCAL, Scope, split_key};
use statehouse_abi::ops::OpRole;
use statehouse_abi::outcome::GroupOutcome;
use statehouse_abi::plan::{Coordination, PlanInWriter, PlanItem, PlanOutWriter, TccRole};

use crate::audit::replay::class::Decision;
use crate::ids::PartitionId;
use crate::machine::decide::{Culprit, Diagnostic};
use crate::machine::entry::{Batch, Entry, EntryCommand, Part};
use crate::machine::logic::Logic;
use crate::machine::plan::{Plan, PlanView, is_plan_in_limits};
use crate::machine::slots::partition_of;
use crate::saga::claim::ID_REUSED;
use crate::saga::{Call, Form, SagaPlan};

/// The code of a call that a coordinator cancelled before it arrived. The host records it without asking a module.
pub const CANCELLED: &str = "cancelled";

/// What is to be decided about one group.
pub enum GroupItem {
    /// Recorded by the host; no module decides it again.
    Fact,
    Decide(Box<GroupPlan>),
    /// There is nothing to decide: the module refuses to plan it, or fails.
    Decided(Decision),
}

/// A group as it is to be decided.
pub struct GroupPlan {
    plan: Plan,
    role: OpRole,
    /// The part that continues in other partitions; `plan` is then the first branch.
    pub saga: Option<SagaPlan>,
    /// Whether its steps are the recorded ones.
    pub is_alike: bool,
}

impl GroupPlan {
    /// The plan that carries out a branch of a command, or undoes it.
    pub fn of_block(block: Vec<u8>, role: OpRole) -> Self {
        let plan = Plan::all(block).expect("the host wrote this block").remove(0).expect("it holds one plan");
        Self { plan, role, saga: None, is_alike: true }
    }

    pub fn view(&self) -> PlanView<'_> {
        let mut view = self.plan.view();
        view.role = self.role;
        view
    }
}

/// Where entities live.
#[derive(Clone, Copy, Debug)]
pub struct EntityPlaces {
    /// The partition whose entry is looked at.
    pub here: PartitionId,
    pub count: u32,
}

impl EntityPlaces {
    pub fn of(self, entity: &[u8]) -> PartitionId {
        partition_of(entity, self.count)
    }
}

/// How rejections by the host are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactTreatment {
    /// They stand as they are.
    Kept,
    /// They are decided like anything else, to see the result.
    Decided,
}

/// An item for each group of the entry, in order. `recorder` is the module that decided it.
pub fn items_of(
    logic: &dyn Logic,
    recorder: &dyn Logic,
    entry: &Entry,
    places: EntityPlaces,
    facts: FactTreatment,
) -> Vec<GroupItem> {
    let Some(batch) = entry.batch() else { return Vec::new() };
    let batch = &batch;
    let mut items: Vec<Option<GroupItem>> = Vec::with_capacity(batch.outcome.group_count());
    let mut wanted: Vec<(usize, EntryCommand<'_>)> = Vec::new();
    let (mut calls, mut called) = (PlanOutWriter::default(), Vec::new());
    for group in 0..batch.outcome.group_count() {
        let number = batch.ops.group(group).command;
        let part = entry.part(number);
        // No module decides a claim, whatever its outcome.
        if is_claim(part) || (facts == FactTreatment::Kept && is_fact(recorder, batch, group, part)) {
            items.push(Some(GroupItem::Fact));
            continue;
        }
        if matches!(part, Part::Call(_)) {
            let role = write_recorded(&mut calls, batch, group);
            called.push((group, role));
        } else {
            wanted.push((group, batch.command(number as usize)));
        }
        items.push(None);
    }
    if !called.is_empty() {
        let plans = Plan::all(calls.finish(Vec::new())).expect("the host wrote this block");
        for ((group, role), plan) in called.into_iter().zip(plans) {
            let plan = plan.expect("each item is a plan");
            items[group] = Some(GroupItem::Decide(Box::new(GroupPlan { plan, role, saga: None, is_alike: true })));
        }
    }
    let commands: Vec<EntryCommand<'_>> = wanted.iter().map(|(_, command)| *command).collect();
    for ((group, command), answer) in wanted.iter().zip(plan_all(logic, &commands)) {
        items[*group] = Some(match answer {
            PlanAnswer::Plan(plan) => place(plan, entry, batch, *group, command, places),
            PlanAnswer::Refused(refusal) => GroupItem::Decided(refused(refusal)),
            PlanAnswer::Failed(diagnostic) => {
                GroupItem::Decided(Decision::Trapped { code: host_rejection::MODULE_TRAP.to_owned(), diagnostic })
            }
        });
    }
    items.into_iter().map(|item| item.expect("each group is a fact, a call or a command")).collect()
}

fn is_claim(part: Part<'_>) -> bool {
    matches!(part, Part::Call(origin) if origin.key.call == Call::Claim)
}

/// Whether the host has rejected the group: because its budget was used up, because of a trap, because it was
/// cancelled, or because its command's id belongs to another command.
pub fn is_fact(recorder: &dyn Logic, batch: &Batch<'_>, group: usize, part: Part<'_>) -> bool {
    if !matches!(batch.outcome.group(group), GroupOutcome::Rejected(_)) {
        return false;
    }
    if is_claim(part) {
        return true;
    }
    let decision = Decision::recorded(batch, group);
    let code = decision.code().unwrap_or_default();
    if recorder.describe().rejections.iter().any(|declared| declared.code == code) {
        return false;
    }
    match code {
        host_rejection::BUDGET
        | host_rejection::MODULE_TRAP
        | host_rejection::MODULE_INCONSISTENT
        | host_rejection::KEYS => true,
        CANCELLED | ID_REUSED => matches!(part, Part::Call(_)),
        _ => false,
    }
}

/// The recorded ops of a group as one plan.
fn write_recorded(plans: &mut PlanOutWriter, batch: &Batch<'_>, group: usize) -> OpRole {
    let group = batch.ops.group(group);
    let mut role = OpRole::Step;
    for at in group.first_op..group.first_op + group.op_count {
        let op = batch.ops.op(at as usize);
        if op.role == OpRole::Undo as u32 {
            role = OpRole::Undo;
        }
        plans.step(op.payload, op.entity, None, TccRole::Try);
        for key in op.keyrefs() {
            if let Some((entity, suffix)) = split_key(batch.ops.key(key as usize)) {
                plans.key(if entity == LOCAL { Scope::Local } else { Scope::Own }, suffix);
            }
        }
    }
    let home = batch.ops.op(group.first_op as usize).entity;
    plans.plan(Coordination::Saga, home, batch.command(group.command as usize).body);
    role
}

enum PlanAnswer {
    Plan(Plan),
    Refused(Refusal),
    Failed(Diagnostic),
}

/// Plans all commands in one guest call; if that fails, in one call each.
fn plan_all(logic: &dyn Logic, commands: &[EntryCommand<'_>]) -> Vec<PlanAnswer> {
    if commands.is_empty() {
        return Vec::new();
    }
    match plan_once(logic, commands) {
        Ok(answers) => answers,
        Err(_) if commands.len() > 1 => commands.chunks(1).flat_map(|one| plan_all(logic, one)).collect(),
        Err(culprit) => vec![PlanAnswer::Failed(culprit.diagnostic())],
    }
}

fn plan_once(logic: &dyn Logic, commands: &[EntryCommand<'_>]) -> Result<Vec<PlanAnswer>, Culprit> {
    let declared = &logic.describe().commands;
    let mut known = Vec::with_capacity(commands.len());
    let mut input = PlanInWriter::default();
    for command in commands {
        let number = declared.iter().position(|declared| declared.name == command.name);
        known.push(number.is_some());
        let Some(number) = number else { continue };
        input.item(PlanItem {
            command: number as u32,
            roles: command.roles,
            id: command.id.0,
            caller: command.caller.as_bytes(),
            body: command.body,
        });
    }
    let malformed = |what: String| Culprit::Fault(crate::machine::logic::Fault::Output { what });
    let output = logic.plan(&input.finish(Vec::new())).map_err(Culprit::Fault)?;
    let plans = Plan::all(output).map_err(|error| malformed(error.to_string()))?;
    let known_count = known.iter().filter(|known| **known).count();
    if plans.len() != known_count {
        return Err(malformed(format!("{} plans for {known_count} commands", plans.len())));
    }
    let mut plans = plans.into_iter();
    let mut answers = Vec::with_capacity(commands.len());
    for (known, command) in known.into_iter().zip(commands) {
        let plan = if known { plans.next() } else { None };
        answers.push(match plan {
            Some(Ok(plan)) => PlanAnswer::Plan(plan),
            Some(Err(refusal)) => {
                let refusal = minicbor::decode(&refusal).map_err(|error| malformed(format!("refusal: {error}")))?;
                PlanAnswer::Refused(refusal)
            }
            None => PlanAnswer::Refused(Refusal {
                code: "no_such_command".to_owned(),
                status: 404,
                detail: format!("the module has no command `{}`", command.name),
                field: None,
            }),
        });
    }
    Ok(answers)
}

fn refused(refusal: Refusal) -> Decision {
    Decision::Refused { code: refusal.code, detail: refusal.detail }
}

/// The part of the plan that is decided here, as the router would divide it.
fn place(
    plan: Plan,
    entry: &Entry,
    batch: &Batch<'_>,
    group: usize,
    command: &EntryCommand<'_>,
    places: EntityPlaces,
) -> GroupItem {
    let host_refusal =
        |code: &str, detail: String| GroupItem::Decided(Decision::Refused { code: code.to_owned(), detail });
    let view = plan.view();
    if !is_plan_in_limits(&view) {
        return host_refusal("plan_too_large", "it has too many steps, or an entity or a key is too long".to_owned());
    }
    let home = places.of(view.home);
    if home != places.here {
        let detail =
            format!("its home is in partition {home} now, and was in {}: a home must never change", places.here);
        return host_refusal("home_moved", detail);
    }
    let divided = SagaPlan::divide(&view.block, view.coordination, home, view.steps_with_last_resorts(), |entity| {
        places.of(entity)
    });
    let saga = match divided {
        Ok(saga) => saga,
        Err(fault) => return host_refusal("plan_not_coordinated", fault.to_string()),
    };
    let recorded = entry.records().start(batch.ops.group(group).command).map(|start| &start.plan);
    let is_body_alike = view.body == command.body;
    let Some(saga) = saga else {
        let is_alike = is_body_alike && recorded.is_none() && is_steps_alike(&view, batch, group);
        return GroupItem::Decide(Box::new(GroupPlan { plan, role: OpRole::Step, saga: None, is_alike }));
    };
    let is_alike = is_body_alike && recorded.is_some_and(|recorded| is_saga_alike(recorded, &saga));
    let block = saga.branches[0].to_plan(Form::Do, view.home, view.body);
    let first = GroupPlan::of_block(block, OpRole::Step);
    GroupItem::Decide(Box::new(GroupPlan { saga: Some(saga), is_alike, ..first }))
}

fn is_steps_alike(view: &PlanView<'_>, batch: &Batch<'_>, group: usize) -> bool {
    let group = batch.ops.group(group);
    let recorded = (group.first_op..group.first_op + group.op_count).map(|at| batch.ops.op(at as usize));
    view.steps().len() == group.op_count as usize
        && view
            .steps()
            .zip(recorded)
            .all(|(step, op)| step.op == op.payload && step.entity == op.entity && op.role == OpRole::Step as u32)
}

fn is_saga_alike(recorded: &SagaPlan, planned: &SagaPlan) -> bool {
    let is_same_step = |(a, b): (&crate::saga::PlanStep, &crate::saga::PlanStep)| {
        a.op == b.op && a.entity == b.entity && a.undo == b.undo
    };
    recorded.coordination == planned.coordination
        && recorded.branches.len() == planned.branches.len()
        && recorded.branches.iter().zip(&planned.branches).all(|(a, b)| {
            a.partition() == b.partition()
                && a.role == b.role
                && a.steps.len() == b.steps.len()
                && a.steps.iter().zip(&b.steps).all(is_same_step)
        })
}
