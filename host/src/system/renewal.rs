//! The certificates by which this node and the others know each other: where they are read from, and how a running node takes new ones.
//!
//! In: PEM files. Out: certificates of this node that the others would believe, and connections that are made with them. What becomes of those that are
//! open is decided in `peer`. It does not know when files change.

use std::path::PathBuf;

use crate::ids::NodeId;
use crate::peer::{PeerCertificates, PeerRenewal, PeerTls};
use crate::system::error::NodeError;

/// Mutual TLS between nodes, as PEM files.
#[derive(Clone, Debug)]
pub struct PeerTlsFiles {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl PeerTlsFiles {
    /// # Errors
    /// A file is not what it should be.
    pub fn read(self) -> Result<PeerCertificates, NodeError> {
        let Self { ca, certificate, key } = self;
        Ok(PeerCertificates::read(PeerTls { ca, certificate, key })?)
    }
}

/// Takes new certificates to know and be known by the other nodes, while the node runs.
#[derive(Clone)]
pub struct CertificateRenewal {
    node: NodeId,
    peers: PeerRenewal,
}

impl CertificateRenewal {
    pub fn new(node: NodeId, peers: PeerRenewal) -> Self {
        Self { node, peers }
    }

    /// # Errors
    /// A file is not what it should be, or nodes with the same authorities would not believe this one by that certificate.
    pub fn read(&self, files: PeerTlsFiles) -> Result<PeerCertificates, NodeError> {
        let certificates = files.read()?;
        certificates.check(self.node)?;
        Ok(certificates)
    }

    /// New connections are made with these from now on; see [`PeerRenewal::replace`].
    pub fn replace(&self, certificates: &PeerCertificates) -> usize {
        self.peers.replace(certificates)
    }
}
