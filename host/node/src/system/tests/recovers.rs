//! Liveness: once all faults have ended, everything is served again within the usual patience, and no work is left
//! over.
//!
//! In: a cluster after any faults that leave every entry whole on some node. Out: a cluster in which every node is
//! ready, every partition has accepted a write at every node, every command is over and every replica is level; or a
//! panic that names what is not so. It judges no history.

use super::load::Told;
use super::*;
use crate::log::{LogHealth, LogScan};
use crate::peer::GroupName;
use crate::system::in_transit;
use crate::system::logic::SYSTEM;

impl Cluster {
    /// Ends every fault, starts every node that is down, and waits until no effect of the faults is left. Returns the
    /// transfers that it has asked for.
    pub async fn recovers(&mut self) -> Vec<Attempt> {
        self.end_faults();
        let down: Vec<NodeId> = self.members.keys().copied().filter(|node| !self.running().contains(node)).collect();
        for node in down {
            self.start(node).await;
        }
        let until = soon();
        self.settles(until, Self::not_ready).await;
        let attempts = self.accept_writes(until).await;
        self.settles(until, |cluster| {
            let logs = || cluster.damaged_logs().into_iter();
            cluster
                .not_ready()
                .or_else(|| cluster.unfinished())
                .or_else(|| cluster.not_level())
                .or_else(|| logs().next())
        })
        .await;
        attempts
    }

    /// The same, and then the judge checks what clients were told, before and during the recovery.
    pub async fn judge_recovered(&mut self, mut attempts: Vec<Attempt>) {
        attempts.extend(self.recovers().await);
        self.bank.judge(self, &attempts).await;
    }

    /// Makes the network, all disks and all clocks sound again.
    fn end_faults(&self) {
        self.network.heal();
        for member in self.members.values() {
            member.disk.set_failing(None);
            member.disk.set_capacity(None);
            member.disk.set_lacking_descriptors(false);
            member.disk.release_syncs();
            member.clock.leap_to(Duration::ZERO);
        }
    }

    async fn settles(&self, until: Instant, find_problem: impl Fn(&Self) -> Option<String>) {
        let mut looks = tokio::time::interval(LOOK);
        while let Some(problem) = find_problem(self) {
            assert!(Instant::now() < until, "all faults have ended, and still: {problem}");
            looks.tick().await;
        }
    }

    /// Has every partition accept a write at every node.
    async fn accept_writes(&mut self, until: Instant) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        let partitions = if self.bank.accounts.is_empty() { 0 } else { PARTITIONS };
        for (node, partition) in self.running().into_iter().flat_map(|node| (0..partitions).map(move |id| (node, id))) {
            let [from, to] = self.two_accounts_of(PartitionId(partition));
            let mut is_accepted = false;
            while !is_accepted {
                let mut attempt = self.new_attempt(from, to);
                attempt.told = self.ask(node, &attempt, false).await;
                is_accepted = matches!(attempt.told, Told::Done(_) | Told::Rejected(..));
                let is_late = !is_accepted && until <= Instant::now();
                assert!(!is_late, "all faults have ended, and node {node} takes no write for {partition}: {attempt:?}");
                attempts.push(attempt);
            }
        }
        attempts
    }

    fn two_accounts_of(&self, partition: PartitionId) -> [usize; 2] {
        // The last account was never opened.
        let mut there = (0..self.bank.accounts.len() - 1).filter(|account| self.partition_of(*account) == partition);
        [(); 2].map(|()| there.next().expect("each partition has two of the accounts"))
    }

    /// What keeps each node from serving all that it should serve.
    fn not_ready(&self) -> Option<String> {
        let problems: Vec<String> = self.running().into_iter().filter_map(|node| self.not_ready_at(node)).collect();
        (!problems.is_empty()).then(|| problems.join("\n"))
    }

    fn not_ready_at(&self, node: NodeId) -> Option<String> {
        let context = &self.node(node).context;
        let of_group = |group: GroupName| {
            let Some(replica) = context.find_replica(&group) else { return Some(format!("{group} is not open")) };
            let waits = context.replica_states.refusal(&group).map(|reason| format!("{group} waits: {reason}"));
            let health = replica.log_health();
            let is_sound = health == LogHealth::Ok && !replica.log().is_damaged();
            waits.or_else(|| (!is_sound).then(|| format!("the log of {group}: {health:?}, or damaged")))
        };
        let being_repaired =
            || context.replica_states.find_repairing().map(|group| format!("{group} is being repaired"));
        let reasons = context.router.is_ready().err().map(|reasons| reasons.join(", "));
        let problem = reasons.or_else(being_repaired).or_else(|| groups().find_map(of_group));
        problem.map(|problem| format!("node {node}: {problem}"))
    }

    /// A command that is not over, or money that has not arrived.
    fn unfinished(&self) -> Option<String> {
        self.running().into_iter().find_map(|node| {
            let machine = self.node(node).router().find_machine(MACHINE)?;
            let on_its_way = in_transit::sum(&machine, Micros(i64::MAX));
            let arrived = on_its_way.as_ref().is_some_and(|sum| sum.is_nothing());
            let in_flight = self.replicas(node).iter().find_map(|replica| match replica.list_in_flight() {
                Ok(commands) => (!commands.is_empty()).then(|| format!("{}: {commands:?}", replica.id())),
                Err(error) => Some(format!("{}: {error}", replica.id())),
            });
            let problem = in_flight.or_else(|| (!arrived).then(|| format!("in transit: {on_its_way:?}")));
            problem.map(|problem| format!("node {node}: {problem}"))
        })
    }

    /// A group whose replicas have different journals.
    fn not_level(&self) -> Option<String> {
        groups().find_map(|group| {
            let place = |node: NodeId| {
                let journal = self.node(node).context.find_replica(&group)?.progress().journal;
                Some((journal.index, journal.head))
            };
            let places: Vec<_> = self.running().into_iter().map(|node| (node, place(node))).collect();
            let is_level = places.iter().all(|(_, other)| other.is_some() && *other == places[0].1);
            (!is_level).then(|| format!("{group}: {places:?}"))
        })
    }

    /// Each log that cannot be read whole.
    fn damaged_logs(&self) -> Vec<String> {
        let mut damaged = Vec::new();
        for node in self.running() {
            let disk = self.members[&node].disk.copy();
            for group in groups() {
                let scanned = LogScan::open(&disk, &self.group_folder(node, &group).join("log"));
                damaged.extend(scanned.err().map(|error| format!("node {node}, {group}: {error}")));
            }
        }
        damaged
    }

    /// The folder of a replica on a node.
    pub(super) fn group_folder(&self, node: NodeId, group: &GroupName) -> PathBuf {
        let data = self.folder.path().join(node.to_string());
        super::super::folder::partition_folder(&data, &group.machine, group.partition)
    }
}

/// The groups of which each node has a replica.
pub(super) fn groups() -> impl Iterator<Item = GroupName> {
    let wallet = (0..PARTITIONS).map(|partition| GroupName::new(MACHINE, PartitionId(partition)));
    wallet.chain([GroupName::new(SYSTEM, PartitionId(0))])
}
