//! The events: what happened to one pool, kept for ever.
//!
//! | byte 0 | event | then |
//! |---|---|---|
//! | 0 | `Created` | count `u32`, then `Level` each: the type's name, capacity `u32`, ordered `u32` |
//! | 1 | `Changed` | the same, of the types that changed |
//! | 2 | `Closed` | – |
//! | 3 | `OrderPlaced` | order id, 16 B; count `u32`, then `Taken` each: the type's name, quantity `u32`, and of the type afterwards ordered `u32`, left `u32` |
//! | 4 | `OrderCancelled` | the same |
//! | 5 | `OrderReserved` | the same |
//! | 6 | `OrderConfirmed` | order id, 16 B |
//! | 7 | `OrderReleased` | as `OrderPlaced` |
//!
//! A name is `len u32` and its text. An event carries all that the answer and the history show, so neither needs a row.

use borsh::{BorshDeserialize, BorshSerialize};
use statehouse_guest::Named;

use crate::order::OrderId;
use crate::pool::Level;

/// What an order took of a type or gave back, and how the type stands afterwards.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Taken {
    pub capacity_type: String,
    pub quantity: u32,
    pub ordered: u32,
    pub left: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Event {
    Created { levels: Vec<Level> },
    Changed { levels: Vec<Level> },
    Closed,
    OrderPlaced { order: OrderId, lines: Vec<Taken> },
    OrderCancelled { order: OrderId, lines: Vec<Taken> },
    OrderReserved { order: OrderId, lines: Vec<Taken> },
    OrderConfirmed { order: OrderId },
    OrderReleased { order: OrderId, lines: Vec<Taken> },
}

pub(crate) const EVENTS: &[Named] = &[
    Named { name: "Created", summary: "A pool was made" },
    Named { name: "Changed", summary: "Capacities of a pool were changed" },
    Named { name: "Closed", summary: "Nothing more can be ordered from a pool" },
    Named { name: "OrderPlaced", summary: "An order took from a pool" },
    Named { name: "OrderCancelled", summary: "An order gave back what it had taken" },
    Named { name: "OrderReserved", summary: "An order over several pools took from this one, for now" },
    Named { name: "OrderConfirmed", summary: "What was reserved is ordered: all its pools had enough" },
    Named { name: "OrderReleased", summary: "What was reserved is free again: another pool had not enough" },
];
