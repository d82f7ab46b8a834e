//! TLS below HTTP: which certificate this node shows, and which ones it wants to see.
//!
//! ```text
//! files ─▶ checked ─▶ current ─ for each new connection ─▶ handshake (bounded) ─▶ Stream ─▶ HTTP/1.1 or HTTP/2 by ALPN
//!            └ SIGHUP: the same once more; an error leaves everything as it was
//! ```
//! In: PEM files, an accepted socket. Out: a stream of bytes to serve HTTP on. A connection keeps what it began with,
//! until the terms for clients change. A client's certificate is checked before the token, and names no caller. It
//! knows nothing of requests.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::RwLock;
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::refusals::PacedLines;
use crate::config::{ClientCertificates, HttpTlsConfig, TlsVersion};
use crate::limits::{HTTP_HANDSHAKE_MAX, HTTP_HEADERS_BYTES_MAX};

/// The first byte that any TLS client sends; no HTTP method begins with it.
const HANDSHAKE_RECORD: u8 = 22;
/// The answer to a client that speaks HTTP where TLS is spoken.
const SPEAK_TLS: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\nConnection: close\r\n\r\n\
    {\"type\":\"urn:statehouse:problem:https_required\",\"title\":\"HTTPS required\",\"status\":400,\
    \"code\":\"https_required\",\"detail\":\"this address speaks https; ask again with https:// in the URL\"}\n";

/// What a new connection passes before HTTP. Clones share what is current.
#[derive(Clone)]
pub enum Acceptor {
    Plaintext,
    Tls(Arc<CurrentTls>),
}

pub struct CurrentTls {
    tls: RwLock<Tls>,
    refused: PacedLines,
}

/// The contents of the files.
pub struct Tls {
    config: Arc<ServerConfig>,
    terms: Terms,
    /// Cancelled when connections that began with these terms may not continue.
    retired: CancellationToken,
}

/// Who may connect, and how.
#[derive(PartialEq)]
struct Terms {
    version_min: TlsVersion,
    /// The authorities that certify clients, if any, and whether a client may connect without a certificate.
    clients: Option<(Vec<CertificateDer<'static>>, ClientCertificates)>,
}

/// A connection that HTTP can be spoken on.
pub struct OpenConnection {
    pub stream: ClientStream,
    /// Cancelled when the connection may not continue.
    pub retired: CancellationToken,
}

/// Why a connection was not opened.
enum TlsRefusal {
    /// The connection ended, or the handshake did not end in time.
    Gone,
    Plaintext,
    Handshake(std::io::Error),
}

impl Acceptor {
    /// It is plaintext unless TLS is configured.
    ///
    /// # Errors
    /// See [`Tls::read`].
    pub fn new(tls: Option<&HttpTlsConfig>) -> Result<Self, ApiError> {
        let Some(tls) = tls else { return Ok(Self::Plaintext) };
        let current = CurrentTls { tls: RwLock::new(Tls::read(tls)?), refused: PacedLines::default() };
        Ok(Self::Tls(Arc::new(current)))
    }

    /// The scheme of a URL.
    pub fn scheme(&self) -> &'static str {
        match self {
            Self::Plaintext => "http",
            Self::Tls(_) => "https",
        }
    }

    /// From now on new connections use this. Open ones continue as they are; but if the terms have changed, each is
    /// closed as soon as nothing is under way on it. With plaintext nothing happens.
    pub fn replace(&self, mut tls: Tls) {
        let Self::Tls(current) = self else { return };
        let mut current = current.tls.write();
        if current.terms == tls.terms {
            tls.retired = current.retired.clone();
        } else {
            current.retired.cancel();
        }
        *current = tls;
    }

    /// Opens a connection; `None` if it cannot be served, which a client that still listens was told.
    pub async fn accept(&self, stream: TcpStream, address: SocketAddr) -> Option<OpenConnection> {
        let current = match self {
            Self::Plaintext => {
                return Some(OpenConnection {
                    stream: ClientStream::Plaintext(stream),
                    retired: CancellationToken::new(),
                });
            }
            Self::Tls(current) => current,
        };
        let (config, retired) = {
            let tls = current.tls.read();
            (tls.config.clone(), tls.retired.clone())
        };
        let opened = timeout(HTTP_HANDSHAKE_MAX, handshake(config, stream)).await;
        let refusal = match opened.unwrap_or(Err(TlsRefusal::Gone)) {
            Ok(stream) => return Some(OpenConnection { stream: ClientStream::Tls(Box::new(stream)), retired }),
            Err(refusal) => refusal,
        };
        let (reason, detail) = match refusal {
            // A client that only checks whether somebody listens, as load balancers do, is not worth a log line.
            TlsRefusal::Gone => ("gone", None),
            TlsRefusal::Plaintext => ("plaintext", Some("it speaks HTTP without TLS".to_owned())),
            TlsRefusal::Handshake(error) => ("handshake", Some(error.to_string())),
        };
        metrics::counter!("statehouse_tls_refused_total", "reason" => reason).increment(1);
        if let Some(detail) = detail
            && let Some(unsaid) = current.refused.turn()
        {
            tracing::warn!(%address, detail, unsaid, "a connection was not opened");
        }
        None
    }
}

impl Tls {
    /// Reads the files and checks that they make sense together.
    ///
    /// # Errors
    /// A file cannot be read or has nothing of its kind, or the key is not that of the certificate.
    pub fn read(from: &HttpTlsConfig) -> Result<Self, ApiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = match from.version_min {
            TlsVersion::Tls12 => &[&TLS13, &TLS12][..],
            TlsVersion::Tls13 => &[&TLS13][..],
        };
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(versions).map_err(ApiError::TlsSetup)?;
        let clients = match &from.client_ca {
            None => None,
            Some(path) => Some((certificates(path)?, from.client_certificates.unwrap_or_default())),
        };
        let builder = match &clients {
            None => builder.with_no_client_auth(),
            Some((authority, wanted)) => {
                let path = || from.client_ca.clone().unwrap_or_default();
                let mut roots = RootCertStore::empty();
                for certificate in authority {
                    let added = roots.add(certificate.clone());
                    added.map_err(|source| ApiError::TlsFile { path: path(), source })?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = match wanted {
                    ClientCertificates::Required => verifier,
                    ClientCertificates::Optional => verifier.allow_unauthenticated(),
                };
                let verifier = verifier.build().map_err(|source| ApiError::TlsClients { path: path(), source })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let (chain, key) = (certificates(&from.certificate)?, private_key(&from.key)?);
        let mut config = builder.with_single_cert(chain, key).map_err(|source| ApiError::TlsPair {
            certificate: from.certificate.clone(),
            key: from.key.clone(),
            source,
        })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let terms = Terms { version_min: from.version_min, clients };
        Ok(Self { config: Arc::new(config), terms, retired: CancellationToken::new() })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ApiError> {
    let unreadable = |source| ApiError::TlsUnreadable { path: path.to_owned(), source };
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = found.map_err(unreadable)?;
    if found.is_empty() {
        return Err(unreadable(rustls_pki_types::pem::Error::NoItemsFound));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ApiError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| ApiError::TlsUnreadable { path: path.to_owned(), source })
}

async fn handshake(config: Arc<ServerConfig>, stream: TcpStream) -> Result<TlsStream<TcpStream>, TlsRefusal> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1..) if first[0] == HANDSHAKE_RECORD => {}
        Ok(1..) => {
            say(stream, SPEAK_TLS).await;
            return Err(TlsRefusal::Plaintext);
        }
        Ok(0) | Err(_) => return Err(TlsRefusal::Gone),
    }
    match TlsAcceptor::from(config).accept(stream).into_fallible().await {
        Ok(stream) => Ok(stream),
        Err((error, stream)) => {
            let is_gone = error.kind() == std::io::ErrorKind::UnexpectedEof;
            // The alert that says why it failed has been sent already.
            say(stream, b"").await;
            Err(if is_gone { TlsRefusal::Gone } else { TlsRefusal::Handshake(error) })
        }
    }
}

/// Writes a last message, and reads what still arrives: closing a socket with unread bytes would discard the message.
async fn say(mut stream: TcpStream, word: &[u8]) {
    let said = async {
        stream.write_all(word).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(HTTP_HEADERS_BYTES_MAX as u64), &mut tokio::io::sink()).await
    };
    if let Err(error) = said.await {
        tracing::debug!(%error, "a connection was closed by the client before it got the reason why it is refused");
    }
}

/// The bytes of a connection, in clear text or not.
pub enum ClientStream {
    Plaintext(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plaintext(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plaintext(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plaintext(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plaintext(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plaintext(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plaintext(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
