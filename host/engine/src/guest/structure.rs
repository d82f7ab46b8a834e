//! How much of everything a module may consist of. The limits cover what compilers need more than linear time or memory
//! for.
//!
//! In: what the validator counts on its way through the bytes. Out: what is over a limit. All limits are far above what
//! rustc emits, and for a recorded module they are ten times as high. It does not know whether what it counts is valid.

use crate::limits::structure as limit;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StructurePart {
    Types,
    Functions,
    Globals,
    Exports,
    /// Data and element segments together.
    Segments,
    /// Locals of all functions together.
    Locals,
    /// Locals of one function, with its parameters.
    FunctionLocals,
    /// Parameters and results of one type together.
    Values,
    /// Bytes of one function.
    Body,
    /// Targets of one `br_table`.
    Targets,
    /// Blocks within blocks in one function.
    Nesting,
    /// The locals of one function times its blocks: a compiler may have to find each local in each block.
    BlockLocals,
}

impl StructurePart {
    const ALL: [Self; 12] = [
        Self::Types,
        Self::Functions,
        Self::Globals,
        Self::Exports,
        Self::Segments,
        Self::Locals,
        Self::FunctionLocals,
        Self::Values,
        Self::Body,
        Self::Targets,
        Self::Nesting,
        Self::BlockLocals,
    ];

    pub fn limit(self) -> u64 {
        match self {
            Self::Types => limit::TYPES_MAX,
            Self::Functions => limit::FUNCTIONS_MAX,
            Self::Globals => limit::GLOBALS_MAX,
            Self::Exports => limit::EXPORTS_MAX,
            Self::Segments => limit::SEGMENTS_MAX,
            Self::Locals => limit::LOCALS_MAX,
            Self::FunctionLocals => limit::FUNCTION_LOCALS_MAX,
            Self::Values => limit::TYPE_VALUES_MAX,
            Self::Body => limit::BODY_BYTES_MAX,
            Self::Targets => limit::BR_TABLE_TARGETS_MAX,
            Self::Nesting => limit::NESTING_MAX,
            Self::BlockLocals => limit::BLOCK_LOCALS_MAX,
        }
    }

    /// The name, as it is written after a number.
    pub fn name(self) -> &'static str {
        match self {
            Self::Types => "types",
            Self::Functions => "functions",
            Self::Globals => "globals",
            Self::Exports => "exports",
            Self::Segments => "data and element segments",
            Self::Locals => "locals in all functions together",
            Self::FunctionLocals => "locals and parameters of one function",
            Self::Values => "parameters and results of one type",
            Self::Body => "bytes of one function",
            Self::Targets => "targets of one `br_table`",
            Self::Nesting => "blocks within each other",
            Self::BlockLocals => "locals times blocks of one function",
        }
    }
}

/// How much there is of each part. For parts of one function or type, the most that one of them has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Structure([u64; StructurePart::ALL.len()]);

impl Structure {
    pub fn of(&self, part: StructurePart) -> u64 {
        self.0[part as usize]
    }

    pub fn parts(&self) -> impl Iterator<Item = (StructurePart, u64)> {
        StructurePart::ALL.into_iter().zip(self.0)
    }

    /// Counts some more; returns the number when it first exceeds the limit.
    pub(super) fn add(&mut self, part: StructurePart, count: u64, factor: u64) -> Option<u64> {
        let before = self.0[part as usize];
        let now = before.saturating_add(count);
        self.0[part as usize] = now;
        let limit = part.limit().saturating_mul(factor);
        (before <= limit && limit < now).then_some(now)
    }

    /// Notes the number that one function or type has; returns it if it is too large.
    pub(super) fn most(&mut self, part: StructurePart, count: u64, factor: u64) -> Option<u64> {
        self.0[part as usize] = self.0[part as usize].max(count);
        (part.limit().saturating_mul(factor) < count).then_some(count)
    }
}
