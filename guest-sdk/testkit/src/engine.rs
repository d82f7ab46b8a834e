//! The two ways to call a module, natively and as wasm, and the twin that does both and compares.
//!
//! Every call sees a clean module, as in the host. The wasm engine is an interpreter without imports and without
//! floats, so that a module needing either is refused here already. It knows nothing of what the bytes mean.

use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use statehouse_abi::export;
use statehouse_guest::Module;
use statehouse_guest::native::{self, Export};
use wasmi::{Instance, Linker, Store, StoreLimits, StoreLimitsBuilder, TrapCode, TypedFunc};

/// Instructions of one call, about: as many as a host meters at most.
pub const FUEL: u64 = 500_000_000;
/// Memory of a module, as in a host.
pub const MEMORY_BYTES_MAX: usize = 64 << 20;
/// Elements of its table, as in a host.
pub const TABLE_ELEMENTS_MAX: usize = 65_536;
/// Output of one call, as in a host.
pub const OUTPUT_BYTES_MAX: usize = 16 << 20;
/// Calls within calls: more than a host's stack has room for.
const FRAMES_MAX: usize = 65_536;

/// Why a call gave no bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineError {
    /// The module panicked or trapped; the text has no place in the source, because the twins differ there.
    Trap(String),
    /// The module does not keep the contract.
    Module(String),
    /// The scenario cannot be read.
    Scenario(String),
    /// Native and wasm did not agree.
    Twins { export: &'static str, native: String, wasm: String },
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trap(text) => write!(f, "the module panicked: {text}"),
            Self::Module(text) => write!(f, "the module does not keep the contract: {text}"),
            Self::Scenario(text) => f.write_str(text),
            Self::Twins { export, native, wasm } => {
                write!(f, "{export} gives other bytes as wasm than natively\nnative: {native}\nwasm:   {wasm}")
            }
        }
    }
}

impl std::error::Error for EngineError {}

pub trait Engine {
    /// Calls an export on a clean module.
    ///
    /// # Errors
    /// [`EngineError::Trap`] is the module's doing, everything else means that the test itself has failed.
    fn call(&self, export: Export, input: &[u8]) -> Result<Vec<u8>, EngineError>;
}

/// The module as compiled into this binary.
pub struct Native<M>(PhantomData<M>);

impl<M> Default for Native<M> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<M: Module> Engine for Native<M> {
    fn call(&self, export: Export, input: &[u8]) -> Result<Vec<u8>, EngineError> {
        trapping(|| native::call::<M>(export, input))
    }
}

/// A panic as the trap that it would be as wasm.
pub(crate) fn trapping(call: impl FnOnce() -> Vec<u8>) -> Result<Vec<u8>, EngineError> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
        EngineError::Trap(text.unwrap_or("no text").into())
    })
}

/// The module as wasm.
pub struct Wasm {
    module: wasmi::Module,
}

impl Wasm {
    /// # Errors
    /// [`EngineError::Module`], for example when the module has a float opcode.
    pub fn new(wasm: &[u8]) -> Result<Self, EngineError> {
        let mut config = wasmi::Config::default();
        config.floats(false).allow_start_fn(false).wasm_multi_memory(false).wasm_tail_call(false).consume_fuel(true);
        config.set_max_recursion_depth(FRAMES_MAX);
        config.set_max_stack_height(MEMORY_BYTES_MAX);
        let module = wasmi::Module::new(&wasmi::Engine::new(&config), wasm).map_err(no_module)?;
        Ok(Self { module })
    }
}

impl Engine for Wasm {
    fn call(&self, export: Export, input: &[u8]) -> Result<Vec<u8>, EngineError> {
        self.call_named(export.name(), (export != Export::Describe).then_some(input))
    }
}

impl Wasm {
    /// Calls an export by its name; without input one that takes none.
    pub(crate) fn call_named(&self, name: &str, input: Option<&[u8]>) -> Result<Vec<u8>, EngineError> {
        let limits = StoreLimitsBuilder::new().memory_size(MEMORY_BYTES_MAX).table_elements(TABLE_ELEMENTS_MAX).build();
        let mut store = Store::new(self.module.engine(), limits);
        store.limiter(|limits| limits);
        store.set_fuel(FUEL).map_err(no_module)?;
        let linker = Linker::new(self.module.engine());
        let instance = linker.instantiate_and_start(&mut store, &self.module).map_err(no_module)?;
        let called = if let Some(input) = input {
            let alloc = function::<i32, i32>(&instance, &store, export::ALLOC)?;
            let entry = function::<(i32, i32), i64>(&instance, &store, name)?;
            let memory = instance.get_memory(&store, export::MEMORY).ok_or_else(|| missing(export::MEMORY))?;
            let len = i32::try_from(input.len()).map_err(|_| EngineError::Trap("input too large".into()))?;
            alloc.call(&mut store, len).and_then(|ptr| {
                memory.write(&mut store, ptr as u32 as usize, input)?;
                entry.call(&mut store, (ptr, len))
            })
        } else {
            function::<(), i64>(&instance, &store, name)?.call(&mut store, ())
        };
        match called {
            Ok(packed) => read(&instance, &store, packed),
            // A host records it as a rejection, or answers that it took too long; a test that goes on would only take as long again.
            Err(trap) if trap.as_trap_code() == Some(TrapCode::OutOfFuel) => Err(EngineError::Module(format!(
                "{name} used up its budget of {FUEL} instructions: look for a loop without an end"
            ))),
            Err(trap) => {
                store.set_fuel(FUEL).map_err(no_module)?;
                let text = function::<(), i64>(&instance, &store, export::PANIC)?;
                let text = text.call(&mut store, ()).map_err(no_module)?;
                let text = read(&instance, &store, text)?;
                Err(EngineError::Trap(if text.is_empty() { trap.to_string() } else { without_place(&text) }))
            }
        }
    }
}

/// The panic's message without `panicked at file:line:column:` before it.
fn without_place(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.split_once('\n').map_or(text.as_ref(), |(_, message)| message).to_string()
}

fn function<P: wasmi::WasmParams, R: wasmi::WasmResults>(
    instance: &Instance,
    store: &Store<StoreLimits>,
    name: &str,
) -> Result<TypedFunc<P, R>, EngineError> {
    instance.get_typed_func(store, name).map_err(|error| EngineError::Module(format!("{name}: {error}")))
}

/// The bytes that a packed result points to.
fn read(instance: &Instance, store: &Store<StoreLimits>, packed: i64) -> Result<Vec<u8>, EngineError> {
    let (ptr, len) = ((packed as u64 >> 32) as usize, packed as u32 as usize);
    let memory = instance.get_memory(store, export::MEMORY).ok_or_else(|| missing(export::MEMORY))?;
    if OUTPUT_BYTES_MAX < len {
        return Err(EngineError::Module(format!("a result of {len} bytes is over the limit of {OUTPUT_BYTES_MAX}")));
    }
    let bytes = memory.data(store).get(ptr..ptr.saturating_add(len));
    bytes.map(<[u8]>::to_vec).ok_or_else(|| EngineError::Module("a result lies outside of the memory".into()))
}

fn missing(export: &str) -> EngineError {
    EngineError::Module(format!("it has no export {export}"))
}

fn no_module(error: wasmi::Error) -> EngineError {
    EngineError::Module(error.to_string())
}

/// Two engines that must agree on every call.
pub struct Twin<A, B> {
    pub native: A,
    pub wasm: B,
}

impl<A: Engine, B: Engine> Engine for Twin<A, B> {
    fn call(&self, export: Export, input: &[u8]) -> Result<Vec<u8>, EngineError> {
        agreed(export.name(), self.native.call(export, input), self.wasm.call(export, input))
    }
}

/// What both gave, or how they differ.
pub(crate) fn agreed(
    export: &'static str,
    native: Result<Vec<u8>, EngineError>,
    wasm: Result<Vec<u8>, EngineError>,
) -> Result<Vec<u8>, EngineError> {
    if native == wasm {
        return native;
    }
    let show = |result: &Result<Vec<u8>, EngineError>| match result {
        Ok(bytes) => format!("{} bytes {}", bytes.len(), bytes.escape_ascii()),
        Err(error) => error.to_string(),
    };
    Err(EngineError::Twins { export, native: show(&native), wasm: show(&wasm) })
}
