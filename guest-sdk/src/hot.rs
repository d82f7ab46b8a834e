//! The bytes of the three calls made for every batch: plan, execute and apply.
//!
//! `execute` runs op by op: validate, then apply of its events onto the overlay, so later ops and groups see earlier
//! ones. A group is all or nothing. `apply` folds recorded events and decides nothing.
//! Both end in the same overlay, so their WRITES are equal unless a module's `apply` is not a function of its event.

use statehouse_abi::block::AbiError;
use statehouse_abi::call::{CallIn, parse_apply_in, parse_execute_in, write_execute_out_with};
use statehouse_abi::cold::{Refusal, Rejection};
use statehouse_abi::ops::{Group, OpsBlock};
use statehouse_abi::outcome::{GroupOutcome, OutcomeBlock, OutcomeWriter};
use statehouse_abi::plan::{PlanIn, PlanItem, PlanOutWriter};
use statehouse_abi::rows::RowsBlock;
use statehouse_abi::value::Value;

use crate::declare::{Commands, Rejections, refuse_body};
use crate::frame::{Events, Frame, Tx, Undeclared, View, encode};
use crate::module::Module;
use crate::overlay::Overlay;
use crate::planner::{Caller, Draft, Planner};

/// Room for the headers, directories and padding of an output.
const OUT_RESERVE: usize = 1024;

pub(crate) fn plan<M: Module>(input: &[u8]) -> Result<Vec<u8>, AbiError> {
    let input = PlanIn::parse(input)?;
    let mut draft = Draft::default();
    let mut out = PlanOutWriter::default();
    for at in 0..input.count() {
        if let Err(refusal) = plan_item::<M>(&input.item(at), &mut draft, &mut out) {
            out.refuse(&minicbor::to_vec(&refusal).expect("a vector takes all bytes"));
        }
    }
    mark_last_resorts::<M>(mark_consent::<M>(out.finish(Vec::new()))?)
}

fn plan_item<M: Module>(item: &PlanItem<'_>, draft: &mut Draft, out: &mut PlanOutWriter) -> Result<(), Refusal> {
    let body = Value::from_cbor(item.body).map_err(|error| refuse_body(crate::BodyError::new(error.to_string())))?;
    let command = M::Command::decode(item.command, &body).ok_or_else(|| Refusal {
        code: "no_such_command".into(),
        status: 422,
        detail: format!("the module has no command with number {}", item.command),
        field: None,
    })?;
    let command = command.map_err(refuse_body)?;
    M::plan(&command, &Caller::of(item), &mut Planner::new(draft))?;
    draft.finish(|| command.to_value(), out)
}

/// The parsed parts of EXECUTE_IN and APPLY_IN.
struct Batch<'a> {
    call: CallIn<'a>,
    ops: OpsBlock<'a>,
    rows: RowsBlock<'a>,
}

impl<'a> Batch<'a> {
    fn parse(call: CallIn<'a>) -> Result<Self, AbiError> {
        // The host wrote both blocks itself, or checked them when it read its journal.
        let batch = Self { ops: OpsBlock::parse_trusted(call.ops)?, rows: RowsBlock::parse(call.rows)?, call };
        if batch.rows.count() != batch.ops.key_count() {
            return Err(AbiError::Value { what: "there must be a row for every key" });
        }
        Ok(batch)
    }

    fn overlay(&self) -> Overlay {
        Overlay::new(self.rows.count(), self.call.rows.len())
    }

    #[inline]
    fn frame(&self, op_index: u32, undeclared: Undeclared) -> Frame<'_> {
        let op = self.ops.op(op_index as usize);
        Frame { ops: &self.ops, rows: &self.rows, context: &self.call.context, op, op_index, undeclared }
    }
}

/// What one group of ops came to.
enum Decision<R> {
    Accepted,
    Rejected(R),
    NeedsKeys,
}

pub(crate) fn execute<M: Module>(input: &[u8]) -> Result<Vec<u8>, AbiError> {
    let batch = Batch::parse(parse_execute_in(input)?)?;
    let mut overlay = batch.overlay();
    let mut outcome =
        OutcomeWriter::with_capacity(batch.ops.group_count(), batch.ops.op_count(), batch.call.ops.len() / 4);
    let mut events = Vec::new();
    for at in 0..batch.ops.group_count() {
        let first = outcome.event_count();
        match execute_group::<M>(&batch, batch.ops.group(at), &mut overlay, &mut outcome, &mut events) {
            Decision::Accepted => {
                overlay.accept();
                outcome.accept(first);
            }
            Decision::Rejected(rejection) => {
                overlay.roll_back();
                let rejection = Rejection { code: rejection.code().into(), detail: rejection.detail() };
                outcome.reject(first, &minicbor::to_vec(&rejection).expect("a vector takes all bytes"));
            }
            Decision::NeedsKeys => {
                overlay.roll_back();
                outcome.needs_keys(first);
            }
        }
    }
    let writes = overlay.writes(&batch.rows);
    let needed = overlay.into_needed();
    let needed = needed.iter().map(|(op, key)| (*op, key.as_slice()));
    let out = Vec::with_capacity(outcome.size() + writes.size() + OUT_RESERVE);
    Ok(write_execute_out_with(out, |out| outcome.finish(out), |out| writes.finish(out), needed))
}

fn execute_group<M: Module>(
    batch: &Batch<'_>,
    group: Group,
    overlay: &mut Overlay,
    outcome: &mut OutcomeWriter,
    events: &mut Vec<M::Event>,
) -> Decision<M::Rejection> {
    let needed_before = overlay.needed_count();
    for op_index in group.first_op..group.first_op + group.op_count {
        let frame = batch.frame(op_index, Undeclared::Reported);
        let op: M::Op = decode("op", frame.op.payload);
        events.clear();
        let decided = M::validate(&op, &View { frame: &frame, overlay: &*overlay }, &mut Events { events });
        // What was decided without a row that exists counts for nothing, and `apply` must not see it.
        if needed_before < overlay.needed_count() {
            return Decision::NeedsKeys;
        }
        if let Err(rejection) = decided {
            return Decision::Rejected(rejection);
        }
        for event in events.iter() {
            outcome.event_with(op_index, |out| encode(out, event));
            M::apply(event, &mut Tx { frame: &frame, overlay: &mut *overlay });
        }
        if needed_before < overlay.needed_count() {
            return Decision::NeedsKeys;
        }
    }
    Decision::Accepted
}

pub(crate) fn apply<M: Module>(input: &[u8]) -> Result<Vec<u8>, AbiError> {
    let call = parse_apply_in(input)?;
    let batch = Batch::parse(call)?;
    let outcome = call.outcome.ok_or(AbiError::Value { what: "apply needs an outcome" })?;
    let outcome = OutcomeBlock::parse_trusted(outcome)?;
    let mut overlay = batch.overlay();
    for at in 0..outcome.group_count() {
        let GroupOutcome::Events { first, count } = outcome.group(at) else { continue };
        for event in first..first + count {
            let event = outcome.event(event as usize);
            let frame = batch.frame(event.op, Undeclared::Panics);
            M::apply(&decode("event", event.payload), &mut Tx { frame: &frame, overlay: &mut overlay });
        }
        overlay.accept();
    }
    let writes = overlay.writes(&batch.rows);
    Ok(writes.finish(Vec::with_capacity(writes.size() + OUT_RESERVE)))
}

#[inline]
pub(crate) fn decode<T: borsh::BorshDeserialize>(what: &str, bytes: &[u8]) -> T {
    match borsh::from_slice(bytes) {
        Ok(value) => value,
        Err(error) => panic!("{what} of {} bytes is malformed: {error}", bytes.len()),
    }
}

/// The last resorts of a module go beside its plans; of one that has none, the plans are as they were.
#[inline(always)]
fn mark_last_resorts<M: Module>(plans: Vec<u8>) -> Result<Vec<u8>, AbiError> {
    if !M::HAS_LAST_RESORTS {
        return Ok(plans);
    }
    statehouse_abi::last_resort::mark(&plans, |op| {
        let op = borsh::from_slice(op).expect("the planner has just encoded this op");
        let last: Option<M::Op> = M::last_resort(&op);
        last.map(|last| borsh::to_vec(&last).expect("writing to memory cannot fail"))
    })
}

/// What a module says of consent goes beside its plans; of one that says nothing, the plans are as they were.
#[inline(always)]
fn mark_consent<M: Module>(plans: Vec<u8>) -> Result<Vec<u8>, AbiError> {
    if !M::SAYS_CONSENT {
        return Ok(plans);
    }
    statehouse_abi::consent::mark(&plans, |op| {
        let op = borsh::from_slice(op).expect("the planner has just encoded this op");
        !M::needs_consent(&op)
    })
}
