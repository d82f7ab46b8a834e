//! What can be asked: a pool, an order and the orders of a pool from rows; history and outcomes, which the host answers by
//! rendering events.
//!
//! A page of orders is a range of rows behind the id that the page before ended with. It does not know the position it reads at.

use statehouse_guest::{Body, FieldValue, Queries, QueryStop, Reader, Uuid, Value};

use crate::commands::{LineBody, OrderState, OrdersPage, PoolName, PoolState};
use crate::op::Line;
use crate::order::{ORDERS, Order, OrderId, order_key, parse_order_key};
use crate::pool::{Level, POOL, Pool};

const ORDERS_DEFAULT: u32 = 50;

#[derive(Body)]
pub struct OrderName {
    #[body(name, max_chars = 64)]
    pub pool: String,
    /// The id it was placed under
    pub order_id: Uuid,
}

#[derive(Body)]
pub struct Page {
    #[body(name, max_chars = 64)]
    pub pool: String,
    /// Only orders with a greater id: the `next` of the page before
    pub after: Option<Uuid>,
    /// How many at most, 50 by default
    #[body(min = 1, max = 200)]
    pub limit: Option<u32>,
}

#[derive(Body)]
pub struct OrderIdParam {
    pub order_id: Uuid,
}

#[derive(Queries)]
pub enum Query {
    /// What a pool has, and what is left of it
    #[query(path = "pools/{pool}", entity = "pool", response = PoolState)]
    Pool(PoolName),
    /// What happened to a pool, newest first
    #[query(path = "pools/{pool}/history", entity = "pool", source = History)]
    History(PoolName),
    /// The orders of a pool, in order of id
    #[query(path = "pools/{pool}/orders", entity = "pool", response = OrdersPage)]
    Orders(Page),
    /// An order as one pool has it
    #[query(path = "pools/{pool}/orders/{order_id}", entity = "pool", response = OrderState)]
    Order(OrderName),
    /// The outcome of placing an order, over all its pools
    #[query(path = "orders/{order_id}", entity = "order_id", source = Command)]
    Outcome(OrderIdParam),
}

pub fn query(query: &Query, reader: &Reader<'_>) -> Result<Value, QueryStop> {
    match query {
        Query::Pool(PoolName { pool }) => Ok(pool_state(pool, &find_pool(pool, reader)?)),
        Query::Orders(page) => orders(page, reader),
        Query::Order(OrderName { pool, order_id }) => {
            let order = OrderId::from(*order_id);
            // Asked for together with the pool, so that both come in one round.
            reader.fetch(pool, order_key(order));
            find_pool(pool, reader)?;
            match reader.read(pool, order_key(order))? {
                Some(row) => Ok(order_state(pool, order, &row).to_value()),
                None => {
                    Err(QueryStop::not_found("order_not_found", format!("the pool {pool} has no order {order_id}")))
                }
            }
        }
        Query::History(_) | Query::Outcome(_) => {
            Err(QueryStop::refused(400, "not_from_rows", "this is answered from the log, not from rows"))
        }
    }
}

fn find_pool(pool: &str, reader: &Reader<'_>) -> Result<Pool, QueryStop> {
    let found = reader.read(pool, POOL)?;
    found.ok_or_else(|| QueryStop::not_found("pool_not_found", format!("there is no pool {pool}")))
}

fn orders(page: &Page, reader: &Reader<'_>) -> Result<Value, QueryStop> {
    reader.fetch(&page.pool, POOL);
    let after = page.after.map(|after| order_key(after.into()));
    let after = after.as_ref().map(<[u8; 22]>::as_slice);
    let scan = reader.scan(&page.pool, ORDERS, after, page.limit.unwrap_or(ORDERS_DEFAULT))?;
    find_pool(&page.pool, reader)?;
    let orders: Vec<OrderState> = scan
        .rows()
        .map(|(suffix, row)| {
            let order = parse_order_key(suffix).expect("the range holds orders only");
            let row: Order = borsh::from_slice(row).expect("an order's row is one that apply wrote");
            order_state(&page.pool, order, &row)
        })
        .collect();
    let next = orders.last().filter(|_| scan.has_more()).map(|last| last.order_id);
    Ok(OrdersPage { orders, next }.to_value())
}

/// A pool as it is shown.
pub fn pool_state(name: &str, pool: &Pool) -> Value {
    PoolState {
        pool: name.into(),
        status: pool.status.name().into(),
        version: pool.version,
        capacities: capacities(&pool.levels),
    }
    .to_value()
}

/// Types, and how each stands.
pub fn capacities(levels: &[Level]) -> Value {
    Value::map(levels.iter().map(|level| {
        let members = [("capacity", level.capacity), ("ordered", level.ordered), ("left", level.left())];
        (level.capacity_type.as_str(), Value::map(members.map(|(name, count)| (name, count.to_value()))))
    }))
}

/// An order as it is shown.
pub fn order_state(pool: &str, order: OrderId, row: &Order) -> OrderState {
    let line = |Line { capacity_type, quantity }: &Line| LineBody {
        capacity_type: capacity_type.clone(),
        quantity: *quantity,
    };
    OrderState {
        order_id: order.to_uuid(),
        pool: pool.into(),
        status: row.status.name().into(),
        time: row.time,
        lines: row.lines.iter().map(line).collect(),
    }
}
