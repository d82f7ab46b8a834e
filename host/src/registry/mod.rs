//! The registry: modules on this node by their id, kept for ever once they are recorded.
//!
//! In: wasm bytes. Out: their id, and later the loaded module. The file's name is its hash, so a damaged file is never
//! loaded. A module that somebody uploads is examined first, and nothing of it stays unless it is kept. It does not
//! know which module is active where: that is in each partition's journal.

mod error;
mod guarded;
mod loaded;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

pub use error::RegistryError;
pub use guarded::{Cut, Guarded, Stop};
use parking_lot::Mutex;
use statehouse_abi::call::Context;
use statehouse_abi::cold::{CheckIn, CheckOut, MigrateIn, MigrateOut, QueryIn, QueryOut, RenderItem};
use statehouse_abi::describe::Describe;
use statehouse_abi::value::Value;
use statehouse_projection::abi as view;

use crate::durable::{self, PRIVATE, Unnamed};
use crate::guest::{Allowance, Bounds, Engine, Examined, Module, SecondModule};
use crate::ids::ModuleId;
use crate::limits::MODULE_BYTES_MAX;
use crate::machine::logic::{Fault, Logic, Pace, ViewLogic};
use crate::partition::Modules;
use crate::registry::loaded::Loaded;
use crate::regular;

/// A folder of modules and the engine that runs them.
pub struct Registry {
    folder: PathBuf,
    engine: Arc<Engine>,
    /// What compiling a module of the folder may cost.
    allowance: Allowance,
    loaded: Mutex<Loaded>,
    /// Held while a module is loaded from the disk. All partitions ask for it at the same time, and one compilation is
    /// enough.
    loading: Mutex<()>,
    /// Logic that is linked into the host.
    native: Mutex<BTreeMap<ModuleId, Arc<dyn Logic>>>,
}

/// A module that somebody has uploaded: it runs, and nothing of it is kept unless it was kept before.
pub struct Candidate {
    logic: Arc<dyn Logic>,
    /// `None` if the module is kept already.
    examined: Option<Examined>,
}

impl Candidate {
    pub fn logic(&self) -> &Arc<dyn Logic> {
        &self.logic
    }

    /// Whether the module is on this node for the first time.
    pub fn is_new(&self) -> bool {
        self.examined.is_some()
    }
}

impl Registry {
    pub fn open(folder: PathBuf, engine: Arc<Engine>) -> Result<Self, RegistryError> {
        durable::create_dir_all(&folder).map_err(|source| RegistryError::Io { path: folder.clone(), source })?;
        Ok(Self::open_to_read(folder, engine, Allowance::Recorded))
    }

    /// A registry over a foreign folder, which is only read.
    pub fn open_to_read(folder: PathBuf, engine: Arc<Engine>, allowance: Allowance) -> Self {
        let (loaded, loading, native) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { folder, engine, allowance, loaded, loading, native }
    }

    /// Adds logic that is linked into the host.
    pub fn add_native(&self, logic: Arc<dyn Logic>) {
        self.native.lock().insert(logic.id(), logic);
    }

    /// Whether the module is linked into the host, so that no file has its bytes.
    pub fn is_native(&self, id: ModuleId) -> bool {
        self.native.lock().contains_key(&id)
    }

    /// Validates and compiles a module that the operator has configured or the cluster has recorded, and keeps its
    /// bytes; durable on return.
    pub fn stage(&self, wasm: &[u8]) -> Result<Arc<dyn Logic>, RegistryError> {
        let module: Arc<dyn Logic> = Arc::new(Guest::new(self.engine.load(wasm, self.allowance)?));
        self.write_missing(module.id(), wasm)?;
        self.loaded.lock().insert(module.clone());
        Ok(module)
    }

    /// Validates and compiles a module that somebody has uploaded, within bounds; keeps nothing.
    pub fn examine(&self, wasm: &[u8], bounds: &Bounds) -> Result<Candidate, RegistryError> {
        let id = ModuleId::of(wasm);
        if self.path_of(id).exists() {
            return Ok(Candidate { logic: self.find(id)?, examined: None });
        }
        let examined = self.engine.examine(wasm, bounds)?;
        Ok(Candidate { logic: Arc::new(Guest::new(examined.module.clone())), examined: Some(examined) })
    }

    /// Keeps a module that is about to be recorded; durable on return.
    pub fn keep(&self, candidate: &Candidate) -> Result<(), RegistryError> {
        let Some(examined) = &candidate.examined else { return Ok(()) };
        self.engine.keep(examined)?;
        self.write_missing(examined.module.id(), examined.module.wasm())?;
        self.loaded.lock().insert(candidate.logic.clone());
        Ok(())
    }

    /// Deletes what was kept of a module that was not recorded after all.
    pub fn forget(&self, id: ModuleId) -> Result<(), RegistryError> {
        self.loaded.lock().remove(id);
        let path = self.path_of(id);
        let forgotten = match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => durable::sync_dir(&self.folder).and_then(|()| self.engine.forget(id)),
        };
        forgotten.map_err(|source| RegistryError::Io { path, source })
    }

    /// Ends every compilation, and prevents further ones.
    pub fn stop_compiling(&self) {
        self.engine.stop_compiling();
    }

    /// A module that is in memory.
    pub fn find_loaded(&self, id: ModuleId) -> Option<Arc<dyn Logic>> {
        let native = self.native.lock().get(&id).cloned();
        native.or_else(|| self.loaded.lock().find(id))
    }

    /// A module that is on disk, compiled if necessary.
    pub fn find(&self, id: ModuleId) -> Result<Arc<dyn Logic>, RegistryError> {
        if let Some(logic) = self.find_loaded(id) {
            return Ok(logic);
        }
        let _loading = self.loading.lock();
        if let Some(logic) = self.find_loaded(id) {
            return Ok(logic);
        }
        let wasm = self.read(id)?;
        let module: Arc<dyn Logic> = Arc::new(Guest::new(self.engine.load(&wasm, self.allowance)?));
        self.loaded.lock().insert(module.clone());
        Ok(module)
    }

    /// A staged module on the second engine, to compare it with the first. It is slow, loaded anew each time, and its
    /// budget does not have the same unit.
    pub fn find_second(&self, id: ModuleId) -> Result<Arc<dyn Logic>, RegistryError> {
        Ok(Arc::new(SecondGuest(SecondModule::load(&self.read(id)?)?)))
    }

    /// The node stops: the watchdog ends guest calls that are under way at once.
    pub fn hurry(&self) {
        self.engine.hurry();
    }

    /// Names what compiles and runs modules here; see [`Engine::fingerprint`].
    pub fn engine_fingerprint(&self) -> String {
        self.engine.fingerprint()
    }

    /// Validates and compiles a foreign module, which is not kept.
    pub fn compile(&self, wasm: &[u8]) -> Result<Arc<dyn Logic>, RegistryError> {
        Ok(Arc::new(Guest::new(self.engine.load(wasm, Allowance::Foreign)?)))
    }

    /// The bytes of a staged module.
    pub fn read(&self, id: ModuleId) -> Result<Vec<u8>, RegistryError> {
        let path = self.path_of(id);
        let wasm = match durable::open(&path, |path| regular::read(path, MODULE_BYTES_MAX as u64)) {
            Ok(wasm) => wasm,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(RegistryError::Missing { id, path });
            }
            Err(source) => return Err(RegistryError::Io { path, source }),
        };
        let found = ModuleId::of(&wasm);
        if found != id {
            return Err(RegistryError::Damaged { path, expected: id, found });
        }
        Ok(wasm)
    }

    fn write_missing(&self, id: ModuleId, wasm: &[u8]) -> Result<(), RegistryError> {
        let path = self.path_of(id);
        if path.exists() {
            return Ok(());
        }
        self.write(id, wasm).map_err(|source| RegistryError::Io { path, source })
    }

    fn write(&self, id: ModuleId, wasm: &[u8]) -> std::io::Result<()> {
        let file = Unnamed::write(&self.folder, PRIVATE, wasm)?;
        fail::fail_point!("registry::stage", |_| std::process::abort());
        file.name(&self.folder, &file_of(id))
    }

    fn path_of(&self, id: ModuleId) -> PathBuf {
        self.folder.join(file_of(id))
    }
}

impl Modules for Registry {
    fn load(&self, id: ModuleId) -> Result<Arc<dyn Logic>, String> {
        self.find(id).map_err(|error| error.to_string())
    }

    fn find_here(&self, id: ModuleId) -> Option<Arc<dyn Logic>> {
        self.find(id).ok()
    }

    fn find_loaded(&self, id: ModuleId) -> Option<Arc<dyn Logic>> {
        self.find_loaded(id)
    }
}

fn file_of(id: ModuleId) -> String {
    format!("{id}.wasm")
}

/// A guest module as [`Logic`].
struct Guest {
    module: Arc<Module>,
    view: Option<GuestView>,
}

impl Guest {
    fn new(module: Arc<Module>) -> Self {
        let view = module.source().map(|source| GuestView { module: module.clone(), source: source.to_owned() });
        Self { module, view }
    }
}

impl Logic for Guest {
    fn id(&self) -> ModuleId {
        self.module.id()
    }

    fn describe(&self) -> &Describe {
        self.module.describe()
    }

    fn plan(&self, plan_in: &[u8]) -> Result<Vec<u8>, Fault> {
        self.module.plan(plan_in)
    }

    fn execute(&self, pace: Pace, context: Context, ops: &[u8], rows: &[u8]) -> Result<Vec<u8>, Fault> {
        self.module.execute(pace, context, ops, rows)
    }

    fn apply(&self, pace: Pace, context: Context, ops: &[u8], rows: &[u8], outcome: &[u8]) -> Result<Vec<u8>, Fault> {
        self.module.apply(pace, context, ops, rows, outcome)
    }

    fn query(&self, query: &QueryIn) -> Result<QueryOut, Fault> {
        self.module.query(query)
    }

    fn render(&self, items: &[RenderItem]) -> Result<Vec<Value>, Fault> {
        self.module.render(items)
    }

    fn check(&self, check: &CheckIn) -> Result<CheckOut, Fault> {
        self.module.check(check)
    }

    fn migrate(&self, entities: &[MigrateIn]) -> Vec<Result<MigrateOut, Fault>> {
        self.module.migrate(entities)
    }

    fn view(&self) -> Option<&dyn ViewLogic> {
        self.view.as_ref().map(|view| view as &dyn ViewLogic)
    }
}

/// A guest module that is a view.
struct GuestView {
    module: Arc<Module>,
    source: String,
}

impl ViewLogic for GuestView {
    fn source(&self) -> &str {
        &self.source
    }

    fn project(&self, input: &view::ProjectIn) -> Result<view::ProjectOut, Fault> {
        self.module.project(input)
    }

    fn ask(&self, query: &view::QueryIn) -> Result<view::QueryOut, Fault> {
        self.module.ask(query)
    }
}

/// A guest module on the second engine as [`Logic`]; it ignores the pace.
struct SecondGuest(SecondModule);

impl Logic for SecondGuest {
    fn id(&self) -> ModuleId {
        self.0.id()
    }

    fn describe(&self) -> &Describe {
        self.0.describe()
    }

    fn plan(&self, plan_in: &[u8]) -> Result<Vec<u8>, Fault> {
        self.0.plan(plan_in)
    }

    fn execute(&self, _: Pace, context: Context, ops: &[u8], rows: &[u8]) -> Result<Vec<u8>, Fault> {
        self.0.execute(context, ops, rows)
    }

    fn apply(&self, _: Pace, context: Context, ops: &[u8], rows: &[u8], outcome: &[u8]) -> Result<Vec<u8>, Fault> {
        self.0.apply(context, ops, rows, outcome)
    }

    fn query(&self, query: &QueryIn) -> Result<QueryOut, Fault> {
        self.0.query(query)
    }

    fn render(&self, items: &[RenderItem]) -> Result<Vec<Value>, Fault> {
        self.0.render(items)
    }

    fn check(&self, check: &CheckIn) -> Result<CheckOut, Fault> {
        self.0.check(check)
    }

    fn migrate(&self, entities: &[MigrateIn]) -> Vec<Result<MigrateOut, Fault>> {
        self.0.migrate(entities)
    }
}

#[cfg(test)]
mod failing;
#[cfg(test)]
mod tests;
