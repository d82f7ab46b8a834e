//! Bits flip in what was written long ago and nobody reads. The scrubber finds them in sealed segments, and other
//! nodes repair them by hash. Until then the node still votes, leads where no other node can, and says what is not
//! whole.
//!
//! In: damage to sealed segments of nodes that are down. Out: what the nodes say, and the judge's verdict. This file
//! knows where the frames of a segment begin, and no more about segments.

use super::damage::FRAMES_AT;
use super::load::{Told, submit_as};
use super::*;
use crate::disk::Disk;
use crate::ids::CommandId;
use crate::log::Log;
use statehouse_abi::value::Value;

/// The size of one command: a few of these fill a segment.
const LARGE: usize = 700 << 10;

/// Sends large commands until the log has sealed a segment.
async fn seal_a_segment(router: &Router, account: &str, random: &mut StdRng, is_sealed: impl Fn() -> bool) {
    let request_id = "r".repeat(LARGE);
    while !is_sealed() {
        let id = CommandId(random.random());
        let body = [
            ("account", Value::text(account)),
            ("currency", Value::text("USD")),
            // The wallet rejects this amount and records the rejection: no balance changes.
            ("amount", Value::text("1000000000000.00")),
            ("transaction_id", Value::text(id.to_string())),
        ];
        let told = submit_as(router, "withdraw", (id, &request_id), Value::map(body), load::DEADLINE).await;
        assert!(!matches!(told, Told::Done(_)), "nobody has so much");
    }
}

/// Flips bits in the oldest segment, at these percentages of its frames.
fn flip_in_oldest(disk: &dyn Disk, folder: &Path, percents: &[usize]) {
    let path = folder.join("seg-0000000000000000.log");
    assert!(disk.open_to_read(&path.with_extension("seal")).is_ok(), "the segment is sealed");
    let file = disk.open(&path).expect("the log has it");
    let mut content = vec![0; file.size().expect("it has a size") as usize];
    file.read_at(&mut content, 0).expect("it can be read");
    let end = content.iter().rposition(|byte| *byte != 0).expect("it is not empty");
    for percent in percents {
        let offset = FRAMES_AT + (end - FRAMES_AT) * percent / 100;
        file.write_at(&[content[offset] ^ 1], offset as u64).expect("it can be written");
    }
    file.sync().expect("it can be synced");
}

impl Cluster {
    /// Waits until a node says this, and returns all that it says. Prints what each running node says, as it changes.
    async fn node_says(&self, node: NodeId, what: &str) -> Vec<String> {
        let mut said = BTreeMap::new();
        let says = || {
            for node in self.running() {
                let reasons = self.node(node).router().is_ready().err().unwrap_or_default();
                if said.insert(node, reasons.clone()).is_none_or(|before| before != reasons) {
                    println!("node {node}: {reasons:?}");
                }
            }
            said[&node].iter().any(|reason| reason.contains(what)).then(|| said[&node].clone())
        };
        eventually(&format!("node {node} says {what:?}"), says).await
    }

    fn log(&self, node: NodeId) -> Log {
        self.replica(node).log().clone()
    }

    async fn seal_everywhere(&mut self) {
        let logs = NODES.map(|node| self.log(node));
        let is_sealed = || logs.iter().all(|log| !log.sealed_segments().is_empty());
        let router = self.node(NODES[0]).router().clone();
        for account in 0..self.bank.accounts.len() - 1 {
            if self.home_is_first(account) {
                return seal_a_segment(&router, &self.bank.accounts[account], &mut self.random, is_sealed).await;
            }
        }
        panic!("some account is in the first partition");
    }

    fn home_is_first(&self, account: usize) -> bool {
        let machine = self.node(NODES[0]).router().find_machine(MACHINE).expect("the node serves the wallet");
        machine.partition_id_of(self.bank.accounts[account].as_bytes()) == PartitionId(0)
    }

    fn flip(&self, node: NodeId, percents: &[usize]) {
        flip_in_oldest(&self.members[&node].disk, &self.partition_folder(node).join("log"), percents);
        self.scan(node).expect_err("the damage is there");
    }

    /// Waits until nothing is damaged any more and everything is served.
    async fn is_whole(&self, nodes: &[NodeId]) {
        self.served().await;
        // Another node may still be repairing its log.
        let are_whole = || nodes.iter().all(|node| !self.log(*node).is_damaged() && self.scan(*node).is_ok());
        eventually("all logs are whole", || are_whole().then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_a_sealed_segment_is_found_and_mended_by_a_peer() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    load.more(30).await;
    cluster.seal_everywhere().await;
    for percent in [1, 50, 99].into_iter().take(rounds(2, 3)) {
        let damaged = cluster.leader(&NODES).await;
        cluster.crash(damaged).await;
        cluster.flip(damaged, &[percent]);
        load.more(20).await;
        cluster.start(damaged).await;
        // The node opens without reading sealed segments. Nobody asks for them, and still the damage is repaired.
        let is_sound = || cluster.scan(damaged).is_ok().then_some(());
        eventually("it is mended", is_sound).await;
        cluster.is_whole(&NODES).await;
    }
    load.more(20).await;
    let attempts = load.stop().await;
    cluster.judge_recovered(attempts).await;
}

/// Two of three nodes have lost the same entries, and the third is down: both vote, one leads, and clients are served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_wait_for_what_they_have_lost_vote_and_serve() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    load.more(30).await;
    cluster.seal_everywhere().await;
    // A node that the others have not heard lately may have forgotten something, and would wait for the third.
    cluster.have_heard(&NODES).await;
    cluster.cut_power_everywhere().await;
    let [first, second, whole] = NODES;
    for node in [first, second] {
        cluster.flip(node, &[45, 50, 55]);
        cluster.start(node).await;
    }
    for node in [first, second] {
        cluster.node_says(node, "it is not repaired yet").await;
    }
    load.more(30).await;
    for node in [first, second] {
        let reasons = cluster.node(node).router().is_ready().expect_err("it is not whole");
        assert!(reasons.iter().any(|reason| reason.contains("is damaged at offset")), "{reasons:?}");
    }
    cluster.start(whole).await;
    cluster.is_whole(&NODES).await;
    load.more(20).await;
    let attempts = load.stop().await;
    cluster.judge_recovered(attempts).await;
}

/// The state cannot be opened without these entries, so they cannot wait for the scrubber.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_state_itself_needs_is_mended_before_it_is_served() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    load.more(30).await;
    cluster.seal_everywhere().await;
    let damaged = cluster.leader(&NODES).await;
    cluster.crash(damaged).await;
    cluster.flip(damaged, &[50]);
    std::fs::remove_dir_all(cluster.partition_folder(damaged).join("state")).expect("it is made anew from the log");
    cluster.start(damaged).await;
    eventually("it is mended", || cluster.scan(damaged).is_ok().then_some(())).await;
    cluster.is_whole(&NODES).await;
    load.more(20).await;
    let attempts = load.stop().await;
    cluster.judge_recovered(attempts).await;
}

/// An entry that is whole on no node cannot be repaired, and no node is ever ready without it. The nodes were stopped
/// in order, so that their state has what the entry did and can be opened without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_sealed_segments_of_all_nodes_are_damaged_in_the_same_entries_each_node_says_so() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    load.more(30).await;
    cluster.seal_everywhere().await;
    for node in NODES {
        cluster.stop(node).await;
    }
    for node in NODES {
        cluster.flip(node, &[45, 50, 55]);
        cluster.start(node).await;
    }
    for node in NODES {
        cluster.node_says(node, "it is not repaired yet").await;
    }
    let is_ok = |cluster: &Cluster| NODES.iter().any(|node| cluster.node(*node).router().is_ready().is_ok());
    for _ in 0..20 {
        load.more(5).await;
        assert!(!is_ok(&cluster), "no node is whole");
    }
    let again = NODES[1];
    cluster.stop(again).await;
    cluster.start(again).await;
    let reasons = cluster.node_says(again, "it is not repaired yet").await;
    assert!(reasons.iter().any(|reason| reason.contains("node ")), "and what each of the others says: {reasons:?}");
    assert!(!is_ok(&cluster), "no node is whole");
    let attempts = load.stop().await;
    assert!(attempts.iter().any(|attempt| matches!(attempt.told, Told::Done(_))), "they serve what they have");
}

/// After a power cut or a crash, the state of a node may need an entry that is whole on no node. Such a node is given a
/// snapshot of another one, and begins its log after it. A node that is ready has no entry that it cannot read, and one
/// node at least still says what is lost: the one whose state did not need it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_state_of_some_nodes_needs_what_all_have_lost_no_node_is_ready_with_a_damaged_log() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    load.more(30).await;
    cluster.seal_everywhere().await;
    let [stopped, crashed @ ..] = NODES;
    cluster.stop(stopped).await;
    for node in crashed {
        cluster.crash(node).await;
    }
    for node in NODES {
        cluster.flip(node, &[45, 50, 55]);
        cluster.start(node).await;
    }
    let says_or_is_whole = |cluster: &Cluster, node: NodeId| {
        let reasons = cluster.node(node).router().is_ready().err().unwrap_or_default();
        reasons.iter().any(|reason| reason.contains("it is not repaired yet")) || cluster.scan(node).is_ok()
    };
    for again in rounds_of_crashes(&crashed) {
        for node in NODES {
            eventually("it says so, or is whole", || says_or_is_whole(&cluster, node).then_some(())).await;
        }
        for _ in 0..10 {
            load.more(5).await;
            for node in NODES {
                let is_ready = cluster.node(node).router().is_ready().is_ok();
                assert!(!is_ready || cluster.scan(node).is_ok(), "node {node} is ready, and its log is not whole");
            }
            cluster.node(stopped).router().is_ready().expect_err("this node has the damage still");
        }
        cluster.crash(again).await;
        cluster.start(again).await;
    }
    load.stop().await;
}

/// Each of these nodes in turn, once in an ordinary run.
fn rounds_of_crashes(nodes: &[NodeId]) -> Vec<NodeId> {
    nodes.iter().copied().cycle().take(nodes.len() * rounds(1, 5)).collect()
}

/// Waits until a node that is alone says this.
async fn says(router: &Router, what: &str) {
    let says = || router.is_ready().err()?.iter().any(|reason| reason.contains(what)).then_some(());
    eventually(what, says).await;
}

/// Opens a node without peers: nobody gives it what it has lost, and nobody asks it for what is sealed.
async fn open_alone(folder: &Path, disk: &SimDisk) -> Node {
    lend_compiled(folder);
    let options = NodeOptions { disk: Arc::new(disk.clone()), ..node_options(folder.to_owned(), NodeId(1)) };
    let opening = Node::open(options);
    let node = opening.await.expect("what is sealed is not read");
    machines::wait_until_served(&node.context, soon()).await.expect("it is served");
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_alone_says_what_it_has_lost() {
    let (folder, disk) = (tempfile::tempdir().expect("a folder for temporary files"), SimDisk::new());
    let node = open_alone(folder.path(), &disk).await;
    let bank = Bank::open_by(node.router(), 1).await;
    let replica = find_replica(node.router()).expect("it is open");
    let is_sealed = || !replica.log().sealed_segments().is_empty();
    seal_a_segment(node.router(), &bank.accounts[0], &mut StdRng::seed_from_u64(7), is_sealed).await;
    let taken = replica.take_canonical().await.expect("something has happened there");
    let snapshot = replica.canonical_file(&taken);
    drop(replica);
    node.close().await.expect("it stops");

    let logs = super::super::folder::partition_folder(folder.path(), MACHINE, PartitionId(0)).join("log");
    flip_in_oldest(&disk, &logs, &[50]);
    let mut bytes = std::fs::read(&snapshot).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&snapshot, bytes).expect("the folder is ours");
    let node = open_alone(folder.path(), &disk).await;
    says(node.router(), "this node has no peers that could have what is lost").await;
    says(node.router(), "the canonical snapshot").await;
    let read = load::balance(node.router(), &bank.accounts[0], crate::router::answer::Consistency::Linearizable).await;
    assert_eq!(read.expect("it serves what it has"), 10_000);
    node.close().await.expect("it stops");
}
