//! The bodies of commands and of their answers, and the set of commands.
//!
//! What a schema can say of a body is said here, `plan.rs` looks at the rest. It does not know what a command does.

use statehouse_guest::{Body, Commands, Uuid, Value};

#[derive(Body)]
pub struct CapacityBody {
    /// What there is a limited number of: `table`, `kitchen`, `seat`
    #[body(name, rename = "type", max_chars = 32)]
    pub capacity_type: String,
    /// How much of it can be ordered in all
    #[body(min = 0, max = 1_000_000_000)]
    pub capacity: u32,
}

#[derive(Body)]
pub struct CreatePool {
    /// 1 to 64 of letters, digits, `.`, `_`, `:` and `-`
    #[body(name, max_chars = 64)]
    pub pool: String,
    /// 1 to 16 types
    #[body(max_items = 16)]
    pub capacities: Vec<CapacityBody>,
}

#[derive(Body)]
pub struct ChangeCapacity {
    #[body(name, max_chars = 64)]
    pub pool: String,
    /// 1 to 16 types that the pool has; others stay as they are
    #[body(max_items = 16)]
    pub capacities: Vec<CapacityBody>,
}

#[derive(Body)]
pub struct PlaceOrder {
    #[body(name, max_chars = 64)]
    pub pool: String,
    /// Chosen by the client; the same id is never ordered twice
    pub order_id: Uuid,
    /// One of the pool's types
    #[body(name, rename = "type", max_chars = 32)]
    pub capacity_type: String,
    #[body(min = 1, max = 1_000_000)]
    pub quantity: u32,
}

#[derive(Clone, Body)]
pub struct PoolLineBody {
    #[body(name, max_chars = 64)]
    pub pool: String,
    /// One of the pool's types
    #[body(name, rename = "type", max_chars = 32)]
    pub capacity_type: String,
    #[body(min = 1, max = 1_000_000)]
    pub quantity: u32,
}

#[derive(Body)]
pub struct PlaceCombinedOrder {
    /// Chosen by the client; the same id is never ordered twice
    pub order_id: Uuid,
    /// 2 to 8 lines: all of them are ordered, or none
    #[body(max_items = 8)]
    pub lines: Vec<PoolLineBody>,
}

#[derive(Body)]
pub struct CancelOrder {
    #[body(name, max_chars = 64)]
    pub pool: String,
    /// The id it was placed under
    pub order_id: Uuid,
}

#[derive(Body)]
pub struct PoolName {
    #[body(name, max_chars = 64)]
    pub pool: String,
}

#[derive(Body)]
pub struct PoolAnswer {
    pub pool: String,
    /// `open` or `closed`
    pub status: String,
    /// Type, then `capacity`, `ordered` and `left`: of the types that the command named
    pub capacities: Option<Value>,
}

#[derive(Body)]
pub struct LineAnswer {
    pub pool: String,
    #[body(rename = "type")]
    pub capacity_type: String,
    pub quantity: u32,
    /// What can still be ordered of this type afterwards
    pub left: u32,
}

#[derive(Body)]
pub struct OrderAnswer {
    pub order_id: Uuid,
    /// `placed` or `cancelled`
    pub status: String,
    pub lines: Vec<LineAnswer>,
}

#[derive(Body)]
pub struct PoolState {
    pub pool: String,
    /// `open` or `closed`
    pub status: String,
    /// How many events have changed the pool
    pub version: u64,
    /// Type, then `capacity`, `ordered` and `left`
    pub capacities: Value,
}

#[derive(Body)]
pub struct LineBody {
    #[body(rename = "type")]
    pub capacity_type: String,
    pub quantity: u32,
}

#[derive(Body)]
pub struct OrderState {
    pub order_id: Uuid,
    pub pool: String,
    /// `pending`, `placed` or `cancelled`; pending while its other pools have not answered
    pub status: String,
    /// When it came, microseconds since 1970 UTC
    pub time: i64,
    /// What it takes from this pool
    pub lines: Vec<LineBody>,
}

#[derive(Body)]
pub struct OrdersPage {
    /// In order of id
    pub orders: Vec<OrderState>,
    /// The `after` of the next page; absent on the last one
    pub next: Option<Uuid>,
}

#[derive(Commands)]
pub enum Command {
    /// Makes a pool with a capacity of each of its types; needs the role `operator`
    #[command(path = "pools", success = 201, response = PoolAnswer)]
    CreatePool(CreatePool),
    /// Sets capacities, never below what is ordered; needs the role `operator`
    #[command(path = "pools/{pool}/capacities", response = PoolAnswer)]
    ChangeCapacity(ChangeCapacity),
    /// Lets nothing more be ordered from a pool, for good; needs the role `operator`
    #[command(path = "pools/{pool}/close", response = PoolAnswer)]
    ClosePool(PoolName),
    /// Orders from one pool
    #[command(path = "pools/{pool}/orders", id = "order_id", success = 201, response = OrderAnswer)]
    PlaceOrder(PlaceOrder),
    /// Orders from several pools: everything, or nothing
    #[command(path = "orders", id = "order_id", success = 201, response = OrderAnswer)]
    PlaceCombinedOrder(PlaceCombinedOrder),
    /// Gives back what an order took from a pool
    #[command(path = "pools/{pool}/orders/{order_id}/cancel", response = OrderAnswer)]
    CancelOrder(CancelOrder),
}
