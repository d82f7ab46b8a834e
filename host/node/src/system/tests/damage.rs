//! Bits flip while a node is down: in its log, which the other nodes repair, and in its state, which is rebuilt.
//!
//! In: damage to what a dead node has on its disk. Out: a node that serves again, and the judge's verdict. This file
//! knows where the frames of a segment begin and that its unwritten rest is zero, and no frame layout.

use super::*;
use crate::disk::Disk;
use crate::log::{LogError, LogScan};

pub(super) const FRAMES_AT: usize = 4096;

impl Cluster {
    /// Scans the whole log of a node, which may be down or running, as it is on disk now.
    pub(super) fn scan(&self, node: NodeId) -> Result<(), LogError> {
        LogScan::open(&self.members[&node].disk.copy(), &self.partition_folder(node).join("log")).map(drop)
    }

    /// Flips bits in the wallet's log, at these percentages of the durable frames in its first segment. A bit that is
    /// flipped after them, or in the unused rest of the header, is no damage.
    fn damage_log(&self, node: NodeId, percents: impl IntoIterator<Item = usize>) {
        let (disk, folder) = (&self.members[&node].disk, self.partition_folder(node).join("log"));
        let durable = LogScan::open(&disk.copy(), &folder).expect("the log is sound").watermark();
        let mut segments = disk.list(&folder).expect("a simulated disk is read");
        segments.retain(|name| name.ends_with(".log"));
        let path = folder.join(segments.iter().min().expect("the log has a segment"));
        let first = path.file_stem().and_then(|stem| stem.to_str()?.strip_prefix("seg-")).expect("it is named so");
        let first = u64::from_str_radix(first, 16).expect("its name says where it begins");
        let mut content = disk.content(&path).expect("it was just listed");
        let written = content.iter().rposition(|byte| *byte != 0).expect("a segment has a header") + 1;
        let frames = (written - FRAMES_AT).min((durable.0 - first) as usize);
        for percent in percents {
            content[FRAMES_AT + frames * percent / 100] ^= 1;
        }
        disk.put(&path, content);
        let scanned = self.scan(node);
        assert!(matches!(scanned, Err(LogError::Corrupt { .. })), "the damage is seen: {scanned:?}");
    }

    pub(super) async fn cut_power_everywhere(&mut self) {
        self.cut_power(&NODES);
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
        cluster.damage_log(follower, [percent]);
        load.more(20).await;
        cluster.start(follower).await;
        cluster.served().await;
        cluster.scan(follower).expect("the log is sound again");

        cluster.crash(follower).await;
        flip_bit_in(&largest_of(rows_in(&cluster.partition_folder(follower).join("state").join("rocks"))));
        cluster.start(follower).await;
        cluster.served().await;
    }
    load.more(20).await;
    let attempts = load.stop().await;
    cluster.judge_recovered(attempts).await;
}

/// A power cut of all nodes leaves the logs, and a bit is flipped at a different place in each. Every entry is whole
/// on some node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_of_all_nodes_damaged_in_different_entries_mend_each_other() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    for round in 0..rounds(2, 20) {
        load.more(60).await;
        cluster.cut_power_everywhere().await;
        // Two of the three are damaged first, then all.
        let damaged = if round == 0 { &NODES[1..] } else { &NODES[..] };
        let first = cluster.random.random_range(10..30);
        for (number, node) in damaged.iter().enumerate() {
            let percent = first + number * cluster.random.random_range(20..30);
            cluster.damage_log(*node, [percent]);
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
    cluster.judge_recovered(attempts).await;
}

/// An entry that is whole on no node cannot be repaired, and is not skipped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_logs_are_damaged_in_the_same_entries_each_node_says_so() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    load.more(60).await;
    let attempts = load.stop().await;
    assert!(attempts.iter().any(|attempt| matches!(attempt.told, load::Told::Done(_))), "something was acknowledged");
    cluster.cut_power_everywhere().await;
    for node in NODES {
        cluster.damage_log(node, 40..60);
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

/// The node's own log begins earlier than the others' logs, and is damaged where the others have released everything.
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
        cluster.damage_log(follower, [10 + percent]);
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

/// The files of rows in a folder.
fn rows_in(rocks: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(rocks).expect("the state has a folder");
    let files = files.map(|file| file.expect("it is listed").path());
    files.filter(|path| path.extension() == Some("sst".as_ref())).collect()
}

/// The largest of these files.
fn largest_of(files: Vec<PathBuf>) -> PathBuf {
    let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |file| file.len());
    files.into_iter().max_by_key(size).expect("what was applied is written when a node stops, and with a snapshot")
}

/// Flips a bit in the middle of a file. A second call restores the file.
fn flip_bit_in(path: &Path) {
    let mut bytes = std::fs::read(path).expect("it can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).expect("it can be written");
}

/// The snapshot that a leader offers shares its files with the leader's own state, which nobody reads again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_state_is_rotten_notices_it_when_it_sends_a_snapshot_and_makes_it_again() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    load.more(60).await;
    load.stop().await;
    let behind = NODES[0];
    let mut noticed = false;
    for round in 1..=rounds(4, 8) {
        cluster.crash(behind).await;
        let mut load = Load::start(cluster.doors.clone(), cluster.bank.accounts.clone(), cluster.seed + round as u64);
        load.more(40).await;
        load.stop().await;
        cluster.release().await;
        let leader = cluster.leader(&NODES[1..]).await;
        let folder = cluster.partition_folder(leader);
        let newest = cluster.replica(leader).snapshots().newest().expect("it was just made");
        let of_state =
            |path: PathBuf| folder.join("state").join("rocks").join(path.file_name().expect("it has a name"));
        let shared = rows_in(&newest.folder.join("state").join("rocks")).into_iter().map(of_state);
        let rotten = largest_of(shared.filter(|path| path.exists()).collect());
        let upto = newest.manifest.last().index;
        drop(newest);
        flip_bit_in(&rotten);
        cluster.start(behind).await;
        noticed = eventually("the leader sets its state aside, or another one sends a snapshot", || {
            let find = |node| find_replica(cluster.node(node).router());
            let is_level = find(behind).is_some_and(|replica| upto <= replica.log_index_applied());
            let is_unnoticed = find(leader).is_some_and(|replica| replica.find_damaged().is_none());
            let is_aside = folder.join("state.damaged").exists();
            (is_aside || is_level && is_unnoticed).then_some(is_aside)
        })
        .await;
        if noticed {
            break;
        }
        // The other node may have become leader, and compaction may have removed the file from the state.
        if rotten.exists() {
            flip_bit_in(&rotten);
        }
    }
    assert!(noticed, "the leader sets its state aside");
    cluster.served().await;
    let mut load = Load::start(cluster.doors.clone(), cluster.bank.accounts.clone(), cluster.seed + 100);
    load.more(20).await;
    load.stop().await;
    cluster.served().await;
    cluster.bank.judge_present(&cluster).await;
}

/// The node knows of the damage because a checksum failed while it ran, or because its store is marked. No other node's
/// snapshot reaches to where its log begins, and nothing happens that would make the others take a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_is_known_to_be_damaged_and_whose_log_begins_late_is_fetched_from_another_node() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    load.more(60).await;
    cluster.release().await;
    load.more(10).await;
    let attempts = load.stop().await;
    let damaged = NODES[0];
    cluster.release_at(damaged).await;
    let folder = cluster.partition_folder(damaged);
    cluster.crash(damaged).await;
    std::fs::write(folder.join("state").join("damaged"), "").expect("it can be written");
    cluster.start(damaged).await;
    cluster.served().await;
    assert!(folder.join("state.damaged").join("damaged").exists(), "the damaged state is set aside");
    let mut load = Load::start(cluster.doors.clone(), cluster.bank.accounts.clone(), cluster.seed + 1);
    load.more(20).await;
    load.stop().await;
    assert!(attempts.iter().any(|attempt| matches!(attempt.told, load::Told::Done(_))), "something was done");
    cluster.served().await;
    cluster.bank.judge_present(&cluster).await;
}
