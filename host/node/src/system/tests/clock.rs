//! Clocks that are wrong, one or all, and journals that are ahead of them. The tests check who leads, which times
//! entries have, and that writes continue.
//!
//! In: clocks that are an hour ahead and then right again, while processes run and while they start; nodes that start
//! while a journal is a day ahead. Out: what clients were told, and the journal's time. This file does not know how
//! clocks are compared.

use bytes::Bytes;
use statehouse_abi::role;

use super::load::Told;
use super::*;
use crate::peer::{Call, Topic};
use crate::router::answer::Caller;
use crate::system::ClusterError;
use crate::system::clock_anchor::AnchorFile;
use crate::system::clock_round::ClockAnswer;
use crate::system::clocks::Anchor;
use crate::system::messages::decode;
use crate::system::submit::Wanting;

const HOUR: Duration = Duration::from_secs(3600);

impl Cluster {
    /// Commits one transfer. Its entry's time must lie within the time it was under way, plus or minus the clock skew.
    async fn check_time(&mut self, attempts: &mut Vec<Attempt>) {
        let before = SystemClock.now();
        let mut attempt = self.new_attempt(0, 1);
        attempt.told = self.ask(NODES[1], &attempt, false).await;
        assert!(matches!(attempt.told, Told::Done(_)), "{attempt:?}");
        let after = SystemClock.now();
        self.replica(NODES[1]).read_linearizable(soon()).await.expect("it is led");
        let time = self.replica(NODES[1]).progress().journal.time;
        let skew = i64::try_from(CLOCK_SKEW_MAX.as_micros()).expect("a second fits");
        assert!(before.0 - skew <= time.0 && time.0 <= after.0 + skew, "{} <= {} <= {}", before.0, time.0, after.0);
        attempts.push(attempt);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_clock_is_an_hour_ahead_does_not_lead_and_journal_time_neither_jumps_nor_freezes() {
    let mut cluster = Cluster::found().await;
    let mut attempts = Vec::new();
    cluster.check_time(&mut attempts).await;

    let wrong = cluster.leader(&NODES).await;
    cluster.members[&wrong].clock.leap_to(HOUR);
    // Check at once, while the node may still lead.
    cluster.check_time(&mut attempts).await;
    let right: Vec<NodeId> = others(wrong).collect();
    cluster.leader(&right).await;
    cluster.check_time(&mut attempts).await;

    // The node does not lead even when it is asked to.
    let asked = cluster.leader(&right).await;
    drop(cluster.replica(asked).group().transfer_to(wrong).await);
    cluster.check_time(&mut attempts).await;
    cluster.leader(&right).await;

    cluster.members[&wrong].clock.leap_to(Duration::ZERO);
    let context = &cluster.node(wrong).context;
    eventually("the clock is believed again", || context.clocks.may_lead().then_some(())).await;
    cluster.check_time(&mut attempts).await;
    cluster.judge(&attempts).await;
}

impl Cluster {
    /// What the disk of a running node has about the clock since the machine was started.
    fn anchor_on_disk(&self, node: NodeId) -> Option<Anchor> {
        let Member { disk, clock, .. } = &self.members[&node];
        let file = AnchorFile::open(Arc::new(disk.clone()), self.node(node).folder().path(), clock.boot());
        file.expect("it can be read").find(Duration::MAX)
    }

    fn leap(&self, nodes: &[NodeId], offset: Duration) {
        nodes.iter().for_each(|node| self.members[node].clock.leap_to(offset));
    }

    /// Commits one transfer; returns its entry's time.
    async fn write(&mut self, attempts: &mut Vec<Attempt>) -> Micros {
        let mut attempt = self.new_attempt(0, 1);
        attempt.told = self.ask(NODES[1], &attempt, false).await;
        assert!(matches!(attempt.told, Told::Done(_)), "{attempt:?}");
        attempts.push(attempt);
        self.replica(NODES[1]).read_linearizable(soon()).await.expect("it is led");
        self.replica(NODES[1]).progress().journal.time
    }

    /// Cuts the power of all nodes, and starts them again with clocks that are `offset` ahead.
    async fn restart_all(&mut self, offset: Duration) {
        self.cut_power(&NODES);
        for node in NODES {
            self.bury(node).await;
        }
        self.leap(&NODES, offset);
        for node in NODES {
            self.start(node).await;
        }
        self.served().await;
    }
}

/// All writes used to be refused afterwards, for an hour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_on_all_clocks_or_on_one_of_two_that_are_left_is_in_no_entry_and_stops_no_write() {
    let mut cluster = Cluster::found().await;
    let mut attempts = Vec::new();
    cluster.rises(&NODES).await;
    cluster.check_time(&mut attempts).await;
    for offset in [HOUR, Duration::ZERO, HOUR, Duration::ZERO] {
        cluster.leap(&NODES, offset);
        for _ in 0..10 {
            cluster.check_time(&mut attempts).await;
        }
    }
    cluster.crash(NODES[2]).await;
    let leader = cluster.leader(&NODES[..2]).await;
    for offset in [HOUR, Duration::ZERO] {
        cluster.leap(&[leader], offset);
        for _ in 0..10 {
            cluster.check_time(&mut attempts).await;
        }
    }
    cluster.start(NODES[2]).await;
    cluster.judge_recovered(attempts).await;
}

/// Nodes used to believe what clocks showed while processes started.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_on_all_clocks_while_one_process_starts_or_all_is_in_no_entry_and_stops_no_write() {
    let mut cluster = Cluster::found().await;
    let mut attempts = Vec::new();
    cluster.rises(&NODES).await;
    for started in [vec![cluster.leader(&NODES).await], NODES.to_vec()] {
        for _ in 0..10 {
            cluster.check_time(&mut attempts).await;
        }
        for node in NODES {
            eventually("what is believed is on disk", || cluster.anchor_on_disk(node).map(drop)).await;
        }
        for node in &started {
            cluster.kill(*node).await;
        }
        cluster.leap(&NODES, HOUR);
        for node in &started {
            cluster.start(*node).await;
        }
        cluster.served().await;
        for _ in 0..10 {
            cluster.check_time(&mut attempts).await;
        }
        for node in NODES {
            let context = &cluster.node(node).context;
            eventually("the leap is seen", || context.clocks.leap().map(drop)).await;
        }
        cluster.leap(&NODES, Duration::ZERO);
        for _ in 0..10 {
            cluster.check_time(&mut attempts).await;
        }
        for node in NODES {
            let clocks = &cluster.node(node).context.clocks;
            let is_right = || (clocks.leap().is_none() && clocks.may_lead()).then_some(());
            eventually("the clock is believed", is_right).await;
        }
    }
    cluster.judge(&attempts).await;
}

/// A journal is a day ahead when everything starts: its time advances at half speed, with all nodes and with two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_is_a_day_ahead_when_everything_starts_goes_on() {
    const DAY: Duration = Duration::from_secs(86_400);
    let mut cluster = Cluster::found().await;
    let mut attempts = Vec::new();
    cluster.rises(&NODES).await;
    cluster.restart_all(DAY).await;
    let ahead = cluster.write(&mut attempts).await;
    let began = SystemClock.now();
    cluster.restart_all(Duration::ZERO).await;
    let mut times = vec![ahead];
    for _ in 0..20 {
        times.push(cluster.write(&mut attempts).await);
    }
    cluster.crash(NODES[2]).await;
    cluster.leader(&NODES[..2]).await;
    for _ in 0..20 {
        times.push(cluster.write(&mut attempts).await);
    }
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "time goes on: {times:?}");
    let (gone_by, real) = (times[40].0 - ahead.0, SystemClock.now().0 - began.0);
    assert!(gone_by <= real / 2 + 1_000, "half as fast as time: {gone_by} of {real}");
    let remarks = cluster.node(NODES[0]).cluster().remarks();
    assert!(remarks.iter().any(|remark| remark.contains("ahead of the clock")), "{remarks:?}");
    cluster.start(NODES[2]).await;
    cluster.judge(&attempts).await;
}

/// Such a node used to refuse every command, and called itself ready.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_clock_is_an_hour_late_serves_and_says_so() {
    let mut cluster = Cluster::found().await;
    let mut attempts = Vec::new();
    cluster.rises(&NODES).await;
    let late = NODES[2];
    cluster.crash(late).await;
    cluster.members[&late].clock.wall.store(-3_600_000_000, Ordering::SeqCst);
    cluster.start(late).await;
    cluster.served().await;
    for _ in 0..20 {
        let mut attempt = cluster.new_attempt(0, 1);
        attempt.told = cluster.ask(late, &attempt, false).await;
        assert!(matches!(attempt.told, Told::Done(_)), "{attempt:?}");
        attempts.push(attempt);
    }
    assert!(cluster.replicas(late).iter().all(|replica| !replica.is_leader()), "it leads nothing");
    let remarks = cluster.node(late).cluster().remarks();
    assert!(matches!(&*remarks, [remark] if remark.contains("leads nothing: set its clock")), "{remarks:?}");
    cluster.judge(&attempts).await;
}

/// One node does not know timelines yet. The others send no times, which that node could not read, and writes work as
/// before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_nodes_of_both_levels_writes_and_says_no_times() {
    let held_back = NODES[2];
    let mut cluster = Cluster::found_with(Options { held_back: Some(held_back), ..Options::default() }).await;
    let mut attempts = Vec::new();
    let asked = |cluster: &Cluster, node: NodeId| {
        let call = Call { topic: Topic::Clock, group: None, body: Bytes::new() };
        cluster.node(held_back).context.network.call(node, call, PATIENCE)
    };
    for _ in 0..10 {
        cluster.write(&mut attempts).await;
    }
    for node in &NODES[..2] {
        let answer: ClockAnswer = decode(&asked(&cluster, *node).await.expect("it answers")).expect("an answer");
        assert!(answer.journals.is_none() && answer.wall.is_none(), "{answer:?}");
    }
    cluster.restart_at(held_back, features::HIGHEST).await;
    cluster.rises(&NODES).await;
    for _ in 0..10 {
        cluster.write(&mut attempts).await;
    }
    let leader = cluster.leader(&NODES).await;
    let answer: ClockAnswer = decode(&asked(&cluster, leader).await.expect("it answers")).expect("an answer");
    let journals = answer.journals.expect("it says so now");
    assert!(journals.iter().any(|journal| journal.machine == MACHINE && journal.partition == 0), "{journals:?}");
    cluster.judge(&attempts).await;
}

/// An operator accepts a leap: this is recorded, and counts on every node whose clock has leapt as far.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_word_about_clocks_counts_on_all_nodes() {
    let mut cluster = Cluster::found().await;
    let mut attempts = Vec::new();
    cluster.rises(&NODES).await;
    cluster.write(&mut attempts).await;
    let wanting = || Wanting {
        caller: Arc::new(Caller::unbound("olga", role::OPERATOR)),
        request_id: "test".into(),
        deadline: soon(),
    };
    let refused = cluster.node(NODES[0]).cluster().accept_clock(&wanting()).await;
    assert!(matches!(&refused, Err(ClusterError::Invalid(why)) if why.contains("nothing to accept")), "{refused:?}");
    cluster.leap(&NODES, HOUR);
    for node in NODES {
        let context = &cluster.node(node).context;
        eventually("the leap is seen", || context.clocks.leap().map(drop)).await;
    }
    cluster.node(NODES[0]).cluster().accept_clock(&wanting()).await.expect("it is recorded");
    for node in NODES {
        let context = &cluster.node(node).context;
        eventually("the clock is believed", || context.clocks.leap().is_none().then_some(())).await;
        assert_eq!((context.directory().clock.number, &*context.directory().clock.by), (1, "olga"));
    }
    let before = SystemClock.now();
    let time = cluster.write(&mut attempts).await;
    assert!(before.0 + 3_000_000_000 < time.0, "entries follow it: {time:?}");
    cluster.judge(&attempts).await;
}
