//! Two histories of one partition. No matter which node meets the other history first, the proof stops both, and
//! neither is served after a restart.
//!
//! In: disks of a majority that were set back to one moment, so that these nodes vouch for each other, and a third
//! node that knows better. Out: closed partitions that say why. Nobody can notice the second history before the third
//! node is back.

use super::*;
use crate::ids::Term;
use crate::peer::GroupName;

/// The file with what a node has seen of others, which is not on the simulated disk.
const SEEN: &str = "seen";
const ATTEMPTS_MAX: usize = 20;

/// Such a file and its content.
type Seen = (PathBuf, Option<Vec<u8>>);

impl Cluster {
    /// Sets two nodes back to one moment, from before their last writes with the third node, and starts the two.
    async fn set_two_back(&mut self, two: [NodeId; 2]) {
        self.rises(&NODES).await;
        let mut load = self.load();
        load.more(20).await;
        load.stop().await;
        let (seen, disks) = self.remembered_before_more_is_written(two).await;
        self.crash_all().await;
        for (node, disk) in two.into_iter().zip(disks) {
            *self.disk_of(node) = disk;
            self.forget_beside_logs(node);
        }
        for (path, content) in seen {
            match content {
                Some(content) => std::fs::write(path, content).expect("it can be written"),
                None => drop(std::fs::remove_file(path)),
            }
        }
        for node in two {
            self.start(node).await;
        }
        self.served().await;
    }

    /// Returns what the two nodes have on disk before all three write more without an election. After an election the
    /// two would have forgotten it, and the third would follow nobody else in its term, not even to learn of `system`.
    async fn remembered_before_more_is_written(&mut self, two: [NodeId; 2]) -> (Vec<Seen>, Vec<SimDisk>) {
        let seen = |cluster: &Self, node: NodeId| cluster.folder.path().join(node.to_string()).join(SEEN);
        for _ in 0..ATTEMPTS_MAX {
            for node in NODES {
                self.was_seen(node).await;
            }
            self.have_heard(&NODES).await;
            let seen = two.map(|node| (seen(self, node), std::fs::read(seen(self, node)).ok()));
            let (disks, terms) = (two.map(|node| self.disk_of(node).copy()), self.terms());
            let mut load = Load::start(self.doors.clone(), self.bank.accounts.clone(), self.random.random());
            load.more(30).await;
            for node in NODES {
                self.counts(node, 2).await;
            }
            load.stop().await;
            if self.terms() == terms {
                return (seen.into(), disks.into());
            }
        }
        panic!("leaders changed again and again");
    }

    /// The terms of all replicas.
    fn terms(&self) -> Vec<Term> {
        let replicas = NODES.into_iter().flat_map(|node| self.all_replicas(node));
        replicas.map(|replica| replica.group().metrics().term).collect()
    }

    /// Waits until a partition no longer runs on a node, and the node says why.
    pub(super) async fn is_stopped(&self, node: NodeId, group: &GroupName) {
        let context = &self.node(node).context;
        let is_closed = || context.find_replica(group).is_none_or(|replica| !replica.is_running());
        let says =
            || context.replica_states.refusal(group).filter(|said| said.contains("different histories")).map(drop);
        eventually(&format!("{group} is stopped on node {node}, which says so"), || says().filter(|()| is_closed()))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_were_set_back_together_are_found_out_by_the_third() {
    let mut cluster = Cluster::found().await;
    let [one, other, whole] = NODES;
    cluster.set_two_back([one, other]).await;
    let mut load = Load::start(cluster.doors.clone(), cluster.bank.accounts.clone(), cluster.seed + 2);
    load.more(20).await;
    load.stop().await;

    // The leaders cannot ask for the proof at first.
    for node in [one, other] {
        cluster.network.lose_calls(node, whole, 1000);
    }
    cluster.start(whole).await;
    let groups: Vec<GroupName> = (0..PARTITIONS).map(|at| GroupName::new(MACHINE, PartitionId(at))).collect();
    for group in &groups {
        cluster.is_stopped(whole, group).await;
    }
    let record = |node: NodeId| &cluster.node(node).context.record;
    assert!([one, other].into_iter().all(|node| groups.iter().all(|group| record(node).divided(group).is_none())));
    // A restart does not forget the claim, and heals nothing.
    cluster.crash(whole).await;
    cluster.start(whole).await;
    for group in &groups {
        cluster.is_stopped(whole, group).await;
    }
    cluster.network.heal();
    let record = |node: NodeId| &cluster.node(node).context.record;
    for group in &groups {
        let led = |node: &NodeId| record(*node).divided(group).is_some();
        let led =
            eventually("who led the other history stops as well", || [one, other].into_iter().find(|node| led(node)));
        let led = led.await;
        cluster.is_stopped(led, group).await;
    }
    // A restart does not forget the proof.
    for node in NODES {
        cluster.crash(node).await;
    }
    for node in NODES {
        cluster.start(node).await;
    }
    for group in &groups {
        cluster.is_stopped(whole, group).await;
    }
}
