//! How a view is, for people and for `/metrics`: which build serves, how far it is, and what keeps it.
//!
//! In: a view and the partitions it follows. Out: numbers and words. It decides nothing.

use crate::ids::{JournalIndex, Micros, ModuleId, PartitionId, Position};

/// By how much a view is behind what this node has applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Entries of all partitions.
    pub entries: u64,
    /// Time of the journal between the last entry that was followed and the newest, where there is one to follow; the largest of all
    /// partitions.
    pub micros: i64,
}

#[derive(Clone, Debug)]
pub struct ViewStatus {
    pub name: String,
    /// What is asked now; nothing before it was built for the first time.
    pub serving: Option<BuildStatus>,
    /// What is made beside it.
    pub building: Option<BuildStatus>,
    /// What keeps it as a whole.
    pub problem: Option<String>,
}

#[derive(Clone, Debug)]
pub struct BuildStatus {
    pub module: ModuleId,
    pub version: String,
    pub number: u64,
    pub lag: Lag,
    pub partitions: Vec<Followed>,
    /// On this node's disk.
    pub bytes: u64,
    pub problem: Option<String>,
    /// Whether it goes on by itself.
    pub is_stopped: bool,
}

/// How far a partition is followed.
#[derive(Clone, Debug)]
pub struct Followed {
    pub partition: PartitionId,
    pub position: Position,
    pub time: Micros,
    /// Of the partition on this node; nothing while it is not open.
    pub newest: Option<JournalIndex>,
}
