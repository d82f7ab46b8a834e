//! The bounds of the engine: what a module may cost before it runs, and while it is tried.
//!
//! In: nothing. Out: numbers, each with its reason. The bounds that decide history are the machine's
//! (`machine/limits.rs`), and can be named here as well. The host's `limits.rs` names all of these. It knows nothing of
//! what happens beyond a limit.

use std::time::Duration;

pub use statehouse_kernel::machine::limits::*;

/// The WebAssembly bytes of a module.
pub const MODULE_BYTES_MAX: usize = 4 << 20;
/// The description of a module: the longest of the released modules has 6 KiB.
pub const DESCRIBE_BYTES_MAX: usize = 256 << 10;
/// Items of each list in a description (commands, events, fields, enum values, …): they are compared with each other.
pub const DESCRIBE_ITEMS_MAX: usize = 1024;
/// The path of a route of a module: a client's request line has room for it.
pub const DESCRIBE_PATH_BYTES_MAX: usize = 512;
/// Memory of a compiling process: released modules take less than 100 MiB, the largest some hundred MiB.
pub const COMPILE_MEMORY_BYTES_MAX: u64 = 1 << 30;
/// CPU time of a compiling process: the released modules take 1.2 s for both engines on a slow machine.
pub const COMPILE_CPU_MAX: Duration = Duration::from_secs(10);
/// How long a compiling process may take on a busy machine.
pub const COMPILE_WALL_MAX: Duration = Duration::from_secs(60);
/// The `nice` value of a compiling process, so that this process can answer requests.
pub const COMPILE_NICE: i32 = 10;
/// Machine code of a module for one engine: the released modules have 1 MiB.
pub const ARTEFACT_BYTES_MAX: usize = 64 << 20;
/// Machine code that a node keeps on its disk. The oldest is deleted first, and compiled again when it is needed.
pub const ARTEFACTS_BYTES_MAX: u64 = 1 << 30;
/// Span of a module's initial memory that is always prepared as an image; a longer one only if half of it is in use.
pub const IMAGE_BYTES_MAX: u64 = 1 << 20;
/// A recorded module has so many times the limits of a foreign one: it was within them once, on some machine.
pub const RECORDED_MODULE_FACTOR: u64 = 10;
/// How often compiling a recorded module may reach a limit before the limit counts.
pub const RECORDED_MODULE_TRIES: u32 = 3;
/// Unused modules that a node keeps in memory: some megabytes each. Loading one from the disk takes milliseconds.
pub const MODULES_LOADED_MAX: usize = 16;
/// Fuel for a guest that trapped to return its panic text, which is ready. A guest that needs more returns none.
pub const LAST_WORDS_FUEL: u64 = 1_000_000;
/// Bytes of a guest's panic text that are kept.
pub const PANIC_TEXT_BYTES_MAX: usize = 4 << 10;
/// Budget of a call on the second engine, in its own unit: more than any call on the first engine may take.
pub const SECOND_ENGINE_FUEL: u64 = 2 * GUEST_FUEL_MAX;
/// Budget for a module's description on the second engine: twice that of the first, since the units differ.
pub const DESCRIBE_FUEL: u64 = 2 * GUEST_FUEL_BASE;
/// Nested calls on the second engine: more than the first engine's stack has room for.
pub const SECOND_ENGINE_FRAMES_MAX: usize = GUEST_STACK_BYTES_MAX / 16;
/// After this time of its thread on a processor, the watchdog stops a call of the fast code. The metered code then
/// finds the command at fault.
pub const GUEST_WATCHDOG: Duration = Duration::from_secs(2);
/// A call that has lasted for this many times the same time is stopped as well, although its thread had to wait.
pub const GUEST_WATCHDOG_WAITS: u32 = 5;
/// Strikes after which a module on trial is given up. A strike is a single command that used up its budget.
pub const TRIAL_STRIKES_MAX: u64 = 256;
/// Strikes for a call that the watchdog stops: it has taken as long as so many budgets.
pub const TRIAL_STRIKES_OF_WATCHDOG: u64 = 64;
/// Bytes of answers beyond what is allowed that count as one strike.
pub const TRIAL_ANSWER_BYTES_PER_STRIKE: u64 = 256 << 10;
/// Bytes that the answer to a call may have, and again for each command in the call.
pub const TRIAL_ANSWER_BYTES_OWED: u64 = 64 << 10;
/// Time that a call may take, and again for each command in it: more than its budget lasts.
pub const TRIAL_TIME_OWED: Duration = Duration::from_millis(50);
/// Strikes are multiplied by this on the second engine, which takes so many times as long.
pub const TRIAL_STRIKES_FACTOR_SLOW: u64 = 16;
/// Calls that make up for one strike: a short stall of the machine in a long replay says nothing about the module.
pub const TRIAL_CALLS_PER_STRIKE: u64 = 16;
/// Renderings of a module on trial that the watchdog may stop. After them, nothing more is rendered.
pub const TRIAL_RENDERS_MAX: u64 = 2;
/// A trial or replay that is told to stop has this long to reach a place from which it can continue.
pub const TRIAL_STOP_GRACE: Duration = Duration::from_millis(500);

/// Limits on the parts of a module: compilers need more than linear time or memory for most of them. Each names the
/// most of a released module (216 to 386 KB); the largest allowed may have ten times as much of what grows with its
/// size.
pub mod structure {
    /// Released: 36.
    pub const TYPES_MAX: u64 = 2_000;
    /// Released: 504.
    pub const FUNCTIONS_MAX: u64 = 20_000;
    /// Released: 3.
    pub const GLOBALS_MAX: u64 = 1_000;
    /// Released: 13.
    pub const EXPORTS_MAX: u64 = 1_000;
    /// Data and element segments together. Released: 3.
    pub const SEGMENTS_MAX: u64 = 1_000;
    /// Locals of all functions together. Released: 2,344.
    pub const LOCALS_MAX: u64 = 100_000;
    /// Locals of one function, parameters included. Released: 59.
    pub const FUNCTION_LOCALS_MAX: u64 = 2_000;
    /// Parameters and results of one type. Released: 16.
    pub const TYPE_VALUES_MAX: u64 = 64;
    /// Bytes of one function. Released: 39,533.
    pub const BODY_BYTES_MAX: u64 = 256 << 10;
    /// Targets of one `br_table`. Released: 97.
    pub const BR_TABLE_TARGETS_MAX: u64 = 10_000;
    /// Nested blocks. Released: 58.
    pub const NESTING_MAX: u64 = 1_000;
    /// Locals times blocks of one function. Released: 31,152.
    pub const BLOCK_LOCALS_MAX: u64 = 1_000_000;
}
