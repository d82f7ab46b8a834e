//! A plan divided by partition: the branches of a command. A branch is a group of steps that one partition carries out
//! or refuses as a whole.
//!
//! In: the steps that a module planned, and the partition of each entity. Out: branches, the first at home. It does not
//! know what steps do.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use statehouse_abi::key::Scope;
use statehouse_abi::plan::{Coordination as Planned, PlanOut, PlanOutWriter, Step as PlannedStep, TccRole};

use crate::ids::PartitionId;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Coordination {
    #[n(0)]
    Saga,
    #[n(1)]
    TryConfirmCancel,
}

/// The phase in which a branch runs. A Saga has one phase only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Role {
    #[n(0)]
    Try,
    #[n(1)]
    Confirm,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SagaPlan {
    #[n(0)]
    pub coordination: Coordination,
    /// In order. The first branch is carried out in the entry that starts the command.
    #[n(1)]
    pub branches: Vec<Branch>,
    /// A partition has a confirm and no try, so it must reserve the command's id before the confirm is decided; since
    /// the feature level `CLAIMS_FIRST`.
    #[n(2)]
    claims_first: Option<bool>,
}

/// Which ops of a branch's steps a call carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Do,
    Undo,
    LastResort,
}

/// Steps that run as one group on one partition.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Branch {
    #[n(0)]
    partition: u32,
    #[n(1)]
    pub role: Role,
    #[n(2)]
    pub steps: Vec<PlanStep>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PlanStep {
    #[n(0)]
    pub op: ByteVec,
    #[n(1)]
    pub entity: ByteVec,
    #[n(2)]
    pub undo: Option<ByteVec>,
    #[n(3)]
    keys: Vec<StepKey>,
    /// The op that the module plans for the case that the confirm, or the undo, is refused for ever.
    #[n(4)]
    pub last_resort: Option<ByteVec>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct StepKey {
    #[n(0)]
    is_local: bool,
    #[n(1)]
    suffix: ByteVec,
}

/// Why a plan cannot be coordinated: a mistake of the module's author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanFault {
    #[error("the first step of a command on several partitions must belong to its home entity's partition")]
    HomeElsewhere,
    #[error("step {0} cannot be undone, but a later step may be refused: give it an undo, or make it the last")]
    NotUndoable(usize),
    #[error("step {0} belongs to Try and has no undo, so it could not be cancelled")]
    NotCancellable(usize),
    #[error("a command coordinated by Try-Confirm/Cancel needs a step in Try at its home")]
    NothingToTry,
}

impl SagaPlan {
    /// Whether a plan that was read is one that was divided: over two partitions at least, with steps in each.
    pub(super) fn is_divided(&self) -> bool {
        2 <= self.branches.len() && self.branches.iter().all(|branch| !branch.steps.is_empty())
    }

    /// The same plan as releases wrote it before there were claims for confirms.
    pub fn without_claims(mut self) -> Self {
        self.claims_first = None;
        self
    }

    pub fn claims_first(&self) -> bool {
        self.claims_first == Some(true)
    }

    /// Whether a branch is a confirm on a partition without a try, where nothing has claimed the command's id yet.
    pub fn is_confirm_only(&self, branch: &Branch) -> bool {
        let is_tried = |other: &Branch| other.role == Role::Try && other.partition() == branch.partition();
        branch.role == Role::Confirm && !self.branches.iter().any(is_tried)
    }

    /// The same plan as releases wrote it before there were last resorts.
    pub fn without_last_resorts(mut self) -> Self {
        let steps = self.branches.iter_mut().flat_map(|branch| &mut branch.steps);
        steps.for_each(|step| step.last_resort = None);
        self
    }

    /// Divides the steps of one plan; `None` if one partition has all of them.
    pub fn divide<'p>(
        block: &PlanOut<'_>,
        coordination: Planned,
        home: PartitionId,
        steps: impl Iterator<Item = (PlannedStep<'p>, Option<&'p [u8]>)>,
        partition_of: impl Fn(&[u8]) -> PartitionId,
    ) -> Result<Option<Self>, PlanFault> {
        let placed: Vec<PlacedStep<'p>> =
            steps.map(|(step, last_resort)| (partition_of(step.entity), step, last_resort)).collect();
        if placed.iter().all(|(partition, ..)| *partition == home) {
            return Ok(None);
        }
        let branches = match coordination {
            Planned::Saga => in_order(block, &placed)?,
            Planned::TryConfirmCancel => by_phase(block, home, &placed)?,
        };
        if branches[0].partition() != home {
            return Err(PlanFault::HomeElsewhere);
        }
        let coordination = match coordination {
            Planned::Saga => Coordination::Saga,
            Planned::TryConfirmCancel => Coordination::TryConfirmCancel,
        };
        let plan = Self { coordination, branches, claims_first: None };
        let claims_first = plan.branches.iter().any(|branch| plan.is_confirm_only(branch)).then_some(true);
        Ok(Some(Self { claims_first, ..plan }))
    }
}

/// A step, the partition of its entity, and its last resort.
type PlacedStep<'p> = (PartitionId, PlannedStep<'p>, Option<&'p [u8]>);

/// Consecutive steps on one partition make one branch; the order of the steps stays.
fn in_order(block: &PlanOut<'_>, placed: &[PlacedStep<'_>]) -> Result<Vec<Branch>, PlanFault> {
    let mut branches: Vec<Branch> = Vec::new();
    for (partition, step, last_resort) in placed {
        let step = PlanStep::of(block, step, *last_resort);
        match branches.last_mut().filter(|branch| branch.partition() == *partition) {
            Some(branch) => branch.steps.push(step),
            None => branches.push(Branch { partition: partition.0, role: Role::Try, steps: vec![step] }),
        }
    }
    let before_last = branches.iter().rev().skip(1).map(|branch| branch.steps.len()).sum();
    match placed[..before_last].iter().position(|(_, step, _)| step.undo.is_none()) {
        Some(at) => Err(PlanFault::NotUndoable(at)),
        None => Ok(branches),
    }
}

/// One branch for each phase and partition, home first.
fn by_phase(block: &PlanOut<'_>, home: PartitionId, placed: &[PlacedStep<'_>]) -> Result<Vec<Branch>, PlanFault> {
    let mut branches: Vec<Branch> = Vec::new();
    for (role, tcc) in [(Role::Try, TccRole::Try), (Role::Confirm, TccRole::Confirm)] {
        for (at, (partition, step, last_resort)) in
            placed.iter().enumerate().filter(|(_, (_, step, _))| step.tcc == tcc)
        {
            if role == Role::Try && step.undo.is_none() {
                return Err(PlanFault::NotCancellable(at));
            }
            let is_same = |branch: &&mut Branch| branch.role == role && branch.partition() == *partition;
            let step = PlanStep::of(block, step, *last_resort);
            match branches.iter_mut().find(is_same) {
                Some(branch) => branch.steps.push(step),
                None => branches.push(Branch { partition: partition.0, role, steps: vec![step] }),
            }
        }
    }
    let is_home = |branch: &Branch| branch.role == Role::Try && branch.partition() == home;
    let first = branches.iter().position(is_home).ok_or(PlanFault::NothingToTry)?;
    branches[..=first].rotate_right(1);
    Ok(branches)
}

impl Branch {
    pub fn partition(&self) -> PartitionId {
        PartitionId(self.partition)
    }

    /// A PLAN_OUT block whose only plan is this branch, or what undoes it (the last step first), or its last resort.
    pub fn to_plan(&self, form: Form, home: &[u8], body: &[u8]) -> Vec<u8> {
        let mut writer = PlanOutWriter::default();
        let mut add = |step: &PlanStep| {
            let op = match form {
                Form::Do => &step.op,
                Form::Undo => step.undo.as_ref().expect("checked when the plan was divided"),
                Form::LastResort => step.last_resort.as_ref().expect("checked when it was ordered"),
            };
            writer.step(op, &step.entity, None, TccRole::Try);
            for key in &step.keys {
                writer.key(if key.is_local { Scope::Local } else { Scope::Own }, &key.suffix);
            }
        };
        match form {
            Form::Do | Form::LastResort => self.steps.iter().for_each(&mut add),
            Form::Undo => self.steps.iter().rev().for_each(&mut add),
        }
        writer.plan(Planned::Saga, home, body);
        writer.finish(Vec::new())
    }
}

impl PlanStep {
    fn of(block: &PlanOut<'_>, step: &PlannedStep<'_>, last_resort: Option<&[u8]>) -> Self {
        let key = |at| {
            let (scope, suffix) = block.key(at);
            StepKey { is_local: scope == Scope::Local, suffix: suffix.to_vec().into() }
        };
        Self {
            op: step.op.to_vec().into(),
            entity: step.entity.to_vec().into(),
            undo: step.undo.map(|undo| undo.to_vec().into()),
            keys: (step.first_key..step.first_key + step.key_count).map(key).collect(),
            last_resort: last_resort.map(|op| op.to_vec().into()),
        }
    }
}
