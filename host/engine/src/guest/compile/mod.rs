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
use std::sync::{Arc, OnceLock};
use std::time::Instant;

pub use worker::compile_module;

use super::allowance::Allowance;
use super::error::GuestError;
use super::module::Pace;

/// The program that compiles as a child.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Names the program whose `compile-module` compiles for this process: in a child process, one at a time, within limits
/// of memory and time, because the bytes may be foreign. The host names itself when it starts; a test that does what
/// the host does names the program with which it was built. A unit test has no such program: where none is named, it
/// compiles in its own process and without limits. Any other program cannot compile until it has named one.
pub fn compile_by(program: PathBuf) {
    // If two callers name one, both name the same.
    drop(PROGRAM.set(program));
}

/// Says whether compiling must end. It is asked every few milliseconds while a child compiles.
#[derive(Clone)]
pub struct StopSignal(Arc<dyn Fn() -> bool + Send + Sync>);

impl StopSignal {
    pub fn never() -> Self {
        Self::when(|| false)
    }

    /// Once `is_given` has returned true, it must always do so. It must be quick.
    pub fn when(is_given: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(is_given))
    }

    pub(super) fn is_given(&self) -> bool {
        (self.0)()
    }
}

impl std::fmt::Debug for StopSignal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StopSignal").finish_non_exhaustive()
    }
}

/// What a compilation may take, and who may end it.
#[derive(Clone, Debug)]
pub struct Bounds {
    pub allowance: Allowance,
    pub until: Option<Instant>,
    pub stop: StopSignal,
}

impl Bounds {
    /// Why nobody waits for it any more; `is_stopping` ends everything that an engine compiles.
    fn check(&self, is_stopping: &dyn Fn() -> bool) -> Result<(), GuestError> {
        if self.stop.is_given() || is_stopping() {
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
pub(super) struct Compilation {
    /// In the order in which they were asked for.
    pub(super) artefacts: Vec<(Pace, Vec<u8>)>,
    /// What `sh1_describe` returned on the second engine.
    pub(super) described: Vec<u8>,
}

/// Compiles for each of these engines. `fingerprint` proves that a child's engines are configured like these.
pub(super) fn compile(
    engines: &[(Pace, &wasmtime::Engine)],
    fingerprint: &blake3::Hash,
    wasm: &[u8],
    bounds: &Bounds,
    is_stopping: &dyn Fn() -> bool,
) -> Result<Compilation, GuestError> {
    bounds.check(is_stopping)?;
    let Some(program) = PROGRAM.get() else {
        if cfg!(any(test, feature = "testing")) {
            return worker::work(engines, wasm);
        }
        return Err(GuestError::Compiler { detail: "no program was named that compiles".to_owned() });
    };
    let paces: Vec<Pace> = engines.iter().map(|(pace, _)| *pace).collect();
    let is_wanted = || bounds.check(is_stopping);
    let job =
        child::CompileJob { paces: &paces, fingerprint, wasm, allowance: bounds.allowance, is_wanted: &is_wanted };
    child::run(program, &job)
}
