//! A loaded module as [`Logic`]: the exports of the contract as methods, blocks in, blocks out.
//!
//! Each call runs in a fresh instance, so nothing that a guest keeps in globals or on its heap survives it. Results are
//! read within limits. Blocks are returned raw, and the caller parses them against their inputs; CBOR is decoded here.
//! It knows nothing of which rows or ops make sense.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use minicbor::{Decode, Encode};
use statehouse_abi::block::AbiError;
use statehouse_abi::call::{CallIn, Context, ExecuteOut};
use statehouse_abi::cold::{CheckIn, CheckOut, MigrateIn, MigrateOut, QueryIn, QueryOut, RenderItem};
use statehouse_abi::describe::Describe;
use statehouse_abi::export;
use statehouse_abi::ops::OpsBlock;
use statehouse_abi::plan::PlanOut;
use statehouse_abi::value::Value;
use statehouse_projection::abi as view;
use wasmtime::{InstancePre, Linker};

use super::allowance::Allowance;
use super::call::GuestCall;
use super::cbor;
use super::describe::{self, Description};
use super::engine::Engine;
use super::error::{GuestError, GuestFault, up_to_fault};
use crate::ids::ModuleId;
use crate::limits;
pub use crate::machine::logic::Pace;
use crate::machine::logic::{Logic, ViewLogic};

pub struct Module {
    engine: Arc<Engine>,
    id: ModuleId,
    wasm: Bytes,
    /// What compiling the module again may cost.
    allowance: Allowance,
    describe: Describe,
    /// Of a view: the machine whose decisions it reads.
    source: Option<String>,
    fast: InstancePre<()>,
    /// Set when it is first needed, unless it was compiled when the module was loaded.
    metered: OnceLock<InstancePre<()>>,
}

impl Module {
    /// `described` is the module's description, if it was asked for before.
    pub(super) fn new(
        engine: Arc<Engine>,
        wasm: &[u8],
        allowance: Allowance,
        fast: &wasmtime::Module,
        metered: Option<&wasmtime::Module>,
        described: Option<Vec<u8>>,
    ) -> Result<Self, GuestError> {
        let is_view = fast.get_export(view::PROJECT).is_some();
        let fast = link(fast)?;
        let metered = metered.map(link).transpose()?;
        let output = match described {
            Some(described) => described,
            None => {
                // A hostile module is stopped sooner by its budget than by the watchdog.
                let (pace, pre) = metered.as_ref().map_or((Pace::Fast, &fast), |metered| (Pace::Metered, metered));
                let call = GuestCall::new(engine.lane(pace), pre, limits::GUEST_FUEL_BASE);
                call.and_then(|call| call.call(export::DESCRIBE)).map_err(GuestError::Describe)?
            }
        };
        let Description { describe, source } = describe::read(&output, is_view).map_err(GuestError::Describe)?;
        let wasm = Bytes::copy_from_slice(wasm);
        let metered = metered.map(OnceLock::from).unwrap_or_default();
        Ok(Self { engine, id: ModuleId::of(&wasm), wasm, allowance, describe, source, fast, metered })
    }

    pub fn id(&self) -> ModuleId {
        self.id
    }

    pub fn describe(&self) -> &Describe {
        &self.describe
    }

    /// The machine whose decisions it reads; `None` if it is not a view.
    pub fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// The module as it was loaded.
    pub fn wasm(&self) -> &Bytes {
        &self.wasm
    }

    fn migrate_in<'a>(
        &self,
        mut call: GuestCall<'a>,
        entity: &MigrateIn,
    ) -> Result<(MigrateOut, GuestCall<'a>), GuestFault> {
        call.rewind();
        let input = minicbor::to_vec(entity).map_err(|error| GuestFault::Host { what: error.to_string() })?;
        let output = call.call_again(export::MIGRATE, input.len(), copy_from(&input))?;
        Ok((decode(&output, export::MIGRATE)?, call))
    }

    pub(super) fn start(&self, pace: Pace, fuel: u64) -> Result<GuestCall<'_>, GuestFault> {
        let pre = match pace {
            Pace::Fast => &self.fast,
            Pace::Metered => self.metered()?,
        };
        GuestCall::new(self.engine.lane(pace), pre, fuel)
    }

    fn metered(&self) -> Result<&InstancePre<()>, GuestFault> {
        if let Some(metered) = self.metered.get() {
            return Ok(metered);
        }
        let linked = self.engine.compile_metered(&self.wasm, self.allowance).and_then(|compiled| link(&compiled));
        let linked = linked.map_err(|error| GuestFault::Host { what: error.to_string() })?;
        Ok(self.metered.get_or_init(|| linked))
    }

    /// A call that was stopped because the process is about to end says nothing about the module. Its caller has a
    /// client to answer, who must not think that the module has failed.
    fn for_client(&self, fault: GuestFault) -> GuestFault {
        match fault {
            GuestFault::Watchdog if self.engine.fast.ticks.is_hurried() => {
                GuestFault::Host { what: "the process is about to end".to_owned() }
            }
            fault => fault,
        }
    }

    fn call_hot(&self, pace: Pace, name: &str, parts: &CallIn<'_>) -> Result<Vec<u8>, GuestFault> {
        let groups = OpsBlock::parse_trusted(parts.ops).map_or(0, |ops| ops.group_count());
        self.start(pace, fuel(groups))?.call_with(name, parts.size(), |input| parts.write_to(input))
    }

    fn call_cold<I: Encode<()> + ?Sized, O>(&self, name: &str, input: &I) -> Result<O, GuestFault>
    where
        O: for<'b> Decode<'b, ()>,
    {
        let input = minicbor::to_vec(input).map_err(|error| GuestFault::Host { what: error.to_string() })?;
        decode(&self.start(Pace::Fast, 0)?.call_with(name, input.len(), copy_from(&input))?, name)
    }
}

impl Logic for Module {
    fn id(&self) -> ModuleId {
        self.id
    }

    fn describe(&self) -> &Describe {
        &self.describe
    }

    /// PLAN_IN → PLAN_OUT, already parsed once.
    fn plan(&self, plan_in: &[u8]) -> Result<Vec<u8>, GuestFault> {
        let planned = self.start(Pace::Fast, 0)?.call_with(export::PLAN, plan_in.len(), copy_from(plan_in));
        let output = planned.map_err(|fault| self.for_client(fault))?;
        PlanOut::parse(&output).map_err(|error| broken(export::PLAN, error))?;
        Ok(output)
    }

    /// OPS and ROWS blocks → EXECUTE_OUT. The outcome in it must be parsed against the ops.
    fn execute(&self, pace: Pace, context: Context, ops: &[u8], rows: &[u8]) -> Result<Vec<u8>, GuestFault> {
        let parts = CallIn { context, ops, rows, outcome: None };
        let output = self.call_hot(pace, export::EXECUTE, &parts)?;
        ExecuteOut::parse(&output).map_err(|error| broken(export::EXECUTE, error))?;
        Ok(output)
    }

    /// OPS, ROWS and OUTCOME blocks → WRITES, which must be parsed against the number of keys.
    fn apply(
        &self,
        pace: Pace,
        context: Context,
        ops: &[u8],
        rows: &[u8],
        outcome: &[u8],
    ) -> Result<Vec<u8>, GuestFault> {
        self.call_hot(pace, export::APPLY, &CallIn { context, ops, rows, outcome: Some(outcome) })
    }

    fn query(&self, query: &QueryIn) -> Result<QueryOut, GuestFault> {
        self.call_cold(export::QUERY, query).map_err(|fault| self.for_client(fault))
    }

    fn render(&self, items: &[RenderItem]) -> Result<Vec<Value>, GuestFault> {
        let values: Vec<Value> = self.call_cold(export::RENDER, items)?;
        if values.len() != items.len() {
            let what = format!("`sh1_render` returned {} values for {} items", values.len(), items.len());
            return Err(GuestFault::Output { what });
        }
        Ok(values)
    }

    fn check(&self, chunk: &CheckIn) -> Result<CheckOut, GuestFault> {
        self.call_cold(export::CHECK, chunk)
    }

    /// One result for each entity, up to and including the first fault. One instance migrates all entities, because a
    /// fresh one for each costs twenty times the migration. If an entity fails in an instance that was used before, it
    /// is migrated again in a fresh one.
    fn migrate(&self, entities: &[MigrateIn]) -> Vec<Result<MigrateOut, GuestFault>> {
        let mut used = None;
        up_to_fault(entities.iter().map(|entity| {
            let again = used.take().and_then(|call| self.migrate_in(call, entity).ok());
            let fresh = || self.start(Pace::Fast, 0).and_then(|call| self.migrate_in(call, entity));
            let (out, call) = again.map_or_else(fresh, Ok)?;
            used = Some(call);
            Ok(out)
        }))
    }

    fn view(&self) -> Option<&dyn ViewLogic> {
        self.source.is_some().then_some(self as &dyn ViewLogic)
    }
}

impl ViewLogic for Module {
    fn source(&self) -> &str {
        self.source.as_deref().expect("only a view is asked as one")
    }

    fn project(&self, input: &view::ProjectIn) -> Result<view::ProjectOut, GuestFault> {
        self.call_cold(view::PROJECT, input)
    }

    fn ask(&self, query: &view::QueryIn) -> Result<view::QueryOut, GuestFault> {
        self.call_cold(export::QUERY, query)
    }
}

fn link(module: &wasmtime::Module) -> Result<InstancePre<()>, GuestError> {
    let linked = Linker::new(module.engine()).instantiate_pre(module);
    linked.map_err(|error| GuestError::Compile { detail: format!("{error:#}") })
}

/// The budget of a metered call: enough for every group to use its own, up to a bound for the whole.
fn fuel(groups: usize) -> u64 {
    let wanted = limits::GUEST_FUEL_PER_GROUP.saturating_mul(groups as u64).saturating_add(limits::GUEST_FUEL_BASE);
    wanted.min(limits::GUEST_FUEL_MAX)
}

pub(super) fn copy_from(input: &[u8]) -> impl FnOnce(&mut [u8]) {
    |memory| memory.copy_from_slice(input)
}

pub(super) fn broken(name: &str, error: AbiError) -> GuestFault {
    GuestFault::output(format_args!("`{name}` returned no valid block: {error}"))
}

pub(super) fn decode<T: for<'b> Decode<'b, ()>>(output: &[u8], name: &str) -> Result<T, GuestFault> {
    cbor::check(output).map_err(|what| GuestFault::output(format_args!("`{name}` returned {what}")))?;
    let mut decoder = minicbor::Decoder::new(output);
    let decoded = decoder.decode();
    let decoded =
        decoded.map_err(|error| GuestFault::output(format_args!("`{name}` returned no valid CBOR: {error}")))?;
    if decoder.position() != output.len() {
        return Err(GuestFault::output(format_args!("`{name}` returned bytes behind its CBOR")));
    }
    Ok(decoded)
}
