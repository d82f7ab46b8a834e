//! Audit: recomputes everything from the journal, and says whether it is as it was recorded.
//!
//! In: the data folder of a running or stopped node, a copy of one, or a folder of journal segments, which `export`
//! writes. Out: reports. It reads logs and modules, and never a node's state; only the names and ends of state files
//! count, as evidence that there was more. It runs the same `machine/` code that replicas run. It trusts nobody, and
//! changes nothing. What a node does itself to try a candidate is in `rehearsal/`.

pub mod error;
pub mod source;
pub mod heads;
pub mod ids;
pub mod export;
pub mod snapshots;
pub mod transit;
mod evidence;
pub mod verify;
pub mod balance;
pub mod list;
pub mod replay;
pub mod certificate;
pub mod signers;

pub use error::AuditError;
pub use source::{PartitionSource, Source};
