//! The registry: modules on this node by their id, staged once and kept for ever.
//!
//! In: wasm bytes. Out: their id, and later the loaded module. The file's name is its hash, so a damaged file is never
//! loaded. It does not know which module is active where: that is in each partition's journal.

mod error;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

pub use error::RegistryError;
use parking_lot::Mutex;
use statehouse_abi::call::Context;
use statehouse_abi::cold::{CheckIn, CheckOut, MigrateIn, MigrateOut, QueryIn, QueryOut, RenderItem};
use statehouse_abi::describe::Describe;
use statehouse_abi::value::Value;
use statehouse_projection::abi as view;

use crate::durable::{self, PRIVATE, Unnamed};
use crate::guest::{Engine, Module, SecondModule};
use crate::ids::ModuleId;
use crate::machine::logic::{Fault, Logic, Pace};
use crate::partition::Modules;

/// A folder of modules and the engine that runs them.
pub struct Registry {
    folder: PathBuf,
    engine: Arc<Engine>,
    loaded: Mutex<BTreeMap<ModuleId, Arc<dyn Logic>>>,
    /// What is linked into the host.
    native: Mutex<BTreeSet<ModuleId>>,
}

impl Registry {
    pub fn open(folder: PathBuf, engine: Arc<Engine>) -> Result<Self, RegistryError> {
        durable::create_dir_all(&folder).map_err(|source| RegistryError::Io { path: folder.clone(), source })?;
        Ok(Self::open_to_read(folder, engine))
    }

    /// A registry over a folder of somebody else, which is only read.
    pub fn open_to_read(folder: PathBuf, engine: Arc<Engine>) -> Self {
        Self { folder, engine, loaded: Mutex::default(), native: Mutex::default() }
    }

    /// Adds logic that is linked into the host.
    pub fn add_native(&self, logic: Arc<dyn Logic>) {
        self.native.lock().insert(logic.id());
        self.loaded.lock().insert(logic.id(), logic);
    }

    /// Whether it is linked into the host, so that there are no bytes of it.
    pub fn is_native(&self, id: ModuleId) -> bool {
        self.native.lock().contains(&id)
    }

    /// Validates and compiles a module and keeps its bytes; durable on return.
    pub fn stage(&self, wasm: &[u8]) -> Result<Arc<dyn Logic>, RegistryError> {
        let module: Arc<dyn Logic> = Arc::new(Guest(self.engine.load(wasm)?));
        let path = self.path_of(module.id());
        if !path.exists() {
            self.write(module.id(), wasm).map_err(|source| RegistryError::Io { path, source })?;
        }
        self.loaded.lock().insert(module.id(), module.clone());
        Ok(module)
    }

    /// One that is in memory.
    pub fn find_loaded(&self, id: ModuleId) -> Option<Arc<dyn Logic>> {
        self.loaded.lock().get(&id).cloned()
    }

    /// One that is on disk, compiled if need be.
    pub fn find(&self, id: ModuleId) -> Result<Arc<dyn Logic>, RegistryError> {
        if let Some(logic) = self.find_loaded(id) {
            return Ok(logic);
        }
        let wasm = self.read(id)?;
        let module: Arc<dyn Logic> = Arc::new(Guest(self.engine.load(&wasm)?));
        self.loaded.lock().insert(id, module.clone());
        Ok(module)
    }

    /// A staged module on the second engine, to compare it with the first: slow, loaded anew each time, and without a budget
    /// that says the same.
    pub fn find_second(&self, id: ModuleId) -> Result<Arc<dyn Logic>, RegistryError> {
        Ok(Arc::new(SecondGuest(SecondModule::load(&self.read(id)?)?)))
    }

    /// What compiles and runs modules here; see [`Engine::fingerprint`].
    pub fn engine_fingerprint(&self) -> String {
        self.engine.fingerprint()
    }

    /// Validates and compiles a module that is not kept.
    pub fn compile(&self, wasm: &[u8]) -> Result<Arc<dyn Logic>, RegistryError> {
        Ok(Arc::new(Guest(self.engine.load(wasm)?)))
    }

    /// The bytes of a staged module.
    pub fn read(&self, id: ModuleId) -> Result<Vec<u8>, RegistryError> {
        let path = self.path_of(id);
        let wasm = match std::fs::read(&path) {
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
struct Guest(Arc<Module>);

impl Logic for Guest {
    fn id(&self) -> ModuleId {
        self.0.id()
    }

    fn describe(&self) -> &Describe {
        self.0.describe()
    }

    fn plan(&self, plan_in: &[u8]) -> Result<Vec<u8>, Fault> {
        self.0.plan(plan_in)
    }

    fn execute(&self, pace: Pace, context: Context, ops: &[u8], rows: &[u8]) -> Result<Vec<u8>, Fault> {
        self.0.execute(pace, context, ops, rows)
    }

    fn apply(&self, pace: Pace, context: Context, ops: &[u8], rows: &[u8], outcome: &[u8]) -> Result<Vec<u8>, Fault> {
        self.0.apply(pace, context, ops, rows, outcome)
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

    fn source(&self) -> Option<&str> {
        self.0.source()
    }

    fn project(&self, input: &view::ProjectIn) -> Result<view::ProjectOut, Fault> {
        self.0.project(input)
    }

    fn ask(&self, query: &view::QueryIn) -> Result<view::QueryOut, Fault> {
        self.0.ask(query)
    }
}

/// A guest module on the second engine as [`Logic`]; every pace is the same.
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
mod tests;
