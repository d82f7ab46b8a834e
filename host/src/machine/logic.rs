//! The logic of a machine, as the host calls it: bytes in, bytes out, no state between calls.
//!
//! Two implementations: a guest module in wasm, and a native one (the machine `system`, and benchmarks that ask what
//! wasm costs). It knows nothing of how calls are carried out.

use statehouse_abi::call::Context;
use statehouse_abi::cold::{CheckIn, CheckOut, MigrateIn, MigrateOut, QueryIn, QueryOut, RenderItem};
use statehouse_abi::describe::Describe;
use statehouse_abi::value::Value;
use statehouse_projection::abi as view;

pub use crate::guest::{GuestFault as Fault, Pace};
use crate::ids::ModuleId;

/// See `guest-sdk/abi` for the bytes. No call leaves anything behind that a later call could see.
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

    /// The machine whose decisions it reads; nothing where it is no view.
    fn source(&self) -> Option<&str> {
        None
    }

    /// Of a view: decisions → row writes, or the rows that it needs.
    fn project(&self, input: &view::ProjectIn) -> Result<view::ProjectOut, Fault> {
        let _ = input;
        Err(Fault::Output { what: "it is a module and no view".to_owned() })
    }

    /// Of a view.
    fn ask(&self, query: &view::QueryIn) -> Result<view::QueryOut, Fault> {
        let _ = query;
        Err(Fault::Output { what: "it is a module and no view".to_owned() })
    }
}
