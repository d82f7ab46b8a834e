//! The certificates with which this node and the others authenticate each other: where they are read from, and how a
//! running node takes new ones.
//!
//! In: PEM files. Out: certificates of this node that the others would accept, and connections that are made with them.
//! `peer` decides what happens to open connections. It does not know when files change.

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

/// Gives a running node new certificates for its connections with the other nodes.
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
    /// A file is not what it should be, or nodes that trust the same authorities would not accept this node's
    /// certificate.
    pub fn read(&self, files: PeerTlsFiles) -> Result<PeerCertificates, NodeError> {
        let certificates = files.read()?;
        certificates.check(self.node)?;
        Ok(certificates)
    }

    /// Makes new connections use these certificates from now on; see [`PeerRenewal::replace`].
    pub fn replace(&self, certificates: &PeerCertificates) -> usize {
        self.peers.replace(certificates)
    }
}
