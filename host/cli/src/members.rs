//! Certificates by which the nodes of a cluster know each other, from an authority that signs for nobody else.
//!
//! | file | who needs it |
//! |---|---|
//! | `ca.pem` | every node, as `ca` of `[peer] tls` |
//! | `node-<id>.pem`, `node-<id>.key` | node `<id>`, as `certificate` and `key` |
//! | `ca.key` | the person who makes certificates, and no node |
//!
//! In: a folder, ids of nodes. Out: these files, and how a configuration names them. It knows nothing of connections.

use std::path::Path;

use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use statehouse_kernel::ids::NodeId;
use statehouse_node::config::PeerTlsConfig;

use crate::authority::{Authority, IssuePolicy, IssuedCertificate};

/// A node's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberFiles {
    pub node: NodeId,
    pub tls: PeerTlsConfig,
    /// Whether the certificate was made just now.
    pub is_new: bool,
}

/// Makes what is missing: the authority, and the certificates of these nodes that are not valid for long.
///
/// # Errors
/// The folder cannot be written, or its files are not such files.
pub fn make(folder: &Path, nodes: &[NodeId], issuing: IssuePolicy) -> anyhow::Result<Vec<MemberFiles>> {
    let authority = Authority::open(folder, "Statehouse nodes")?;
    let make = |node: &NodeId| {
        // A node shows its certificate both as a server and as a client, and only for this name: see `peer`.
        let name = format!("node-{node}");
        let issued = authority.issue_where(issuing, &name, vec![name.clone()], &[ServerAuth, ClientAuth])?;
        let (IssuedCertificate { certificate, key }, is_new) = issued;
        Ok(MemberFiles { node: *node, tls: PeerTlsConfig { ca: authority.certificate(), certificate, key }, is_new })
    };
    nodes.iter().map(make).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NODES: [NodeId; 2] = [NodeId(1), NodeId(2)];

    fn bytes(files: &[MemberFiles]) -> Vec<Vec<u8>> {
        let paths = files.iter().flat_map(|files| [&files.tls.ca, &files.tls.certificate, &files.tls.key]);
        paths.map(|path| std::fs::read(path).expect("it was written")).collect()
    }

    #[test]
    fn what_is_good_for_long_is_kept_and_nobody_else_reads_it() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let folder = data.path().join("peers");
        let first = make(&folder, &NODES, IssuePolicy::WhereNeeded).expect("an empty folder");
        assert!(first.iter().all(|files| files.is_new));
        let before = bytes(&first);
        for entry in std::fs::read_dir(&folder).expect("it is there") {
            let entry = entry.expect("it can be read");
            let mode = entry.metadata().expect("it has some").permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{entry:?}");
        }

        let again = make(&folder, &NODES, IssuePolicy::WhereNeeded).expect("the same folder");
        assert!(again.iter().all(|files| !files.is_new) && bytes(&again) == before);

        // The key of another certificate is not accepted, and unreadable files are made again.
        std::fs::copy(&first[0].tls.key, &first[1].tls.key).expect("writable");
        let repaired = make(&folder, &NODES, IssuePolicy::WhereNeeded).expect("the same folder");
        assert_eq!(repaired.iter().map(|files| files.is_new).collect::<Vec<_>>(), [false, true]);
        std::fs::write(&first[0].tls.certificate, "no certificate").expect("writable");
        let repaired = make(&folder, &NODES, IssuePolicy::WhereNeeded).expect("the same folder");
        assert_eq!(repaired.iter().map(|files| files.is_new).collect::<Vec<_>>(), [true, false]);

        let renewed = make(&folder, &NODES, IssuePolicy::Always).expect("the same folder");
        assert!(renewed.iter().all(|files| files.is_new));
        assert_eq!(bytes(&renewed)[0], before[0], "the authority stays");

        // Certificates of another authority are not kept.
        for name in ["ca.pem", "ca.key"] {
            std::fs::remove_file(folder.join(name)).expect("it is there");
        }
        let replaced = make(&folder, &NODES, IssuePolicy::WhereNeeded).expect("the same folder");
        assert!(replaced.iter().all(|files| files.is_new));
    }
}
