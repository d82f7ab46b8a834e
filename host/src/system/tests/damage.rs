//! Bits that flip while a node is down: in its log, which the other nodes mend, and in its state, which is made again.
//!
//! In: damage to what a dead node has on its disk. Out: a node that serves again, and the judge's verdict. It knows that the unwritten rest
//! of a segment is zero, and no frame layout.

use super::*;
use crate::log::{Disk, LogError, LogScan};

impl Cluster {
    /// Whether the log of a node that is down, or of the moment, can be read whole.
    fn scan(&self, node: NodeId) -> Result<(), LogError> {
        LogScan::open(&self.members[&node].disk.copy(), &self.partition_folder(node).join("log")).map(drop)
    }

    /// Flips a bit in the wallet's log, so far through what was written, in percent.
    fn damage_log(&self, node: NodeId, percent: usize) {
        let (disk, folder) = (&self.members[&node].disk, self.partition_folder(node).join("log"));
        let mut segments = disk.list(&folder).expect("a simulated disk is read");
        segments.retain(|name| name.ends_with(".log"));
        let path = folder.join(segments.iter().min().expect("the log has a segment"));
        let mut content = disk.content(&path).expect("it was just listed");
        let written = content.iter().rposition(|byte| *byte != 0).expect("a segment has a header") + 1;
        content[written * percent / 100] ^= 1;
        disk.put(&path, content);
        let scanned = self.scan(node);
        assert!(matches!(scanned, Err(LogError::Corrupt { .. })), "the damage is seen: {scanned:?}");
    }

    async fn cut_power_everywhere(&mut self) {
        NODES.into_iter().for_each(|node| self.cut_power(node));
        for node in NODES {
            self.bury(node).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_mended_before_its_node_takes_part_and_damaged_state_is_made_again() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    for percent in (0..100).map(|step| step * 37 % 100).filter(|percent| 10 < *percent).take(rounds(1, 20)) {
        load.more(60).await;
        let leader = cluster.leader(&NODES).await;
        let follower = others(leader).next().expect("there are three");
        cluster.crash(follower).await;
        cluster.damage_log(follower, percent);
        load.more(20).await;
        cluster.start(follower).await;
        cluster.served().await;
        cluster.scan(follower).expect("the log is sound again");

        cluster.crash(follower).await;
        flip_bit_in_rows(&cluster.partition_folder(follower).join("state").join("rocks"));
        cluster.start(follower).await;
        cluster.served().await;
    }
    load.more(20).await;
    let attempts = load.stop().await;
    cluster.judge(&attempts).await;
}

/// As a power cut of all leaves them, with a bit flipped at another place in each: every entry is whole somewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_of_all_nodes_damaged_in_different_entries_mend_each_other() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    for round in 0..rounds(2, 20) {
        load.more(60).await;
        cluster.cut_power_everywhere().await;
        // Two of three, then all.
        let damaged = if round == 0 { &NODES[1..] } else { &NODES[..] };
        let first = cluster.random.random_range(10..30);
        for (number, node) in damaged.iter().enumerate() {
            let percent = first + number * cluster.random.random_range(20..30);
            cluster.damage_log(*node, percent);
        }
        for node in NODES {
            cluster.start(node).await;
        }
        cluster.served().await;
        for node in damaged {
            cluster.scan(*node).expect("the log is sound again");
        }
    }
    load.more(20).await;
    let attempts = load.stop().await;
    cluster.judge(&attempts).await;
}

/// What is whole nowhere cannot be mended, and is not passed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_logs_are_damaged_in_the_same_entries_each_node_says_so() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    load.more(60).await;
    let attempts = load.stop().await;
    assert!(attempts.iter().any(|attempt| matches!(attempt.told, load::Told::Done(_))), "something was acknowledged");
    cluster.cut_power_everywhere().await;
    for node in NODES {
        (40..60).for_each(|percent| cluster.damage_log(node, percent));
    }
    for node in NODES {
        cluster.start(node).await;
    }
    for node in NODES {
        let router = cluster.node(node).router().clone();
        let says = || {
            let reasons = router.is_ready().err()?;
            reasons
                .iter()
                .any(|reason| reason.contains("is being repaired") && reason.contains("missing"))
                .then_some(())
        };
        eventually("it says which entry nobody has", says).await;
    }
}

/// Its own log begins earlier than those of the others, and is damaged where they have released everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_whose_entries_are_released_elsewhere_goes_on_from_a_snapshot() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    for percent in (0..).map(|step| (30 + step * 23) % 60).take(rounds(2, 12)) {
        load.more(60).await;
        let leader = cluster.leader(&NODES).await;
        let follower = others(leader).next().expect("there are three");
        cluster.crash(follower).await;
        load.more(20).await;
        cluster.release().await;
        cluster.damage_log(follower, 10 + percent);
        cluster.start(follower).await;
        cluster.served().await;
        cluster.scan(follower).expect("the log is sound again");
    }
    load.more(20).await;
    let attempts = load.stop().await;
    assert!(attempts.iter().any(|attempt| matches!(attempt.told, load::Told::Done(_))), "something was done");
    cluster.served().await;
    cluster.bank.judge_present(&cluster).await;
}

/// In the middle of the largest file of rows.
fn flip_bit_in_rows(rocks: &std::path::Path) {
    let files =
        std::fs::read_dir(rocks).expect("the state has a folder").map(|file| file.expect("it is listed").path());
    let rows = files.filter(|path| path.extension().is_some_and(|ending| ending == "sst"));
    let read = |path: PathBuf| (std::fs::read(&path).expect("it can be read"), path);
    let largest = rows.map(read).max_by_key(|(bytes, _)| bytes.len());
    let (mut bytes, path) = largest.expect("what was applied is written when a node stops");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).expect("it can be written");
}
