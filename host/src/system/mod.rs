//! The node itself: its data folder, the machine `system`, and the machines that `system` knows.
//!
//! In: a data folder and the machines to create. Out: a router that serves them. Partition 0 of `system` holds machines,
//! slot tables, modules and activations, with native logic over the same log. It knows nothing of HTTP.

pub mod cluster;
pub mod error;
pub mod folder;
pub mod logic;
pub mod node;

pub use cluster::{Cluster, ClusterError, ClusterView};
pub use error::NodeError;
pub use folder::{DataFolder, Identity};
pub use node::{MachineSpec, ModuleSource, Node, NodeOptions, PeerOptions, PeerTlsFiles};
