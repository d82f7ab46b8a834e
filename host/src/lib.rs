//! Statehouse: a host for deterministic WebAssembly state machines over a replicated, replayable log.
//!
//! Modules are declared in reading order: the path of a request from the socket to the disk. See `ARCHITECTURE.md`.
//! What replicas and auditors compute is in a crate of its own, the kernel; the formats of files in another, the
//! journal; what runs modules in a third, the engine; and what people and programs read in a fourth, text. None of them
//! sees anything of the host.
#![deny(unsafe_op_in_unsafe_fn)]

pub use statehouse_engine::{guest, registry};
pub use statehouse_journal::{canonical, data_folder, disk, durable, key, log, planted, regular, segments};
pub use statehouse_kernel::{ids, machine, saga};
pub use statehouse_text::{json, printable, rfc3339};

pub mod limits;
pub mod features;
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
pub mod audit;
pub mod system;
pub mod webhooks;
pub mod rehearsal;
