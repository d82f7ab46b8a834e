//! What can be wrong with canonical snapshots, and where.

use std::io;
use std::path::{Path, PathBuf};

use crate::ids::Digest;

#[derive(Debug, thiserror::Error)]
pub enum CanonicalError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The file is not what was written.
    #[error("{file}, at byte {offset}: {damage}")]
    Damaged { file: String, offset: u64, damage: SnapshotDamage },
    /// The reader gave up.
    #[error("the reading was given up")]
    GivenUp,
}

impl CanonicalError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// In which way a snapshot differs from what was written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotDamage {
    #[error("the file cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("this is no canonical snapshot")]
    Magic,
    #[error("the snapshot has format {found}, this program reads {known}; use a later version")]
    Format { found: u16, known: u16 },
    #[error("the file is cut off")]
    Cut,
    #[error("the manifest does not have the hash that follows it")]
    ManifestHash,
    #[error("the manifest is not of the format: {0}")]
    Manifest(&'static str),
    #[error("the name of the file is not that of its content, `{expected}`")]
    Name { expected: String },
    #[error(
        "chunk {number} has the hash {}, and {} is recorded of it: it was changed",
        found.short(), expected.short()
    )]
    Chunk { number: usize, expected: Digest, found: Digest },
    #[error("chunk {number} is not made of rows in order of key")]
    Rows { number: usize },
    #[error("the chunks end at byte {found}, and the manifest begins at {expected}")]
    Size { expected: u64, found: u64 },
    #[error("all rows together have the digest {}, and {} is recorded", found.short(), expected.short())]
    State { expected: Digest, found: Digest },
}
