//! The logic of a machine, as the host calls it: bytes in, bytes out, no state between calls.
//!
//! Two implementations: a guest module in wasm, and a native one (the machine `system`, and benchmarks that measure
//! what wasm costs). A call that fails is a [`Fault`], which says whether the module is to blame. This file knows
//! nothing of how calls are carried out, nor of which faults are recorded as rejections.

use statehouse_abi::call::Context;
use statehouse_abi::cold::{CheckIn, CheckOut, MigrateIn, MigrateOut, QueryIn, QueryOut, RenderItem};
use statehouse_abi::describe::Describe;
use statehouse_abi::value::Value;
use statehouse_projection::abi as view;

use crate::ids::ModuleId;

/// How a call is stopped that takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Stopped by the watchdog only: for everything that is expected to go well.
    Fast,
    /// Stopped when its fuel is used up, at the same instruction everywhere: for finding the culprit of a batch.
    Metered,
}

/// How a call of a module failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The module panicked or trapped.
    #[error("module trapped: {text}")]
    Trap {
        /// The panic's text with file and line if the module kept one, else the trap and the function it happened in.
        text: String,
        /// Names of the module's functions, innermost first.
        backtrace: Vec<String>,
    },
    /// The fuel of a metered call is used up.
    #[error("module used up its budget")]
    Budget,
    /// A call at the fast pace ran longer than the watchdog allows. Depends on the machine: never an outcome.
    #[error("module was stopped by the watchdog")]
    Watchdog,
    /// The module returned, but not what the contract asks for.
    #[error("module broke the contract: {what}")]
    Output { what: String },
    /// The host could not carry out the call. Says nothing about the module: never an outcome.
    #[error("host cannot run the module: {what}")]
    Host { what: String },
}

impl Fault {
    pub fn output(what: impl std::fmt::Display) -> Self {
        Self::Output { what: what.to_string() }
    }
}

/// Results in order, up to and including the first fault; nothing after it is asked for.
pub fn up_to_fault<T>(results: impl Iterator<Item = Result<T, Fault>>) -> Vec<Result<T, Fault>> {
    let mut is_over = false;
    let within = results.take_while(|result| !std::mem::replace(&mut is_over, result.is_err()));
    within.collect()
}

/// See `guest-sdk/abi` for the bytes. No call leaves a trace that a later call could see.
pub trait Logic: Send + Sync {
    fn id(&self) -> ModuleId;

    fn describe(&self) -> &Describe;

    /// PLAN_IN → PLAN_OUT.
    fn plan(&self, plan_in: &[u8]) -> Result<Vec<u8>, Fault>;

    /// OPS, ROWS → EXECUTE_OUT.
    fn execute(&self, pace: Pace, context: Context, ops: &[u8], rows: &[u8]) -> Result<Vec<u8>, Fault>;

    /// OPS, ROWS, OUTCOME → WRITES.
    fn apply(&self, pace: Pace, context: Context, ops: &[u8], rows: &[u8], outcome: &[u8]) -> Result<Vec<u8>, Fault>;

    fn query(&self, query: &QueryIn) -> Result<QueryOut, Fault>;

    /// As many values as items, in order.
    fn render(&self, items: &[RenderItem]) -> Result<Vec<Value>, Fault>;

    fn check(&self, check: &CheckIn) -> Result<CheckOut, Fault>;

    /// One result for each entity in order, up to and including the first fault.
    fn migrate(&self, entities: &[MigrateIn]) -> Vec<Result<MigrateOut, Fault>>;

    /// The same logic as that of a view; `None` if it is the logic of a machine.
    fn view(&self) -> Option<&dyn ViewLogic> {
        None
    }
}

/// The logic of a view, which reads the decisions of a machine and decides nothing.
pub trait ViewLogic: Send + Sync {
    /// The machine whose decisions it reads.
    fn source(&self) -> &str;

    /// Decisions → row writes, or the rows that it needs first.
    fn project(&self, input: &view::ProjectIn) -> Result<view::ProjectOut, Fault>;

    /// A query → its answer, or the rows that it needs first.
    fn ask(&self, query: &view::QueryIn) -> Result<view::QueryOut, Fault>;
}
