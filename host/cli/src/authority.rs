//! A certificate authority in a folder, for experiments: clients trust it once, and it issues certificates to nodes.
//!
//! | file | what |
//! |---|---|
//! | `ca.pem` | the authority's certificate, which clients are given |
//! | `ca.key` | its private key, readable only by the owner of the folder |
//! | `<name>.pem`, `<name>.key` | what was issued last under this name |
//!
//! In: a folder, names. Out: PEM files. It does not know who shows them to whom.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use statehouse_journal::durable::{self, PRIVATE};

const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const DAY: Duration = Duration::from_secs(86_400);
/// Longer than any experiment in one folder lasts.
const CA_DAYS: u32 = 3650;
/// Browsers and some libraries accept no certificate with a longer validity.
const ISSUED_DAYS: u32 = 397;
/// A certificate that expires within so many days is not kept.
const KEPT_DAYS: u32 = 60;

/// Whether a certificate is made if one of that name exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssuePolicy {
    /// Only if the last one is not valid for [`KEPT_DAYS`] more days, or is not of this authority.
    WhereNeeded,
    Always,
}

pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// The files of an issued certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCertificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// Opens the authority of this folder, or creates it.
    ///
    /// # Errors
    /// The folder cannot be written, or its key file holds no key.
    pub fn open(folder: &Path, common_name: &str) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        bound(&mut params, CA_DAYS);
        let shown = folder.display();
        durable::create_dir_all(folder).with_context(|| format!("creating {shown}"))?;
        let (ca, key) = (folder.join(CA), folder.join(CA_KEY));
        let key = if key.exists() {
            let pem = std::fs::read_to_string(&key).with_context(|| format!("reading {}", key.display()))?;
            KeyPair::from_pem(&pem)
                .with_context(|| format!("{} is no private key; remove {shown} to have it made again", key.display()))?
        } else {
            ensure!(
                !ca.exists(),
                "{shown} has a certificate, and its key is gone; remove {shown} to have both made again"
            );
            let made = KeyPair::generate()?;
            durable::write(folder, CA_KEY, PRIVATE, made.serialize_pem().as_bytes())
                .with_context(|| format!("writing {}", key.display()))?;
            made
        };
        if !ca.exists() {
            let certificate = params.self_signed(&key)?;
            durable::write(folder, CA, PRIVATE, certificate.pem().as_bytes())
                .with_context(|| format!("writing {}", ca.display()))?;
        }
        Ok(Self { folder: folder.to_owned(), issuer: Issuer::new(params, key) })
    }

    /// The certificate that others trust.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join(CA)
    }

    /// The certificate of this name, and whether it was made now. If it was kept, its names and usages are those for
    /// which it was made.
    pub fn issue_where(
        &self,
        issuing: IssuePolicy,
        name: &str,
        valid_for: Vec<String>,
        usages: &[ExtendedKeyUsagePurpose],
    ) -> anyhow::Result<(IssuedCertificate, bool)> {
        let last = self.files(name);
        if issuing == IssuePolicy::WhereNeeded && self.is_good_for_long(&last) {
            return Ok((last, false));
        }
        self.issue(name, valid_for, usages).map(|issued| (issued, true))
    }

    fn files(&self, name: &str) -> IssuedCertificate {
        let at = |ending: &str| self.folder.join(format!("{name}.{ending}"));
        IssuedCertificate { certificate: at("pem"), key: at("key") }
    }

    /// Whether these files are a certificate of this authority with its key, and with time left. Unreadable files are
    /// not.
    fn is_good_for_long(&self, files: &IssuedCertificate) -> bool {
        let read = |path: &Path| CertificateDer::from_pem_file(path).ok();
        let key = PrivateKeyDer::from_pem_file(&files.key).ok();
        let (Some(ca), Some(certificate), Some(key)) = (read(&self.certificate()), read(&files.certificate), key)
        else {
            return false;
        };
        let (mut roots, provider) = (RootCertStore::empty(), Arc::new(rustls::crypto::ring::default_provider()));
        if roots.add(ca).is_err() {
            return false;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        let then = UnixTime::now().as_secs() + u64::from(KEPT_DAYS) * DAY.as_secs();
        let then = UnixTime::since_unix_epoch(Duration::from_secs(then));
        let is_valid = verifier.is_ok_and(|verifier| verifier.verify_client_cert(&certificate, &[], then).is_ok());
        // It refuses a key that does not belong to the certificate.
        let pair = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        is_valid && pair.is_ok_and(|pair| pair.with_no_client_auth().with_single_cert(vec![certificate], key).is_ok())
    }

    /// Issues a certificate that is valid for these names and addresses. It replaces the last one of this name.
    pub fn issue(
        &self,
        name: &str,
        valid_for: Vec<String>,
        usages: &[ExtendedKeyUsagePurpose],
    ) -> anyhow::Result<IssuedCertificate> {
        let mut params = CertificateParams::new(valid_for).context("a name that no certificate can have")?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = usages.to_vec();
        params.use_authority_key_identifier_extension = true;
        bound(&mut params, ISSUED_DAYS);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let files = [
            (format!("{name}.key"), PRIVATE, key.serialize_pem()),
            (format!("{name}.pem"), PRIVATE, certificate.pem()),
        ];
        for (file, mode, pem) in &files {
            durable::write(&self.folder, file, *mode, pem.as_bytes())
                .with_context(|| format!("writing {file} in {}", self.folder.display()))?;
        }
        Ok(self.files(name))
    }
}

/// Valid for so many days, beginning yesterday because clocks differ.
fn bound(params: &mut CertificateParams, days: u32) {
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + DAY * days).into();
}
