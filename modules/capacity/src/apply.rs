//! Events onto rows. Nothing is decided here: the event says how each type stands afterwards.
//!
//! It does not know which command an event came from.

use statehouse_guest::Tx;

use crate::event::{Event, Taken};
use crate::op::Line;
use crate::order::{Order, OrderId, OrderStatus, order_key};
use crate::pool::{Level, POOL, Pool, PoolStatus};

pub fn apply(event: &Event, tx: &mut Tx<'_>) {
    match event {
        Event::Created { levels } => {
            tx.write(POOL, &Pool { status: PoolStatus::Open, version: 1, levels: levels.clone() });
        }
        Event::Changed { levels } => change(tx, |pool| {
            for Level { capacity_type, capacity, .. } in levels {
                pool.level_mut(capacity_type).capacity = *capacity;
            }
        }),
        Event::Closed => change(tx, |pool| pool.status = PoolStatus::Closed),
        Event::OrderPlaced { order, lines } => {
            set_ordered(tx, lines);
            add(tx, *order, OrderStatus::Placed, lines);
        }
        Event::OrderReserved { order, lines } => {
            set_ordered(tx, lines);
            add(tx, *order, OrderStatus::Pending, lines);
        }
        Event::OrderConfirmed { order } => set_status(tx, *order, OrderStatus::Placed),
        Event::OrderCancelled { order, lines } => {
            set_ordered(tx, lines);
            set_status(tx, *order, OrderStatus::Cancelled);
        }
        Event::OrderReleased { order, lines } => {
            set_ordered(tx, lines);
            tx.delete(order_key(*order));
        }
    }
}

fn set_ordered(tx: &mut Tx<'_>, lines: &[Taken]) {
    change(tx, |pool| {
        for Taken { capacity_type, ordered, .. } in lines {
            pool.level_mut(capacity_type).ordered = *ordered;
        }
    });
}

fn change(tx: &mut Tx<'_>, change: impl FnOnce(&mut Pool)) {
    let mut pool: Pool = tx.read(POOL).expect("only a pool that exists has events other than Created");
    pool.version += 1;
    change(&mut pool);
    tx.write(POOL, &pool);
}

fn add(tx: &mut Tx<'_>, order: OrderId, status: OrderStatus, lines: &[Taken]) {
    let line = |taken: &Taken| Line { capacity_type: taken.capacity_type.clone(), quantity: taken.quantity };
    let row = Order { status, time: tx.time(), lines: lines.iter().map(line).collect() };
    tx.write(order_key(order), &row);
}

fn set_status(tx: &mut Tx<'_>, order: OrderId, status: OrderStatus) {
    let mut row: Order = tx.read(order_key(order)).expect("only an order that exists is confirmed or cancelled");
    row.status = status;
    tx.write(order_key(order), &row);
}
