//! A transfer between two partitions, once for every step of the transfer. At that step one node loses power: the
//! node that coordinates the transfer, or the node that takes part in it.
//!
//! A step is an operation of that node's disk, or a message from or to the node. The step is lost, and the node with
//! it.
//!
//! In: a step number, for every number until the transfer ends before that step. Out: the judge's verdict. By default
//! a run takes some of the steps, and a different few each time; with `STATEHOUSE_CHAOS` it takes every one.

use std::sync::atomic::AtomicBool;

use super::load::Told;
use super::*;
use crate::machine::slots::partition_of;

/// More steps than any transfer takes.
const STEPS_MAX: u64 = 400;

/// What is counted until the power goes off.
#[derive(Clone, Copy, Debug)]
enum Step {
    DiskOperation,
    Message,
}

impl Step {
    /// The distance between two steps that a run takes. Heartbeats are messages, too.
    fn stride(self) -> usize {
        match self {
            Self::DiskOperation => rounds(17, 1),
            Self::Message => rounds(47, 1),
        }
    }
}

impl Cluster {
    pub(super) fn partition_of(&self, account: usize) -> PartitionId {
        partition_of(self.bank.accounts[account].as_bytes(), PARTITIONS)
    }

    /// Some account in a different partition from this one.
    fn apart_from(&self, account: usize) -> usize {
        let is_apart = |other: &usize| self.partition_of(*other) != self.partition_of(account);
        // The last account was never opened.
        (0..self.bank.accounts.len() - 1).find(is_apart).expect("the accounts lie in both partitions")
    }

    async fn leader_of(&self, partition: PartitionId) -> NodeId {
        let leads = |node: &NodeId| self.replicas(*node)[partition.0 as usize].is_leader();
        eventually("the partition is led", || self.running().into_iter().find(leads)).await
    }

    /// Asks for one transfer, during which the node loses power after this many steps. Returns whether that was
    /// before the transfer was over.
    async fn cut_in(
        &mut self,
        place: PartitionId,
        (kind, step): (Step, u64),
        mut attempt: Attempt,
        is_tcc: bool,
    ) -> (bool, Attempt) {
        self.served().await;
        let victim = self.leader_of(place).await;
        let disk = self.members[&victim].disk.clone();
        let begin = disk.operations();
        let is_off = Arc::new(AtomicBool::new(false));
        match kind {
            Step::DiskOperation => disk.crash_after(step),
            Step::Message => {
                let (disk, is_off) = (disk.clone(), is_off.clone());
                self.network.fall_after(victim, step, move || {
                    disk.crash_after(0);
                    is_off.store(true, Ordering::SeqCst);
                });
            }
        }
        let asked = others(victim).next().expect("there are three");
        let first = self.ask(asked, &attempt, is_tcc).await;
        let is_cut = match kind {
            Step::DiskOperation => begin + step <= disk.operations(),
            Step::Message => is_off.load(Ordering::SeqCst),
        };
        self.network.heal();
        self.crash(victim).await;
        self.start(victim).await;
        self.served().await;
        // A client that was told no outcome asks again; one that was told an outcome is told the same.
        attempt.told = loop {
            match self.ask(asked, &attempt, is_tcc).await {
                Told::NotAccepted(_) | Told::Unknown => {}
                told => break told,
            }
        };
        let is_definite = matches!(first, Told::Done(_) | Told::Rejected(..));
        assert!(!is_definite || first == attempt.told, "step {step}: told {first:?}, then {:?}", attempt.told);
        (is_cut, attempt)
    }
}

async fn check_every_step(kind: Step) {
    let mut cluster = Cluster::found().await;
    let nobody = cluster.bank.accounts.len() - 1;
    let mut attempts = Vec::new();
    let mut taken = 0;
    for (to, is_tcc) in [(0, false), (0, true), (nobody, false), (nobody, true)] {
        let from = cluster.apart_from(to);
        for place in [cluster.partition_of(from), cluster.partition_of(to)] {
            let mut step = 1 + cluster.random.random_range(0..kind.stride()) as u64;
            while step < STEPS_MAX {
                let attempt = cluster.new_attempt(from, to);
                let (is_cut, attempt) = cluster.cut_in(place, (kind, step), attempt, is_tcc).await;
                attempts.push(attempt);
                taken += 1;
                if !is_cut {
                    break;
                }
                step += kind.stride() as u64;
            }
            assert!(step < STEPS_MAX, "a transfer has fewer steps than that");
        }
    }
    println!("{taken} transfers were cut at a step, or just after the last");
    cluster.judge_recovered(attempts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_operation_of_a_disk_leaves_a_transfer_whole_or_undone() {
    check_every_step(Step::DiskOperation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_message_leaves_a_transfer_whole_or_undone() {
    check_every_step(Step::Message).await;
}
