//! What can be wrong with a staged module.
//!
//! In: errors of the engine and the disk. Out: messages that say what to do. It does not know who asked for the module.

use std::path::PathBuf;

use crate::guest::GuestError;
use crate::ids::ModuleId;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error("the node is being stopped")]
    Closed,
    #[error("module {} is not staged here: put its bytes at {}", id.short(), path.display())]
    Missing { id: ModuleId, path: PathBuf },
    #[error("{} is damaged: its hash is {found}, not {expected}; restore the file", path.display())]
    Damaged { path: PathBuf, expected: ModuleId, found: ModuleId },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}
