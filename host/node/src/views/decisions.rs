//! Entries as decisions: what an entry decided about a command, with its events rendered by the module that decided
//! them.
//!
//! In: an effective entry. Out: decisions, rendered in one call of the module. If a module cannot show an event, the
//! event is null, so that every node gets the same. It knows no view.

use std::ops::Range;

use statehouse_abi::cold::{EventBytes, EventFacts, Rejection, RenderItem};
use statehouse_abi::outcome::GroupOutcome;
use statehouse_abi::value::Value;
use statehouse_projection::abi::{Decision, Happened, Part as Told};

use crate::ids::PartitionId;
use crate::machine::entry::Part;
use crate::machine::logic::Logic;
use crate::machine::rejection::read_rejection;
use crate::machine::render::render_each;
use crate::sequencer::submission::RecordedEntry;
use crate::views::error::ViewError;

/// The decisions on the commands `range` of the entry.
pub fn decisions(
    recorded: &RecordedEntry,
    partition: PartitionId,
    range: Range<u32>,
    logic: &dyn Logic,
) -> Result<Vec<Decision>, ViewError> {
    let Some(batch) = recorded.entry.batch() else { return Ok(Vec::new()) };
    let header = recorded.entry.header();
    let (mut decisions, mut items) = (Vec::new(), Vec::new());
    for number in range {
        let command = batch.command(number as usize);
        let group = batch.ops.group(number as usize);
        let mut position = recorded.position(partition, number);
        let (part, id) = match recorded.entry.part(number) {
            Part::Whole => (Told::Whole, command.id),
            Part::Start => (Told::Start, command.id),
            Part::Call(origin) => (Told::Call, origin.parent()),
            Part::End => (Told::End, command.id),
        };
        let ops = group.first_op..group.first_op + group.op_count;
        let mut entities: Vec<String> = Vec::new();
        for op in ops.map(|at| batch.ops.op(at as usize)) {
            let entity = String::from_utf8_lossy(op.entity);
            if entities.iter().all(|known| *known != entity) {
                entities.push(entity.into_owned());
            }
        }
        let mut decision = Decision {
            partition: partition.0,
            index: header.index.0,
            n: position.n,
            head8: position.head8,
            time: header.time.0,
            command: command.name.to_owned(),
            id: id.0,
            part,
            caller: command.caller.to_owned(),
            request_id: command.request_id.to_owned(),
            module: header.decider.0,
            body: minicbor::decode(command.body).unwrap_or(Value::Null),
            entities,
            events: Vec::new(),
            rejection: None,
        };
        match batch.outcome.group(number as usize) {
            GroupOutcome::Events { first, count } => {
                for at in first..first + count {
                    let event = batch.outcome.event(at as usize);
                    let op = batch.ops.op(event.op as usize);
                    let entity = String::from_utf8_lossy(op.entity).into_owned();
                    let (op, entity_bytes) = (op.payload.to_vec(), op.entity.to_vec());
                    items.push(RenderItem::Event(EventFacts {
                        event: EventBytes { entity: entity_bytes, op, event: event.payload.to_vec() },
                        command: command.name.to_owned(),
                        id: id.0,
                        body: command.body.to_vec(),
                        time: header.time.0,
                        position: position.to_string(),
                    }));
                    decision.events.push(Happened { entity, value: Value::Null });
                    position.n += 1;
                }
            }
            GroupOutcome::Rejected(bytes) => decision.rejection = Some(rejection_of(bytes)),
            // An entry never records this.
            GroupOutcome::NeedsKeys => {}
        }
        decisions.push(decision);
    }
    let mut values = render(logic, &items)?.into_iter();
    let events = decisions.iter_mut().flat_map(|decision| &mut decision.events);
    events.for_each(|event| event.value = values.next().expect("one value per event"));
    Ok(decisions)
}

fn render(logic: &dyn Logic, items: &[RenderItem]) -> Result<Vec<Value>, ViewError> {
    let failed = |fault| ViewError::Host(format!("module {}: {fault}", logic.id().short()));
    render_each(logic, items, &Value::Null).map_err(failed)
}

/// A stand-in has no detail here, because every node must write the same rows.
fn rejection_of(bytes: &[u8]) -> Rejection {
    read_rejection(bytes).unwrap_or_else(|error| Rejection { detail: String::new(), ..error.stand_in() })
}
