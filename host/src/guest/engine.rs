//! The two wasmtime engines that every module is compiled for, their watchdog, and the way from wasm bytes to a
//! [`Module`].
//!
//! *Fast* checks an epoch that the watchdog thread advances; *metered* counts fuel and so stops at the same instruction
//! on every machine. Both take instances from a pool and start each call with fresh memory. It knows nothing of what a
//! module computes.

use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use wasmtime::{
    Config, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, ProfilingStrategy, Strategy,
    WasmBacktraceDetails,
};

use super::artefact::ArtefactCache;
use super::error::GuestError;
use super::module::{Module, Pace};
use super::validate::validate;
use crate::limits;

/// Part of the fingerprint: changes whenever this host configures wasmtime differently.
const CONFIGURATION: &str = "statehouse guest engine 1";
/// Epoch ticks after which the watchdog strikes; its error is one tick.
pub(super) const WATCHDOG_TICKS: u64 = 8;
/// Memory of a pooled instance that is zeroed in place between calls instead of being given back page by page.
const KEEP_RESIDENT_BYTES: usize = 1 << 20;

/// When a module is compiled for finding the culprit of a batch, which takes as long as compiling it for everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metered {
    /// When it is loaded: whoever decides must not have to wait in the middle of a batch.
    AtOnce,
    /// When it is first needed, which for most of those who only look is never.
    WhenNeeded,
}

#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Folder for compiled modules; without one every load compiles.
    pub cache: Option<PathBuf>,
    /// Calls that may run at the same time on each engine; further ones wait.
    pub instances_max: u32,
    /// How long a call on the fast artefact may run.
    pub watchdog: Duration,
    pub metered: Metered,
    /// Tell `perf` the names of guest functions, in a file under `/tmp` that is named after the process.
    pub has_perf_map: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        let (watchdog, metered) = (limits::GUEST_WATCHDOG, Metered::AtOnce);
        Self { cache: None, instances_max: 32, watchdog, metered, has_perf_map: false }
    }
}

/// Both engines with everything they share. Lives as long as any module loaded from it.
pub struct Engine {
    pub(super) fast: Lane,
    pub(super) metered: Lane,
    fingerprint: blake3::Hash,
    cache: Option<ArtefactCache>,
    when_metered: Metered,
    _watchdog: Watchdog,
}

/// One wasmtime engine and the gate in front of its pool.
pub(super) struct Lane {
    pub(super) pace: Pace,
    pub(super) engine: wasmtime::Engine,
    free: Mutex<u32>,
    freed: Condvar,
}

impl Engine {
    /// # Errors
    /// wasmtime refuses the configuration (too little address space, for example), the cache folder cannot be made, or
    /// the watchdog thread cannot be started.
    pub fn new(options: EngineOptions) -> Result<Arc<Self>, GuestError> {
        let instances_max = options.instances_max.max(1);
        let fast = Lane::new(Pace::Fast, instances_max, options.has_perf_map)?;
        let metered = Lane::new(Pace::Metered, instances_max, options.has_perf_map)?;
        let watchdog = Watchdog::start(fast.engine.clone(), options.watchdog)?;
        let cache = options.cache.map(ArtefactCache::new).transpose()?;
        let fingerprint = fingerprint(&[&fast.engine, &metered.engine]);
        Ok(Arc::new(Self { fast, metered, fingerprint, cache, when_metered: options.metered, _watchdog: watchdog }))
    }

    /// Names everything that the compiled code depends on but the module: wasmtime's version and settings, target,
    /// CPU features. Two nodes with the same fingerprint run the same machine code.
    pub fn fingerprint(&self) -> String {
        let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        format!("wasmtime-{target}-{}", &self.fingerprint.to_hex()[..16])
    }

    /// Validates the module, compiles it for both engines or takes that from the cache, and asks it to describe itself.
    ///
    /// Takes about a second per megabyte the first time, milliseconds from the cache.
    ///
    /// # Errors
    /// [`GuestError::Refused`] and [`GuestError::Describe`] are the module's fault, all others the host's.
    pub fn load(self: &Arc<Self>, wasm: &[u8]) -> Result<Arc<Module>, GuestError> {
        validate(wasm).map_err(|problems| GuestError::Refused { problems })?;
        let fast = self.compile(&self.fast, wasm)?;
        let metered = match self.when_metered {
            Metered::AtOnce => Some(self.compile_metered(wasm)?),
            Metered::WhenNeeded => None,
        };
        Module::new(Arc::clone(self), wasm, &fast, metered.as_ref()).map(Arc::new)
    }

    pub(super) fn compile_metered(&self, wasm: &[u8]) -> Result<wasmtime::Module, GuestError> {
        self.compile(&self.metered, wasm)
    }

    fn compile(&self, lane: &Lane, wasm: &[u8]) -> Result<wasmtime::Module, GuestError> {
        match &self.cache {
            Some(cache) => cache.load_or_compile(&lane.engine, lane.pace, &self.fingerprint, wasm),
            None => wasmtime::Module::from_binary(&lane.engine, wasm)
                .map_err(|error| GuestError::Compile { detail: format!("{error:#}") }),
        }
    }

    pub(super) fn lane(&self, pace: Pace) -> &Lane {
        match pace {
            Pace::Fast => &self.fast,
            Pace::Metered => &self.metered,
        }
    }
}

impl Lane {
    fn new(pace: Pace, instances_max: u32, has_perf_map: bool) -> Result<Self, GuestError> {
        let mut config = config(pace, instances_max);
        if has_perf_map {
            config.profiler(ProfilingStrategy::PerfMap);
        }
        let engine = wasmtime::Engine::new(&config)
            .map_err(|error| GuestError::Configuration { detail: format!("{error:#}") })?;
        Ok(Self { pace, engine, free: Mutex::new(instances_max), freed: Condvar::new() })
    }

    /// Waits until the pool has a free instance. Every call ends, so the wait does.
    pub(super) fn enter(&self) -> Permit<'_> {
        let mut free = self.free.lock();
        self.freed.wait_while(&mut free, |free| *free == 0);
        *free -= 1;
        Permit(self)
    }
}

/// The right to hold one instance of a lane's pool.
pub(super) struct Permit<'a>(&'a Lane);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.freed.notify_one();
    }
}

fn config(pace: Pace, instances_max: u32) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(instances_max)
        .total_memories(instances_max)
        .total_tables(instances_max)
        .max_unused_warm_slots(instances_max)
        .max_memory_size(limits::GUEST_MEMORY_BYTES_MAX)
        .table_elements(limits::GUEST_TABLE_ELEMENTS_MAX as usize)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES);
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .memory_init_cow(true)
        .max_wasm_stack(limits::GUEST_STACK_BYTES_MAX)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .native_unwind_info(false)
        .epoch_interruption(pace == Pace::Fast)
        .consume_fuel(pace == Pace::Metered);
    // The validator refuses all of these with better words. Reference types stay on: rustc emits their encodings.
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

/// Hashes what wasmtime says its artefacts depend on: version, target, compiler settings, CPU features, tunables.
fn fingerprint(engines: &[&wasmtime::Engine]) -> blake3::Hash {
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

/// The thread that advances the fast engine's epoch until it is dropped.
struct Watchdog {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    fn start(engine: wasmtime::Engine, patience: Duration) -> Result<Self, GuestError> {
        const NAME: &str = "guest-watchdog";
        let (stop, stopped) = channel();
        let tick = (patience / WATCHDOG_TICKS as u32).max(Duration::from_millis(1));
        let run = move || {
            while stopped.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
                engine.increment_epoch();
            }
        };
        let thread = std::thread::Builder::new().name(NAME.to_owned()).spawn(run);
        let thread = thread.map_err(|source| GuestError::Thread { name: NAME, source })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
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
