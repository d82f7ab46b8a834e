//! Capacity: pools that hold a limited capacity of several types, and orders that take from it. Nothing is overbooked.
//!
//! ```text
//! body ──plan──▶ steps on pools ──validate──▶ orders, capacities ──apply──▶ the pool's row and a row per order
//! ```
//!
//! In: the commands of `commands.rs`. Out: the events of `event.rs`, the rows of `pool.rs` and `order.rs`. A pool is one
//! entity with its orders, so one place decides about all of it. It does not know partitions, or what an order is for.

mod commands;
mod op;
mod event;
mod rejection;
mod pool;
mod order;
mod plan;
mod validate;
mod apply;
mod queries;
mod render;
mod check;

use statehouse_guest::*;

pub use check::Tally;
pub use commands::{
    CancelOrder, CapacityBody, ChangeCapacity, Command, CreatePool, LineAnswer, LineBody, OrderAnswer, OrderState,
    OrdersPage, PlaceCombinedOrder, PlaceOrder, PoolAnswer, PoolLineBody, PoolName, PoolState,
};
pub use event::{Event, Taken};
pub use op::{Capacity, Line, Op};
pub use order::{Order, OrderId, OrderStatus, order_key};
pub use pool::{Level, POOL, Pool, PoolStatus};
pub use queries::Query;
pub use rejection::Rejection;

pub struct CapacityModule;

#[module]
impl Module for CapacityModule {
    const NAME: &'static str = "capacity";
    const SCHEMA: u32 = 1;
    const EVENTS: &'static [Named] = event::EVENTS;
    const INVARIANTS: &'static [Named] = check::INVARIANTS;

    type Command = Command;
    type Query = Query;
    type Op = Op;
    type Event = Event;
    type Rejection = Rejection;
    type Tally = Tally;

    fn plan(command: &Command, caller: &Caller<'_>, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
        plan::plan(command, caller, planner)
    }

    fn validate(op: &Op, view: &View<'_>, events: &mut Events<'_, Event>) -> Result<(), Rejection> {
        events.emit(validate::validate(op, view)?);
        Ok(())
    }

    fn apply(event: &Event, tx: &mut Tx<'_>) {
        apply::apply(event, tx);
    }

    fn query(query: &Query, reader: &Reader<'_>) -> Result<Value, QueryStop> {
        queries::query(query, reader)
    }

    fn render_response(done: &Done<'_, Self>) -> Value {
        render::response(done)
    }

    fn render_rejected(done: &Done<'_, Self>) -> Value {
        render::rejected(done)
    }

    fn render_event(event: &Event, context: &EventContext<'_, Self>) -> Value {
        render::event(event, context)
    }

    fn render_row(entity: &[u8], suffix: &[u8], row: &[u8]) -> Value {
        render::row(entity, suffix, row)
    }

    fn check_row(tally: &mut Tally, entity: &[u8], suffix: &[u8], row: &[u8], violations: &mut Violations) {
        check::row(tally, entity, suffix, row, violations);
    }

    fn check_end(tally: &Tally, violations: &mut Violations) {
        check::end(tally, violations);
    }
}
