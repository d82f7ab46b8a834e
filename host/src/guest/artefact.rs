//! The cache of compiled modules: one file per module, engine and fingerprint.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | `SHCWASM1` |
//! | 8 | 32 | blake3 of everything behind it |
//! | 40 | – | wasmtime's artefact |
//!
//! The name is `<blake3(wasm)>-<fingerprint>-<pace>.cwasm`. A file that is damaged is compiled anew; one that is whole
//! and still refused is an error. It knows nothing of what is in a module.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::error::GuestError;
use super::module::Pace;
use crate::ids::ModuleId;

const MAGIC: &[u8; 8] = b"SHCWASM1";
const HEADER_SIZE: usize = 40;

pub(super) struct ArtefactCache {
    folder: PathBuf,
}

impl ArtefactCache {
    pub(super) fn new(folder: PathBuf) -> Result<Self, GuestError> {
        fs::create_dir_all(&folder).map_err(|source| GuestError::Cache { path: folder.clone(), source })?;
        Ok(Self { folder })
    }

    /// The module compiled for `engine`, whose fingerprint is `fingerprint`.
    pub(super) fn load_or_compile(
        &self,
        engine: &wasmtime::Engine,
        pace: Pace,
        fingerprint: &blake3::Hash,
        wasm: &[u8],
    ) -> Result<wasmtime::Module, GuestError> {
        let path = self.path(ModuleId::of(wasm), fingerprint, pace);
        if let Some(artefact) = find_artefact(&path)? {
            // SAFETY: wasmtime demands bytes that `serialize` made, unchanged. They carry the checksum that was written
            // with them, and the name says that this very version and configuration of wasmtime made them. Whoever
            // can forge both can also replace this program's own file.
            let loaded = unsafe { wasmtime::Module::deserialize(engine, &artefact[HEADER_SIZE..]) };
            return loaded.map_err(|error| GuestError::Artefact { path, detail: format!("{error:#}") });
        }
        let compile_error = |error: wasmtime::Error| GuestError::Compile { detail: format!("{error:#}") };
        let module = wasmtime::Module::from_binary(engine, wasm).map_err(compile_error)?;
        let artefact = module.serialize().map_err(compile_error)?;
        self.write(&path, &artefact).map_err(|source| GuestError::Cache { path, source })?;
        Ok(module)
    }

    fn path(&self, id: ModuleId, fingerprint: &blake3::Hash, pace: Pace) -> PathBuf {
        let pace = match pace {
            Pace::Fast => "fast",
            Pace::Metered => "metered",
        };
        self.folder.join(format!("{id}-{}-{pace}.cwasm", &fingerprint.to_hex()[..32]))
    }

    /// The file appears whole or not at all, also when two processes write it at once.
    fn write(&self, path: &Path, artefact: &[u8]) -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(MAGIC)?;
        file.write_all(blake3::hash(artefact).as_bytes())?;
        file.write_all(artefact)?;
        file.persist(path)?;
        Ok(())
    }
}

/// The file's bytes, or `None` when there is no whole artefact.
fn find_artefact(path: &Path) -> Result<Option<Vec<u8>>, GuestError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(GuestError::Cache { path: path.to_owned(), source }),
    };
    let whole = bytes.len() >= HEADER_SIZE
        && bytes.starts_with(MAGIC)
        && blake3::hash(&bytes[HEADER_SIZE..]).as_bytes() == &bytes[MAGIC.len()..HEADER_SIZE];
    if !whole {
        tracing::warn!(path = %path.display(), "compiled module is damaged; compiling it again");
    }
    Ok(whole.then_some(bytes))
}
