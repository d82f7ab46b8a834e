//! An operator looks at a cluster and moves a leader, under load: nobody notices.

use serde_json::Value;
use statehouse_kernel::ids::PartitionId;
use statehouse_tests::cluster::MACHINE;
use statehouse_tests::hold::{PATIENCE, within};
use statehouse_tests::process::CommandOutput;
use statehouse_tests::trial::Trial;

use crate::alone;

const PARTITION: PartitionId = PartitionId(0);

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_all_nodes_and_moves_a_leader() {
    let _alone = alone().await;
    let trial = Trial::start().await;
    let cluster = &trial.cluster;
    for id in cluster.ids() {
        let CommandOutput { code, stdout, stderr } = cluster.command(id, "status", &["--json"]);
        assert_eq!(code, Some(0), "{stdout}\n{stderr}");
        let status: Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {stdout}"));
        let nodes = status["nodes"].as_array().unwrap_or_else(|| panic!("no `nodes` in {status}"));
        assert_eq!(nodes.len(), 3, "{status}");
        assert!(nodes.iter().all(|node| node["is_reachable"] == true), "node {id} reaches all: {status}");
    }
    for _ in 0..2 {
        let leader = cluster.leader(PARTITION).await;
        let to = cluster.ids().into_iter().find(|id| *id != leader).expect("a cluster has followers");
        let (partition, number) = (PARTITION.to_string(), to.to_string());
        let arguments = ["--machine", MACHINE, "--partition", &partition, "--to", &number];
        within(PATIENCE, &format!("node {to} leads"), async || {
            let CommandOutput { code, stdout, stderr } = cluster.command(leader, "transfer", &arguments);
            assert_eq!(code, Some(0), "{stdout}\n{stderr}");
            // On a busy machine the node may have lost the leadership again at once.
            (cluster.leader(PARTITION).await == to).then_some(())
        })
        .await;
        trial.progress().await;
        println!("from node {leader} to {to}: {:?} without a successful write", trial.load.take_gap());
    }
    trial.finish().await;
}
