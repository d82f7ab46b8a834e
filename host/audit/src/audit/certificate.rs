//! The certificate of a replay: what was compared and what differed, in canonical JSON, hashed and signed by a node.
//!
//! ```json
//! {"blake3": "…", "facts": {…}, "key": "…", "signature": "…"}
//! ```
//! `facts` is [`CertifiedFacts`]. *Canonical* means: members sorted by name, no spaces, integers only, UTF-8. `blake3`
//! is the hash of the canonical facts, and `signature` the Ed25519 signature of the same bytes by `key`; all three are
//! hexadecimal text. In: a report. Out: a file that anybody can check without the node. It does not know whether its
//! differences are wanted: that is stated when the module is activated.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::audit::replay::request::ReplayMode;
use crate::audit::replay::{Class, Report};
use crate::ids::{Digest, ModuleId, PartitionId};
use crate::key::{KeyError, NodeKey, PublicKey, Signature};

/// Version of [`CertifiedFacts`].
pub const FORMAT: u32 = 1;

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertifiedFacts {
    /// [`FORMAT`].
    pub format: u32,
    pub cluster: String,
    pub machine: String,
    pub mode: ReplayMode,
    /// The module that was active at the end of the covered history.
    pub current: ModuleId,
    pub candidate: ModuleId,
    /// Every partition of the machine from its first entry, in order.
    pub partitions: Vec<CoveredPartition>,
    /// Commands and calls that were decided again.
    pub decisions: u64,
    /// Each class that occurs, with its count.
    pub classes: BTreeMap<Class, u64>,
    /// The version of the host that replayed.
    pub host: String,
}

/// How far a partition is covered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoveredPartition {
    pub partition: PartitionId,
    /// Journal index of the last entry that is covered.
    pub index: u64,
    /// The journal's head after it, hexadecimal: anybody who has the journal can check that it is the same history.
    pub head: String,
    /// The time of that entry, in microseconds since 1970 UTC.
    pub time: i64,
}

/// A certificate whose signature is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    facts: CertifiedFacts,
    digest: Digest,
    key: PublicKey,
    signature: Signature,
}

/// Why there is no certificate, or none that can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("a certificate covers all of a history: replay without --where, --from and --partition")]
    Partial,
    #[error(
        "the recorded module does not decide as recorded, so there is nothing to certify: run `statehouse audit verify`"
    )]
    Inconclusive,
    #[error("the file is not a certificate: {0}")]
    Malformed(String),
    #[error("certificate format {found} is not supported by this version (it reads {FORMAT})")]
    Format { found: u32 },
    #[error("the facts have the hash {found}, but the certificate says {expected}: it was changed after it was signed")]
    Hash { expected: String, found: String },
    #[error("the signature is not one of these facts by the key {key}: it was changed after it was signed")]
    Signature { key: String },
    #[error("it is signed by the key {found}, and {expected} was expected")]
    Key { expected: String, found: String },
    #[error(transparent)]
    Text(#[from] KeyError),
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateFile {
    blake3: String,
    facts: Json,
    key: String,
    signature: String,
}

impl Certificate {
    /// Certifies a report of a whole history.
    pub fn sign(report: &Report, key: &NodeKey) -> Result<Self, CertificateError> {
        if !report.is_whole {
            return Err(CertificateError::Partial);
        }
        if 0 < report.count_of(Class::HostDrift) {
            return Err(CertificateError::Inconclusive);
        }
        Ok(Self::of(CertifiedFacts::of(report), key))
    }

    /// Signs facts.
    pub fn of(facts: CertifiedFacts, key: &NodeKey) -> Self {
        let bytes = facts.canonical();
        Self { digest: Digest::of(&bytes), key: key.public(), signature: key.sign(&bytes), facts }
    }

    pub fn facts(&self) -> &CertifiedFacts {
        &self.facts
    }

    /// blake3 of the canonical facts: the certificate's name.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The key that has signed it.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// The file's bytes.
    pub fn to_json(&self) -> String {
        let content = CertificateFile {
            blake3: self.digest.to_string(),
            facts: self.facts.to_value(),
            key: self.key.to_string(),
            signature: self.signature.to_string(),
        };
        let value = serde_json::to_value(content).expect("texts and integers only");
        let mut text = String::new();
        write_canonical(&value, &mut text).expect("texts and integers only");
        text.push('\n');
        text
    }
}

impl CertifiedFacts {
    fn of(report: &Report) -> Self {
        let covered = report.partitions.iter().map(|covered| CoveredPartition {
            partition: covered.partition,
            index: covered.last_index,
            head: covered.head.clone(),
            time: covered.time,
        });
        Self {
            format: FORMAT,
            cluster: report.cluster.clone(),
            machine: report.machine.clone(),
            mode: report.mode,
            current: report.current.id,
            candidate: report.candidate.id,
            partitions: covered.collect(),
            decisions: report.counts.decisions,
            classes: report.classes.iter().map(|(class, found)| (*class, found.count)).collect(),
            host: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn to_value(&self) -> Json {
        serde_json::to_value(self).expect("texts and integers only")
    }

    fn canonical(&self) -> Vec<u8> {
        let mut text = String::new();
        write_canonical(&self.to_value(), &mut text).expect("texts and integers only");
        text.into_bytes()
    }
}

/// Checks a certificate: its form, its hash, its signature, and, if `key` is given, that this key has signed it. Needs
/// nothing else.
pub fn verify(file: &[u8], key: Option<PublicKey>) -> Result<Certificate, CertificateError> {
    let malformed = |error: serde_json::Error| CertificateError::Malformed(error.to_string());
    let content: CertificateFile = serde_json::from_slice(file).map_err(malformed)?;
    if let Some(found) = content.facts.get("format").and_then(Json::as_u64).filter(|found| *found != u64::from(FORMAT))
    {
        return Err(CertificateError::Format { found: u32::try_from(found).unwrap_or(u32::MAX) });
    }
    // The facts were signed as they stand in the file, whatever this version would make of them.
    let mut text = String::new();
    write_canonical(&content.facts, &mut text).map_err(|what| CertificateError::Malformed(what.to_owned()))?;
    let digest = Digest::of(text.as_bytes());
    if digest.to_string() != content.blake3 {
        return Err(CertificateError::Hash { expected: content.blake3, found: digest.to_string() });
    }
    let signer: PublicKey = content.key.parse()?;
    let signature: Signature = content.signature.parse()?;
    if !signer.has_signed(text.as_bytes(), &signature) {
        return Err(CertificateError::Signature { key: content.key });
    }
    if let Some(expected) = key.filter(|key| *key != signer) {
        return Err(CertificateError::Key { expected: expected.to_string(), found: signer.to_string() });
    }
    let facts: CertifiedFacts = serde_json::from_value(content.facts).map_err(malformed)?;
    Ok(Certificate { facts, digest, key: signer, signature })
}

/// Writes JSON in its one canonical form.
///
/// # Errors
/// It contains a number that is not an integer.
fn write_canonical(value: &Json, out: &mut String) -> Result<(), &'static str> {
    match value {
        Json::Null => out.push_str("null"),
        Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Json::Number(number) if number.is_i64() || number.is_u64() => out.push_str(&number.to_string()),
        Json::Number(_) => return Err("a number in it is no integer"),
        Json::String(text) => out.push_str(&Json::String(text.clone()).to_string()),
        Json::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if 0 < at {
                    out.push(',');
                }
                write_canonical(item, out)?;
            }
            out.push(']');
        }
        Json::Object(members) => {
            let mut sorted: Vec<(&String, &Json)> = members.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| *name);
            out.push('{');
            for (at, (name, value)) in sorted.into_iter().enumerate() {
                if 0 < at {
                    out.push(',');
                }
                out.push_str(&Json::String(name.clone()).to_string());
                out.push(':');
                write_canonical(value, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Certificate, CertificateError, CertifiedFacts, CoveredPartition, FORMAT, ReplayMode, verify};
    use crate::audit::replay::Class;
    use crate::disk::RealDisk;
    use crate::ids::{ModuleId, PartitionId};
    use crate::key::NodeKey;

    fn certificate(key: &NodeKey) -> Certificate {
        let covered = CoveredPartition { partition: PartitionId(0), index: 42, head: "1a2b".to_owned(), time: 7 };
        let facts = CertifiedFacts {
            format: FORMAT,
            cluster: "c".to_owned(),
            machine: "wallet".to_owned(),
            mode: ReplayMode::Isolated,
            current: ModuleId([1; 32]),
            candidate: ModuleId([2; 32]),
            partitions: vec![covered],
            decisions: 1_000,
            classes: [(Class::Same, 999), (Class::Trap, 1)].into(),
            host: "0.1.0".to_owned(),
        };
        Certificate::of(facts, key)
    }

    #[test]
    fn a_certificate_reads_back_and_a_changed_one_does_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let key = NodeKey::of_folder(&RealDisk, folder.path()).expect("a key");
        let signed = certificate(&key);
        let file = signed.to_json();
        assert!(file.starts_with("{\"blake3\":\"") && file.contains("\"classes\":{\"same\":999,\"trap\":1}"), "{file}");
        assert_eq!(verify(file.as_bytes(), Some(key.public())).ok(), Some(signed));
        let changed = file.replace("\"same\":999", "\"same\":998");
        assert!(matches!(verify(changed.as_bytes(), None), Err(CertificateError::Hash { .. })));
        // An attacker who can hash, and who has another key.
        let other = tempfile::tempdir().expect("a temporary folder");
        let other = NodeKey::of_folder(&RealDisk, other.path()).expect("a key");
        let forged = certificate(&other).to_json();
        assert!(matches!(verify(forged.as_bytes(), Some(key.public())), Err(CertificateError::Key { .. })));
        let forged = forged.replace(&other.public().to_string(), &key.public().to_string());
        assert!(matches!(verify(forged.as_bytes(), None), Err(CertificateError::Signature { .. })));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let key = NodeKey::of_folder(&RealDisk, folder.path()).expect("a key");
        let signed = certificate(&key);
        let file = signed.to_json().into_bytes();
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1;
            let read = verify(&changed, Some(key.public()));
            assert!(read.is_err() || read.is_ok_and(|read| read == signed), "a change at {at} goes unnoticed");
        }
        assert!(verify(b"", None).is_err());
    }
}
