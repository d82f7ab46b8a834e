//! The registry with its modules as files of one folder.
//!
//! In: a folder. Out: the [`Registry`] over it. A module's file is named by its hash. It does not know what is in a
//! file.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;

use super::{ModuleFiles, Registry, RegistryError};
use crate::durable::{self, PRIVATE, UnnamedFile};
use crate::guest::{Allowance, Engine};
use crate::ids::ModuleId;
use crate::limits::MODULE_BYTES_MAX;
use crate::regular;

/// Opens the registry of a node, and makes its folder if there is none.
pub fn open(folder: PathBuf, engine: Arc<Engine>) -> Result<Registry, RegistryError> {
    durable::create_dir_all(&folder).map_err(|source| RegistryError::Io { path: folder.clone(), source })?;
    Ok(open_to_read(folder, engine, Allowance::Recorded))
}

/// A registry over a foreign folder, which is only read.
pub fn open_to_read(folder: PathBuf, engine: Arc<Engine>, allowance: Allowance) -> Registry {
    Registry::new(ModuleFolder(folder), engine, allowance)
}

struct ModuleFolder(PathBuf);

impl ModuleFiles for ModuleFolder {
    fn place_of(&self, id: ModuleId) -> PathBuf {
        self.0.join(name_of(id))
    }

    fn has(&self, id: ModuleId) -> bool {
        self.place_of(id).exists()
    }

    fn read(&self, id: ModuleId) -> io::Result<Vec<u8>> {
        durable::open(&self.place_of(id), |path| regular::read(path, MODULE_BYTES_MAX as u64))
    }

    fn write(&self, id: ModuleId, wasm: &[u8]) -> io::Result<()> {
        let file = UnnamedFile::write(&self.0, PRIVATE, wasm)?;
        fail::fail_point!("registry::stage", |_| std::process::abort());
        file.name(&self.0, &name_of(id))
    }

    fn remove(&self, id: ModuleId) -> io::Result<()> {
        match std::fs::remove_file(self.place_of(id)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => durable::sync_dir(&self.0),
        }
    }
}

fn name_of(id: ModuleId) -> String {
    format!("{id}.wasm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_in_a_folder_are_kept_as_the_registry_expects() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        super::super::conformance::check(&ModuleFolder(folder.path().to_owned()));
    }
}
