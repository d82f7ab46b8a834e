//! An order of an operator names the node that checked the operator's token: the node that brings the order, whatever
//! the order itself says.
//!
//! A parcel whose calls are all lost stays in flight, so orders about it can be given.

use super::jars::{Calls, Cluster, id_at};
use super::*;
use crate::features::FeatureLevel;
use crate::saga::{Order, OrderKind};

/// The node that brings an order to this one.
const OTHER: NodeId = NodeId(2);

async fn until_in_flight(cluster: &Cluster, id: CommandId) {
    let is_there = || cluster.partitions.iter().any(|partition| matches!(partition.find_in_flight(id), Ok(Some(_))));
    tokio::time::timeout(Duration::from_secs(180), async {
        while !is_there() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it begins");
}

/// The nodes named by the orders of the first partition, oldest first.
fn vouched(cluster: &Cluster) -> Vec<Option<NodeId>> {
    let partition = &cluster.partitions[0];
    let point = partition.read_stale().expect("it runs");
    let mut orders = Vec::new();
    let walked = partition.walk_back(&point, |recorded| {
        orders.extend(recorded.entry.records().orders().iter().map(Order::vouched));
        std::ops::ControlFlow::Continue(())
    });
    walked.expect("the whole journal is here");
    orders.reverse();
    orders
}

async fn check(level: FeatureLevel, expected: [Option<NodeId>; 2]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cluster = Cluster::open_with(folder.path(), level, Calls::Lost).await;
    let abort = |id| Order::new(id, OrderKind::Abort, "operator", "it is stuck");
    for (number, is_forwarded) in [(1, false), (2, true)] {
        let id = id_at(number);
        // Nobody waits for the end of this command.
        tokio::select! {
            answer = cluster.mail(id, 0, 2) => panic!("it cannot end: {answer:?}"),
            () = until_in_flight(&cluster, id) => {}
        }
        if is_forwarded {
            let lie = minicbor::to_vec(abort(id).vouched_by(Some(NodeId(9)))).expect("a vector takes all bytes");
            let answered = cluster.machine.answer_order(OTHER, PartitionId(0), &lie, Duration::from_secs(180)).await;
            answered.expect("it is an order");
        } else {
            cluster.machine.order(abort(id), None, soon()).await.expect("it is recorded");
        }
    }
    assert_eq!(vouched(&cluster), expected, "at level {level}");
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_names_the_node_that_vouched_for_the_operator_once_all_nodes_know_of_it() {
    check(features::UNASKED, [None, None]).await;
    check(features::HIGHEST, [Some(NodeId(1)), Some(OTHER)]).await;
}
