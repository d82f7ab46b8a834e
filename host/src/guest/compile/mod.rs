//! Compiling: from validated wasm to machine code for each engine, and what the module says of itself.
//!
//! ```text
//! this process ─▶ child: a process of the same program, confined ─▶ worker: engines, and the second one for `sh1_describe`
//!              ◀─ artefacts and description, or why not ◀─ wire
//! ```
//! Compilers take more time and memory for some modules than their bytes suggest, and translate what a stranger wrote: so they do it where
//! neither can harm anybody. It loads no machine code and knows nothing of a cache.

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
    /// In a child process, one at a time, within limits of memory and time: wherever bytes may be somebody else's.
    Child,
    /// In this process and without limits: for unit tests, whose program is another one, and for what measures this process.
    Here,
}

impl Default for Compiling {
    /// Unit tests of this crate have no program that could be the child; nothing else compiles without one by default.
    fn default() -> Self {
        if cfg!(test) { Self::Here } else { Self::Child }
    }
}

/// The program that compiles as a child.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Names the program whose `compile-module` compiles for this process. The program itself does so when it starts; a test names the one that
/// it was built with.
pub fn compile_by(program: PathBuf) {
    // Of two that name one, both name the same.
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

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Compiled {
    /// In the order in which they were asked for.
    pub(super) artefacts: Vec<(Pace, Vec<u8>)>,
    /// What `sh1_describe` returned on the second engine.
    pub(super) described: Vec<u8>,
}

/// Compiles for each of these engines. Of a child's engines `fingerprint` says that they are configured as these are.
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
