//! The ops: one step of a command on one pool.
//!
//! | byte 0 | op | then |
//! |---|---|---|
//! | 0 | `Create` | count `u32`, then `Capacity` each, types strictly rising |
//! | 1 | `Change` | the same |
//! | 2 | `Close` | – |
//! | 3 | `Place` | order id, 16 B; count `u32`, then `Line` each, types strictly rising |
//! | 4 | `Cancel` | order id, 16 B |
//! | 5 | `Reserve` | as `Place` |
//! | 6, 7 | `Confirm`, `Release` | order id, 16 B |
//!
//! A type's name is `len u32` and its text; `Capacity` and `Line` are a name and a `u32`. An op says nothing of its pool:
//! that is the entity of the step.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::order::OrderId;

/// How much there shall be of a type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub struct Capacity {
    pub capacity_type: String,
    pub capacity: u32,
}

/// How much an order takes of a type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub struct Line {
    pub capacity_type: String,
    pub quantity: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Op {
    Create {
        capacities: Vec<Capacity>,
    },
    /// Sets the capacity of some types.
    Change {
        capacities: Vec<Capacity>,
    },
    Close,
    /// Takes from the capacity, all lines or none. Its undo is `Cancel`.
    Place {
        order: OrderId,
        lines: Vec<Line>,
    },
    /// Gives back what a placed order took.
    Cancel {
        order: OrderId,
    },
    /// Takes from the capacity for an order that is not certain yet: the Try of an order over several pools.
    Reserve {
        order: OrderId,
        lines: Vec<Line>,
    },
    /// Makes a reserved order a placed one. It cannot be refused.
    Confirm {
        order: OrderId,
    },
    /// Gives back what was reserved: the undo of `Reserve`. It cannot be refused.
    Release {
        order: OrderId,
    },
}
