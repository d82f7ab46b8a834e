//! Why the API cannot be served at all. It knows nothing of requests: those get a [`Problem`](super::problem::Problem).

use std::net::SocketAddr;

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(
        "{0} can be reached from other machines, and without tokens everybody there could do everything: \
         add [[auth.tokens]] or listen on 127.0.0.1"
    )]
    OpenWithoutTokens(SocketAddr),
    #[error("token `{name}`: `{found}` is not the blake3 of a token: expected 64 hexadecimal digits")]
    TokenHash { name: String, found: String },
    #[error("token `{0}` has no name or no role")]
    TokenEmpty(String),
    #[error("token `{0}` occurs twice")]
    TokenTwice(String),
    #[error("the listener failed: {0}")]
    Listener(#[source] std::io::Error),
}
