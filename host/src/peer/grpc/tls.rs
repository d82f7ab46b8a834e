//! Mutual TLS between nodes: each shows a certificate of the cluster's own authority.
//!
//! The certificate of node 7 is valid for the DNS name `node-7`: a caller checks that it reached the node it meant, and a node checks that
//! a caller is the one it says. It does not know how certificates are made or renewed; files are read once, when a node starts.

use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, ServerName};
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

use crate::ids::NodeId;
use crate::limits;
use crate::peer::PeerSetupError;

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerTls {
    /// The authority that signs the certificates of all nodes, and of nobody else.
    pub ca: PathBuf,
    /// Valid for the name `node-<id>` of this node, as a server's and as a client's.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl PeerTls {
    /// For a call to any node: the name is set for each, see [`node_name`].
    pub(super) fn client(&self) -> Result<ClientTlsConfig, PeerSetupError> {
        Ok(ClientTlsConfig::new()
            .ca_certificate(self.authority()?)
            .identity(self.identity()?)
            .timeout(limits::PEER_CONNECT_MAX))
    }

    pub(super) fn server(&self) -> Result<ServerTlsConfig, PeerSetupError> {
        Ok(ServerTlsConfig::new()
            .identity(self.identity()?)
            .client_ca_root(self.authority()?)
            .client_auth_optional(false)
            .timeout(limits::PEER_CONNECT_MAX))
    }

    fn authority(&self) -> Result<Certificate, PeerSetupError> {
        read(&self.ca).map(Certificate::from_pem)
    }

    fn identity(&self) -> Result<Identity, PeerSetupError> {
        Ok(Identity::from_pem(read(&self.certificate)?, read(&self.key)?))
    }
}

pub(super) fn node_name(node: NodeId) -> String {
    format!("node-{node}")
}

/// Whether a certificate that the authority signed is that of `node`.
pub(super) fn is_certificate_of(node: NodeId, certificate: &CertificateDer<'_>) -> bool {
    let name = node_name(node);
    let Ok(name) = ServerName::try_from(name.as_str()) else { return false };
    let certificate = webpki::EndEntityCert::try_from(certificate);
    certificate.is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(&name).is_ok())
}

fn read(path: &Path) -> Result<Vec<u8>, PeerSetupError> {
    std::fs::read(path).map_err(|source| PeerSetupError::Read { path: path.to_owned(), source })
}
