//! TLS of the command line: which authority must have signed a node's certificate, and which certificate the node is
//! shown.
//!
//! In: a connection to a node, and the name by which it was asked. Out: an encrypted connection, or text about what is
//! wrong with the certificate and what to do. It knows nothing of HTTP.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Options for https
#[derive(Args, Clone, Debug, Default)]
pub struct TlsArgs {
    /// With https: a PEM file with the authority that signs the node's certificate. The default is the authorities that
    /// this machine trusts
    #[arg(long, env = "STATEHOUSE_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// With https: a PEM file with a client certificate, if the node asks for one
    #[arg(long, env = "STATEHOUSE_CLIENT_CERTIFICATE", value_name = "FILE", requires = "client_key")]
    pub client_certificate: Option<PathBuf>,
    /// A PEM file with the private key of --client-certificate
    #[arg(long, env = "STATEHOUSE_CLIENT_KEY", value_name = "FILE", requires = "client_certificate")]
    pub client_key: Option<PathBuf>,
}

/// Which authorities to trust, and which certificate to show.
#[derive(Clone)]
pub struct Trust(TlsConnector);

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Trust")
    }
}

impl Trust {
    /// # Errors
    /// A file is not what it should be.
    pub fn new(args: &TlsArgs) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().context("setting TLS up")?;
        let builder = match &args.ca {
            None => builder.with_platform_verifier().context("reading the authorities that this machine trusts")?,
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path).with_context(|| format!("--ca {}", path.display()))? {
                    roots.add(certificate).with_context(|| format!("--ca {}", path.display()))?;
                }
                builder.with_root_certificates(roots)
            }
        };
        let mut config = match (&args.client_certificate, &args.client_key) {
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate);
                let chain = chain.with_context(|| format!("--client-certificate {}", certificate.display()))?;
                let shown = key.display();
                let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("--client-key {shown}"))?;
                let with_pair = builder.with_client_auth_cert(chain, key);
                with_pair.with_context(|| format!("--client-certificate {} with {shown}", certificate.display()))?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Makes sure that the other side is the node that `host` names.
    ///
    /// # Errors
    /// It is another one, or the two sides find no common TLS settings.
    pub async fn open(&self, stream: TcpStream, host: &str) -> anyhow::Result<TlsStream<TcpStream>> {
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name).with_context(|| format!("`{host}` is no name of a machine"))?;
        let opened = self.0.connect(name, stream).await;
        opened.map_err(|error| match find_tls(&error).and_then(|cause| advice(cause, host)) {
            Some(advice) => anyhow!(error).context(advice),
            None => anyhow!(error).context("the TLS handshake failed"),
        })
    }
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>()?;
    anyhow::ensure!(!found.is_empty(), "there is no certificate in it; expected PEM");
    Ok(found)
}

/// What the node said about TLS in the middle of a request, if TLS broke the request off, and what to do.
pub fn late_advice(error: &(dyn Error + 'static)) -> Option<String> {
    advice(find_tls(error)?, "")
}

fn advice(error: &rustls::Error, host: &str) -> Option<String> {
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext,
        UnknownIssuer,
    };
    let text = match error {
        rustls::Error::InvalidCertificate(UnknownIssuer) => {
            "the node's certificate is not signed by an authority that is trusted here; name its authority with --ca \
             FILE, or in STATEHOUSE_CA"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => format!(
            "the node's certificate is not valid for `{host}`; ask by a name that is in it, or give the node one with \
             this name"
        ),
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            "the node's certificate has expired; give the node a new one, and send it SIGHUP".to_owned()
        }
        rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            "the node's certificate is not valid yet; look at the clocks of both machines".to_owned()
        }
        rustls::Error::InvalidMessage(_) => "the node does not speak TLS there; ask by http://".to_owned(),
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the node asks for a certificate of its clients; give yours with --client-certificate and \
             --client-key"
                .to_owned()
        }
        rustls::Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::DecryptError,
        ) => "the node does not take the certificate of --client-certificate; use one that its `client_ca` has \
              signed"
            .to_owned(),
        _ => return None,
    };
    Some(text)
}

/// The TLS error among the causes of another error.
fn find_tls<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // The wrapped error itself is not among its sources, only the sources of that error are.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}
