//! Why a node's end of the peer network cannot be set up, and what can be wrong with its book of what peers hold.
//!
//! What goes wrong later, with one request, is a `PeerError` at the caller and a `ServiceError` at the node that
//! answers.

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
    #[error("{} has the format {found} of a later program", path.display())]
    Format { path: PathBuf, found: u32 },
}

/// What was seen of a node was lost with a damaged book, and the node has not reported it since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "its record of what other nodes' logs held was damaged and made again, and it has not heard from this node since \
     then, so it cannot vouch for it; if no other node can either: stop that node, remove the file `seen` from its \
     data folder, and start it again, which counts as having seen nothing"
)]
pub struct SeenLost;
