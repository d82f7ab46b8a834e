//! Every wait ends. A disk that hangs, then fails, then is well again costs its partitions only a moment. A node that
//! is told to stop stops. A replica that has halted keeps nobody waiting.
//!
//! In: disks that hang and fail under a running node, halted replicas, nodes that are about to stop. Out: partitions
//! that serve again, clients that were answered by another node, and the judge's verdict. This file knows no part of
//! the host that waits.

use super::*;
use crate::disk::SimOp;
use crate::ids::JournalIndex;
use crate::peer::GroupName;
use crate::system::leadership_handover;
use crate::system::logic::SYSTEM;
use load::Told;

impl Cluster {
    pub fn disk(&self, node: NodeId) -> SimDisk {
        self.members[&node].disk.clone()
    }

    /// Has the disk of a node hang until a replica there has applied more than its own log has made durable.
    pub async fn hang(&self, node: NodeId, load: &mut Load) {
        self.disk(node).hold_syncs();
        load.more(20).await;
        let replica = self.replica(node);
        let is_ahead = || {
            let durable = replica.log().durable().map_or(0, |durable| durable.index.0);
            (durable < replica.log_index_applied().0).then_some(())
        };
        eventually("more is applied than is durable here", is_ahead).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs_and_fails_while_a_snapshot_is_taken_is_used_again_once_it_is_well() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    for round in 0..rounds(2, 10) {
        load.more(20).await;
        let leader = cluster.leader(&NODES).await;
        let victim = if round % 2 == 0 { others(leader).next().expect("there are three") } else { leader };
        cluster.hang(victim, &mut load).await;
        let (replica, disk) = (cluster.replica(victim), cluster.disk(victim));
        let taking = tokio::spawn(async move { replica.take_snapshot().await });
        load.more(10).await;
        disk.set_failing(Some(SimOp::Sync));
        disk.release_syncs();
        let taken = tokio::time::timeout(PATIENCE, taking).await.expect("nobody waits for a log that has failed");
        assert!(taken.expect("it does not panic").is_err(), "what is not durable is in no snapshot");
        load.more(10).await;
        disk.set_failing(None);
        cluster.served().await;
    }
    let attempts = load.stop().await;
    cluster.judge_recovered(attempts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_hangs_stops_when_it_is_told_to() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    load.more(20).await;
    let leader = cluster.leader(&NODES).await;
    let victim = others(leader).next().expect("there are three");
    cluster.hang(victim, &mut load).await;
    let replica = cluster.replica(victim);
    let taking = tokio::spawn(async move { replica.take_snapshot().await });
    cluster.stop(victim).await;
    drop(tokio::time::timeout(PATIENCE, taking).await.expect("it waits for nothing"));
    cluster.start(victim).await;
    load.more(20).await;
    let attempts = load.stop().await;
    cluster.judge_recovered(attempts).await;
}

/// A group notices a failed log at its next write, and this group has none: the test writes a vote without the group.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_partition_whose_log_has_failed_is_opened_again() {
    let mut cluster = Cluster::found().await;
    let attempts = cluster.load().stop().await;
    for group in [GroupName::new(SYSTEM, PartitionId(0)), GroupName::new(MACHINE, PartitionId(1))] {
        for node in NODES {
            let context = cluster.node(node).context.clone();
            let replica = context.find_replica(&group).expect("it is open");
            let (before, log) = (Arc::downgrade(&replica), replica.log().clone());
            drop(replica);
            let vote = log.vote().expect("it has voted");
            cluster.disk(node).set_failing(Some(SimOp::Sync));
            log.save_vote(vote).await.expect_err("the disk fails");
            cluster.disk(node).set_failing(None);
            drop(log);
            let is_another = || (before.strong_count() == 0 && context.find_replica(&group).is_some()).then_some(());
            eventually("the partition is opened again", is_another).await;
            cluster.served().await;
        }
    }
    cluster.judge_recovered(attempts).await;
}

/// What the disk does not give back counts as lost: the node asks the others for it, and tries the disk again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_not_read_while_a_node_starts_is_used_once_it_is_well() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    load.more(20).await;
    let leader = cluster.leader(&NODES).await;
    let victim = others(leader).next().expect("there are three");
    cluster.stop(victim).await;
    // Its identity and its key can be read, and nothing after them.
    for readable in 0.. {
        assert!(readable < 100, "it does not start with a disk that fails later");
        cluster.disk(victim).set_failing_after(SimOp::Read, readable);
        if cluster.try_start(victim).await.is_ok() {
            break;
        }
    }
    load.more(20).await;
    let reasons = cluster.node(victim).router().is_ready().expect_err("nothing of it is open");
    assert!(reasons.iter().any(|reason| reason.contains(SYSTEM)), "{reasons:?}");
    cluster.disk(victim).set_failing(None);
    cluster.served().await;
    let attempts = load.stop().await;
    cluster.judge_recovered(attempts).await;
}

/// The halted leader used to keep leading, so nobody else was ever asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_leader_that_halts_are_answered_by_the_next_one() {
    let mut cluster = Cluster::found().await;
    let leader = cluster.leader(&NODES).await;
    cluster.replica(leader).halt_diverged(JournalIndex(1), NodeId(9));
    let mut told = Vec::new();
    // One of these commands finds the new leader within its time, even on a busy machine.
    while !matches!(told.last(), Some(Told::Done(_))) {
        assert!(told.len() < 10, "nobody leads instead: {told:?}");
        let attempt = cluster.new_attempt(0, 1);
        told.push(cluster.ask(leader, &attempt, false).await);
    }
    let reasons = cluster.node(leader).router().is_ready().expect_err("a replica stands still here");
    assert!(reasons.iter().any(|reason| reason.contains("halted")), "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_asked_to_lead_who_is_about_to_stop() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    for _ in 0..rounds(2, 10) {
        load.more(20).await;
        let leader = cluster.leader(&NODES).await;
        // Leadership of this partition is spread to the first node. A transfer that began before the announcement would
        // still succeed, so another node leaves.
        let mut followers: Vec<NodeId> = others(leader).collect();
        let leaving = followers.pop().expect("there are three");
        let staying = followers.pop().expect("there are three");
        leadership_handover::announce(&cluster.node(leaving).context);
        let clocks = &cluster.node(leader).context.clocks;
        let has_heard = || clocks.samples().get(&leaving).is_some_and(|sample| sample.is_stopping).then_some(());
        eventually("the leader has heard that it is about to stop", has_heard).await;
        cluster.doors.lock().remove(&leader);
        let life = cluster.members.get_mut(&leader).and_then(|member| member.life.take()).expect("it runs");
        let context = life.context.clone();
        life.close().await.expect("it stops in order");
        drop(context);
        assert_eq!(cluster.leader(&[leaving, staying]).await, staying, "the other one is about to stop");
        cluster.crash(leaving).await;
        cluster.start(leaving).await;
        cluster.start(leader).await;
        cluster.served().await;
    }
    let attempts = load.stop().await;
    cluster.judge(&attempts).await;
}

/// A rolling upgrade stops the next node as soon as this one is ready.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_is_not_ready_before_it_is_level() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    load.more(20).await;
    let leader = cluster.leader(&NODES).await;
    let behind = others(leader).next().expect("there are three");
    cluster.crash(behind).await;
    let (replica, before) = (cluster.replica(leader), cluster.replica(leader).log_index_applied().0);
    while replica.log_index_applied().0 < before + 2 * limits::READY_LAG_MAX {
        load.more(50).await;
    }
    let attempts = load.stop().await;
    let last = replica.log_index_applied().0;
    cluster.start(behind).await;
    cluster.served().await;
    let level = cluster.replica(behind).log_index_applied().0;
    assert!(last <= level + limits::READY_LAG_MAX, "it is ready at entry {level} of {last}");
    cluster.judge_recovered(attempts).await;
}
