//! How much a module may cost before it runs, by who answers for it.
//!
//! In: whose module it is. Out: limits of memory and time. It knows nothing of how they are kept.

use std::time::Duration;

use crate::limits;

/// Whose module it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// Bytes that somebody has brought and nobody has recorded.
    Foreign,
    /// What the operator has configured or `system` has recorded: it was within the limits once, and a busy or slow machine must not
    /// make it unusable.
    Recorded,
}

impl Allowance {
    /// How many times a limit it has.
    pub(super) fn factor(self) -> u64 {
        match self {
            Self::Foreign => 1,
            Self::Recorded => limits::RECORDED_MODULE_FACTOR,
        }
    }

    pub(super) fn memory(self) -> u64 {
        limits::COMPILE_MEMORY_BYTES_MAX * self.factor()
    }

    pub(super) fn cpu(self) -> Duration {
        limits::COMPILE_CPU_MAX * self.factor() as u32
    }

    pub(super) fn wall(self) -> Duration {
        limits::COMPILE_WALL_MAX * self.factor() as u32
    }

    /// How often a limit may be met before that is the answer: what is recorded was within it once.
    pub(super) fn tries(self) -> u32 {
        match self {
            Self::Foreign => 1,
            Self::Recorded => limits::RECORDED_MODULE_TRIES,
        }
    }
}
