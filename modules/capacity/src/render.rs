//! Answers, events and rows as values. Everything comes from the recorded bytes, nothing from rows.
//!
//! Times are in microseconds since 1970 UTC. The recorded outcome of a command is the SDK's. It does not know JSON or HTTP.

use statehouse_guest::{Done, EventContext, FieldValue, Uuid, Value};

use crate::CapacityModule;
use crate::commands::{Command, LineAnswer, OrderAnswer, PoolAnswer};
use crate::event::{Event, Taken};
use crate::order::{Order, OrderStatus, parse_order_key};
use crate::pool::{Level, PoolStatus};
use crate::queries::{capacities, order_state, pool_state};

/// The body of the answer to a command that succeeded.
pub fn response(done: &Done<'_, CapacityModule>) -> Value {
    let Some(last) = done.events.last() else { return Value::Null };
    let pool = |status: PoolStatus, levels: Option<&[Level]>| {
        let (pool, status) = (text_of(last.entity), status.name().into());
        PoolAnswer { pool, status, capacities: levels.map(capacities) }.to_value()
    };
    match &last.event {
        Event::Created { levels } | Event::Changed { levels } => pool(PoolStatus::Open, Some(levels)),
        Event::Closed => pool(PoolStatus::Closed, None),
        Event::OrderPlaced { order, .. }
        | Event::OrderReserved { order, .. }
        | Event::OrderConfirmed { order }
        | Event::OrderReleased { order, .. } => order_answer(order.to_uuid(), OrderStatus::Placed, done),
        Event::OrderCancelled { order, .. } => order_answer(order.to_uuid(), OrderStatus::Cancelled, done),
    }
}

/// With the lines of every pool.
fn order_answer(order_id: Uuid, status: OrderStatus, done: &Done<'_, CapacityModule>) -> Value {
    let lines = done.events.iter().flat_map(|occurred| {
        let pool = text_of(occurred.entity);
        lines_of(&occurred.event).iter().map(move |taken| LineAnswer {
            pool: pool.clone(),
            capacity_type: taken.capacity_type.clone(),
            quantity: taken.quantity,
            left: taken.left,
        })
    });
    OrderAnswer { order_id, status: status.name().into(), lines: lines.collect() }.to_value()
}

/// What the event took or gave back.
fn lines_of(event: &Event) -> &[Taken] {
    match event {
        Event::OrderPlaced { lines, .. }
        | Event::OrderCancelled { lines, .. }
        | Event::OrderReserved { lines, .. }
        | Event::OrderReleased { lines, .. } => lines,
        Event::Created { .. } | Event::Changed { .. } | Event::Closed | Event::OrderConfirmed { .. } => &[],
    }
}

/// Members beside what the host says of every command that was rejected.
pub fn rejected(done: &Done<'_, CapacityModule>) -> Value {
    let order_id = match &done.command {
        Some(Command::PlaceOrder(place)) => Some(place.order_id),
        Some(Command::PlaceCombinedOrder(place)) => Some(place.order_id),
        Some(Command::CancelOrder(cancel)) => Some(cancel.order_id),
        _ => None,
    };
    Value::map(order_id.map(|order_id| ("order_id", order_id.to_value())))
}

/// One event, as the history of its pool and the event stream show it.
pub fn event(event: &Event, context: &EventContext<'_, CapacityModule>) -> Value {
    let mut members = vec![("pool", Value::text(text_of(context.entity))), ("time", Value::Int(context.time.into()))];
    let (name, order) = match event {
        Event::Created { levels } => {
            members.push(("capacities", capacities(levels)));
            ("created", None)
        }
        Event::Changed { levels } => {
            members.push(("capacities", capacities(levels)));
            ("changed", None)
        }
        Event::Closed => ("closed", None),
        Event::OrderPlaced { order, .. } => ("order_placed", Some(order)),
        Event::OrderCancelled { order, .. } => ("order_cancelled", Some(order)),
        Event::OrderReserved { order, .. } => ("order_reserved", Some(order)),
        Event::OrderConfirmed { order } => ("order_confirmed", Some(order)),
        Event::OrderReleased { order, .. } => ("order_released", Some(order)),
    };
    members.push(("event", Value::text(name)));
    members.extend(order.map(|order| ("order_id", order.to_uuid().to_value())));
    let lines: Vec<Value> = lines_of(event).iter().map(line).collect();
    if !lines.is_empty() {
        members.push(("lines", Value::Array(lines)));
    }
    Value::map(members)
}

fn line(taken: &Taken) -> Value {
    Value::map([
        ("type", Value::text(&taken.capacity_type)),
        ("quantity", taken.quantity.to_value()),
        ("left", taken.left.to_value()),
    ])
}

/// One row, for audit reports; null when it is malformed.
pub fn row(entity: &[u8], suffix: &[u8], row: &[u8]) -> Value {
    let pool = text_of(entity);
    match parse_order_key(suffix) {
        Some(order) => {
            borsh::from_slice::<Order>(row).map_or(Value::Null, |row| order_state(&pool, order, &row).to_value())
        }
        None => borsh::from_slice(row).map_or(Value::Null, |row| pool_state(&pool, &row)),
    }
}

fn text_of(entity: &[u8]) -> String {
    String::from_utf8_lossy(entity).into()
}
