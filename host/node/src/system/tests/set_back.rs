//! Disks that forget while other nodes are away. Any node may be set back, any peer may have been away, and they may
//! come back in any order. Still nothing that was acknowledged is lost or executed twice, no two histories are
//! served, and what cannot be served says whom it waits for.
//!
//! In: a seed, which makes the choices. Out: what nodes say, and the judge's verdict. This file knows that a node's
//! counter rises in each second in which the node acknowledges something.

use rand::seq::SliceRandom;

use super::*;
use crate::system::Word;
use crate::system::logic::SYSTEM;

impl Cluster {
    /// Waits until a node's counter has risen by this much, for which the node must acknowledge commands.
    pub(super) async fn counts(&self, node: NodeId, more: u64) {
        let pulse = || self.node(node).context.pulse.own();
        let before = pulse();
        eventually("the counter rises", || (before + more <= pulse()).then_some(())).await;
    }

    /// Waits until each of these nodes has heard the current counters of the others, and has them on disk.
    pub(super) async fn have_heard(&self, nodes: &[NodeId]) {
        let pulse = |node: NodeId| &self.node(node).context.pulse;
        let has_heard = |by: NodeId, of: NodeId| by == of || pulse(of).own() == pulse(by).heard(of);
        let all = || nodes.iter().all(|by| nodes.iter().all(|of| 0 < pulse(*of).own() && has_heard(*by, *of)));
        let all_written = || nodes.iter().all(|node| pulse(*node).is_written());
        eventually("they have heard each other", || (all() && all_written()).then_some(())).await;
    }

    pub(super) fn disk_of(&mut self, node: NodeId) -> &mut SimDisk {
        &mut self.members.get_mut(&node).expect("it is a node").disk
    }

    pub(super) async fn crash_all(&mut self) {
        let running = self.running();
        self.cut_power(&running);
        for node in running {
            self.bury(node).await;
        }
    }

    /// Removes all that could tell what a node had, except its logs: states and ids, which are not on the simulated
    /// disk.
    pub(super) fn forget_beside_logs(&self, node: NodeId) {
        let data = self.folder.path().join(node.to_string());
        let groups = (0..PARTITIONS).map(|partition| (MACHINE, PartitionId(partition)));
        for (machine, partition) in groups.chain([(SYSTEM, PartitionId(0))]) {
            let folder = crate::system::folder::partition_folder(&data, machine, partition);
            for part in ["state", "ids", "canonical"] {
                drop(std::fs::remove_dir_all(folder.join(part)));
            }
        }
    }

    pub(super) async fn waits_for_word(&self, node: NodeId, words: &[&str]) {
        let router = self.node(node).router();
        let says = || {
            let reasons = router.is_ready().err()?;
            reasons.iter().any(|reason| words.iter().all(|word| reason.contains(word))).then_some(())
        };
        eventually(&format!("node {node} says {words:?}"), says).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_was_set_back_is_not_believed_by_a_peer_that_was_away() {
    for _ in 0..rounds(2, 12) {
        let mut cluster = Cluster::found().await;
        cluster.rises(&NODES).await;
        let mut nodes = NODES;
        nodes.shuffle(&mut cluster.random);
        let [away, set_back, whole] = nodes;
        let (keeps_evidence, away_goes_first) = (cluster.random.random_bool(0.3), cluster.random.random_bool(0.5));
        println!("away {away}, set back {set_back}, whole {whole}, evidence {keeps_evidence}, {away_goes_first}");
        let mut load = cluster.load();
        load.more(20).await;
        cluster.counts(away, 1).await;
        cluster.crash(away).await;
        load.more(10).await;
        cluster.counts(set_back, 3).await;
        let before = cluster.disk_of(set_back).copy();
        load.more(30).await;
        cluster.counts(set_back, 3).await;
        let attempts = load.stop().await;
        cluster.crash_all().await;
        *cluster.disk_of(set_back) = before.crash(cluster.seed);
        if !keeps_evidence {
            cluster.forget_beside_logs(set_back);
        }

        for node in if away_goes_first { [away, set_back] } else { [set_back, away] } {
            cluster.start(node).await;
        }
        cluster.waits_for_word(set_back, &["accept-loss"]).await;
        assert!(find_replica(cluster.node(set_back).router()).is_none(), "what is not vouched for is closed");
        let leads = find_replica(cluster.node(away).router()).is_some_and(|replica| replica.is_leader());
        assert!(!leads, "without the third node nobody acknowledges");
        cluster.start(whole).await;
        cluster.judge_recovered(attempts).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_node_gone_for_good_each_of_the_others_restarts_by_itself() {
    let mut cluster = Cluster::found().await;
    cluster.rises(&NODES).await;
    let gone = NODES[0];
    let mut load = cluster.load();
    load.more(20).await;
    cluster.counts(gone, 1).await;
    cluster.crash(gone).await;
    let left: Vec<NodeId> = others(gone).collect();
    for node in others(gone).chain(others(gone)) {
        load.more(20).await;
        cluster.counts(node, 2).await;
        cluster.crash(node).await;
        cluster.start(node).await;
        cluster.served().await;
    }
    let mut attempts = load.stop().await;

    // Then the power of all remaining nodes is cut.
    cluster.have_heard(&left).await;
    cluster.crash_all().await;
    for node in &left {
        cluster.start(*node).await;
    }
    cluster.served().await;
    let mut load = Load::start(cluster.doors.clone(), cluster.bank.accounts.clone(), cluster.seed + 1);
    load.more(10).await;
    attempts.extend(load.stop().await);
    cluster.judge_recovered(attempts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_missing_disk_may_have_is_given_up_by_an_operator_alone() {
    let mut cluster = Cluster::found().await;
    cluster.rises(&NODES).await;
    let [set_back, left, gone] = NODES;
    let mut load = cluster.load();
    load.more(20).await;
    cluster.counts(set_back, 1).await;
    let before = cluster.disk_of(set_back).copy();
    load.more(20).await;
    cluster.counts(set_back, 3).await;
    let mut attempts = load.stop().await;
    cluster.have_heard(&NODES).await;
    cluster.crash_all().await;
    *cluster.disk_of(set_back) = before;
    cluster.forget_beside_logs(set_back);
    for node in [set_back, left] {
        cluster.start(node).await;
    }
    cluster.waits_for_word(set_back, &["accept-loss", &format!("nodes {left}, {gone} may have them")]).await;
    let groups = [(SYSTEM, 0)].into_iter().chain((0..PARTITIONS).map(|partition| (MACHINE, partition)));
    for (machine, partition) in groups {
        for node in [set_back, left] {
            give_up(&cluster, node, machine, PartitionId(partition)).await;
        }
    }
    cluster.served().await;
    let recorded = || {
        let losses = cluster.node(left).context.directory().losses.clone();
        losses.iter().any(|loss| loss.machine == MACHINE && loss.node == set_back.0 && loss.why == "fire").then_some(())
    };
    eventually("`system` has the word", recorded).await;
    let mut load = Load::start(cluster.doors.clone(), cluster.bank.accounts.clone(), cluster.seed + 1);
    load.more(10).await;
    attempts.extend(load.stop().await);
    // As it turns out, the missing node had everything.
    cluster.start(gone).await;
    cluster.served().await;
    cluster.judge_recovered(attempts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_counts_before_all_nodes_understand_it() {
    let held_back = NODES[2];
    let mut cluster = Cluster::found_with(Options { held_back: Some(held_back), ..Options::default() }).await;
    cluster.heard(&NODES).await;
    let mut load = cluster.load();
    load.more(20).await;
    // As before this level, any peer that answers vouches for a starting node.
    cluster.crash(NODES[0]).await;
    cluster.start(NODES[0]).await;
    cluster.served().await;
    load.more(20).await;
    for node in NODES {
        assert!(!cluster.node(node).context.pulse.is_used(), "node {held_back} does not understand it");
    }
    cluster.restart_at(held_back, features::HIGHEST).await;
    cluster.rises(&NODES).await;
    load.more(20).await;
    for node in NODES {
        cluster.counts(node, 1).await;
    }
    let attempts = load.stop().await;
    cluster.judge(&attempts).await;
}

/// Has an operator let a partition continue without what is missing, if the partition waits for that on this node.
async fn give_up(cluster: &Cluster, node: NodeId, machine: &str, partition: PartitionId) {
    let of = crate::peer::GroupName::new(machine, partition);
    let context = &cluster.node(node).context;
    let is_open = || context.find_replica(&of).is_some();
    let waits = || (is_open() || context.replica_states.refusal(&of).is_some()).then_some(());
    eventually("the partition is open, or waits", waits).await;
    if !is_open() {
        let (by, why) = ("an operator".to_owned(), "fire".to_owned());
        let word = Word { machine: machine.to_owned(), partition, by, why };
        let given = cluster.node(node).cluster().accept_loss(word, soon()).await;
        given.unwrap_or_else(|error| panic!("{of} on {node}: {error}"));
    }
}

impl Cluster {
    /// Asks a node for transfers within one partition until another node's counter has reached this count.
    async fn count_to(&mut self, place: PartitionId, asked: NodeId, (node, count): (NodeId, u64)) -> Vec<Attempt> {
        let [from, to] = self.two_accounts_in(place);
        let (mut attempts, mut looks) = (Vec::new(), tokio::time::interval(LOOK));
        let until = soon();
        while self.node(node).context.pulse.own() < count {
            assert!(Instant::now() < until, "the counter of node {node} stands still");
            let (from, to) = if attempts.len() % 2 == 0 { (from, to) } else { (to, from) };
            let mut attempt = self.new_attempt(from, to);
            attempt.told = self.ask(asked, &attempt, false).await;
            attempts.push(attempt);
            looks.tick().await;
        }
        attempts
    }
}

/// While a partition is closed, the counter rises with what other partitions acknowledge. It reaches the value that a
/// peer had heard before that peer missed the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_that_rises_again_to_what_a_peer_has_heard_vouches_for_nothing() {
    let mut cluster = Cluster::found().await;
    cluster.rises(&NODES).await;
    let mut nodes = NODES;
    nodes.shuffle(&mut cluster.random);
    let [away, set_back, whole] = nodes;
    let (lost, other) = (PartitionId(0), PartitionId(1));
    let group = crate::peer::GroupName::new(MACHINE, lost);
    let mut load = cluster.load();
    load.more(20).await;
    cluster.counts(set_back, 1).await;
    let mut attempts = load.stop().await;
    cluster.have_heard(&NODES).await;
    let (before, on_disk) = (cluster.disk_of(set_back).copy(), cluster.node(set_back).context.pulse.own());
    // This is more than a start and an election let the counter rise by.
    attempts.extend(cluster.count_to(other, whole, (set_back, on_disk + 12)).await);
    cluster.have_heard(&NODES).await;
    let heard = cluster.node(away).context.pulse.heard(set_back);
    cluster.crash(away).await;
    attempts.extend(cluster.count_to(lost, whole, (set_back, heard + 3)).await);
    cluster.crash(set_back).await;
    *cluster.disk_of(set_back) = before;
    cluster.forget_beside_logs(set_back);

    // All partitions open on that node, except the one that has lost entries. They open slowly enough for the test to
    // keep that one closed.
    cluster.network.silence(group.clone());
    cluster.start(away).await;
    others(set_back).for_each(|node| cluster.network.delay(set_back, node, LOOK * 5..=LOOK * 5));
    cluster.start(set_back).await;
    let context = cluster.node(set_back).context.clone();
    let turn = context.replica_states.begin(&group).expect("nobody opens it before `system`");
    for node in [away, set_back] {
        let is_open = || cluster.node(node).router().find_machine(MACHINE)?.find_partition(other).map(drop);
        eventually("the other partition is open", is_open).await;
    }
    assert!(context.pulse.own() < heard, "{} < {heard}: it has not risen so far yet", context.pulse.own());
    cluster.crash(whole).await;
    cluster.network.heal();
    attempts.extend(cluster.count_to(other, away, (set_back, heard)).await);
    drop(turn);
    let says = || context.replica_states.refusal(&group).filter(|said| said.contains("accept-loss"));
    let is_open = || context.find_replica(&group).map(|_| "it is open".to_owned());
    let said = eventually("it is open, or says what it waits for", || is_open().or_else(says)).await;
    let expected = format!("have heard this node's counter at {heard}, and on its disk it is {on_disk}");
    assert!(said.contains(&expected), "{said}");
    drop(context);

    cluster.start(whole).await;
    cluster.judge(&attempts).await;
}
