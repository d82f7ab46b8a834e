//! A node of Statehouse: a host for deterministic WebAssembly state machines over a replicated, replayable log.
//!
//! Modules are declared in reading order: the path of a request from the socket to the disk. See `ARCHITECTURE.md`.
//! What does not need a server is in crates of its own, which see nothing of the node: what replicas and auditors
//! compute (the kernel), the formats of files (the journal), what runs modules (the engine), what a cluster records
//! about itself, what people and programs read, and the auditor. The code here names them as its own. The command line
//! is a crate above, of which the node knows nothing.
#![deny(unsafe_op_in_unsafe_fn)]

pub(crate) use statehouse_audit::audit;
pub(crate) use statehouse_engine::{guest, registry};
pub(crate) use statehouse_journal::{data_folder, disk, durable, key, log, planted, regular, segments};
pub(crate) use statehouse_kernel::{ids, machine, saga};
pub(crate) use statehouse_system::{features, records};
pub(crate) use statehouse_text::{json, rfc3339};

pub mod limits;
pub mod config;
pub mod clock;
pub mod api;
pub mod router;
pub mod partition;
pub mod sequencer;
pub mod peer;
pub mod consensus;
pub mod store;
pub mod snapshot;
pub mod archive;
pub mod views;
pub mod feed;
pub mod system;
pub mod webhooks;
pub mod rehearsal;
