//! `[http]`: where clients reach this node, and whether over TLS.
//!
//! In: the section as it is written. Out: values that make sense together. It opens nothing, and reads none of the
//! files that it names.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;

use super::ConfigError;

/// `[http]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// The address of the REST API. Default: 127.0.0.1:8080. An address beyond loopback needs `[auth] tokens`, and
    /// `tls` or `plaintext`.
    pub listen: SocketAddr,
    /// The certificate that this node shows to clients. With it clients use https, with HTTP/1.1 or HTTP/2.
    pub tls: Option<HttpTlsConfig>,
    /// Confirms that tokens and bodies may be sent in clear text, because nobody can read them on the way. A `listen`
    /// address beyond loopback needs either `tls` or this line, for instance if a proxy speaks TLS for this node.
    plaintext: bool,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)), tls: None, plaintext: false }
    }
}

/// `[http] tls`: PEM files, which are read again on SIGHUP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTlsConfig {
    /// This node's certificate, with the names and addresses by which clients reach it. Intermediate certificates
    /// follow it in the file.
    pub certificate: PathBuf,
    /// The private key of `certificate`.
    pub key: PathBuf,
    /// The authority of clients' certificates. A client that shows another certificate is refused. A certificate does
    /// not replace a token.
    pub client_ca: Option<PathBuf>,
    /// `required` (default): a client without a certificate of `client_ca` is refused. `optional`: a client without a
    /// certificate is accepted, for the time in which clients receive theirs.
    pub client_certificates: Option<ClientCertificates>,
    /// The oldest version of TLS that is accepted, `"1.3"` (default) or `"1.2"`.
    #[serde(default)]
    pub version_min: TlsVersion,
}

impl HttpTlsConfig {
    /// Everything else as it is by default.
    pub fn new(certificate: PathBuf, key: PathBuf) -> Self {
        let version_min = TlsVersion::default();
        Self { certificate, key, client_ca: None, client_certificates: None, version_min }
    }
}

/// `client_certificates`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    #[default]
    Required,
    Optional,
}

/// `version_min`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum TlsVersion {
    #[serde(rename = "1.2")]
    Tls12,
    #[default]
    #[serde(rename = "1.3")]
    Tls13,
}

impl HttpConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let invalid = |key, why| Err(ConfigError::Invalid(key, why));
        match &self.tls {
            Some(_) if self.plaintext => invalid("http.plaintext", "contradicts `http.tls`; leave one of them out"),
            Some(tls) if tls.client_certificates.is_some() && tls.client_ca.is_none() => {
                invalid("http.tls.client_certificates", "needs `client_ca`, the authority that signs them; add it")
            }
            None if !self.plaintext && !self.listen.ip().is_loopback() => invalid(
                "http.tls",
                "is missing: tokens would be sent in clear text to other machines; add {certificate, key}, or \
                 `plaintext = true` if a proxy speaks TLS for this node or everybody on that network is trusted",
            ),
            _ => Ok(()),
        }
    }
}
