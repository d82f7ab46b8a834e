//! Nodes whose disk was wiped or set back. They have forgotten what others count on, and take part again once the
//! others have given it back.
//!
//! In: an empty disk, or an older copy, under the identity that the node had. Out: closed partitions that say whom
//! they wait for, and later nodes that have everything; and a cluster that continues with another node instead.

use super::*;
use crate::peer::GroupName;
use crate::router::Machine;
use crate::system::ClusterError;

impl Cluster {
    /// Waits until a node says that it needs what others have, and checks that it serves nothing.
    pub(super) async fn says_what_it_waits_for(&self, node: NodeId, words: &[&str]) {
        let router = self.node(node).router();
        let says = || {
            let reasons = router.is_ready().err()?;
            reasons.iter().any(|reason| words.iter().all(|word| reason.contains(word))).then_some(())
        };
        eventually(&format!("node {node} says {words:?}"), says).await;
        let machine = router.find_machine(MACHINE);
        let is_closed = |machine: Arc<Machine>| machine.partition_ids().any(|id| machine.find_partition(id).is_none());
        assert!(machine.is_none_or(is_closed), "what is behind is closed");
    }

    /// Waits until all others have seen that this node holds something in every group, also in groups that it has led
    /// from the beginning.
    pub(super) async fn was_seen(&self, node: NodeId) {
        let groups: Vec<GroupName> = self.node(node).context.replicas().into_iter().map(|(group, _)| group).collect();
        let hosts: Vec<_> = others(node).map(|other| self.node(other).context.clone()).collect();
        let is_seen = || {
            hosts
                .iter()
                .all(|context| groups.iter().all(|group| context.seen.of(node, group).is_ok_and(|seen| seen.is_some())))
        };
        eventually("the others have seen what a node holds", || is_seen().then_some(())).await;
    }

    /// Adds a new node and removes another one for good.
    async fn replace(&mut self, lost: NodeId, new: NodeId) {
        self.add_member(new).await;
        let any = NODES.into_iter().find(|node| *node != lost).expect("there are three");
        let cluster = self.node(any).cluster();
        cluster.add(new, address(new), soon()).await.unwrap_or_else(|error| panic!("{new} is taken in: {error}"));
        cluster.remove(lost, soon()).await.unwrap_or_else(|error| panic!("{lost} is removed: {error}"));
        let mut voters: Vec<NodeId> = others(lost).chain([new]).collect();
        voters.sort_unstable();
        let replicas: Vec<_> = others(lost).map(|node| self.replica(node)).collect();
        let has_voters = |replica: &Arc<Partition>| {
            let mut found = replica.group().metrics().voters;
            found.sort_unstable();
            found == voters
        };
        eventually("the new node votes instead", || replicas.iter().all(has_voters).then_some(())).await;
    }

    /// Wipes a node's disk, except for the files that say who the node is.
    fn wipe(&mut self, node: NodeId) {
        let data = self.folder.path().join(node.to_string());
        let member = self.members.get_mut(&node).expect("it is a node");
        let before = std::mem::replace(&mut member.disk, SimDisk::new());
        for path in ["node.json", "node.key", "founded"].map(|name| data.join(name)) {
            if let Some(content) = before.content(&path) {
                member.disk.put(&path, content);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_wiped_disk_waits_for_both_others_and_has_everything_then() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    load.more(40).await;
    let lost = cluster.leader(&NODES).await;
    cluster.was_seen(lost).await;
    cluster.crash(lost).await;
    cluster.wipe(lost);
    load.more(20).await;
    let away = others(lost).next().expect("there are three");
    let mut attempts = load.stop().await;
    cluster.crash(away).await;
    cluster.start(lost).await;
    // One of the two others is not enough: the absent one may be the one that knows.
    cluster.says_what_it_waits_for(lost, &["lost acknowledged entries", "accept-loss"]).await;
    cluster.start(away).await;
    cluster.served().await;
    let mut load = Load::start(cluster.doors.clone(), cluster.bank.accounts.clone(), cluster.seed + 1);
    load.more(20).await;
    attempts.extend(load.stop().await);
    cluster.judge(&attempts).await;
}

/// The members of a cluster tell a node that is not level who they are. They used to take it in again with that, under
/// the id of the node that has lost everything: nobody was told that data is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_its_folder_is_told_to_come_under_a_new_id_and_is_not_taken_back() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    load.more(20).await;
    let attempts = load.stop().await;
    let lost = cluster.leader(&NODES).await;
    cluster.crash(lost).await;
    cluster.members.get_mut(&lost).expect("it is a node").disk = SimDisk::new();
    std::fs::remove_dir_all(cluster.folder.path().join(lost.to_string())).expect("it was there");
    cluster.start(lost).await;
    let says = || {
        let reasons = cluster.node(lost).router().is_ready().err()?;
        reasons.iter().any(|reason| reason.contains("under a new id")).then_some(())
    };
    eventually("it says that it has lost everything", says).await;
    let asking = others(lost).next().expect("there are three");
    for _ in 0..rounds(4, 40) {
        let clocks = || cluster.node(asking).context.clocks.samples().get(&lost).map(|sample| sample.at);
        let before = clocks();
        eventually("it is asked for the time", || (clocks() > before).then_some(())).await;
        let reasons = cluster.node(lost).router().is_ready().expect_err("it has nothing");
        assert!(reasons.iter().any(|reason| reason.contains("under a new id")), "{reasons:?}");
        assert!(cluster.node(lost).context.folder.identity().is_none(), "it was taken in again");
    }
    let added = cluster.node(asking).cluster().add(lost, address(lost), soon()).await;
    assert!(matches!(added, Err(ClusterError::NodeIdUsed(node)) if node == lost), "{added:?}");
    cluster.crash(lost).await;
    cluster.judge(&attempts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_disk_of_before_is_given_back_what_it_forgot() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    load.more(20).await;
    let leader = cluster.leader(&NODES).await;
    let lost = others(leader).next().expect("there are three");
    let before = cluster.members[&lost].disk.copy();
    load.more(40).await;
    cluster.crash(lost).await;
    cluster.members.get_mut(&lost).expect("it is a node").disk = before;
    cluster.start(lost).await;
    cluster.served().await;
    load.more(20).await;
    let attempts = load.stop().await;
    cluster.judge(&attempts).await;
}

/// A damaged record of what was seen used to keep its node from starting. A new record must not say that nothing was
/// seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_lost_what_it_saw_does_not_vouch_for_a_disk_of_before() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    load.more(20).await;
    let leader = cluster.leader(&NODES).await;
    let mut followers = others(leader);
    let (lost, forgetful) = (followers.next().expect("there are three"), followers.next().expect("there are three"));
    cluster.rises(&NODES).await;
    let before = cluster.members[&lost].disk.copy();
    load.more(40).await;
    // The record of `forgetful` will be lost, but this node has also heard how far the counter of `lost` rose.
    cluster.counts(lost, 3).await;
    cluster.was_seen(lost).await;
    let attempts = load.stop().await;
    for node in NODES {
        cluster.crash(node).await;
    }
    cluster.members.get_mut(&lost).expect("it is a node").disk = before;
    let seen = cluster.folder.path().join(forgetful.to_string()).join("seen");
    let mut content = std::fs::read(&seen).expect("it was written when the node stopped");
    content[20] ^= 1;
    std::fs::write(&seen, content).expect("it can be written");
    for node in [lost, forgetful] {
        cluster.start(node).await;
    }
    cluster.says_what_it_waits_for(lost, &["lost acknowledged entries", "counter"]).await;
    cluster.start(leader).await;
    cluster.served().await;
    cluster.judge(&attempts).await;
}

/// Such a node used to say that there is no leader, and made every client wait until its deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_says_that_it_was_removed() {
    let mut cluster = Cluster::found().await;
    let removed = NODES[2];
    cluster.replace(removed, NodeId(4)).await;
    let router = cluster.node(removed).router().clone();
    let says =
        || router.is_ready().err()?.iter().any(|reason| reason.contains("was removed from this cluster")).then_some(());
    eventually("the node says that it was removed", says).await;
    let refused = load::Told::NotAccepted(crate::router::answer::UnavailableReason::Removed);
    let mut told = Vec::new();
    // The node's machines hear of the removal a moment later.
    while told.last() != Some(&refused) {
        assert!(told.len() < 10, "it goes on waiting for a leader: {told:?}");
        let attempt = cluster.new_attempt(0, 1);
        told.push(cluster.ask(removed, &attempt, false).await);
    }
}
