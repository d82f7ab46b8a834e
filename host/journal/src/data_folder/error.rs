//! Why a file of a data folder cannot be read or written.
//!
//! In: errors of the disk and of formats. Out: messages that name the file. This file does not know what a node does
//! then.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{} is not written by this program: {reason}", path.display())]
    Identity { path: PathBuf, reason: String },
}
