//! The archive in a node's own folder continues where the node was sent a snapshot of the state. The node fetches the
//! part of the journal that it never had from any other node that has it, and its archive ends up with the same
//! files.
//!
//! The tests release logs themselves, at once and as far as they can.

use std::collections::BTreeMap;

use super::*;
use crate::ids::JournalIndex;
use crate::partition::PartitionError;

/// Contents by partition and file name.
type Journals = BTreeMap<(String, String), Vec<u8>>;

impl Cluster {
    /// The journals in a node's archive, once everything that the node has is there.
    fn archived_journals(&self, node: NodeId) -> Option<Journals> {
        let mut journals = Journals::new();
        for (group, _) in self.node(node).context.replicas() {
            let folder = self.archive(node).join(&*group.machine).join(group.partition.to_string());
            for file in std::fs::read_dir(folder).ok()? {
                let path = file.ok()?.path();
                let name = path.file_name()?.to_str()?.to_owned();
                // Other files are still being written, or are snapshots.
                if name.ends_with(".journal") {
                    journals.insert((group.to_string(), name), std::fs::read(path).ok()?);
                }
            }
        }
        self.node(node).cluster().is_archived().then_some(journals)
    }

    async fn all_is_archived(&self) {
        let is_archived = || self.running().iter().all(|node| self.node(*node).cluster().is_archived());
        eventually("all is archived", || is_archived().then_some(())).await;
    }

    /// Waits until a node's archive equals another node's. The first node was sent a state; the other's archive goes
    /// back to the first entry.
    async fn archives_what_another_has(&self, node: NodeId, other: NodeId) {
        eventually("the node archives what it never had", || {
            let (here, there) = (self.archived_journals(node)?, self.archived_journals(other)?);
            (here == there).then_some(())
        })
        .await;
        for partition in self.replicas(node) {
            let begin = partition.find_entry(JournalIndex(1)).err();
            assert!(matches!(begin, Some(PartitionError::Released { .. })), "it was sent a state: {begin:?}");
            let first = partition.find_entry_anywhere(JournalIndex(1)).await.expect("it is in the archive");
            assert_eq!(first.entry.header().index, JournalIndex(1));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_of_a_nodes_own_lacks_nothing_behind_a_snapshot_of_the_state() {
    let mut cluster = Cluster::found_with(Options { has_archive: true, ..Options::default() }).await;
    let mut load = cluster.load();
    load.more(20).await;
    load.stop().await;
    cluster.all_is_archived().await;
    let leader = cluster.leader(&NODES).await;
    let behind = others(leader).next().expect("there are three");
    cluster.crash(behind).await;
    let mut load = cluster.load();
    load.more(50).await;
    load.stop().await;
    cluster.all_is_archived().await;
    cluster.release().await;
    // One of the nodes that are asked has the missing part neither in its log nor in its archive.
    let [poor, rich] = others(behind).collect::<Vec<_>>().try_into().expect("there are two others");
    std::fs::remove_dir_all(cluster.archive(poor).join(MACHINE)).expect("the folder is ours");
    cluster.start(behind).await;
    cluster.archives_what_another_has(behind, rich).await;

    // A node that has nothing gets everything.
    let new = NodeId(4);
    cluster.add_member(new).await;
    cluster.node(leader).cluster().add(new, address(new), soon()).await.expect("it is taken in");
    eventually("it serves", || find_replica(cluster.node(new).router()).map(drop)).await;
    cluster.archives_what_another_has(new, behind).await;

    // Later entries follow in the archive.
    let mut load = cluster.load();
    load.more(20).await;
    load.stop().await;
    for node in [behind, new] {
        cluster.archives_what_another_has(node, rich).await;
    }
}
