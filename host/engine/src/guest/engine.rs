//! The two wasmtime engines for which every module is compiled, their watchdog, and the way from wasm bytes to a
//! [`Module`].
//!
//! *Fast* checks an epoch that the watchdog thread advances; *metered* counts fuel, and so stops at the same
//! instruction on every machine. Both take instances from a pool and start each call with fresh memory. It knows
//! nothing of what a module computes.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use statehouse_abi::describe::Describe;
use statehouse_projection::abi::PROJECT;
use wasmtime::{
    Config, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, ProfilingStrategy, Strategy,
    WasmBacktraceDetails,
};

use super::allowance::Allowance;
use super::artefact::{ArtefactCache, CacheOptions};
use super::compile::{Bounds, Compilation, StopSignal, compile};
use super::describe;
use super::error::GuestError;
use super::module::{Module, Pace};
use super::patience::EngineTicks;
use super::validate::validate_within;
use crate::ids::ModuleId;
use crate::limits;

/// Part of the fingerprint: it must change whenever this host configures wasmtime differently.
const CONFIGURATION: &str = "statehouse guest engine 2";
/// Epoch ticks after which the watchdog stops a call; its error is one tick.
pub(super) const WATCHDOG_TICKS: u32 = 8;
/// Memory of a pooled instance that is zeroed in place between calls, not returned page by page.
const KEEP_RESIDENT_BYTES: usize = 1 << 20;

/// When a module is compiled for the metered engine, which finds the culprit of a batch. That takes the same time as
/// compiling for the fast engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeteredCompilation {
    /// When the module is loaded: a deciding node must not wait in the middle of a batch.
    AtOnce,
    /// When it is first needed. For most programs that only read, that is never.
    WhenNeeded,
}

#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Where compiled modules are kept; without it every load compiles.
    pub cache: Option<CacheOptions>,
    /// Ends every compilation, and prevents further ones.
    pub stop: StopSignal,
    /// Calls that may run at the same time on each engine; further ones wait.
    pub instances_max: u32,
    /// How much of a processor's time a call on the fast artefact may take.
    pub watchdog: Duration,
    pub metered: MeteredCompilation,
    /// Tell `perf` the names of guest functions, in a file under `/tmp` that is named after the process.
    pub has_perf_map: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        let (watchdog, metered) = (limits::GUEST_WATCHDOG, MeteredCompilation::AtOnce);
        let stop = StopSignal::never();
        Self { cache: None, stop, instances_max: 32, watchdog, metered, has_perf_map: false }
    }
}

/// Both engines with everything they share. It lives until the last module loaded from it is dropped.
pub struct Engine {
    pub(super) fast: EngineLane,
    pub(super) metered: EngineLane,
    fingerprint: blake3::Hash,
    cache: Option<ArtefactCache>,
    stop: StopSignal,
    /// The same, told to the engine itself.
    is_stopped: AtomicBool,
    when_metered: MeteredCompilation,
    watchdog: Watchdog,
}

/// A module that was compiled; nothing of it is kept yet.
pub struct ExaminedModule {
    pub module: Arc<Module>,
    artefacts: Vec<(Pace, Vec<u8>)>,
}

/// One wasmtime engine and the gate in front of its pool.
pub(super) struct EngineLane {
    pub(super) pace: Pace,
    pub(super) engine: wasmtime::Engine,
    pub(super) ticks: Arc<EngineTicks>,
    free: Mutex<u32>,
    freed: Condvar,
}

impl Engine {
    /// # Errors
    /// wasmtime refuses the configuration (too little address space, for example), the cache folder cannot be made, or
    /// the watchdog thread cannot be started.
    pub fn new(options: EngineOptions) -> Result<Arc<Self>, GuestError> {
        let instances_max = options.instances_max.max(1);
        let ticks = EngineTicks::every((options.watchdog / WATCHDOG_TICKS).max(TICK_MIN));
        let fast = EngineLane::new(Pace::Fast, instances_max, options.has_perf_map, &ticks)?;
        let metered = EngineLane::new(Pace::Metered, instances_max, options.has_perf_map, &ticks)?;
        let watchdog = Watchdog::start(fast.engine.clone(), ticks)?;
        let cache = options.cache.map(ArtefactCache::new).transpose()?;
        let fingerprint = fingerprint(&[&fast.engine, &metered.engine]);
        let EngineOptions { stop, metered: when_metered, .. } = options;
        let is_stopped = AtomicBool::new(false);
        Ok(Arc::new(Self { fast, metered, fingerprint, cache, stop, is_stopped, when_metered, watchdog }))
    }

    /// Names everything that the compiled code depends on except the module: wasmtime's version and settings, target,
    /// CPU features. Two nodes with the same fingerprint run the same machine code.
    pub fn fingerprint(&self) -> String {
        let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        format!("wasmtime-{target}-{}", &self.fingerprint.to_hex()[..16])
    }

    /// From now on the watchdog stops calls almost at once: the process is about to end, and no call is worth a wait. A
    /// call that it stops has no outcome.
    pub fn hurry(&self) {
        self.watchdog.hurry();
    }

    /// Ends every compilation, and prevents further ones.
    pub fn stop_compiling(&self) {
        self.is_stopped.store(true, Ordering::Release);
    }

    /// Validates the module, compiles it for both engines or takes it from the cache, and asks it to describe itself.
    /// The compiled module is kept, so this is only for modules that are kept: see [`Engine::examine`].
    ///
    /// Takes about a second per megabyte the first time, milliseconds from the cache.
    ///
    /// # Errors
    /// The fault of the module or of the host, as [`GuestError::is_of_module`] says.
    pub fn load(self: &Arc<Self>, wasm: &[u8], allowance: Allowance) -> Result<Arc<Module>, GuestError> {
        let bounds = Bounds { allowance, until: None, stop: self.stop.clone() };
        let mut tries = 1;
        loop {
            if let Some(module) = self.find_kept(wasm, allowance)? {
                return Ok(module);
            }
            match self.examine(wasm, &bounds) {
                Ok(examined) => {
                    self.keep(&examined)?;
                    return Ok(examined.module);
                }
                Err(GuestError::Limit(limit)) if tries < allowance.tries() => {
                    let id = ModuleId::of(wasm);
                    tracing::warn!(module = %id.short(), tries, %limit, "compiling a recorded module is tried again");
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Validates the module, compiles it and asks it to describe itself, all within bounds; keeps nothing.
    ///
    /// # Errors
    /// As for [`Engine::load`], and if nobody waits for it any more.
    pub fn examine(self: &Arc<Self>, wasm: &[u8], bounds: &Bounds) -> Result<ExaminedModule, GuestError> {
        validate_within(wasm, bounds.allowance).map_err(|problems| GuestError::Refused { problems })?;
        let Compilation { artefacts, described } = self.compile(&self.paces(), wasm, bounds)?;
        let fast = self.load_new(&artefacts, Pace::Fast)?;
        let metered = artefacts.iter().any(|(pace, _)| *pace == Pace::Metered);
        let metered = metered.then(|| self.load_new(&artefacts, Pace::Metered)).transpose()?;
        let module = Module::new(Arc::clone(self), wasm, bounds.allowance, &fast, metered.as_ref(), Some(described))?;
        Ok(ExaminedModule { module: Arc::new(module), artefacts })
    }

    /// What a foreign module says about itself, without compiling it.
    ///
    /// # Errors
    /// As for [`Engine::load`].
    pub fn describe(&self, wasm: &[u8]) -> Result<Describe, GuestError> {
        let allowance = Allowance::Foreign;
        let validated = validate_within(wasm, allowance).map_err(|problems| GuestError::Refused { problems })?;
        let bounds = Bounds { allowance, until: None, stop: self.stop.clone() };
        let Compilation { described, .. } = self.compile(&[], wasm, &bounds)?;
        let is_view = validated.exports.iter().any(|name| name == PROJECT);
        Ok(describe::read(&described, is_view).map_err(GuestError::Describe)?.describe)
    }

    /// Keeps what was compiled for the next load.
    pub fn keep(&self, examined: &ExaminedModule) -> Result<(), GuestError> {
        let Some(cache) = &self.cache else { return Ok(()) };
        let id = examined.module.id();
        examined.artefacts.iter().try_for_each(|(pace, bytes)| cache.keep(*pace, &self.fingerprint, id, bytes))
    }

    /// Deletes everything that was kept of a module.
    pub fn forget(&self, id: ModuleId) -> std::io::Result<()> {
        self.cache.as_ref().map_or(Ok(()), |cache| cache.forget(id))
    }

    /// A module for which everything needed was compiled before.
    fn find_kept(self: &Arc<Self>, wasm: &[u8], allowance: Allowance) -> Result<Option<Arc<Module>>, GuestError> {
        let Some(cache) = &self.cache else { return Ok(None) };
        let id = ModuleId::of(wasm);
        let mut found = Vec::new();
        for pace in self.paces() {
            match cache.find(&self.lane(pace).engine, pace, &self.fingerprint, id)? {
                Some(module) => found.push(module),
                None => return Ok(None),
            }
        }
        let fast = found.first().expect("every module is compiled for the engine that calls");
        Module::new(Arc::clone(self), wasm, allowance, fast, found.get(1), None).map(|module| Some(Arc::new(module)))
    }

    /// The engines for which a module is compiled when it is loaded.
    fn paces(&self) -> Vec<Pace> {
        match self.when_metered {
            MeteredCompilation::AtOnce => vec![Pace::Fast, Pace::Metered],
            MeteredCompilation::WhenNeeded => vec![Pace::Fast],
        }
    }

    pub(super) fn compile_metered(&self, wasm: &[u8], allowance: Allowance) -> Result<wasmtime::Module, GuestError> {
        let id = ModuleId::of(wasm);
        if let Some(cache) = &self.cache
            && let Some(found) = cache.find(&self.metered.engine, Pace::Metered, &self.fingerprint, id)?
        {
            return Ok(found);
        }
        let bounds = Bounds { allowance, until: None, stop: self.stop.clone() };
        let Compilation { artefacts, .. } = self.compile(&[Pace::Metered], wasm, &bounds)?;
        self.load_new(&artefacts, Pace::Metered)
    }

    fn compile(&self, paces: &[Pace], wasm: &[u8], bounds: &Bounds) -> Result<Compilation, GuestError> {
        let engines: Vec<_> = paces.iter().map(|pace| (*pace, &self.lane(*pace).engine)).collect();
        let is_stopping = || self.is_stopped.load(Ordering::Acquire) || self.stop.is_given();
        compile(&engines, &self.fingerprint, wasm, bounds, &is_stopping)
    }

    fn load_new(&self, artefacts: &[(Pace, Vec<u8>)], pace: Pace) -> Result<wasmtime::Module, GuestError> {
        let found = artefacts.iter().find(|(known, _)| *known == pace);
        let (_, artefact) = found.expect("it was compiled for every engine that was named");
        // SAFETY: wasmtime demands bytes that it has made itself, unchanged. They come from this program: from this
        // process, or through a pipe from a child that runs the same file and whose engines have the same fingerprint.
        // A module that takes over the compiler can forge them: that is why the child has no rights, and what
        // ARCHITECTURE.md says under Trust.
        let loaded = unsafe { wasmtime::Module::deserialize(&self.lane(pace).engine, artefact) };
        loaded.map_err(|error| GuestError::Compiler { detail: format!("what it has compiled is refused: {error:#}") })
    }

    pub(super) fn lane(&self, pace: Pace) -> &EngineLane {
        match pace {
            Pace::Fast => &self.fast,
            Pace::Metered => &self.metered,
        }
    }
}

impl EngineLane {
    fn new(pace: Pace, instances_max: u32, has_perf_map: bool, ticks: &Arc<EngineTicks>) -> Result<Self, GuestError> {
        let mut config = config(pace, pool(instances_max));
        if has_perf_map {
            config.profiler(ProfilingStrategy::PerfMap);
        }
        let engine = wasmtime::Engine::new(&config)
            .map_err(|error| GuestError::Configuration { detail: format!("{error:#}") })?;
        Ok(Self { pace, engine, ticks: ticks.clone(), free: Mutex::new(instances_max), freed: Condvar::new() })
    }

    /// Waits until the pool has a free instance. Every call ends, so the wait ends too.
    pub(super) fn enter(&self) -> Permit<'_> {
        let mut free = self.free.lock();
        self.freed.wait_while(&mut free, |free| *free == 0);
        *free -= 1;
        Permit(self)
    }
}

/// The right to hold one instance of a lane's pool.
pub(super) struct Permit<'a>(&'a EngineLane);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.freed.notify_one();
    }
}

/// An engine that compiles for the engine of a lane, and takes no memory for instances.
pub(super) fn compile_only(pace: Pace) -> Result<wasmtime::Engine, GuestError> {
    wasmtime::Engine::new(&config(pace, InstanceAllocationStrategy::OnDemand))
        .map_err(|error| GuestError::Configuration { detail: format!("{error:#}") })
}

fn pool(instances_max: u32) -> InstanceAllocationStrategy {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(instances_max)
        .total_memories(instances_max)
        .total_tables(instances_max)
        .max_unused_warm_slots(instances_max)
        .max_memory_size(limits::GUEST_MEMORY_BYTES_MAX)
        .table_elements(limits::GUEST_TABLE_ELEMENTS_MAX as usize)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES);
    InstanceAllocationStrategy::Pooling(pool)
}

fn config(pace: Pace, instances: InstanceAllocationStrategy) -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .allocation_strategy(instances)
        .memory_init_cow(true)
        .memory_guaranteed_dense_image_size(limits::IMAGE_BYTES_MAX)
        .max_wasm_stack(limits::GUEST_STACK_BYTES_MAX)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .native_unwind_info(false)
        .epoch_interruption(pace == Pace::Fast)
        .consume_fuel(pace == Pace::Metered);
    // The validator refuses all of these with better messages. Reference types stay on: rustc emits their encodings.
    config
        .wasm_simd(false)
        .wasm_relaxed_simd(false)
        .wasm_tail_call(false)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_extended_const(false)
        .wasm_gc(false);
    config
}

/// Hashes everything on which, according to wasmtime, its artefacts depend: version, target, compiler settings, CPU
/// features, tunables.
pub(super) fn fingerprint(engines: &[&wasmtime::Engine]) -> blake3::Hash {
    struct Sink(blake3::Hasher);
    impl Hasher for Sink {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            unreachable!("hashing into a sink asks for no result")
        }
    }
    let mut sink = Sink(blake3::Hasher::new());
    sink.write(CONFIGURATION.as_bytes());
    for engine in engines {
        engine.precompile_compatibility_hash().hash(&mut sink);
    }
    sink.0.finalize()
}

const TICK_MIN: Duration = Duration::from_millis(1);

/// Tells the watchdog to tick as fast as it can.
struct Hurry;

/// The thread that advances the fast engine's epoch until it is dropped.
struct Watchdog {
    ticks: Arc<EngineTicks>,
    stop: Option<Sender<Hurry>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    fn start(engine: wasmtime::Engine, ticks: Arc<EngineTicks>) -> Result<Self, GuestError> {
        const NAME: &str = "guest-watchdog";
        let (stop, stopped) = channel();
        let mut tick = ticks.tick;
        let run = move || {
            loop {
                match stopped.recv_timeout(tick) {
                    Err(RecvTimeoutError::Timeout) => engine.increment_epoch(),
                    Ok(Hurry) => tick = TICK_MIN,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let thread = std::thread::Builder::new().name(NAME.to_owned()).spawn(run);
        let thread = thread.map_err(|source| GuestError::Thread { name: NAME, source })?;
        Ok(Self { ticks, stop: Some(stop), thread: Some(thread) })
    }
}

impl Watchdog {
    fn hurry(&self) {
        self.ticks.hurry();
        if let Some(stop) = &self.stop {
            // The thread lives at least until `self` is dropped.
            let _ = stop.send(Hurry);
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the watchdog thread only sleeps and counts");
        }
    }
}
