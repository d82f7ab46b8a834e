//! Statehouse: a host for deterministic WebAssembly state machines over a replicated, replayable log.
//!
//! Modules are declared in reading order: the path of a request from the socket to the disk. See `ARCHITECTURE.md`.
//! What does not need a server is in crates of its own, which see nothing of the host: what replicas and auditors
//! compute (the kernel), the formats of files (the journal), what runs modules (the engine), what a cluster records
//! about itself, what people and programs read, and the auditor. They are named here as the host's own.
#![deny(unsafe_op_in_unsafe_fn)]

pub use statehouse_audit::audit;
pub use statehouse_engine::{guest, registry};
pub use statehouse_journal::{canonical, data_folder, disk, durable, key, log, planted, regular, segments};
pub use statehouse_kernel::{ids, machine, saga};
pub use statehouse_system::{features, records};
pub use statehouse_text::{json, printable, rfc3339};

pub mod limits;
pub mod config;
pub mod clock;
pub mod cli;
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
