//! Statehouse: a host for deterministic WebAssembly state machines over a replicated, replayable log.
//!
//! Modules are declared in reading order: the path of a request from the socket to the disk. See `ARCHITECTURE.md`.
//! What replicas and auditors compute is in a crate of its own, the kernel; the formats of files in another, the
//! journal; and what runs modules in a third, the engine. None of them sees anything of the host.
#![deny(unsafe_op_in_unsafe_fn)]

pub use statehouse_engine::guest;
pub use statehouse_journal::{disk, durable, log, planted, regular, segments};
pub use statehouse_kernel::{ids, machine, saga};

pub mod limits;
pub mod features;
pub mod config;
pub mod clock;
pub mod key;
pub mod printable;
pub mod rfc3339;
pub mod json;
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
pub mod registry;
pub mod views;
pub mod feed;
pub mod audit;
pub mod system;
pub mod webhooks;
pub mod rehearsal;
