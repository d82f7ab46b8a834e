//! Native logic: a module linked into the host, called through the same bytes as a guest.
//!
//! In: a module written with the SDK. Out: the same module as [`Logic`]. The machine `system` runs this way, and so do
//! benchmarks that measure what wasm costs. A panic is a trap, as in a guest. Nothing limits a call's work or memory,
//! because native logic is the host's own code.

use std::panic::AssertUnwindSafe;

use statehouse_abi::call::{Context, write_apply_in, write_execute_in};
use statehouse_abi::cold::{CheckIn, CheckOut, MigrateIn, MigrateOut, QueryIn, QueryOut, RenderItem};
use statehouse_abi::describe::Describe;
use statehouse_abi::value::Value;
use statehouse_guest::Module;
use statehouse_guest::native::{Export, call};

use crate::ids::ModuleId;
use crate::machine::logic::{Fault, Logic, Pace, up_to_fault};

/// A module of the SDK as [`Logic`].
pub struct NativeLogic<M> {
    id: ModuleId,
    describe: Describe,
    module: std::marker::PhantomData<fn() -> M>,
}

impl<M: Module> NativeLogic<M> {
    /// Its id is a hash of name and version, because native logic has no bytes to hash.
    pub fn new() -> Self {
        let id = ModuleId::of(format!("native {} {}", M::NAME, M::VERSION).as_bytes());
        let described = call::<M>(Export::Describe, &[]);
        let describe = minicbor::decode(&described).expect("the SDK encodes what the ABI describes");
        Self { id, describe, module: std::marker::PhantomData }
    }
}

impl<M: Module> Default for NativeLogic<M> {
    fn default() -> Self {
        Self::new()
    }
}

fn run<M: Module>(export: Export, input: &[u8]) -> Result<Vec<u8>, Fault> {
    std::panic::catch_unwind(AssertUnwindSafe(|| call::<M>(export, input))).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".to_owned());
        Fault::Trap { text, backtrace: Vec::new() }
    })
}

fn run_cold<M: Module, I, O>(export: Export, input: &I) -> Result<O, Fault>
where
    I: minicbor::Encode<()> + ?Sized,
    O: for<'b> minicbor::Decode<'b, ()>,
{
    let input = minicbor::to_vec(input).map_err(|error| Fault::Host { what: error.to_string() })?;
    minicbor::decode(&run::<M>(export, &input)?).map_err(|error| Fault::Output { what: error.to_string() })
}

impl<M: Module> Logic for NativeLogic<M> {
    fn id(&self) -> ModuleId {
        self.id
    }

    fn describe(&self) -> &Describe {
        &self.describe
    }

    fn plan(&self, plan_in: &[u8]) -> Result<Vec<u8>, Fault> {
        run::<M>(Export::Plan, plan_in)
    }

    fn execute(&self, _: Pace, context: Context, ops: &[u8], rows: &[u8]) -> Result<Vec<u8>, Fault> {
        run::<M>(Export::Execute, &write_execute_in(Vec::new(), context, ops, rows))
    }

    fn apply(&self, _: Pace, context: Context, ops: &[u8], rows: &[u8], outcome: &[u8]) -> Result<Vec<u8>, Fault> {
        run::<M>(Export::Apply, &write_apply_in(Vec::new(), context, ops, rows, outcome))
    }

    fn query(&self, query: &QueryIn) -> Result<QueryOut, Fault> {
        run_cold::<M, _, _>(Export::Query, query)
    }

    fn render(&self, items: &[RenderItem]) -> Result<Vec<Value>, Fault> {
        run_cold::<M, _, _>(Export::Render, items)
    }

    fn check(&self, check: &CheckIn) -> Result<CheckOut, Fault> {
        run_cold::<M, _, _>(Export::Check, check)
    }

    fn migrate(&self, entities: &[MigrateIn]) -> Vec<Result<MigrateOut, Fault>> {
        up_to_fault(entities.iter().map(|entity| run_cold::<M, _, _>(Export::Migrate, entity)))
    }
}
