//! Mutual TLS between nodes: each shows a certificate of the cluster's own authority.
//!
//! The certificate of node 7 is valid for the DNS name `node-7`: a caller checks that it reached the node it meant, and
//! a node checks that a caller is the one it says. The files are read when a node starts, and again whenever it is told
//! to. Connections made from then on use what they say, and no connection resumes the session of another one. It does
//! not know how certificates are made or renewed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use crate::ids::NodeId;
use crate::peer::PeerSetupError;

/// The name of HTTP/2 in a handshake.
pub(super) const HTTP_2: &[u8] = b"h2";

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerTls {
    /// The authority that signs the certificates of all nodes, and of nobody else; or several, while one replaces
    /// another.
    pub ca: PathBuf,
    /// Valid for the name `node-<id>` of this node, as a server's and as a client's.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What the files said when they were last read. Clones share it.
#[derive(Clone)]
pub struct PeerCertificates(Arc<RwLock<InForce>>);

struct InForce {
    contents: Arc<Contents>,
    /// Cancelled once other certificates are in force.
    replaced: CancellationToken,
}

struct Contents {
    files: PeerTls,
    own: Vec<CertificateDer<'static>>,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    clients: Arc<dyn ClientCertVerifier>,
    servers: Arc<dyn ServerCertVerifier>,
}

/// What the other side of a connection has shown, and when.
pub(super) struct ShownCertificate {
    pub chain: Vec<CertificateDer<'static>>,
    /// The time of the handshake: a connection outlives the expiry of its certificate, as usual. It ends when its
    /// certificate is not trusted any more, not because of its age.
    pub at: UnixTime,
}

impl ShownCertificate {
    pub fn now(chain: Option<&[CertificateDer<'static>]>) -> Self {
        Self { chain: chain.unwrap_or_default().to_vec(), at: UnixTime::now() }
    }
}

impl PeerCertificates {
    /// # Errors
    /// A file cannot be read, or is not what it should be.
    pub fn read(files: PeerTls) -> Result<Self, PeerSetupError> {
        let contents = Arc::new(Contents::read(files)?);
        Ok(Self(Arc::new(RwLock::new(InForce { contents, replaced: CancellationToken::new() }))))
    }

    /// Checks that nodes that trust the same authorities accept this certificate as that of `node`.
    ///
    /// # Errors
    /// They do not accept it because of its name, its time, or who has signed it.
    pub fn check(&self, node: NodeId) -> Result<(), PeerSetupError> {
        let contents = self.now();
        let files = &contents.files;
        let shown = ShownCertificate::now(Some(&contents.own));
        if !shown.chain.first().is_some_and(|own| is_certificate_of(node, own)) {
            let reason = format!("it is not valid for the name `{}`", node_name(node));
            return Err(wrong(&files.certificate, &reason));
        }
        let verified = contents.verify_client(&shown).and_then(|()| contents.verify_server(node, &shown));
        verified.map_err(|error| {
            let reason =
                format!("a node that trusts the authorities in {} would refuse it: {error}", files.ca.display());
            wrong(&files.certificate, &reason)
        })
    }

    /// From now on the certificates of `by` are in force, and open connections are checked again.
    pub(super) fn replace(&self, by: &Self) {
        // It gets a token of its own: `by` may have been in force and replaced before.
        let next = InForce { contents: by.now(), replaced: CancellationToken::new() };
        let before = std::mem::replace(&mut *self.0.write(), next);
        before.replaced.cancel();
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.now().acceptor.clone()
    }

    /// The connector for calls to any node, and a token that is cancelled when it is out of date.
    pub(super) fn connector(&self) -> (TlsConnector, CancellationToken) {
        let current = self.0.read();
        (current.contents.connector.clone(), current.replaced.clone())
    }

    /// A token that is cancelled once other certificates than now are in force.
    pub(super) fn replaced(&self) -> CancellationToken {
        self.0.read().replaced.clone()
    }

    /// Whether the authorities, as they were last read, have signed what a caller has shown.
    pub(super) fn is_trusted_caller(&self, shown: &ShownCertificate) -> bool {
        self.now().verify_client(shown).is_ok()
    }

    /// Whether the authorities, as they were last read, have signed what the node that was called has shown.
    pub(super) fn is_trusted_node(&self, node: NodeId, shown: &ShownCertificate) -> bool {
        self.now().verify_server(node, shown).is_ok()
    }

    fn now(&self) -> Arc<Contents> {
        self.0.read().contents.clone()
    }
}

impl Contents {
    fn read(files: PeerTls) -> Result<Self, PeerSetupError> {
        let mut authority = RootCertStore::empty();
        for certificate in certificates(&files.ca)? {
            authority.add(certificate).map_err(|error| wrong(&files.ca, &error))?;
        }
        let (authority, provider): (_, Arc<CryptoProvider>) = (Arc::new(authority), Arc::new(ring::default_provider()));
        let clients = WebPkiClientVerifier::builder_with_provider(authority.clone(), provider.clone()).build();
        let clients = clients.map_err(|error| wrong(&files.ca, &error))?;
        let servers = WebPkiServerVerifier::builder_with_provider(authority, provider.clone()).build();
        let servers = servers.map_err(|error| wrong(&files.ca, &error))?;
        let (own, key) = (certificates(&files.certificate)?, key(&files.key)?);
        let of_pair = |error: rustls::Error| wrong(&files.certificate, &error);
        let server = ServerConfig::builder_with_provider(provider.clone());
        let server = server.with_safe_default_protocol_versions().map_err(of_pair)?;
        let server = server.with_client_cert_verifier(clients.clone());
        let mut server = server.with_single_cert(own.clone(), key.clone_key()).map_err(of_pair)?;
        server.alpn_protocols = vec![HTTP_2.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let client = ClientConfig::builder_with_provider(provider);
        let client = client.with_safe_default_protocol_versions().map_err(of_pair)?;
        let client = client.with_webpki_verifier(servers.clone());
        let mut client = client.with_client_auth_cert(own.clone(), key).map_err(of_pair)?;
        client.alpn_protocols = vec![HTTP_2.to_vec()];
        client.resumption = Resumption::disabled();
        let (acceptor, connector) = (TlsAcceptor::from(Arc::new(server)), TlsConnector::from(Arc::new(client)));
        Ok(Self { files, own, acceptor, connector, clients, servers })
    }

    fn verify_client(&self, shown: &ShownCertificate) -> Result<(), rustls::Error> {
        let Some((own, intermediates)) = shown.chain.split_first() else { return Err(nothing_shown()) };
        self.clients.verify_client_cert(own, intermediates, shown.at).map(drop)
    }

    fn verify_server(&self, node: NodeId, shown: &ShownCertificate) -> Result<(), rustls::Error> {
        let Some((own, intermediates)) = shown.chain.split_first() else { return Err(nothing_shown()) };
        self.servers.verify_server_cert(own, intermediates, &server_name(node), &[], shown.at).map(drop)
    }
}

fn nothing_shown() -> rustls::Error {
    rustls::Error::NoCertificatesPresented
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PeerSetupError> {
    let pem = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.map_err(|error| wrong(path, &error))?;
    if all.is_empty() { Err(wrong(path, &"it has no certificate in it")) } else { Ok(all) }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, PeerSetupError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| wrong(path, &error))
}

fn wrong(path: &Path, reason: &dyn std::fmt::Display) -> PeerSetupError {
    PeerSetupError::Certificates { path: path.to_owned(), reason: reason.to_string() }
}

fn node_name(node: NodeId) -> String {
    format!("node-{node}")
}

/// The name that the certificate of a node must be valid for.
pub(super) fn server_name(node: NodeId) -> ServerName<'static> {
    ServerName::try_from(node_name(node)).expect("letters, a hyphen and digits are a DNS name")
}

/// Whether a certificate that the authority signed is that of `node`.
pub(super) fn is_certificate_of(node: NodeId, certificate: &CertificateDer<'_>) -> bool {
    let certificate = webpki::EndEntityCert::try_from(certificate);
    certificate.is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(&server_name(node)).is_ok())
}

fn read(path: &Path) -> Result<Vec<u8>, PeerSetupError> {
    std::fs::read(path).map_err(|source| PeerSetupError::Read { path: path.to_owned(), source })
}
