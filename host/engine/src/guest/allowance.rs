//! How much a module may cost before it runs, by its origin.
//!
//! In: the origin of a module. Out: limits of memory and time. It does not know how the limits are enforced.

use std::time::Duration;

use crate::limits;

/// The origin of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// Bytes from anybody, which nobody has recorded.
    Foreign,
    /// Configured by the operator or recorded by `system`: it was once within the limits, and a busy or slow machine
    /// must not make it unusable.
    Recorded,
}

impl Allowance {
    /// The factor by which its limits are multiplied.
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

    /// How many attempts may exceed a limit before the module is refused: a recorded module was once within it.
    pub(super) fn tries(self) -> u32 {
        match self {
            Self::Foreign => 1,
            Self::Recorded => limits::RECORDED_MODULE_TRIES,
        }
    }
}
