//! The node itself: its data folder, the cluster it belongs to, and the machines that the cluster has.
//!
//! ```text
//! node ─▶ cluster_founding (who am I?) ─▶ machines (opens what is named) ◀─ directory ◀─ the machine `system`
//!                               ▲
//!                               ├─ service: answers the peers
//!                               ├─ reconciliation: members, leaders
//!                               ├─ clocks, health: may this node lead?
//!                               └─ retention: how much log stays; archiving: what goes to the archive
//! ```
//! In: a data folder, the machines to create, a way to reach the other nodes. Out: a router that serves the machines.
//! Partition 0 of `system` holds nodes, machines, modules and activations; its native logic (`records/`, in a crate of
//! its own) runs over the same log.
//! This folder knows nothing of HTTP.

pub mod cluster;
mod cluster_error;
pub mod error;
pub mod folder;
pub mod privacy;
pub mod node;
mod peer_network;
mod renewal;
pub mod record;
mod single_node;
mod reached_level;
mod machine_spec;
mod losses;
mod published;
mod context;
mod replica_states;
mod opening;
mod cluster_founding;
mod directory;
mod directory_now;
mod directory_requests;
mod directory_owner;
mod machines;
mod modules;
mod level;
pub mod viewing;
pub mod webhooks;
mod secrets;
pub mod lifecycle;
pub mod refused_modules;
mod staging;
mod prepare;
mod trial;
mod log_damage;
mod repair;
mod snapshot_pull;
mod replica_rebuild;
mod tasks;
mod reopening;
mod install;
mod retention;
mod scrub;
mod segment_repair;
mod archiving;
mod snapshot_retention;
mod snapshot_fetch;
mod journal_fetch;
mod in_transit;
mod peer_permissions;
mod removal;
mod running;
mod pulse;
mod log_witnesses;
mod messages;
mod service;
mod submit;
mod reconciliation;
mod leadership_handover;
mod signer;
mod drain;
mod failed_activations;
pub mod shadow;
mod snapshots;
pub mod restore;
mod clocks;
mod clock_anchor;
mod clock_round;
mod timekeeping;
mod divergence;
mod health;
#[cfg(test)]
mod tests;

pub use crate::records::{clock_row, key_row, logic, loss_row, module_row, refused_row, view_row, webhook_row};
pub use archiving::ArchiveOptions;
pub use cluster::{Cluster, ClusterView};
pub use cluster_error::ClusterError;
pub use error::NodeError;
pub use folder::{DataFolder, Identity};
pub use losses::Word;
pub use machine_spec::{MachineSpec, ModuleSource};
pub use node::{Node, NodeOptions};
pub use peer_network::{PeerOptions, PeerWay};
pub use published::ShadowWanted;
pub use renewal::{CertificateRenewal, PeerTlsFiles};
pub use shadow::ShadowPages;
pub use submit::Wanting;
