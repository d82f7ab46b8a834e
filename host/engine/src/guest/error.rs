//! Why a module cannot be loaded: [`GuestError`].
//!
//! It stops the caller that needed the module; it never becomes the outcome of a command. How a call of a loaded module
//! can fail is a [`GuestFault`], which is the kernel's: the kernel decides which faults are recorded as rejections.

use std::path::PathBuf;

use super::problem::WasmProblem;
pub use crate::machine::logic::{Fault as GuestFault, up_to_fault};

/// Why a module was not loaded, or the engine not started.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The module breaks the contract; every problem says where, and what to do.
    #[error("module is refused: {}", list(problems))]
    Refused { problems: Vec<WasmProblem> },
    #[error("wasmtime cannot be configured: {detail}")]
    Configuration { detail: String },
    #[error("thread `{name}` cannot be started")]
    Thread { name: &'static str, source: std::io::Error },
    #[error("module passes the validator, but does not compile: {detail}")]
    Compile { detail: String },
    /// The checksum of the artefact is right, but wasmtime refuses it: the host itself is broken.
    #[error("compiled module {} cannot be loaded: {detail}; delete it and start again", path.display())]
    Artefact { path: PathBuf, detail: String },
    #[error("artefact cache {} cannot be used", path.display())]
    Cache { path: PathBuf, source: std::io::Error },
    #[error("module has no usable description: sh1_describe failed: {0}")]
    Describe(#[source] GuestFault),
    /// The module costs more than it may before it runs. That says nothing about what it computes: it is never an
    /// outcome.
    #[error("compiling the module {0}")]
    Limit(CompileLimit),
    #[error("compiling the module was given up: {why}")]
    GivenUp { why: &'static str },
    /// The host's fault.
    #[error("the process that compiles modules does not work: {detail}")]
    Compiler { detail: String },
}

/// The limit that compiling a module has exceeded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileLimit {
    #[error(
        "takes more than {mib} MiB of memory (limit `compile_memory`): make its functions smaller, or drop dependencies"
    )]
    Memory { mib: u64 },
    #[error(
        "takes more than {seconds} seconds of CPU time (limit `compile_cpu`): make its functions smaller, or drop \
         dependencies"
    )]
    Cpu { seconds: u64 },
    #[error(
        "is not done after {seconds} seconds (limit `compile_wall`): make the module smaller, or try again when this \
         machine has less to do"
    )]
    Wall { seconds: u64 },
    #[error(
        "makes more than {mib} MiB of machine code (limit `artefact`): make its functions smaller, or drop dependencies"
    )]
    Artefact { mib: u64 },
    /// The compiler itself could not handle the module.
    #[error("ends the compiler ({how}): change the module, and report this as a fault of the compiler")]
    Death { how: String },
}

impl GuestError {
    /// Whether the module is at fault, and not this machine or somebody who ended the compilation.
    pub fn is_of_module(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Compile { .. } | Self::Describe(_) | Self::Limit(_) => true,
            Self::Configuration { .. }
            | Self::Thread { .. }
            | Self::Artefact { .. }
            | Self::Cache { .. }
            | Self::GivenUp { .. }
            | Self::Compiler { .. } => false,
        }
    }
}

fn list(problems: &[WasmProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
