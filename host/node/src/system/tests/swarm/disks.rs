//! Disks that fail, hang or lose bits, also while somebody waits for them.
//!
//! In: a node, and what it is doing at that moment. Out: a disk that is well again. This file does not know what a
//! node does about its disk.

use std::collections::BTreeSet;

use statehouse_abi::role;

use super::super::upgrade::REFACTORED;
use super::super::*;
use super::Swarm;
use super::faults::Busy;
use crate::disk::SimOp;
use crate::log::{EntryId, LogScan, ScannedEntry};
use crate::peer::GroupName;
use crate::router::answer::Caller;
use crate::system::lifecycle::By;
use crate::system::submit::Wanting;

/// How long an activation may take before the caller gives up.
const ACTIVATION_MAX: Duration = Duration::from_secs(10);

impl Swarm {
    pub(super) async fn fail_disk(&mut self, node: NodeId, op: SimOp, after: u64, busy: Busy) {
        if busy == Busy::Start && self.cluster.members[&node].life.is_some() {
            self.cluster.crash(node).await;
        }
        self.cluster.disk(node).set_failing_after(op, after);
        match busy {
            // The start may fail. The node is then started once the disk is well.
            Busy::Start => drop(self.cluster.try_start(node).await),
            other => self.begin(node, other).await,
        }
    }

    pub(super) async fn hang_disk(&mut self, node: NodeId, busy: Busy) {
        self.cluster.disk(node).hold_syncs();
        self.some().await;
        self.begin(node, busy).await;
        self.some().await;
        let disk = self.cluster.disk(node);
        disk.set_failing(Some(SimOp::Sync));
        disk.release_syncs();
    }

    pub(super) async fn mend_disk(&mut self, node: NodeId) {
        self.cluster.disk(node).set_failing(None);
        self.cluster.disk(node).release_syncs();
        self.start_each(&[node]).await;
    }

    /// Begins something that waits for the disk of a node.
    async fn begin(&mut self, node: NodeId, busy: Busy) {
        let Some(life) = &self.cluster.members[&node].life else { return };
        match busy {
            Busy::Nothing | Busy::Start => {}
            Busy::Snapshot => {
                for (_, replica) in life.context.replicas() {
                    // It does not matter whether the snapshot is taken, only whether somebody waits for it for ever.
                    self.begun.push(tokio::spawn(async move { drop(replica.take_snapshot().await) }));
                }
            }
            Busy::Activation => self.begin_activation(),
        }
    }

    /// Has all nodes prepare another module, for later activations.
    pub(super) async fn prepare_module(&mut self) {
        let first = self.cluster.replica(NODES[0]).progress().journal.module;
        self.modules = Some([first, self.cluster.make_ready(REFACTORED).await]);
    }

    /// Begins to activate whichever of the two modules is not active.
    fn begin_activation(&mut self) {
        let (Some(door), Some([first, second])) = (self.cluster.running().first().copied(), self.modules) else {
            return;
        };
        let handle = self.cluster.handle(door);
        let deadline = Instant::now() + ACTIVATION_MAX;
        self.begun.push(tokio::spawn(async move {
            let Ok(view) = handle.modules(MACHINE, deadline).await else { return };
            let (module, by) = if view.active == first { (second, By::Admin) } else { (first, By::Rollback) };
            let caller = Arc::new(Caller::unbound("alice", role::ALL));
            let wanting = Wanting { caller, request_id: "sim".into(), deadline };
            // It does not matter whether the module becomes active, only that all partitions agree.
            drop(handle.activate(MACHINE, module, by, &wanting).await);
        }));
    }

    /// Cuts the power of nodes and flips a bit in the log of each, in a different entry each time, so that every one
    /// of these entries is whole on the others.
    pub(super) async fn damage(&mut self, nodes: &[NodeId], group: usize, places: &[usize]) {
        self.cut_power(nodes).await;
        let group = recovers::groups().nth(group).expect("there are as many");
        let logs: Vec<Vec<ScannedEntry>> = nodes.iter().map(|node| self.cluster.durable(*node, &group)).collect();
        let ids = logs.iter().map(|log| log.iter().map(|entry| entry.entry.id).collect::<BTreeSet<_>>());
        let shared = ids.reduce(|shared, of_log| &shared & &of_log).expect("a node at least");
        let mut shared: Vec<EntryId> = shared.into_iter().collect();
        for ((node, log), place) in nodes.iter().zip(&logs).zip(places) {
            if shared.is_empty() {
                continue;
            }
            let id = shared.remove(shared.len() * place / 1000);
            let at = log.iter().position(|entry| entry.entry.id == id).expect("it is everywhere");
            self.cluster.flip_bit(*node, &group, &log[at], log.get(at + 1));
        }
    }
}

impl Cluster {
    /// The durable entries of a group in the log of a node.
    fn durable(&self, node: NodeId, group: &GroupName) -> Vec<ScannedEntry> {
        let scan = LogScan::open(&self.members[&node].disk, &self.group_folder(node, group).join("log"));
        let entries = scan.expect("nothing is damaged yet");
        entries.entries().map(|entry| entry.expect("it can be read")).filter(|entry| entry.is_durable).collect()
    }

    fn flip_bit(&mut self, node: NodeId, group: &GroupName, entry: &ScannedEntry, next: Option<&ScannedEntry>) {
        let path = self.group_folder(node, group).join("log").join(&entry.segment);
        let begin = usize::try_from(entry.offset).expect("a segment fits the memory");
        let end = next.filter(|next| next.segment == entry.segment).map_or(begin + 32, |next| next.offset as usize);
        let (at, bit) = (self.random.random_range(begin..end), self.random.random_range(0..8));
        let disk = &self.members[&node].disk;
        let mut content = disk.content(&path).expect("it was just read");
        content[at] ^= 1 << bit;
        println!("node {node}, {group}: bit {bit} of byte {at} of {}, in entry {:?}", entry.segment, entry.entry.id);
        disk.put(&path, content);
    }
}
