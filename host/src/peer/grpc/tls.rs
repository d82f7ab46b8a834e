//! Mutual TLS between nodes: each shows a certificate of the cluster's own authority.
//!
//! The certificate of node 7 is valid for the DNS name `node-7`: a caller checks that it reached the node it meant, and a node checks that
//! a caller is the one it says. The files are read when a node starts, and again whenever it is told to: connections made from then on use what
//! they say. It does not know how certificates are made or renewed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::TlsAcceptor;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::ids::NodeId;
use crate::limits;
use crate::peer::PeerSetupError;

/// What HTTP/2 is called in a handshake.
const HTTP_2: &[u8] = b"h2";

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerTls {
    /// The authority that signs the certificates of all nodes, and of nobody else; or several, while one takes another's place.
    pub ca: PathBuf,
    /// Valid for the name `node-<id>` of this node, as a server's and as a client's.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What the files said when they were last read. Clones share it.
#[derive(Clone)]
pub struct PeerCertificates {
    files: PeerTls,
    read: Arc<RwLock<Contents>>,
}

struct Contents {
    acceptor: TlsAcceptor,
    verifier: Arc<dyn ClientCertVerifier>,
    client: ClientTlsConfig,
}

impl PeerCertificates {
    /// # Errors
    /// A file cannot be read, or is not what it should be.
    pub fn read(files: PeerTls) -> Result<Self, PeerSetupError> {
        let read = Contents::read(&files)?;
        Ok(Self { files, read: Arc::new(RwLock::new(read)) })
    }

    /// Reads the files again. Where one of them is wrong, what was read before stays in use.
    ///
    /// # Errors
    /// The same as of [`PeerCertificates::read`].
    pub(super) fn reload(&self) -> Result<(), PeerSetupError> {
        let read = Contents::read(&self.files)?;
        *self.read.write() = read;
        Ok(())
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.read.read().acceptor.clone()
    }

    /// For a call to any node: the name is set for each, see [`node_name`].
    pub(super) fn client(&self) -> ClientTlsConfig {
        self.read.read().client.clone()
    }

    /// Whether the authority, as it was last read, stands for a certificate.
    pub(super) fn is_trusted(&self, chain: &[CertificateDer<'static>]) -> bool {
        let Some((own, intermediates)) = chain.split_first() else { return false };
        let verifier = self.read.read().verifier.clone();
        verifier.verify_client_cert(own, intermediates, UnixTime::now()).is_ok()
    }
}

impl Contents {
    fn read(files: &PeerTls) -> Result<Self, PeerSetupError> {
        let (ca, certificate, key) = (read(&files.ca)?, read(&files.certificate)?, read(&files.key)?);
        let mut authority = RootCertStore::empty();
        for certificate in certificates(&ca, &files.ca)? {
            authority.add(certificate).map_err(|error| wrong(&files.ca, &error))?;
        }
        let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authority), provider.clone());
        let verifier = verifier.build().map_err(|error| wrong(&files.ca, &error))?;
        let chain = certificates(&certificate, &files.certificate)?;
        let private = PrivateKeyDer::from_pem_slice(&key).map_err(|error| wrong(&files.key, &error))?;
        let server = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let server = server.map_err(|error| wrong(&files.certificate, &error))?;
        let server = server.with_client_cert_verifier(verifier.clone()).with_single_cert(chain, private);
        let mut server = server.map_err(|error| wrong(&files.certificate, &error))?;
        server.alpn_protocols = vec![HTTP_2.to_vec()];
        let client = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(ca))
            .identity(Identity::from_pem(certificate, key))
            .timeout(limits::PEER_CONNECT_MAX);
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(server)), verifier, client })
    }
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, PeerSetupError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| wrong(path, &error))?;
    if all.is_empty() { Err(wrong(path, &"it has no certificate in it")) } else { Ok(all) }
}

fn wrong(path: &Path, reason: &dyn std::fmt::Display) -> PeerSetupError {
    PeerSetupError::Certificates { path: path.to_owned(), reason: reason.to_string() }
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
