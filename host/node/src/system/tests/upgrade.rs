//! Another module becomes active while clients continue and nodes lose power.
//!
//! In: released modules, and a disk that stops at some point during an activation. Out: every replica has activated
//! the module at the same entry, with the same rows, and the judge's verdict on what clients were told.

use statehouse_abi::role;

use super::*;
use crate::ids::ModuleId;
use crate::router::answer::Caller;
use crate::system::lifecycle::By;
use crate::system::submit::Wanting;
use crate::system::{Cluster as Handle, ClusterError};

pub(super) const REFACTORED: &[u8] = include_bytes!("../../../../../modules/releases/wallet-1.1.0.wasm");
/// The rows of this module have another schema.
const MIGRATING: &[u8] = include_bytes!("../../../../../modules/releases/wallet-2.0.0.wasm");
/// About how many operations an activation takes on the disk of a leader under load.
const OPERATIONS: u64 = 40;

fn wanting() -> Wanting {
    let caller = Arc::new(Caller::unbound("alice", role::ALL));
    Wanting { caller, request_id: "sim".into(), deadline: soon() }
}

impl Cluster {
    pub(super) fn handle(&self, node: NodeId) -> Handle {
        self.node(node).cluster()
    }

    /// Stages a module at one node and has all nodes prepare it.
    pub(super) async fn make_ready(&self, wasm: &'static [u8]) -> ModuleId {
        let handle = self.handle(NODES[0]);
        let id = handle.stage(MACHINE, wasm.into(), &wanting()).await.expect("it follows the active one");
        handle.prepare(MACHINE, id, &wanting()).await.expect("all nodes are there");
        id
    }

    /// Activates a module while a node loses power after this many operations of its disk.
    async fn activate_through_a_cut(&mut self, module: ModuleId, by: By, victim: NodeId, operations: u64) {
        self.members[&victim].disk.crash_after(operations);
        let handle = self.handle(others(victim).next().expect("there are three"));
        match handle.activate(MACHINE, module, by.clone(), &wanting()).await {
            // The answer was lost, and the module may have become active, or not.
            Ok(()) | Err(ClusterError::Deadline) => {}
            // A leader without a disk holds up what it has begun with others, and a rollback waits for that only for
            // a limited time.
            Err(ClusterError::StepRefused(detail)) if detail.contains("not over in time") => {}
            Err(error) => panic!("{error}"),
        }
        self.crash(victim).await;
        self.start(victim).await;
        self.served().await;
        if handle.modules(MACHINE, soon()).await.expect("the nodes are there").active != module {
            handle.activate(MACHINE, module, by, &wanting()).await.expect("nothing holds it up any more");
        }
        let replicas: Vec<_> = NODES.into_iter().flat_map(|node| self.replicas(node)).collect();
        let is_active = || replicas.iter().all(|replica| replica.progress().journal.module == module);
        let _told = Told(&replicas);
        eventually("every replica has activated it", || is_active().then_some(())).await;
    }
}

/// Prints where the replicas are when a test panics.
struct Told<'a>(&'a [Arc<Partition>]);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for replica in self.0 {
                let (journal, status) = (replica.progress().journal, replica.status());
                let (module, leader) = (journal.module.short(), replica.leader());
                eprintln!(
                    "{}: entry {}, module {module}, led by {leader:?}, {:?}",
                    replica.id(),
                    journal.index,
                    status.state
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_activation_is_finished_through_power_cuts_under_load() {
    let mut cluster = Cluster::found().await;
    let first = cluster.replica(NODES[0]).progress().journal.module;
    let second = cluster.make_ready(REFACTORED).await;
    let mut load = cluster.load();
    for round in 0..rounds(2, 20) {
        load.more(20).await;
        let (module, by) = if round % 2 == 0 { (second, By::Admin) } else { (first, By::Rollback) };
        let leader = cluster.leader(&NODES).await;
        let victim = if cluster.random.random_bool(0.5) { leader } else { others(leader).next().expect("three") };
        let operations = cluster.random.random_range(1..OPERATIONS);
        cluster.activate_through_a_cut(module, by, victim, operations).await;
    }
    load.more(20).await;
    let last = cluster.make_ready(MIGRATING).await;
    let leader = cluster.leader(&NODES).await;
    let operations = cluster.random.random_range(1..OPERATIONS);
    cluster.activate_through_a_cut(last, By::Admin, leader, operations).await;
    load.more(20).await;
    let back = cluster.handle(NODES[0]).activate(MACHINE, second, By::Rollback, &wanting()).await;
    assert!(matches!(back, Err(ClusterError::StepRefused(_))), "{back:?}");
    let attempts = load.stop().await;
    cluster.judge_recovered(attempts).await;
}

/// A replica that puts migrated rows in place waits for its log. If that log had failed, the replica used to wait for
/// ever.
async fn check_activation_on_a_disk_that_fails(find_victim: fn(NodeId) -> NodeId) {
    let mut cluster = Cluster::found().await;
    let module = cluster.make_ready(MIGRATING).await;
    let mut load = cluster.load();
    load.more(20).await;
    let victim = find_victim(cluster.leader(&NODES).await);
    cluster.hang(victim, &mut load).await;
    let handle = cluster.handle(others(victim).next().expect("there are three"));
    let activating = tokio::spawn({
        let handle = handle.clone();
        async move { handle.activate(MACHINE, module, By::Admin, &wanting()).await }
    });
    let others: Vec<_> = others(victim).flat_map(|node| cluster.replicas(node)).collect();
    let is_active = || others.iter().any(|replica| replica.progress().journal.module == module);
    eventually("the others activate it", || is_active().then_some(())).await;
    let disk = cluster.disk(victim);
    disk.set_failing(Some(crate::disk::SimOp::Sync));
    disk.release_syncs();
    load.more(20).await;
    disk.set_failing(None);
    cluster.served().await;
    // The module may have become active although the answer was lost.
    drop(tokio::time::timeout(PATIENCE, activating).await.expect("it is told"));
    let replicas: Vec<_> = NODES.into_iter().flat_map(|node| cluster.replicas(node)).collect();
    let is_active = || replicas.iter().all(|replica| replica.progress().journal.module == module);
    let _told = Told(&replicas);
    eventually("every replica has activated it", || is_active().then_some(())).await;
    load.more(20).await;
    let attempts = load.stop().await;
    cluster.judge_recovered(attempts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_activation_is_finished_where_the_disk_of_a_follower_hangs_and_fails() {
    check_activation_on_a_disk_that_fails(|leader| others(leader).next().expect("there are three")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_activation_is_finished_where_the_disk_of_the_leader_hangs_and_fails() {
    check_activation_on_a_disk_that_fails(|leader| leader).await;
}
