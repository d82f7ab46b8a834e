//! The gate: whether a certificate proves what the activation of a module requires.
//!
//! In: a certificate, the classes of differences that somebody approves, and where the machine is now. Out: what
//! `system` records about the proof, or what is missing and which command supplies it. It replays nothing.

use std::collections::BTreeMap;

use crate::audit::certificate::{self, CoveredPartition};
use crate::audit::replay::Class;
use crate::ids::{Head, JournalIndex, ModuleId, NodeId, PartitionId};
use crate::key::PublicKey;
use crate::limits::PROOF_ENTRIES_SINCE_MAX;

/// What an operator submits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// The text of a certificate.
    pub certificate: String,
    /// Differences that are intended, each class with its exact count.
    pub approved: BTreeMap<Class, u64>,
}

/// A step from one module to another, and where the machine is now.
pub struct ActivationGate<'a> {
    pub cluster: &'a str,
    pub machine: &'a str,
    pub current: ModuleId,
    pub candidate: ModuleId,
    /// The last entry of each partition.
    pub journals: Vec<(PartitionId, JournalIndex)>,
    /// Keys of this cluster's nodes, including nodes that were removed.
    pub signers: Vec<Signer>,
    /// The head of a partition's journal after an entry, if it is known.
    pub head_at: &'a dyn Fn(PartitionId, JournalIndex) -> Option<Head>,
}

/// A key with which a node has signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signer {
    pub node: NodeId,
    pub key: PublicKey,
    /// Whether the node has not been removed since.
    pub is_member: bool,
}

/// Why a proof is not sufficient.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    #[error("this is no certificate: {0}")]
    Certificate(String),
    #[error(
        "the certificate is about {found}, and this is {expected}: replay here, with `statehouse audit replay \
         --certificate`"
    )]
    Other { found: String, expected: String },
    #[error(
        "the certificate is signed by the key {}, which is of no node of this cluster; it knows {known}: replay on a \
         data folder of one of these, or sign with the `node.key` of one by --key-file",
        key.short()
    )]
    Signer { key: PublicKey, known: String },
    #[error(
        "the certificate is signed by the key {} of node {node}, which was removed from this cluster: replay on the \
         data folder of a node of the cluster, or sign with the `node.key` of one by --key-file",
        key.short()
    )]
    Removed { key: PublicKey, node: NodeId },
    #[error("the certificate does not cover partition {0}: replay the whole history, without --partition")]
    NotCovered(PartitionId),
    #[error(
        "the certificate covers partition {partition} up to entry {covered}, and the journal is at {last}: replay again"
    )]
    TooOld { partition: PartitionId, covered: u64, last: JournalIndex },
    #[error(
        "entry {index} of partition {partition} is not the one that the certificate covers: it is from another history"
    )]
    OtherHistory { partition: PartitionId, index: u64 },
    #[error(
        "decisions of the class `{class}`: {count}; look at the report, and approve them with --approve {class}={count}"
    )]
    NotApproved { class: String, count: u64 },
}

impl ActivationGate<'_> {
    /// Returns what is recorded about the proof: the certificate's hash, who signed it, and what was approved.
    ///
    /// # Errors
    /// The first requirement that is missing.
    pub fn check(&self, proof: &Proof) -> Result<String, GateError> {
        let verified = certificate::verify(proof.certificate.as_bytes(), None);
        let certificate = verified.map_err(|error| GateError::Certificate(error.to_string()))?;
        let facts = certificate.facts();
        check_same("cluster", facts.cluster.as_str(), self.cluster)?;
        check_same("machine", facts.machine.as_str(), self.machine)?;
        check_same("a step from module", &facts.current, &self.current)?;
        check_same("module", &facts.candidate, &self.candidate)?;
        let signer = self.find_signer(certificate.key())?;
        for (partition, last) in &self.journals {
            let covered = facts.partitions.iter().find(|covered| covered.partition == *partition);
            self.check_covered(covered.ok_or(GateError::NotCovered(*partition))?, *last)?;
        }
        for (class, count) in facts.classes.iter().filter(|(class, _)| **class != Class::Same) {
            if proof.approved.get(class) != Some(count) {
                return Err(GateError::NotApproved { class: class.name().to_owned(), count: *count });
            }
        }
        let approved = proof.approved.iter().map(|(class, count)| format!(", {}={count}", class.name()));
        let (digest, key) = (certificate.digest().short(), certificate.key().short());
        Ok(format!("certificate {digest} by node {signer}, key {key}{}", approved.collect::<String>()))
    }

    /// Anybody can sign something; only the nodes of this cluster are known to have replayed its history. The key of a
    /// removed node proves nothing new; what was recorded before stays recorded.
    fn find_signer(&self, key: PublicKey) -> Result<NodeId, GateError> {
        match self.signers.iter().find(|signer| signer.key == key) {
            Some(Signer { node, is_member: true, .. }) => return Ok(*node),
            Some(Signer { node, .. }) => return Err(GateError::Removed { key, node: *node }),
            None => {}
        }
        let members = self.signers.iter().filter(|signer| signer.is_member);
        let known = members.map(|signer| format!("{} of node {}", signer.key.short(), signer.node));
        let known = known.collect::<Vec<_>>().join(", ");
        let known = if known.is_empty() { "none yet".to_owned() } else { known };
        Err(GateError::Signer { key, known })
    }

    fn check_covered(&self, covered: &CoveredPartition, last: JournalIndex) -> Result<(), GateError> {
        let CoveredPartition { partition, index, .. } = *covered;
        if index + PROOF_ENTRIES_SINCE_MAX < last.0 {
            return Err(GateError::TooOld { partition, covered: index, last });
        }
        let head = (self.head_at)(partition, JournalIndex(index));
        if head.is_some_and(|head| head.to_string() == covered.head) {
            Ok(())
        } else {
            Err(GateError::OtherHistory { partition, index })
        }
    }
}

fn check_same<T: PartialEq + ToString + ?Sized>(what: &str, found: &T, expected: &T) -> Result<(), GateError> {
    if found == expected {
        return Ok(());
    }
    let named = |value: &T| format!("{what} {}", value.to_string());
    Err(GateError::Other { found: named(found), expected: named(expected) })
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::audit::certificate::{Certificate, CertifiedFacts, FORMAT};
    use crate::audit::replay::ReplayMode;
    use crate::key::NodeKey;

    const CURRENT: ModuleId = ModuleId([1; 32]);
    const CANDIDATE: ModuleId = ModuleId([2; 32]);
    const HEAD: Head = Head([7; 32]);

    /// The key of node 1, the same for all tests.
    fn node_key() -> &'static NodeKey {
        static KEY: LazyLock<NodeKey> = LazyLock::new(new_key);
        &KEY
    }

    fn new_key() -> NodeKey {
        NodeKey::of_folder(&crate::disk::RealDisk, tempfile::tempdir().expect("a temporary folder").path())
            .expect("a key")
    }

    fn proof(classes: &[(Class, u64)], approved: &[(Class, u64)]) -> Proof {
        signed(node_key(), classes, approved)
    }

    fn signed(key: &NodeKey, classes: &[(Class, u64)], approved: &[(Class, u64)]) -> Proof {
        let covered = CoveredPartition { partition: PartitionId(0), index: 42, head: HEAD.to_string(), time: 7 };
        let facts = CertifiedFacts {
            format: FORMAT,
            cluster: "c".to_owned(),
            machine: "wallet".to_owned(),
            mode: ReplayMode::Isolated,
            current: CURRENT,
            candidate: CANDIDATE,
            partitions: vec![covered],
            decisions: 1_000,
            classes: classes.iter().copied().collect(),
            host: "0".to_owned(),
        };
        let certificate = Certificate::of(facts, key);
        Proof { certificate: certificate.to_json(), approved: approved.iter().copied().collect() }
    }

    fn gate<'a>(last: u64, head_at: &'a dyn Fn(PartitionId, JournalIndex) -> Option<Head>) -> ActivationGate<'a> {
        ActivationGate {
            cluster: "c",
            machine: "wallet",
            current: CURRENT,
            candidate: CANDIDATE,
            journals: vec![(PartitionId(0), JournalIndex(last))],
            signers: vec![Signer { node: NodeId(1), key: node_key().public(), is_member: true }],
            head_at,
        }
    }

    #[test]
    fn a_proof_is_of_this_step_in_this_history_and_its_differences_are_approved() {
        let here = |_, index| (index == JournalIndex(42)).then_some(HEAD);
        let same = proof(&[(Class::Same, 1_000)], &[]);
        let recorded = gate(50, &here).check(&same).expect("it proves enough");
        assert!(recorded.starts_with("certificate ") && recorded.len() < 200, "{recorded}");

        let error =
            |gate: ActivationGate<'_>, proof: &Proof| gate.check(proof).expect_err("it proves too little").to_string();
        assert!(error(ActivationGate { candidate: CURRENT, ..gate(50, &here) }, &same).contains("module 0202"));
        assert!(error(ActivationGate { cluster: "d", ..gate(50, &here) }, &same).contains("cluster c"));
        assert!(error(gate(42 + PROOF_ENTRIES_SINCE_MAX + 1, &here), &same).contains("replay again"));
        assert!(error(gate(50, &|_, _| Some(Head([8; 32]))), &same).contains("another history"));
        let journals = vec![(PartitionId(1), JournalIndex(1))];
        assert!(error(ActivationGate { journals, ..gate(50, &here) }, &same).contains("does not cover partition 1"));

        let differs = [(Class::Same, 997), (Class::PlanDiffers, 3)];
        assert!(error(gate(50, &here), &proof(&differs, &[])).contains("--approve plan_differs=3"));
        assert!(error(gate(50, &here), &proof(&differs, &[(Class::PlanDiffers, 2)])).contains("plan_differs=3"));
        let approved = gate(50, &here).check(&proof(&differs, &[(Class::PlanDiffers, 3)])).expect("it is approved");
        assert!(approved.ends_with("plan_differs=3"), "{approved}");

        let stranger = error(gate(50, &here), &signed(&new_key(), &[(Class::Same, 1_000)], &[]));
        assert!(stranger.contains("no node of this cluster") && stranger.contains("of node 1"), "{stranger}");
        assert!(stranger.contains("--key-file"), "{stranger}");
        let gone = vec![Signer { node: NodeId(1), key: node_key().public(), is_member: false }];
        let removed = error(ActivationGate { signers: gone, ..gate(50, &here) }, &same);
        assert!(removed.contains("of node 1, which was removed") && removed.contains("--key-file"), "{removed}");
        let nobody = error(ActivationGate { signers: Vec::new(), ..gate(50, &here) }, &same);
        assert!(nobody.contains("none yet"), "{nobody}");

        let mut forged = same;
        forged.certificate = forged.certificate.replace("1000", "1001");
        assert!(error(gate(50, &here), &forged).contains("changed after it was signed"));
    }
}
