//! Why a command was decided against: recorded, and stuck to the command's id.
//!
//! Codes are the variants in snake case and never change their meaning. Every detail says what to do.
//! It does not know how an answer looks.

use statehouse_guest::{Rejections, Uuid};

#[derive(Debug, Rejections)]
pub enum Rejection {
    /// There is no such pool
    #[rejection(status = 404, detail = "the pool {pool} does not exist: create it first, or name another one")]
    PoolNotFound { pool: String },
    /// There is such a pool already
    #[rejection(status = 409, detail = "the pool {pool} exists already: change its capacities, or choose another name")]
    PoolExists { pool: String },
    /// The pool is closed
    #[rejection(status = 409, detail = "the pool {pool} is closed for good: use another pool")]
    PoolClosed { pool: String },
    /// The pool has no capacity of that type
    #[rejection(status = 404, detail = "the pool {pool} has no type {capacity_type}: it has {types}")]
    TypeNotFound { pool: String, capacity_type: String, types: String },
    /// Less is left than is wanted
    #[rejection(
        status = 409,
        detail = "the pool {pool} has {left} of {capacity_type} left, {quantity} are wanted: order less, or from another pool, under a new id"
    )]
    SoldOut { pool: String, capacity_type: String, left: u32, quantity: u32 },
    /// More is ordered than the capacity would be
    #[rejection(
        status = 409,
        detail = "{ordered} of {capacity_type} are ordered in the pool {pool}, so it cannot have only {capacity}: ask for {ordered} or more, or cancel orders first"
    )]
    CapacityBelowOrders { pool: String, capacity_type: String, ordered: u32, capacity: u32 },
    /// There is no such order in the pool
    #[rejection(
        status = 404,
        detail = "the pool {pool} has no order {order_id}: name the pool and the id it was placed under"
    )]
    OrderNotFound { pool: String, order_id: Uuid },
    /// There is an order with that id in the pool
    #[rejection(status = 409, detail = "the pool {pool} has an order {order_id} already: choose a new id")]
    OrderExists { pool: String, order_id: Uuid },
    /// The order is not certain yet
    #[rejection(status = 409, detail = "the order {order_id} waits for its other pools: cancel it when it is placed")]
    OrderPending { order_id: Uuid },
    /// The order is cancelled already
    #[rejection(status = 409, detail = "the order {order_id} is cancelled already: there is nothing to do")]
    OrderCancelled { order_id: Uuid },
}
