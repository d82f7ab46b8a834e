//! A transfer between two partitions, once for every step of it: there the power of a node goes off, the one that coordinates the transfer
//! or the one that takes part in it.
//!
//! In: a disk that stops at its n-th operation, for every n until the transfer ends before that. Out: the judge's verdict. By default some of
//! the steps, another few each time; with `STATEHOUSE_CHAOS` every one.

use statehouse_abi::value::Value;

use super::load::{DEADLINE, Told, submit, transfer_body};
use super::*;
use crate::ids::CommandId;
use crate::router::slots::partition_of;

/// Steps left out by default between two that are taken.
const STRIDE: usize = 5;
/// More than any transfer takes.
const STEPS_MAX: u64 = 200;

impl Cluster {
    fn partition_of(&self, account: usize) -> PartitionId {
        partition_of(self.bank.accounts[account].as_bytes(), PARTITIONS)
    }

    /// Some account in another partition than this one.
    fn apart_from(&self, account: usize) -> usize {
        let is_apart = |other: &usize| self.partition_of(*other) != self.partition_of(account);
        // The last one was never opened.
        (0..self.bank.accounts.len() - 1).find(is_apart).expect("the accounts lie in both partitions")
    }

    async fn leader_of(&self, partition: PartitionId) -> NodeId {
        let leads = |node: &NodeId| self.replicas(*node)[partition.0 as usize].is_leader();
        eventually("the partition is led", || self.running().into_iter().find(leads)).await
    }

    /// One transfer, in the course of which the power of the node goes off after so many of its disk's operations. Returns whether that
    /// was before the transfer was over.
    async fn cut_in(&mut self, place: PartitionId, step: u64, mut attempt: Attempt, is_tcc: bool) -> (bool, Attempt) {
        self.served().await;
        let victim = self.leader_of(place).await;
        let disk = self.members[&victim].disk.clone();
        let begin = disk.operations();
        disk.crash_after(step);
        let body = self.body(&attempt, is_tcc);
        let door = self.node(others(victim).next().expect("there are three")).router().clone();
        let first = submit(&door, "balance_transfer", attempt.id, body.clone(), DEADLINE).await;
        let is_cut = begin + step <= disk.operations();
        self.crash(victim).await;
        self.start(victim).await;
        self.served().await;
        // Whoever was told nothing asks again; whoever was told something is told the same.
        attempt.told = loop {
            match submit(&door, "balance_transfer", attempt.id, body.clone(), DEADLINE).await {
                Told::NotAccepted(_) | Told::Unknown => {}
                told => break told,
            }
        };
        let is_definite = matches!(first, Told::Done(_) | Told::Rejected(..));
        assert!(!is_definite || first == attempt.told, "step {step}: told {first:?}, then {:?}", attempt.told);
        (is_cut, attempt)
    }

    fn body(&self, attempt: &Attempt, is_tcc: bool) -> Value {
        let accounts = &self.bank.accounts;
        let body = transfer_body(attempt.id, &accounts[attempt.from], &accounts[attempt.to], attempt.amount);
        if !is_tcc {
            return body;
        }
        let Value::Map(members) = body else { unreachable!("a body is a map") };
        Value::map(members.into_iter().chain([("coordination".to_owned(), Value::text("tcc"))]))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_step_leaves_a_transfer_whole_or_undone() {
    let mut cluster = Cluster::found().await;
    let nobody = cluster.bank.accounts.len() - 1;
    let mut attempts = Vec::new();
    let mut taken = 0;
    for (to, is_tcc) in [(0, false), (0, true), (nobody, false), (nobody, true)] {
        let from = cluster.apart_from(to);
        for place in [cluster.partition_of(from), cluster.partition_of(to)] {
            let mut step = 1 + cluster.random.random_range(0..rounds(STRIDE, 1)) as u64;
            while step < STEPS_MAX {
                let id = CommandId(cluster.random.random());
                let attempt = Attempt { id, from, to, amount: 1, told: Told::Unknown };
                let (is_cut, attempt) = cluster.cut_in(place, step, attempt, is_tcc).await;
                attempts.push(attempt);
                taken += 1;
                if !is_cut {
                    break;
                }
                step += rounds(STRIDE, 1) as u64;
            }
            assert!(step < STEPS_MAX, "a transfer has fewer steps than that");
        }
    }
    println!("{taken} transfers were cut at a step, or just after the last");
    cluster.judge(&attempts).await;
}
