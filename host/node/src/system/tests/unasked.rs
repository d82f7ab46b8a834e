//! A module that fails to apply even a rejection (feature level 5). While some node of the cluster would halt at such a
//! record, nothing is recorded. Once all nodes know of the level, each of the module's commands has an outcome, and no
//! replica asks the module.
//!
//! In: a wallet whose `apply` is another export, and a node that is held back. Out: answers and journals. This file
//! does not know how the level rises.

use std::sync::LazyLock;

use statehouse_abi::value::Value;

use super::load::{DEADLINE, Told, submit};
use super::*;
use crate::ids::{CommandId, JournalIndex};
use crate::machine::entry::{EntryKind, Header};
use crate::router::answer::UnavailableReason;

/// The wallet with two exports swapped: a call to apply events reaches the query function, which cannot do that.
static UNAPPLIED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut wasm = WALLET.to_vec();
    let place = |wasm: &[u8], name: &[u8]| {
        let named = [&[u8::try_from(name.len()).expect("a short name")], name].concat();
        wasm.windows(named.len()).position(|window| window == named).expect("it is exported") + 1
    };
    let (apply, query) = (&b"sh1_apply"[..], &b"sh1_query"[..]);
    let places = (place(&wasm, apply), place(&wasm, query));
    wasm[places.0..][..query.len()].copy_from_slice(query);
    wasm[places.1..][..apply.len()].copy_from_slice(apply);
    wasm
});

async fn open_account(cluster: &Cluster, node: NodeId, number: u8) -> Told {
    let body = [("account", Value::text(format!("account-{number}"))), ("currency", Value::text("USD"))];
    submit(cluster.node(node).router(), "accounts", CommandId([number; 16]), Value::map(body), DEADLINE).await
}

/// The entries in a node's journals for which a module is asked: neither ticks nor activations.
fn with_commands(cluster: &Cluster, node: NodeId) -> Vec<Header> {
    let headers = cluster.replicas(node).into_iter().flat_map(|replica| {
        let header = |index| *replica.find_entry(JournalIndex(index)).expect("nothing is released").entry.header();
        (1..=replica.progress().journal.index.0).map(header).collect::<Vec<_>>()
    });
    headers.filter(|header| matches!(header.kind, EntryKind::Batch | EntryKind::Saga)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_module_applies_is_recorded_once_all_nodes_know_of_it() {
    let held_back = NODES[2];
    let options = Options { held_back: Some(held_back), module: Some(&UNAPPLIED), ..Options::default() };
    let mut cluster = Cluster::found_with(options).await;
    cluster.heard(&NODES).await;
    for number in 0..2 {
        for node in NODES {
            let told = open_account(&cluster, node, number).await;
            // A node that does not lead finds nobody who takes the command. A leader that halts does not know what
            // becomes of the commands that it had in hand.
            use UnavailableReason::{Halted, NoLeader, NotNow};
            let is_untold = matches!(told, Told::NotAccepted(Halted | NoLeader | NotNow(_)) | Told::Unknown);
            assert!(is_untold, "at node {node}: {told:?}");
        }
    }
    assert_eq!(with_commands(&cluster, NODES[0]), [], "nothing is recorded that node {held_back} would halt at");

    cluster.restart_at(held_back, features::HIGHEST).await;
    cluster.rises(&NODES).await;
    cluster.served().await;
    for number in 0..4 {
        let told = open_account(&cluster, held_back, number).await;
        assert!(matches!(&told, Told::Rejected(_, code) if code == "module_trap"), "{told:?}");
        let again = open_account(&cluster, NODES[0], number).await;
        assert_eq!(again, told, "it is recorded");
    }
    let replicas: Vec<_> = NODES.into_iter().map(|node| cluster.replicas(node)).collect();
    let heads = || replicas.iter().map(|of| of.iter().map(|one| one.progress().journal.head).collect::<Vec<_>>());
    eventually("every node has applied it", || heads().all(|of| Some(of) == heads().next()).then_some(())).await;
    for replica in replicas.iter().flatten() {
        let state = format!("{:?}", replica.status().state);
        assert_eq!(state, "Running", "no replica halts at it");
    }
}
