//! The rows of a pool's orders: what each takes from the pool, and whether it is certain.
//!
//! | suffix of the pool | row |
//! |---|---|
//! | `order/` and the order's id, 16 B | status 1 (0 pending, 1 placed, 2 cancelled), time 8 (`i64`, microseconds since 1970 UTC), count 4, then lines, types strictly rising: the type's name (`len u32` and text), quantity `u32` |
//!
//! Little-endian. An order over several pools has a row in each. A cancelled one stays, so that whoever asks is told; one that
//! was only reserved goes. It knows nothing of how much is left.

use borsh::{BorshDeserialize, BorshSerialize};
use statehouse_guest::{Uuid, View};

use crate::op::Line;

/// What the suffixes of orders start with.
pub const ORDERS: &[u8] = b"order/";

/// The id of the command that placed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct OrderId(pub [u8; 16]);

impl OrderId {
    pub fn to_uuid(self) -> Uuid {
        Uuid(self.0)
    }
}

impl From<Uuid> for OrderId {
    fn from(id: Uuid) -> Self {
        Self(id.0)
    }
}

/// Suffix of an order's row.
pub fn order_key(order: OrderId) -> [u8; 22] {
    let mut key = *b"order/????????????????";
    key[ORDERS.len()..].copy_from_slice(&order.0);
    key
}

/// `None` when the suffix is no order's.
pub fn parse_order_key(suffix: &[u8]) -> Option<OrderId> {
    Some(OrderId(suffix.strip_prefix(ORDERS)?.try_into().ok()?))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum OrderStatus {
    /// Taken from the capacity, while the other pools of the order have not answered.
    Pending,
    Placed,
    Cancelled,
}

impl OrderStatus {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Placed => "placed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether its lines count as ordered.
    pub fn takes_capacity(self) -> bool {
        self != Self::Cancelled
    }
}

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Order {
    pub status: OrderStatus,
    pub time: i64,
    pub lines: Vec<Line>,
}

impl Order {
    /// The order with this id in the op's pool.
    pub fn find(order: OrderId, view: &View<'_>) -> Option<Self> {
        view.read(order_key(order))
    }
}
