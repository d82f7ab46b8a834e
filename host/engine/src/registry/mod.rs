//! The registry: modules on this node by their id, kept for ever once they are recorded.
//!
//! In: wasm bytes. Out: their id, and later the loaded module. What is kept is checked by its hash, so damaged bytes
//! are never loaded. A module that somebody uploads is examined first, and nothing of it stays unless it is kept. It
//! does not know how files become durable ([`ModuleFiles`]; `folder.rs` does), nor which module is active where: that
//! is in each partition's journal.

mod error;
mod files;
mod folder;
mod guarded;
mod loaded;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use error::RegistryError;
pub use files::ModuleFiles;
pub use folder::{open, open_to_read};
pub use guarded::{GuardedLogic, Stop, StopCause};
use parking_lot::Mutex;

use crate::guest::{Allowance, Bounds, Engine, ExaminedModule, SecondModule};
use crate::ids::ModuleId;
use crate::machine::logic::Logic;
use crate::machine::modules::Modules;
use crate::registry::loaded::LoadedModules;

/// The modules that are kept, and the engine that runs them.
pub struct Registry {
    files: Box<dyn ModuleFiles>,
    engine: Arc<Engine>,
    /// What compiling a module that is kept may cost.
    allowance: Allowance,
    loaded: Mutex<LoadedModules>,
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
    examined: Option<ExaminedModule>,
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
    pub fn new(files: impl ModuleFiles + 'static, engine: Arc<Engine>, allowance: Allowance) -> Self {
        let (loaded, loading, native) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { files: Box::new(files), engine, allowance, loaded, loading, native }
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
        let module: Arc<dyn Logic> = self.engine.load(wasm, self.allowance)?;
        self.write_missing(module.id(), wasm)?;
        self.loaded.lock().insert(module.clone());
        Ok(module)
    }

    /// Validates and compiles a module that somebody has uploaded, within bounds; keeps nothing.
    pub fn examine(&self, wasm: &[u8], bounds: &Bounds) -> Result<Candidate, RegistryError> {
        let id = ModuleId::of(wasm);
        if self.files.has(id) {
            return Ok(Candidate { logic: self.find(id)?, examined: None });
        }
        let examined = self.engine.examine(wasm, bounds)?;
        Ok(Candidate { logic: examined.module.clone(), examined: Some(examined) })
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
        let forgotten = self.files.remove(id).and_then(|()| self.engine.forget(id));
        forgotten.map_err(|source| RegistryError::Io { path: self.files.place_of(id), source })
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
        let module: Arc<dyn Logic> = self.engine.load(&wasm, self.allowance)?;
        self.loaded.lock().insert(module.clone());
        Ok(module)
    }

    /// A staged module on the second engine, to compare it with the first. It is slow, loaded anew each time, and its
    /// budget does not have the same unit.
    pub fn find_second(&self, id: ModuleId) -> Result<Arc<dyn Logic>, RegistryError> {
        Ok(Arc::new(SecondModule::load(&self.read(id)?)?))
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
        Ok(self.engine.load(wasm, Allowance::Foreign)?)
    }

    /// The bytes of a staged module.
    pub fn read(&self, id: ModuleId) -> Result<Vec<u8>, RegistryError> {
        let wasm = self.files.read(id).map_err(|source| {
            let path = self.files.place_of(id);
            match source.kind() {
                std::io::ErrorKind::NotFound => RegistryError::Missing { id, path },
                _ => RegistryError::Io { path, source },
            }
        })?;
        let found = ModuleId::of(&wasm);
        if found != id {
            return Err(RegistryError::Damaged { path: self.files.place_of(id), expected: id, found });
        }
        Ok(wasm)
    }

    fn write_missing(&self, id: ModuleId, wasm: &[u8]) -> Result<(), RegistryError> {
        if self.files.has(id) {
            return Ok(());
        }
        self.files.write(id, wasm).map_err(|source| RegistryError::Io { path: self.files.place_of(id), source })
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

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(test)]
mod failing;
#[cfg(test)]
mod tests;
