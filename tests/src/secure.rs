//! TLS of the kit: authorities and certificates made for one test, and clients that trust one of them.
//!
//! In: names, a folder. Out: PEM files for a host, and the configuration of a client. The tests say what is refused,
//! and in which words.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// An authority, whose certificate and key are in a folder.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    folder: PathBuf,
    /// The file of its certificate.
    pub ca: PathBuf,
}

/// The files of a certificate.
#[derive(Clone, Debug)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// How a client uses TLS. By default it speaks 1.3 and HTTP/1.1 and shows no certificate.
#[derive(Clone)]
pub struct Trust {
    roots: RootCertStore,
    shown: Option<Pair>,
    is_old: bool,
    protocols: Vec<Vec<u8>>,
}

impl Authority {
    pub fn make(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a new key");
        let certificate = params.self_signed(&key).expect("an authority");
        let ca = folder.join(format!("{name}.pem"));
        std::fs::write(&ca, certificate.pem()).expect("a new file");
        let issuer = Issuer::new(params, key);
        Self { issuer, certificate: certificate.der().clone(), folder: folder.to_owned(), ca }
    }

    /// A certificate for this machine, written over the last one of this name.
    pub fn issue(&self, name: &str) -> Pair {
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("good names");
        let key = KeyPair::generate().expect("a new key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let file = |ending: &str| self.folder.join(format!("{name}.{ending}"));
        let pair = Pair { certificate: file("pem"), key: file("key") };
        std::fs::write(&pair.certificate, certificate.pem()).expect("a file");
        std::fs::write(&pair.key, key.serialize_pem()).expect("a file");
        pair
    }

    pub fn trust(&self) -> Trust {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("an authority");
        Trust { roots, shown: None, is_old: false, protocols: vec![b"http/1.1".to_vec()] }
    }
}

impl Pair {
    /// The certificate itself.
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.certificate).expect("a certificate in PEM")
    }
}

impl Trust {
    /// Trusts the authority of a file.
    pub fn of(ca: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).expect("a certificate in PEM")).expect("an authority");
        Self { roots, shown: None, is_old: false, protocols: vec![b"http/1.1".to_vec()] }
    }

    pub fn showing(self, pair: Pair) -> Self {
        Self { shown: Some(pair), ..self }
    }

    /// Speaks TLS 1.2 and nothing newer.
    pub fn old(self) -> Self {
        Self { is_old: true, ..self }
    }

    /// Speaks these protocols over TLS, the best first.
    pub fn speaking(self, protocols: &[&str]) -> Self {
        Self { protocols: protocols.iter().map(|name| name.as_bytes().to_vec()).collect(), ..self }
    }

    /// # Errors
    /// The handshake failed, or nobody listens there.
    pub async fn connect(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_to(address, ServerName::IpAddress(address.ip().into())).await
    }

    /// The same, but the server must have a certificate for this name.
    ///
    /// # Errors
    /// The handshake failed, or nobody listens there.
    pub async fn connect_as(&self, address: SocketAddr, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_to(address, ServerName::try_from(name.to_owned()).expect("a name")).await
    }

    async fn connect_to(
        &self,
        address: SocketAddr,
        name: ServerName<'static>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        self.connector().connect(name, stream).await
    }

    fn connector(&self) -> TlsConnector {
        let versions = if self.is_old { &[&TLS12][..] } else { &[&TLS13][..] };
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(versions).expect("the provider has both");
        let builder = builder.with_root_certificates(self.roots.clone());
        let mut config = match &self.shown {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let key = PrivateKeyDer::from_pem_file(&pair.key).expect("a key in PEM");
                builder.with_client_auth_cert(vec![pair.der()], key).expect("a key of the certificate")
            }
        };
        config.alpn_protocols = self.protocols.clone();
        TlsConnector::from(Arc::new(config))
    }
}
