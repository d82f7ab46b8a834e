//! Refused modules, as `system` names them (feature level 6). Every node names each of them once, also after every
//! restart. Until all nodes understand this level, only the node that refused a module names it.
//!
//! In: bytes that are no module, and a node that is held back. Out: what nodes say was refused. This file does not
//! know how the level rises.

use std::ops::ControlFlow;

use bytes::Bytes;
use statehouse_abi::role;

use super::*;
use crate::ids::ModuleId;
use crate::router::answer::Caller;
use crate::system::submit::Wanting;

const FIRST: &[u8] = b"this is no module";
const SECOND: &[u8] = b"and neither is this";

impl Cluster {
    async fn is_refused(&self, node: NodeId, wasm: &'static [u8]) {
        let caller = Arc::new(Caller::unbound("eve", role::DEVELOPER));
        let wanting = Wanting { caller, request_id: "sim".into(), deadline: soon() };
        let staged = self.node(node).cluster().stage(MACHINE, Bytes::from_static(wasm), &wanting).await;
        let error = staged.expect_err("it is no module").to_string();
        assert!(error.contains("no module that can run"), "{error}");
    }

    /// The modules that a node says were refused, and who brought them.
    async fn refused(&self, node: NodeId) -> Vec<(ModuleId, String)> {
        let view = self.node(node).cluster().modules(MACHINE, soon()).await.expect("it is served");
        assert!(view.refused.iter().all(|refused| refused.reason.contains("no module that can run")));
        view.refused.into_iter().map(|refused| (refused.module, refused.by)).collect()
    }

    /// How many commands of `system` say that a module was refused.
    async fn recorded_count(&self, node: NodeId) -> usize {
        let system = self.node(node).context.system.get().cloned().expect("it is served");
        let partition = system.find_partition(PartitionId(0)).expect("it is here");
        let point = partition.read_linearizable(soon()).await.expect("it is led");
        let mut count = 0;
        let walked = partition.walk_back(&point, |recorded| {
            let batch = recorded.entry.batch();
            let names = batch.iter().flat_map(|batch| batch.commands().map(|command| command.name));
            count += names.filter(|name| *name == "refuse_module").count();
            ControlFlow::Continue(())
        });
        walked.expect("the whole journal is here");
        count
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_is_recorded_once_all_nodes_know_of_it() {
    let held_back = NODES[2];
    let mut cluster = Cluster::found_with(Options { held_back: Some(held_back), ..Options::default() }).await;
    cluster.heard(&NODES).await;
    let [first, second] = [FIRST, SECOND].map(|wasm| (ModuleId::of(wasm), "eve".to_owned()));
    for _ in 0..2 {
        cluster.is_refused(NODES[0], FIRST).await;
    }
    assert_eq!(cluster.refused(NODES[0]).await, [first], "it remembers, once");
    assert_eq!(cluster.refused(NODES[1]).await, [], "and nothing is recorded that node {held_back} would misread");

    cluster.restart_at(held_back, features::HIGHEST).await;
    cluster.rises(&NODES).await;
    cluster.served().await;
    cluster.is_refused(held_back, SECOND).await;
    assert_eq!(cluster.recorded_count(held_back).await, 1);
    let named = |cluster: &Cluster, node| cluster.node(node).context.directory().refused.len();
    for node in NODES {
        eventually("it is applied", || (named(&cluster, node) == 1).then_some(())).await;
        cluster.is_refused(node, SECOND).await;
    }
    assert_eq!(cluster.recorded_count(held_back).await, 1, "the same hash again is no entry");

    cluster.restart_at(NODES[0], features::HIGHEST).await;
    cluster.served().await;
    for node in NODES {
        assert_eq!(cluster.refused(node).await, std::slice::from_ref(&second), "node {node} names it");
    }
}
