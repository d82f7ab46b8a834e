//! The cache of compiled modules: one file per module, engine and fingerprint.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | `SHCWASM2` |
//! | 8 | 32 | blake3 of the file's name, a zero byte and everything after this field, keyed |
//! | 40 | – | wasmtime's artefact |
//!
//! The name is `<blake3(wasm)>-<fingerprint>-<pace>.cwasm`. The key is the node's own, so nobody else can make files
//! that are loaded: an artefact is machine code, and runs with all rights of the node. A file that is damaged or has
//! another key is compiled anew. A file with this node's key that wasmtime refuses is an error. It knows nothing of a
//! module's content.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::error::GuestError;
use super::module::Pace;
use crate::ids::ModuleId;
use crate::limits;

const MAGIC: &[u8; 8] = b"SHCWASM2";
const HEADER_SIZE: usize = 40;
const EXTENSION: &str = "cwasm";
/// The mode of a file: nobody else may read what this node runs.
const PRIVATE: u32 = 0o600;

/// Where compiled modules are kept, and the key that proves that this node has compiled them.
#[derive(Clone)]
pub struct CacheOptions {
    pub folder: PathBuf,
    pub key: [u8; 32],
}

impl std::fmt::Debug for CacheOptions {
    /// Omits the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CacheOptions").field("folder", &self.folder).finish_non_exhaustive()
    }
}

pub(super) struct ArtefactCache {
    folder: PathBuf,
    key: [u8; 32],
}

impl ArtefactCache {
    pub(super) fn new(CacheOptions { folder, key }: CacheOptions) -> Result<Self, GuestError> {
        let made = fs::create_dir_all(&folder).and_then(|()| {
            let others = fs::metadata(&folder)?.permissions().mode() & 0o077;
            if others == 0 { Ok(()) } else { fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)) }
        });
        made.map_err(|source| GuestError::Cache { path: folder.clone(), source })?;
        Ok(Self { folder, key })
    }

    /// Loads a module that was compiled for the engine with this fingerprint; `None` if it was not compiled here.
    pub(super) fn find(
        &self,
        engine: &wasmtime::Engine,
        pace: Pace,
        fingerprint: &blake3::Hash,
        id: ModuleId,
    ) -> Result<Option<wasmtime::Module>, GuestError> {
        let name = name(id, fingerprint, pace);
        let path = self.folder.join(&name);
        let Some(file) = read(&path).map_err(|source| GuestError::Cache { path: path.clone(), source })? else {
            return Ok(None);
        };
        let Some(artefact) = self.authentic(&name, &file) else {
            tracing::warn!(path = %path.display(), "compiled module is damaged, or not of this node; compiling it \
                                                    again");
            return Ok(None);
        };
        // SAFETY: wasmtime demands bytes that it has made itself, unchanged. This node's key proves that they are what
        // was written here under this name, and the name says that this version and configuration of wasmtime made
        // them.
        let loaded = unsafe { wasmtime::Module::deserialize(engine, artefact) };
        loaded.map(Some).map_err(|error| GuestError::Artefact { path, detail: format!("{error:#}") })
    }

    /// Keeps what was compiled. The file appears whole or not at all, even if two processes write it at once.
    pub(super) fn keep(
        &self,
        pace: Pace,
        fingerprint: &blake3::Hash,
        id: ModuleId,
        artefact: &[u8],
    ) -> Result<(), GuestError> {
        let name = name(id, fingerprint, pace);
        let write = || {
            use std::io::Write;
            let mut builder = tempfile::Builder::new();
            let mut file = builder.permissions(fs::Permissions::from_mode(PRIVATE)).tempfile_in(&self.folder)?;
            file.write_all(MAGIC)?;
            file.write_all(self.mac(&name, artefact).as_bytes())?;
            file.write_all(artefact)?;
            file.persist(self.folder.join(&name))?;
            self.shrink(&name)
        };
        write().map_err(|source| GuestError::Cache { path: self.folder.join(&name), source })
    }

    /// Deletes everything that was compiled from a module.
    pub(super) fn forget(&self, id: ModuleId) -> std::io::Result<()> {
        let begin = format!("{id}-");
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&begin) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Deletes the oldest files until the rest is small enough, but never the one that was just written.
    fn shrink(&self, newest: &str) -> std::io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let (path, facts) = (entry.path(), entry.metadata()?);
            if path.extension().is_some_and(|extension| extension == EXTENSION) && entry.file_name() != newest {
                files.push((facts.modified()?, facts.len(), path));
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in files {
            if total <= limits::ARTEFACTS_BYTES_MAX {
                break;
            }
            fs::remove_file(path)?;
            total -= size;
        }
        Ok(())
    }

    fn authentic<'f>(&self, name: &str, file: &'f [u8]) -> Option<&'f [u8]> {
        let (header, artefact) = file.split_at_checked(HEADER_SIZE)?;
        let mac: [u8; 32] = header.strip_prefix(MAGIC)?.try_into().ok()?;
        // The comparison of hashes takes constant time.
        (self.mac(name, artefact) == blake3::Hash::from(mac)).then_some(artefact)
    }

    fn mac(&self, name: &str, artefact: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(name.as_bytes()).update(&[0]).update(artefact);
        hasher.finalize()
    }
}

fn name(id: ModuleId, fingerprint: &blake3::Hash, pace: Pace) -> String {
    let pace = match pace {
        Pace::Fast => "fast",
        Pace::Metered => "metered",
    };
    format!("{id}-{}-{pace}.{EXTENSION}", &fingerprint.to_hex()[..32])
}

/// The file's bytes; `None` if there is no file, or one that cannot be an artefact.
fn read(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let facts = match fs::symlink_metadata(path) {
        Ok(facts) => facts,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let size_max = (limits::ARTEFACT_BYTES_MAX + HEADER_SIZE) as u64;
    if !facts.is_file() || size_max < facts.len() {
        tracing::warn!(path = %path.display(), "a file is not a compiled module; compiling it again");
        return Ok(None);
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(size_max).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}
