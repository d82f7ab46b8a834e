//! Why a node's end of the peer network cannot be set up, and what can be wrong with its book of what peers hold.
//!
//! What goes wrong later, with one request, is a `PeerError` at the caller and a `ServiceError` at the node that answers.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum PeerSetupError {
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// Certificate, key or authority are not what they should be.
    #[error("{}: {reason}; see `peer.tls`", path.display())]
    Certificates { path: PathBuf, reason: String },
    #[error("peers cannot be served: {0}")]
    Serve(#[source] tonic::transport::Error),
}

/// Why the book of what was seen from other nodes cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SeenError {
    #[error("{}: {source}", path.display())]
    Disk { path: PathBuf, source: std::io::Error },
    #[error("{} cannot be believed: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
}
