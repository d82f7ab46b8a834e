//! The cluster over REST: the page as clients read it, changes as they are sent, and refusals as they are answered.

use axum::body::Body;
use axum::http::Request;
use expect_test::expect;

use super::*;
use crate::api::cluster::{ClusterChange, ClusterPage};
use crate::api::problem::Problem;
use crate::api::route::{HostRequest, find_host_route};
use crate::ids::{FeatureLevel, Head, JournalIndex, Micros, NodeId, PartitionId, Position, Term};
use crate::system::ClusterError;
use crate::system::cluster::{ClusterView, MachineView, NodeView, ReplicaView};
use crate::system::key_row::KeyRow;

fn replica() -> ReplicaView {
    let position =
        Position { partition: PartitionId(0), index: JournalIndex(42), n: 1, head8: [0x1a, 0x2b, 0x3c, 0x4d] };
    ReplicaView {
        partition: PartitionId(0),
        leader: Some(NodeId(2)),
        term: Term(3),
        voters: vec![NodeId(1), NodeId(2)],
        learners: vec![NodeId(3)],
        position,
        time: Micros(1_000_000),
        head: Head::ZERO,
        state: "running".into(),
    }
}

fn view() -> ClusterView {
    let replica = replica();
    let node = NodeView {
        id: NodeId(2),
        peer: "n2:7000".into(),
        http: Some("n2:8080".into()),
        is_reachable: true,
        clock_ahead: Some(Micros(-5)),
        feature_level_max: Some(FeatureLevel(4)),
    };
    let machines = vec![MachineView { name: "purse".into(), partitions: vec![replica] }];
    let keys = vec![KeyRow { node: 1, key: [0xab; 32], time: 1_772_600_767_000_001 }];
    let feature_level = FeatureLevel(3);
    ClusterView {
        cluster: Some("c".into()),
        node: NodeId(1),
        nodes: vec![node],
        machines,
        keys,
        feature_level,
        losses: vec![],
        remarks: vec![],
    }
}

#[test]
fn a_view_is_a_page_of_fixed_names() {
    let view = view();
    let page = ClusterPage { version: "1.2.3".into(), ..ClusterPage::new(view, true) };
    let json = serde_json::to_string_pretty(&page).expect("a page is JSON");
    expect![[r#"
        {
          "cluster": "c",
          "node": 1,
          "version": "1.2.3",
          "is_ready": true,
          "nodes": [
            {
              "id": 2,
              "peer": "n2:7000",
              "http": "n2:8080",
              "is_reachable": true,
              "clock_ahead_us": -5,
              "feature_level_max": 4
            }
          ],
          "machines": [
            {
              "name": "purse",
              "partitions": [
                {
                  "partition": 0,
                  "leader": 2,
                  "term": 3,
                  "voters": [
                    1,
                    2
                  ],
                  "learners": [
                    3
                  ],
                  "position": "0.42.1~1a2b3c4d",
                  "time": "1970-01-01T00:00:01Z",
                  "head": "0000000000000000000000000000000000000000000000000000000000000000",
                  "state": "running"
                }
              ]
            }
          ],
          "keys": [
            {
              "node": 1,
              "key": "abababababababababababababababababababababababababababababababab",
              "since": "2026-03-04T05:06:07.000001Z"
            }
          ],
          "feature_level": 3
        }"#]]
    .assert_eq(&json);
    assert_eq!(serde_json::from_str::<ClusterPage>(&json).expect("what is printed is read"), page);
}

/// What a request for a change is read as, or its status, code and detail.
async fn sent(method: &str, path: &str, body: &'static str) -> Result<ClusterChange, String> {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    let (parts, body) = request.body(Body::from(body)).expect("a request").into_parts();
    let (route, captured) = find_host_route(&parts.method, parts.uri.path()).map_err(shown)?;
    let request = HostRequest { route, captured, context: context(), parts: &parts, body };
    let read = match route.name {
        "ClusterInit" => ClusterChange::init(request).await,
        "NodeAdd" => ClusterChange::add(request).await,
        "NodeRemove" => ClusterChange::remove(request).await,
        "LeaderTransfer" => ClusterChange::transfer(request).await,
        "ClockAccept" => ClusterChange::accept_clock(request).await,
        "LossAccept" => ClusterChange::accept_loss(request).await,
        other => panic!("{other} does not change the cluster"),
    };
    read.map_err(shown)
}

fn shown(problem: Problem) -> String {
    let json = serde_json::to_value(problem.instance("r-1")).expect("a problem is JSON");
    format!("{} {} {}", problem.status(), json["code"].as_str().unwrap_or_default(), problem.detail())
}

#[tokio::test]
async fn changes_are_read() {
    let init = r#"{"nodes":[{"id":2,"peer":"127.0.0.1:7002"},{"id":1,"peer":"n1:7001"}]}"#;
    let nodes = [(NodeId(1), "n1:7001".to_owned()), (NodeId(2), "127.0.0.1:7002".to_owned())];
    assert_eq!(sent("POST", "/v1/cluster/init", init).await, Ok(ClusterChange::Init(nodes.into())));
    let add = sent("POST", "/v1/cluster/nodes", r#"{"id":4,"peer":"[::1]:7000"}"#).await;
    assert_eq!(add, Ok(ClusterChange::Add(NodeId(4), "[::1]:7000".into())));
    assert_eq!(sent("DELETE", "/v1/cluster/nodes/4", "").await, Ok(ClusterChange::Remove(NodeId(4))));
    let transfer = sent("POST", "/v1/cluster/transfer", r#"{"machine":"wallet","partition":3,"to":2}"#).await;
    assert_eq!(
        transfer,
        Ok(ClusterChange::Transfer { machine: "wallet".into(), partition: PartitionId(3), to: NodeId(2) })
    );
    let accept = sent("POST", "/v1/cluster/losses", r#"{"machine":"wallet","partition":3,"why":"fire"}"#).await;
    let accepted =
        ClusterChange::AcceptLoss { machine: "wallet".into(), partition: PartitionId(3), why: "fire".into() };
    assert_eq!(accept, Ok(accepted));
}

#[tokio::test]
async fn changes_that_make_no_sense_name_the_place() {
    let check = async |method, path, body, expected: &str| {
        let refused = sent(method, path, body).await.expect_err(body);
        assert!(refused.starts_with(expected), "{path} {body}: {refused}");
    };
    let (init, nodes, transfer) = ("/v1/cluster/init", "/v1/cluster/nodes", "/v1/cluster/transfer");
    check("POST", init, "", "400 missing_field `/nodes`").await;
    check("POST", init, "{", "400 malformed_body").await;
    check("POST", init, r#"{"nodes":[{"id":1}]}"#, "400 missing_field `/nodes/0/peer`").await;
    check("POST", init, r#"{"nodes":[{"id":0,"peer":"n:1"}]}"#, "400 out_of_range `/nodes/0/id`").await;
    let twice = r#"{"nodes":[{"id":1,"peer":"n:1"},{"id":1,"peer":"n:2"}]}"#;
    check("POST", init, twice, "422 invalid_change node 1 is listed twice").await;
    check("POST", nodes, r#"{"id":4,"peer":"n4"}"#, "422 invalid_change `n4` is not an address where node 4").await;
    check("POST", nodes, r#"{"id":4,"peer":"n4:1","voter":true}"#, "400 unknown_field `/voter`").await;
    check("DELETE", "/v1/cluster/nodes/four", "", "400 bad_path").await;
    check("POST", transfer, r#"{"machine":"m","partition":-1,"to":2}"#, "400 out_of_range `/partition`").await;
    check("POST", "/v1/cluster/accept-clock", "{}", "422 invalid_change accepting this node's clock needs no").await;
    check("POST", "/v1/cluster/nodes?dry=1", "", "400 unknown_parameter a change takes no query parameters").await;
    let losses = "/v1/cluster/losses";
    check("POST", losses, r#"{"machine":"m","partition":1}"#, "400 missing_field `/why`").await;
    check("GET", init, "", "405 method_not_allowed use POST").await;
}

#[test]
fn refusals_have_their_codes_and_statuses() {
    let refused = |node: u64| ClusterError::Refused { node: NodeId(node), reason: "its clock is wrong".into() };
    let unreachable =
        ClusterError::Unreachable { node: NodeId(3), address: "n3:7000".into(), reason: "connection refused".into() };
    let errors = [
        ClusterError::NoCluster,
        ClusterError::Exists("c".into()),
        ClusterError::NoPeer,
        ClusterError::Invalid("a cluster has at least one node".into()),
        ClusterError::NodeIdUsed(NodeId(2)),
        ClusterError::UnknownNode(NodeId(9)),
        ClusterError::UnknownPartition("wallet/7".into()),
        refused(2),
        unreachable,
        ClusterError::NotKept("only 1 of 3 nodes have kept the secret".into()),
        ClusterError::SnapshotsAsked("wallet/7: 8 of them are not made yet; ask again later".into()),
        ClusterError::Deadline,
    ];
    let lines: String = errors.into_iter().map(|error| format!("{}\n", shown(error.into()))).collect();
    expect![[r#"
        503 no_cluster this node belongs to no cluster yet; create one with `statehouse cluster init`, or add it to one with `cluster add`
        409 cluster_exists this node belongs to cluster c already
        409 no_peer this node takes no part in clusters: its configuration has no `[peer]`
        422 invalid_change a cluster has at least one node
        409 node_id_used node 2 is known; a node that lost its data, or was removed, must be added under a new id
        404 unknown_node node 9 is not of this cluster
        404 unknown_partition there is no partition wallet/7
        409 node_refused node 2 refused: its clock is wrong
        503 node_unreachable node 3 at n3:7000 does not answer: connection refused
        503 secret_not_kept only 1 of 3 nodes have kept the secret
        503 overloaded wallet/7: 8 of them are not made yet; ask again later
        504 change_unfinished not done before the deadline; `cluster status` shows the progress, and the same request may be sent again
    "#]].assert_eq(&lines);
    let asked = Problem::from(ClusterError::SnapshotsAsked(String::new())).into_response("r-1");
    assert_eq!(asked.headers()["retry-after"], "1");
}
