//! One Raft group: it orders the entries of a partition over its voters and hands them on once they are committed.
//!
//! A leader's proposals and the requests of peers go in. Committed entries ([`CommittedValue`]) come out, in order,
//! to the partition's [`Applier`], and so does the leadership ([`Leadership`]). Only this folder knows openraft; none
//! of its types is public here. It does not know what an entry means, how rows are written, or how bytes travel to a
//! peer ([`Peers`]).
//!
//! ```text
//! propose ─▶ group ─▶ openraft ─▶ storage ─▶ log/        (append; durable before it counts)
//!                        │  └────▶ network ─▶ Peers      (replicate)
//!                        └───────▶ state ──▶ Applier     (CommittedValue<LogEntry>, in log order, each once)
//! ```

mod admission;
mod applier;
mod error;
mod group;
mod leadership;
mod membership;
mod model;
mod network;
mod state;
mod storage;
#[cfg(test)]
mod tests;

pub use applier::{Applier, CommittedValue, Snapshot};
pub use error::{ApplierError, ConsensusError, MembershipError, NotTaken, PeerError, StopReason};
pub use group::{Group, GroupMetrics, GroupOptions, Proposal, check_state_within_log};
pub use leadership::Leadership;
pub use network::{AppendReply, NoPeers, PeerReply, PeerRequest, Peers, SnapshotReply};
