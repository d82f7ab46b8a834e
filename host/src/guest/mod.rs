//! Guests: WebAssembly modules, validated, compiled and called. In go the blocks of `statehouse-abi`, out come the
//! blocks a module answered with, or a [`GuestFault`].
//!
//! ```text
//! wasm ─► validate ─► compile, or take from the artefact cache ─► describe ─► Module
//! Module::execute ─► fresh instance ─► sh1_alloc ─► input written in place ─► sh1_execute ─► output copied out
//! ```
//!
//! [`SecondModule`] does the same in another engine, so that the two can be compared. The only folder that names wasmtime
//! and wasmi. It knows nothing of commands, rows or the journal, and isolates nobody: the sequencer finds the culprit of a
//! batch.

mod error;
mod problem;
mod validate;
mod artefact;
mod engine;
mod call;
mod describe;
mod module;
mod second;
mod compat;

pub use compat::{Incompatibility, check_successor};
pub use engine::{Engine, EngineOptions, Metered};
pub use error::{GuestError, GuestFault, up_to_fault};
pub use module::{Module, Pace};
pub use problem::{Problem, ProblemKind};
pub use second::SecondModule;
pub use validate::{Validated, validate};

#[cfg(test)]
mod tests;
