//! The second engine: wasmi, an interpreter that has nothing in common with wasmtime but the module's bytes.
//!
//! In: the same blocks. Out: bytes that must be the same; otherwise the module computes something that its bytes do not
//! define. Each call runs in a fresh instance, under the same limits of memory, with a budget in the engine's own unit.
//! It is ten to thirty times slower and decides nothing: `prepare` compares it with the engine that decides.

use minicbor::{Decode, Encode};
use statehouse_abi::call::{CallIn, Context, ExecuteOut};
use statehouse_abi::cold::{CheckIn, CheckOut, MigrateIn, MigrateOut, QueryIn, QueryOut, RenderItem};
use statehouse_abi::describe::Describe;
use statehouse_abi::export;
use statehouse_abi::plan::PlanOut;
use statehouse_abi::value::Value;
use statehouse_projection::abi::PROJECT;
use wasmi::{Config, Engine, Instance, Linker, Memory, Store, StoreLimits, StoreLimitsBuilder, TrapCode, TypedFunc};

use super::allowance::Allowance;
use super::describe::{self, Description};
use super::error::{GuestError, GuestFault, up_to_fault};
use super::module::{broken, copy_from, decode};
use super::validate::validate_within;
use crate::ids::ModuleId;
use crate::limits;
use crate::machine::logic::{Logic, Pace};

/// A module loaded into the second engine, as [`Logic`].
pub struct SecondModule {
    id: ModuleId,
    describe: Describe,
    module: wasmi::Module,
}

impl SecondModule {
    /// The name of the engine, for the record of what was compared.
    pub const ENGINE: &'static str = "wasmi-2";

    /// Validates the module, translates it, and asks it to describe itself.
    ///
    /// # Errors
    /// As for [`Engine::load`](super::Engine::load), except those of the cache: there is none.
    pub fn load(wasm: &[u8]) -> Result<Self, GuestError> {
        validate_within(wasm, Allowance::Recorded).map_err(|problems| GuestError::Refused { problems })?;
        let module = translate(wasm)?;
        let output = SecondCall::new(&module, limits::SECOND_ENGINE_FUEL).and_then(|call| call.call(export::DESCRIBE));
        let output = output.map_err(GuestError::Describe)?;
        let Description { describe, .. } = describe::read(&output, false).map_err(GuestError::Describe)?;
        Ok(Self { id: ModuleId::of(wasm), describe, module })
    }

    fn call_hot(&self, name: &str, parts: &CallIn<'_>) -> Result<Vec<u8>, GuestFault> {
        self.call_with(name, parts.size(), |input| parts.write_to(input))
    }

    fn call_cold<I: Encode<()> + ?Sized, O>(&self, name: &str, input: &I) -> Result<O, GuestFault>
    where
        O: for<'b> Decode<'b, ()>,
    {
        let input = minicbor::to_vec(input).map_err(|error| GuestFault::Host { what: error.to_string() })?;
        decode(&self.call_with(name, input.len(), copy_from(&input))?, name)
    }

    fn call_with(&self, name: &str, len: usize, fill: impl FnOnce(&mut [u8])) -> Result<Vec<u8>, GuestFault> {
        SecondCall::new(&self.module, limits::SECOND_ENGINE_FUEL)?.call_with(name, len, fill)
    }
}

/// The pace makes no difference: every call has a budget.
impl Logic for SecondModule {
    fn id(&self) -> ModuleId {
        self.id
    }

    fn describe(&self) -> &Describe {
        &self.describe
    }

    /// PLAN_IN → PLAN_OUT, already parsed once.
    fn plan(&self, plan_in: &[u8]) -> Result<Vec<u8>, GuestFault> {
        let output = self.call_with(export::PLAN, plan_in.len(), copy_from(plan_in))?;
        PlanOut::parse(&output).map_err(|error| broken(export::PLAN, error))?;
        Ok(output)
    }

    /// OPS and ROWS blocks → EXECUTE_OUT. The outcome in it must be parsed against the ops.
    fn execute(&self, _: Pace, context: Context, ops: &[u8], rows: &[u8]) -> Result<Vec<u8>, GuestFault> {
        let output = self.call_hot(export::EXECUTE, &CallIn { context, ops, rows, outcome: None })?;
        ExecuteOut::parse(&output).map_err(|error| broken(export::EXECUTE, error))?;
        Ok(output)
    }

    /// OPS, ROWS and OUTCOME blocks → WRITES, which must be parsed against the number of keys.
    fn apply(&self, _: Pace, context: Context, ops: &[u8], rows: &[u8], outcome: &[u8]) -> Result<Vec<u8>, GuestFault> {
        self.call_hot(export::APPLY, &CallIn { context, ops, rows, outcome: Some(outcome) })
    }

    fn query(&self, query: &QueryIn) -> Result<QueryOut, GuestFault> {
        self.call_cold(export::QUERY, query)
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

    /// One result for each entity, up to and including the first fault; each in a fresh instance, unlike the first
    /// engine.
    fn migrate(&self, entities: &[MigrateIn]) -> Vec<Result<MigrateOut, GuestFault>> {
        up_to_fault(entities.iter().map(|entity| self.call_cold(export::MIGRATE, entity)))
    }
}

/// Only the description of a module: no more is translated than it requires.
///
/// # Errors
/// The bytes are not a module, or the description is not usable.
pub(super) fn describe(wasm: &[u8]) -> Result<Vec<u8>, GuestError> {
    let module = translate(wasm)?;
    let output = SecondCall::new(&module, limits::DESCRIBE_FUEL).and_then(|call| call.call(export::DESCRIBE));
    let output = output.map_err(GuestError::Describe)?;
    describe::read(&output, module.get_export(PROJECT).is_some()).map_err(GuestError::Describe)?;
    Ok(output)
}

fn translate(wasm: &[u8]) -> Result<wasmi::Module, GuestError> {
    let translated = wasmi::Module::new(&Engine::new(&config()), wasm);
    translated.map_err(|error| GuestError::Compile { detail: error.to_string() })
}

fn config() -> Config {
    let mut config = Config::default();
    config.floats(false).allow_start_fn(false).wasm_multi_memory(false).wasm_tail_call(false).consume_fuel(true);
    config.set_max_recursion_depth(limits::SECOND_ENGINE_FRAMES_MAX);
    config.set_max_stack_height(limits::GUEST_MEMORY_BYTES_MAX);
    config
}

/// A fresh instance, good for one call.
struct SecondCall {
    store: Store<StoreLimits>,
    instance: Instance,
    memory: Memory,
}

impl SecondCall {
    fn new(module: &wasmi::Module, fuel: u64) -> Result<Self, GuestFault> {
        let limits = StoreLimitsBuilder::new()
            .memory_size(limits::GUEST_MEMORY_BYTES_MAX)
            .table_elements(limits::GUEST_TABLE_ELEMENTS_MAX as usize)
            .build();
        let mut store = Store::new(module.engine(), limits);
        store.limiter(|limits| limits);
        refill(&mut store, fuel);
        let linked = Linker::new(module.engine()).instantiate_and_start(&mut store, module);
        let instance = linked.map_err(|error| GuestFault::Host { what: error.to_string() })?;
        let memory = instance
            .get_memory(&store, export::MEMORY)
            .ok_or_else(|| GuestFault::Host { what: "a validated module lost its memory".to_owned() })?;
        Ok(Self { store, instance, memory })
    }

    /// Calls an export that takes no input.
    fn call(mut self, name: &str) -> Result<Vec<u8>, GuestFault> {
        let packed = self.func::<(), u64>(name)?.call(&mut self.store, ()).map_err(|error| self.fault(&error))?;
        self.output(packed, name)
    }

    /// Has the guest allocate `len` bytes, lets `fill` write all of them in the guest's memory, and calls the export.
    fn call_with(mut self, name: &str, len: usize, fill: impl FnOnce(&mut [u8])) -> Result<Vec<u8>, GuestFault> {
        let too_long = || GuestFault::Host { what: format!("input of {len} bytes is over the limit") };
        let size = u32::try_from(len).ok().filter(|_| len <= limits::GUEST_INPUT_BYTES_MAX).ok_or_else(too_long)?;
        let ptr = self.func::<u32, u32>(export::ALLOC)?.call(&mut self.store, size);
        let ptr = ptr.map_err(|error| self.fault(&error))?;
        let memory = self.memory.data_mut(&mut self.store);
        let out_of_range =
            || GuestFault::output(format_args!("sh1_alloc({size}) returned {ptr}, outside of the memory"));
        let input = memory.get_mut(ptr as usize..).and_then(|rest| rest.get_mut(..len)).ok_or_else(out_of_range)?;
        fill(input);
        let packed = self.func::<(u32, u32), u64>(name)?.call(&mut self.store, (ptr, size));
        let packed = packed.map_err(|error| self.fault(&error))?;
        self.output(packed, name)
    }

    fn func<P: wasmi::WasmParams, R: wasmi::WasmResults>(&self, name: &str) -> Result<TypedFunc<P, R>, GuestFault> {
        let func = self.instance.get_typed_func(&self.store, name);
        func.map_err(|error| GuestFault::Host { what: format!("a validated module lost `{name}`: {error}") })
    }

    /// The bytes that a packed result points to.
    fn output(&self, packed: u64, name: &str) -> Result<Vec<u8>, GuestFault> {
        let (ptr, len) = ((packed >> 32) as usize, (packed & u64::from(u32::MAX)) as usize);
        if len > limits::GUEST_OUTPUT_BYTES_MAX {
            return Err(GuestFault::output(format_args!("`{name}` returned {len} bytes, over the limit")));
        }
        let output = self.memory.data(&self.store).get(ptr..).and_then(|rest| rest.get(..len));
        output.map(<[u8]>::to_vec).ok_or_else(|| {
            GuestFault::output(format_args!("`{name}` returned {len} bytes at {ptr}, outside of the memory"))
        })
    }

    /// Has no backtrace: the interpreter keeps no names.
    fn fault(&mut self, error: &wasmi::Error) -> GuestFault {
        match error.as_trap_code() {
            Some(TrapCode::OutOfFuel) => GuestFault::Budget,
            Some(trap) => {
                let text = self.panic_text().unwrap_or_else(|| format!("wasm trap: {trap}"));
                GuestFault::Trap { text, backtrace: Vec::new() }
            }
            None => GuestFault::Host { what: error.to_string() },
        }
    }

    /// What the guest's panic hook kept, cut to the limit; `None` if there is nothing.
    fn panic_text(&mut self) -> Option<String> {
        refill(&mut self.store, 2 * limits::LAST_WORDS_FUEL);
        let packed = self.func::<(), u64>(export::PANIC).ok()?.call(&mut self.store, ()).ok()?;
        let text = self.output(packed, export::PANIC).ok()?;
        let kept = &text[..text.len().min(limits::PANIC_TEXT_BYTES_MAX)];
        let text = String::from_utf8_lossy(kept).trim_end_matches(char::REPLACEMENT_CHARACTER).to_owned();
        Some(text).filter(|text| !text.is_empty())
    }
}

fn refill(store: &mut Store<StoreLimits>, fuel: u64) {
    store.set_fuel(fuel).expect("the engine consumes fuel");
}
