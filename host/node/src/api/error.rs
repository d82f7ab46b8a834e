//! Why the API cannot be served at all. It knows nothing of requests: those get a [`Problem`](super::problem::Problem).

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::router::scope::ScopeError;

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(
        "{0} can be reached from other machines, and without tokens everybody there could do everything: \
         add [[auth.tokens]] or listen on 127.0.0.1"
    )]
    OpenWithoutTokens(SocketAddr),
    #[error(
        "token `{name}`: `{found}` is not the blake3 of a token: expected the 64 hexadecimal digits that `statehouse \
         token` prints"
    )]
    TokenHash { name: String, found: String },
    #[error("token `{0}` has no name or no role")]
    TokenEmpty(String),
    #[error("token `{name}`: {source}")]
    TokenScope { name: String, source: ScopeError },
    #[error(
        "token `{name}` is bound to entities, and its roles {roles} see and control whole machines: leave out \
         `entities`, or give it only client, treasury or compliance"
    )]
    TokenBeyondScope { name: String, roles: String },
    #[error("`auth.commands.{machine}.{command}` names no role, so nobody could send it; name one, or leave it out")]
    CommandWithoutRole { machine: String, command: String },
    #[error("token `{0}` occurs twice")]
    TokenTwice(String),
    #[error("{}: {source}; expected PEM", .path.display())]
    TlsUnreadable { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("{}: {source}", .path.display())]
    TlsFile { path: PathBuf, source: rustls::Error },
    #[error("{} certifies no client: {source}", .path.display())]
    TlsClients { path: PathBuf, source: rustls::server::VerifierBuilderError },
    #[error("{} and {} do not make a certificate with its key: {source}", .certificate.display(), .key.display())]
    TlsPair { certificate: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("TLS cannot be set up: {0}")]
    TlsSetup(#[source] rustls::Error),
    #[error("the listener failed: {0}")]
    Listener(#[source] std::io::Error),
}
