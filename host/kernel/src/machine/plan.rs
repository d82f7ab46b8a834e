//! A plan: the steps that a module has planned for one command.
//!
//! In: a PLAN_OUT block. Out: the plans in it, and views of their steps, keys and last resorts. The leader, the router
//! and every replay read plans through this file, and apply the same limits to them. It does not know who asked for a
//! plan or which partition carries it out.

use std::sync::Arc;

use statehouse_abi::consent::FreeSteps;
use statehouse_abi::key::LOCAL;
use statehouse_abi::last_resort::LastResorts;
use statehouse_abi::ops::OpRole;
use statehouse_abi::plan::{Coordination, PlanOut, Planned, Step};

use crate::machine::limits;
use crate::saga::status::ENTITY;

/// What the module planned for one command, shared with the other commands of the same call.
#[derive(Clone)]
pub struct Plan {
    /// A PLAN_OUT block.
    block: Arc<[u8]>,
    item: u32,
}

impl Plan {
    /// The plans of a PLAN_OUT block, in order; a refusal is returned as its CBOR.
    pub fn all(block: Vec<u8>) -> Result<Vec<Result<Plan, Vec<u8>>>, statehouse_abi::block::AbiError> {
        let block: Arc<[u8]> = block.into();
        let parsed = PlanOut::parse(&block)?;
        LastResorts::find(&block)?;
        FreeSteps::find(&block)?;
        let plan = |item: usize| match parsed.item(item) {
            Planned::Plan { .. } => Ok(Plan { block: block.clone(), item: item as u32 }),
            Planned::Refused(refusal) => Err(refusal.to_vec()),
        };
        Ok((0..parsed.count()).map(plan).collect())
    }

    /// The steps of the whole block that need no consent, if the module says which.
    pub fn free_steps(&self) -> Option<FreeSteps<'_>> {
        FreeSteps::find(&self.block).expect("the block was checked when the plan was made")
    }

    pub fn view(&self) -> PlanView<'_> {
        let block = PlanOut::parse_trusted(&self.block).expect("the block was checked when the plan was made");
        let Planned::Plan { coordination, home, body, first_step, step_count } = block.item(self.item as usize) else {
            unreachable!("a plan is only made of a planned item");
        };
        let last = LastResorts::find(&self.block).expect("the block was checked when the plan was made");
        PlanView { block, last, coordination, home, body, role: OpRole::Step, first_step, step_count }
    }
}

/// A borrowed plan.
#[derive(Clone, Copy)]
pub struct PlanView<'a> {
    pub block: PlanOut<'a>,
    last: Option<LastResorts<'a>>,
    /// How steps on several partitions are coordinated.
    pub coordination: Coordination,
    /// The entity whose partition guards the command's id.
    pub home: &'a [u8],
    /// The canonical body.
    pub body: &'a [u8],
    /// What the ops of the plan do within their command.
    pub role: OpRole,
    first_step: u32,
    step_count: u32,
}

impl<'a> PlanView<'a> {
    /// The same plan with ops of another role.
    pub fn with_role(self, role: OpRole) -> Self {
        Self { role, ..self }
    }

    pub fn steps(&self) -> impl ExactSizeIterator<Item = Step<'a>> + use<'a> {
        let this = *self;
        (this.first_step..this.first_step + this.step_count).map(move |at| this.block.step(at))
    }

    /// The steps, each with the op that replaces it where the participant refuses it for ever.
    pub fn steps_with_last_resorts(&self) -> impl Iterator<Item = (Step<'a>, Option<&'a [u8]>)> + use<'a> {
        let (first, last) = (self.first_step, self.last);
        let last = move |at: usize| last?.of(first + u32::try_from(at).expect("a plan has few steps"));
        self.steps().enumerate().map(move |(at, step)| (step, last(at)))
    }

    /// The steps, each with its number among the steps of the whole block.
    pub fn numbered_steps(&self) -> impl Iterator<Item = (u32, Step<'a>)> + use<'a> {
        let this = *self;
        (this.first_step..this.first_step + this.step_count).map(move |at| (at, this.block.step(at)))
    }

    pub fn size(&self) -> usize {
        self.body.len()
            + self.steps().map(|step| step.op.len() + step.entity.len() + step.key_count as usize * 32).sum::<usize>()
    }
}

/// Whether a plan is within the limits of one command.
pub fn is_plan_in_limits(plan: &PlanView<'_>) -> bool {
    let key_fits = |entity: &[u8], suffix: &[u8]| 1 + entity.len() + suffix.len() <= limits::KEY_BYTES_MAX;
    let entity_fits = |entity: &[u8]| {
        !entity.is_empty() && entity.len() <= limits::ENTITY_BYTES_MAX && entity != LOCAL && entity != ENTITY
    };
    let undo_size: usize = plan.steps().map(|step| step.undo.map_or(0, <[u8]>::len)).sum();
    plan.steps().len() <= limits::COMMAND_OPS_MAX
        && plan.size() + undo_size <= limits::PLAN_BYTES_MAX
        && entity_fits(plan.home)
        && plan.steps().all(|step| {
            let keys = step.first_key..step.first_key + step.key_count;
            entity_fits(step.entity)
                && step.key_count as usize <= limits::OP_KEYS_MAX
                && keys.into_iter().all(|at| key_fits(step.entity, plan.block.key(at).1))
        })
}
