//! One fault of a module: what, in which function, at which byte, and what its author can do about it.
//!
//! In: a kind of fault and its place. Out: a line for the author. It knows nothing of how faults are found.

use std::fmt;

use super::structure::StructurePart;
use crate::limits;

/// A fault with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WasmProblem {
    pub kind: ProblemKind,
    /// Byte in the file; 0 if it concerns the module as a whole.
    pub offset: usize,
    /// Demangled name of the function, or its number if the module has no names.
    pub function: Option<String>,
    pub(super) function_index: Option<u32>,
}

impl WasmProblem {
    pub(super) fn at(offset: usize, kind: ProblemKind) -> Self {
        Self { kind, offset, function: None, function_index: None }
    }
}

impl fmt::Display for WasmProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if let Some(function) = &self.function {
            write!(f, " in `{function}`")?;
        }
        if self.offset > 0 {
            write!(f, " at byte {:#x}", self.offset)?;
        }
        write!(f, "; {}", self.kind.advice())
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProblemKind {
    #[error("not WebAssembly: it does not start with \\0asm")]
    NotWasm,
    #[error("not a valid WebAssembly module: {detail}")]
    Malformed { detail: String },
    #[error("a component, not a core module")]
    Component,
    #[error("{size} bytes, over the limit of {}", limits::MODULE_BYTES_MAX)]
    ModuleTooLarge { size: usize },
    #[error("import `{module}.{name}`")]
    Import { module: String, name: String },
    #[error("start function")]
    Start,
    #[error("float instruction {what}")]
    Float { what: String },
    #[error("float type: {what}")]
    FloatType { what: String },
    #[error("SIMD: {what}")]
    Simd { what: String },
    #[error("threads: {what}")]
    Thread { what: String },
    #[error("references: {what}")]
    Reference { what: String },
    #[error("exceptions: {what}")]
    Exception { what: String },
    #[error("garbage collection: {what}")]
    Gc { what: String },
    #[error("tail call: {what}")]
    TailCall { what: String },
    #[error("proposal {proposal}: {what}")]
    Proposal { proposal: &'static str, what: String },
    #[error("more than one memory")]
    SeveralMemories,
    #[error("64-bit memory or table")]
    Memory64,
    #[error("memory starts with {bytes} bytes, over the limit of {}", limits::GUEST_MEMORY_BYTES_MAX)]
    MemoryTooLarge { bytes: u64 },
    #[error("more than one table")]
    SeveralTables,
    #[error("table starts with {elements} elements, over the limit of {}", limits::GUEST_TABLE_ELEMENTS_MAX)]
    TableTooLarge { elements: u64 },
    #[error("{count} {}, over the limit of {limit}", part.name())]
    Excess { part: StructurePart, count: u64, limit: u64 },
    #[error("no export `{name}`")]
    MissingExport { name: &'static str },
    #[error("export `{name}` has type {found}, not {expected}")]
    ExportType { name: &'static str, expected: String, found: String },
}

impl ProblemKind {
    /// What the module's author can do.
    fn advice(&self) -> &'static str {
        match self {
            Self::NotWasm => "name a .wasm file, as `statehouse module build` writes it",
            Self::Malformed { .. } => "rebuild it with `statehouse module build`",
            Self::Component => "build for wasm32-unknown-unknown, as `statehouse module build` does",
            Self::ModuleTooLarge { .. } => "drop dependencies or large constants, and build with --release",
            Self::Import { .. } => {
                "a module is a pure function: remove the dependency that asks its environment for time, chance, files \
                 or a JavaScript host"
            }
            Self::Start => "do at first use what it does at start",
            Self::Float { .. } | Self::FloatType { .. } => "use integers, or rust_decimal without its float features",
            Self::Simd { .. } => "build without -C target-feature=+simd128 and without SIMD intrinsics",
            Self::Thread { .. } => "build without -C target-feature=+atomics",
            Self::Reference { .. } => "references to functions and host objects have no place in a module",
            Self::Exception { .. } => "build with panic = \"abort\"",
            Self::Gc { .. } => "write the module in a language that brings its own memory management, like Rust",
            Self::TailCall { .. } => "build without -C target-feature=+tail-call",
            Self::Proposal { .. } => "build for the plain target wasm32-unknown-unknown",
            Self::SeveralMemories => "use one memory",
            Self::Memory64 => "build for wasm32, not wasm64",
            Self::MemoryTooLarge { .. } => "move large statics into rows, or compute them when needed",
            Self::SeveralTables => "use one table",
            Self::TableTooLarge { .. } => "use fewer function pointers",
            Self::Excess { .. } => "split it up, or generate less code: no compiler of modules makes so much",
            Self::MissingExport { .. } | Self::ExportType { .. } => {
                "let the SDK's attribute `#[module]` generate the exports"
            }
        }
    }
}
