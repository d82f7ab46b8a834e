//! Guests: WebAssembly modules, validated, compiled and called. In: the blocks of `statehouse-abi`. Out: the blocks
//! with which a module answered, or a [`GuestFault`].
//!
//! ```text
//! wasm ─► validate ─► describe and compile in a child, or take from the artefact cache ─► Module
//! Module::execute ─► fresh instance ─► sh1_alloc ─► input written in place ─► sh1_execute ─► output copied out
//! ```
//!
//! [`SecondModule`] does the same in another engine, so that the two can be compared. No other folder names wasmtime
//! and wasmi. It knows nothing of commands, rows or the journal, and does not look for the culprit of a batch: the
//! sequencer does.

mod error;
mod problem;
mod allowance;
mod structure;
mod validate;
mod artefact;
mod compile;
mod patience;
mod engine;
mod call;
mod cbor;
mod describe;
mod module;
mod second;
mod compat;

pub use allowance::Allowance;
pub use artefact::CacheOptions;
pub use compat::{Incompatibility, check_successor};
pub use compile::{Bounds, StopSignal, compile_by, compile_module};
pub use engine::{Engine, EngineOptions, ExaminedModule, MeteredCompilation};
pub use error::{CompileLimit, GuestError, GuestFault};
pub use module::{Module, Pace};
pub use problem::{ProblemKind, WasmProblem};
pub use second::SecondModule;
pub use structure::{Structure, StructurePart};
pub use validate::{WasmFacts, validate};

#[cfg(test)]
mod tests;
