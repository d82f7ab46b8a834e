//! Everybody wants the last unit of a pool while the node that decides about it is killed: exactly one client gets it.
//!
//! The machine `capacity` runs beside the wallet on the same nodes, and the host knows neither money nor pools.

use std::time::Duration;

use serde_json::{Value, json};
use statehouse_kernel::ids::PartitionId;
use statehouse_tests::cluster::{Cluster, Shape};
use statehouse_tests::hold::{PATIENCE, hold};
use statehouse_tests::http::{Answer, Client};
use statehouse_tests::oracle::check_audit;
use statehouse_tests::wallet;
use uuid::Uuid;

use crate::{alone, rounds};

const SHAPE: Shape = Shape { nodes: 3, partitions: 2, log_keep_bytes: None, has_capacity: true };
const MACHINE: &str = "capacity";
const POOLS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn the_last_unit_goes_to_exactly_one_of_many() {
    let _alone = alone().await;
    let mut cluster = Cluster::start(SHAPE).await;
    let ids = cluster.ids();
    let mut client = cluster.client(ids[0]);
    wallet::open(&mut client, "alice").await;
    for pool in 0..POOLS {
        let body = json!({"pool": format!("slot-{pool}"), "capacities": [{"type": "delivery", "capacity": 1}]});
        let answer = client.post("/v1/capacity/pools", &body).await.expect("the node answers");
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    let state = client.get("/v1/capacity/pools/slot-0").await.expect("the node answers");
    let partition = state.text("position").split('.').next().and_then(|number| number.parse().ok());
    let leader = cluster.leader_of(MACHINE, PartitionId(partition.expect("a position")), &ids).await;
    let clients = rounds(200, 1_000);
    let asking: Vec<_> = (0..clients)
        .map(|number| {
            let at = cluster.addresses();
            tokio::spawn(async move { order(at.into_iter().map(|(_, address)| address).collect(), number).await })
        })
        .collect();
    hold(Duration::from_millis(30)).await;
    cluster.kill(leader);
    let mut placed = 0;
    for asking in asking {
        let answer =
            tokio::time::timeout(PATIENCE, asking).await.expect("everybody is told").expect("no client panics");
        match answer.status {
            201 => placed += 1,
            _ => assert_eq!(answer.problem(), "sold_out", "{answer:?}"),
        }
    }
    assert_eq!(placed, 1, "exactly one of {clients} gets the last unit");
    cluster.restart(leader).await;
    cluster.ready().await;
    check_pools(&cluster, 1).await;
    order_all_or_none(&mut cluster.client(leader)).await;
    cluster.settle().await;
    for id in cluster.ids() {
        cluster.terminate(id).await;
        check_audit(cluster.data(id));
    }
}

/// Asks one node after the other for the same order, until one says what became of the order.
async fn order(addresses: Vec<std::net::SocketAddr>, number: usize) -> Answer {
    let body = json!({"order_id": Uuid::new_v4().to_string(), "type": "delivery", "quantity": 1});
    for turn in number.. {
        let mut client = Client::impatient(addresses[turn % addresses.len()], Duration::from_secs(5));
        match client.post("/v1/capacity/pools/slot-0/orders", &body).await {
            Ok(answer) if ![429, 503, 504].contains(&answer.status) => return answer,
            _ => hold(Duration::from_millis(50)).await,
        }
    }
    unreachable!("it is asked until there is an answer")
}

async fn check_pools(cluster: &Cluster, ordered: u64) {
    for id in cluster.ids() {
        let state = cluster.client(id).get("/v1/capacity/pools/slot-0").await.expect("the node answers");
        assert_eq!(state.json()["capacities"]["delivery"]["ordered"], ordered, "node {id}: {state:?}");
    }
}

/// An order over all pools, of which the first is sold out, takes nothing. An order over the others takes all of them.
async fn order_all_or_none(client: &mut Client) {
    let lines = |pools: std::ops::Range<usize>| -> Vec<Value> {
        pools.map(|pool| json!({"pool": format!("slot-{pool}"), "type": "delivery", "quantity": 1})).collect()
    };
    let order = |pools| json!({"order_id": Uuid::new_v4().to_string(), "lines": lines(pools)});
    let refused = client.post("/v1/capacity/orders", &order(0..POOLS)).await.expect("the node answers");
    assert_eq!(refused.problem(), "sold_out", "{refused:?}");
    let placed = client.post("/v1/capacity/orders", &order(1..POOLS)).await.expect("the node answers");
    assert_eq!(placed.status, 201, "what was reserved before is free again: {placed:?}");
    let again = client.post("/v1/capacity/orders", &order(2..POOLS)).await.expect("the node answers");
    assert_eq!(again.problem(), "sold_out", "{again:?}");
}
