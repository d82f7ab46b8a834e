//! The row of a pool: status, version, and per type how much there is and how much of it is ordered.
//!
//! | size | field |
//! |---|---|
//! | 1 | status: 0 open, 1 closed |
//! | 8 | version, `u64`: how many events have changed this row |
//! | 4 | count of types |
//! | 4 + n + 8 each | levels, types strictly rising: the type's name (`len u32` and text), capacity `u32`, ordered `u32` |
//!
//! Little-endian; the suffix is empty, so the row comes before those of the pool's orders. What is pending counts as ordered.

use borsh::{BorshDeserialize, BorshSerialize};
use statehouse_guest::View;

use crate::rejection::Rejection;

/// Suffix of the pool's row.
pub const POOL: &[u8] = b"";

#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum PoolStatus {
    Open,
    /// Nothing more can be ordered; what is ordered stays, and can be cancelled.
    Closed,
}

impl PoolStatus {
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

/// How one type of a pool stands.
// INVARIANT: ordered <= capacity.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Level {
    pub capacity_type: String,
    pub capacity: u32,
    pub ordered: u32,
}

impl Level {
    pub fn left(&self) -> u32 {
        self.capacity.saturating_sub(self.ordered)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Pool {
    pub status: PoolStatus,
    pub version: u64,
    pub levels: Vec<Level>,
}

impl Pool {
    /// The pool of the op.
    ///
    /// # Errors
    /// There is none.
    pub fn find(view: &View<'_>) -> Result<Self, Rejection> {
        view.read(POOL).ok_or_else(|| Rejection::PoolNotFound { pool: view.entity_text().into() })
    }

    /// The same, while it can still be ordered from and be changed.
    ///
    /// # Errors
    /// There is none, or it is closed.
    pub fn find_open(view: &View<'_>) -> Result<Self, Rejection> {
        let pool = Self::find(view)?;
        match pool.status {
            PoolStatus::Open => Ok(pool),
            PoolStatus::Closed => Err(Rejection::PoolClosed { pool: view.entity_text().into() }),
        }
    }

    /// How a type stands; nothing when the pool does not have it.
    pub fn find_level(&self, capacity_type: &str) -> Option<&Level> {
        self.levels.iter().find(|level| level.capacity_type == capacity_type)
    }

    /// For changing a type that an event names.
    pub fn level_mut(&mut self, capacity_type: &str) -> &mut Level {
        let level = self.levels.iter_mut().find(|level| level.capacity_type == capacity_type);
        level.expect("an event names types that its pool has")
    }
}
