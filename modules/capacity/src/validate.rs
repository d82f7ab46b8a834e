//! Decides about one op on its pool's rows: whether there is enough left, and how the pool stands afterwards.
//!
//! `Confirm`, and the undos `Release` and `Cancel`, look neither at the pool's status nor at what is left: what was taken in Try
//! can always be kept, and always be given back.

use statehouse_guest::View;

use crate::event::{Event, Taken};
use crate::op::{Capacity, Line, Op};
use crate::order::{Order, OrderId, OrderStatus};
use crate::pool::{Level, POOL, Pool};
use crate::rejection::Rejection;

pub fn validate(op: &Op, view: &View<'_>) -> Result<Event, Rejection> {
    match op {
        Op::Create { capacities } => create(capacities, view),
        Op::Change { capacities } => change(capacities, view),
        Op::Close => Pool::find_open(view).map(|_| Event::Closed),
        Op::Place { order, lines } => Ok(Event::OrderPlaced { order: *order, lines: take(*order, lines, view)? }),
        Op::Cancel { order } => cancel(*order, view),
        Op::Reserve { order, lines } => Ok(Event::OrderReserved { order: *order, lines: take(*order, lines, view)? }),
        Op::Confirm { order } => {
            pending(*order, view);
            Ok(Event::OrderConfirmed { order: *order })
        }
        Op::Release { order } => {
            let lines = give_back(&pending(*order, view), &Pool::find(view)?);
            Ok(Event::OrderReleased { order: *order, lines })
        }
    }
}

fn create(capacities: &[Capacity], view: &View<'_>) -> Result<Event, Rejection> {
    if view.row(POOL).is_some() {
        return Err(Rejection::PoolExists { pool: name(view) });
    }
    let level = |Capacity { capacity_type, capacity }: &Capacity| Level {
        capacity_type: capacity_type.clone(),
        capacity: *capacity,
        ordered: 0,
    };
    Ok(Event::Created { levels: capacities.iter().map(level).collect() })
}

fn change(capacities: &[Capacity], view: &View<'_>) -> Result<Event, Rejection> {
    let pool = Pool::find_open(view)?;
    let mut levels = Vec::new();
    for Capacity { capacity_type, capacity } in capacities {
        let Level { ordered, .. } = *level(&pool, capacity_type, view)?;
        // INVARIANT: ordered <= capacity.
        if *capacity < ordered {
            let (pool, capacity_type, capacity) = (name(view), capacity_type.clone(), *capacity);
            return Err(Rejection::CapacityBelowOrders { pool, capacity_type, ordered, capacity });
        }
        levels.push(Level { capacity_type: capacity_type.clone(), capacity: *capacity, ordered });
    }
    Ok(Event::Changed { levels })
}

/// What the order takes, when there is enough of every line.
fn take(order: OrderId, lines: &[Line], view: &View<'_>) -> Result<Vec<Taken>, Rejection> {
    let pool = Pool::find_open(view)?;
    if Order::find(order, view).is_some() {
        return Err(Rejection::OrderExists { pool: name(view), order_id: order.to_uuid() });
    }
    lines.iter().map(|line| take_line(line, level(&pool, &line.capacity_type, view)?, view)).collect()
}

fn take_line(line: &Line, level: &Level, view: &View<'_>) -> Result<Taken, Rejection> {
    let Line { capacity_type, quantity } = line.clone();
    // INVARIANT: ordered <= capacity.
    match level.ordered.checked_add(quantity).filter(|ordered| *ordered <= level.capacity) {
        Some(ordered) => Ok(Taken { capacity_type, quantity, ordered, left: level.capacity - ordered }),
        None => Err(Rejection::SoldOut { pool: name(view), capacity_type, left: level.left(), quantity }),
    }
}

fn cancel(order: OrderId, view: &View<'_>) -> Result<Event, Rejection> {
    let pool = Pool::find(view)?;
    let order_id = order.to_uuid();
    let found = Order::find(order, view).ok_or_else(|| Rejection::OrderNotFound { pool: name(view), order_id })?;
    match found.status {
        OrderStatus::Placed => Ok(Event::OrderCancelled { order, lines: give_back(&found, &pool) }),
        OrderStatus::Pending => Err(Rejection::OrderPending { order_id }),
        OrderStatus::Cancelled => Err(Rejection::OrderCancelled { order_id }),
    }
}

fn give_back(order: &Order, pool: &Pool) -> Vec<Taken> {
    let line = |Line { capacity_type, quantity }: &Line| {
        let level = pool.find_level(capacity_type).expect("a pool keeps its types");
        let ordered = level.ordered.checked_sub(*quantity).expect("what an order takes is ordered");
        let left = level.capacity - ordered;
        Taken { capacity_type: capacity_type.clone(), quantity: *quantity, ordered, left }
    };
    order.lines.iter().map(line).collect()
}

/// The order of which the host says that it was reserved.
fn pending(order: OrderId, view: &View<'_>) -> Order {
    let found = Order::find(order, view).filter(|order| order.status == OrderStatus::Pending);
    found.expect("the host confirms or releases a reservation once, and only one that was made")
}

fn level<'p>(pool: &'p Pool, capacity_type: &str, view: &View<'_>) -> Result<&'p Level, Rejection> {
    pool.find_level(capacity_type).ok_or_else(|| {
        let types: Vec<&str> = pool.levels.iter().map(|level| level.capacity_type.as_str()).collect();
        Rejection::TypeNotFound { pool: name(view), capacity_type: capacity_type.into(), types: types.join(", ") }
    })
}

fn name(view: &View<'_>) -> String {
    view.entity_text().into()
}
