//! Compiling: from validated wasm to machine code for each engine, and the module's description of itself.
//!
//! ```text
//! this process ─▶ child: a confined process of the same program ─▶ worker: engines, the second one for `sh1_describe`
//!              ◀─ artefacts and description, or why not ◀─ wire
//! ```
//! For some modules a compiler takes more time and memory than their bytes suggest, and it translates what a stranger
//! wrote. It therefore runs where neither can do harm. This folder loads no machine code and knows nothing of a cache.

mod child;
mod confine;
mod wire;
mod worker;

use std::path::PathBuf;
use std::sync::OnceLock;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use worker::compile_module;

use super::allowance::Allowance;
use super::error::GuestError;
use super::module::Pace;

/// Where modules are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compiling {
    /// In a child process, one at a time, within limits of memory and time: for bytes that may be foreign.
    Child,
    /// In this process and without limits: for unit tests, whose program is not the host's, and for measurements of
    /// this process.
    Here,
}

impl Default for Compiling {
    /// Unit tests of this crate have no program for the child; everything else compiles in a child by default.
    fn default() -> Self {
        if cfg!(test) { Self::Here } else { Self::Child }
    }
}

/// The program that compiles as a child.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Names the program whose `compile-module` compiles for this process. The host names itself when it starts; a test
/// names the program with which it was built.
pub fn compile_by(program: PathBuf) {
    // If two callers name one, both name the same.
    drop(PROGRAM.set(program));
}

/// What a compilation may take, and who may end it.
#[derive(Clone, Debug)]
pub struct Bounds {
    pub allowance: Allowance,
    pub until: Option<Instant>,
    pub stop: CancellationToken,
}

impl Bounds {
    /// Why nobody waits for it any more; `stop` ends everything that an engine compiles.
    fn check(&self, stop: &CancellationToken) -> Result<(), GuestError> {
        if self.stop.is_cancelled() || stop.is_cancelled() {
            return Err(GuestError::GivenUp { why: "the node is being stopped, or nobody waits for it any more" });
        }
        if self.until.is_some_and(|until| until <= Instant::now()) {
            return Err(GuestError::GivenUp { why: "the deadline has passed" });
        }
        Ok(())
    }
}

/// The result of a compilation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Compiled {
    /// In the order in which they were asked for.
    pub(super) artefacts: Vec<(Pace, Vec<u8>)>,
    /// What `sh1_describe` returned on the second engine.
    pub(super) described: Vec<u8>,
}

/// Compiles for each of these engines. `fingerprint` proves that a child's engines are configured like these.
pub(super) fn compile(
    compiling: Compiling,
    engines: &[(Pace, &wasmtime::Engine)],
    fingerprint: &blake3::Hash,
    wasm: &[u8],
    bounds: &Bounds,
    stop: &CancellationToken,
) -> Result<Compiled, GuestError> {
    bounds.check(stop)?;
    match compiling {
        Compiling::Here => worker::work(engines, wasm),
        Compiling::Child => {
            let paces: Vec<Pace> = engines.iter().map(|(pace, _)| *pace).collect();
            let unknown = || GuestError::Compiler { detail: "no program was named that compiles".to_owned() };
            let is_wanted = || bounds.check(stop);
            let job =
                child::Job { paces: &paces, fingerprint, wasm, allowance: bounds.allowance, is_wanted: &is_wanted };
            child::run(PROGRAM.get().ok_or_else(unknown)?, &job)
        }
    }
}
