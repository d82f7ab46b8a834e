//! Where the registry keeps the bytes of modules: [`ModuleFiles`].
//!
//! In: an id and bytes. Out: the same bytes. An implementation knows how a file becomes durable, and who else may
//! have placed one there; it does not know what a module is.

use std::io::Result;
use std::path::PathBuf;

use crate::ids::ModuleId;

/// The bytes of modules by their id. Every call blocks.
pub trait ModuleFiles: Send + Sync {
    /// Where the bytes of the module lie or would lie, for people.
    fn place_of(&self, id: ModuleId) -> PathBuf;

    fn has(&self, id: ModuleId) -> bool;

    /// The bytes as they are; the caller compares their hash. A module that is not there is an error of the kind
    /// `NotFound`.
    fn read(&self, id: ModuleId) -> Result<Vec<u8>>;

    /// Keeps the bytes: after a crash there is all of them or nothing. They are durable on return.
    fn write(&self, id: ModuleId, wasm: &[u8]) -> Result<()>;

    /// Deletes the module, which need not be there. That is durable on return.
    fn remove(&self, id: ModuleId) -> Result<()>;
}
