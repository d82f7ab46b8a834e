//! A partition on this node: one Raft group, one journal, one state, one executor thread.
//!
//! In: submissions, reads. Out: replies. `driver.rs` gives the executor one input after the other and carries out what
//! each step says is to be done. `run.rs` is the only caller of the stages admit, execute, propose, apply and answer,
//! so their order can be read in one place. This folder does not know HTTP, nor which other partitions there are.

pub mod error;
pub mod open;
mod derived;
mod lost;
mod release;
mod canonical;
mod restore;
mod message;
mod requests;
mod participants;
mod driver;
mod actions;
mod hold;
mod run;
mod now;
mod journal_state;
mod saga_table;
mod waiters;
mod base;
mod leader;
mod timers;
mod admit;
mod claims;
mod apply;
mod known_ids;
mod answered;
pub mod coordinate;
mod order;
mod overdue_commands;
mod propose;
mod activate;
mod migrate;
mod apply_activation;
mod panics;
mod status;
mod times;
mod timeline;
mod expired;
mod carried_times;
mod in_transit;
pub mod journal_lookup;
mod places;
mod recorded;
pub mod tail;
mod handle;
mod linearizable;
mod closing;
mod scrub;
#[cfg(test)]
mod tests;

pub use answered::Answered;
pub use canonical::HeadProof;
pub use closing::Remains;
pub use coordinate::end_of;
pub use error::{HaltReason, Held, PartitionError, SnapshotMakingError};
pub use handle::{Partition, ReadPoint};
pub use in_transit::moment_before;
pub use lost::{Loss, Remembered, Witness};
pub use open::PartitionOptions;
pub use participants::Participants;
pub use release::Needed;
pub use requests::NotOrdered;
pub use restore::Leading;
pub use scrub::Checkable;
pub use status::{PartitionStatus, Progress, RunState};
