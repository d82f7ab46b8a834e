//! A view is created through one node and runs on all, through kills of nodes under load. Each node says what the
//! wallet says, and all say the same.
//!
//! A node that was down when the view was created, or built again, fetches the view and builds it when it is back.

use serde_json::Value;
use statehouse_kernel::ids::NodeId;
use statehouse_tests::hold::{PATIENCE, within};
use statehouse_tests::host::{CommandOutput, cli};
use statehouse_tests::http::Answer;
use statehouse_tests::trial::Trial;
use statehouse_tests::wallet::CURRENCY;

use crate::alone;

const ACCOUNTS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn every_node_has_the_same_views_whichever_was_asked_and_was_down() {
    let _alone = alone().await;
    let mut trial = Trial::start().await;
    let ids = trial.cluster.ids();
    let [first, second, third] = ids[..] else { panic!("a cluster has three nodes") };
    trial.cluster.kill(third);
    trial.progress().await;
    view(&trial, first, "create");
    trial.cluster.restart(third).await;
    for (round, down) in [second, third, first].into_iter().enumerate() {
        trial.cluster.ready_on(third).await;
        trial.cluster.kill(down);
        trial.progress().await;
        if round == 1 {
            view(&trial, first, "rebuild");
        }
        trial.cluster.restart(down).await;
        trial.cluster.ready_on(down).await;
    }
    trial.progress().await;
    for id in &ids {
        live(&trial, *id).await;
    }
    for at in 0..ACCOUNTS {
        let account = trial.account(at).to_owned();
        let mut positions = Vec::new();
        for id in &ids {
            let path = format!("/v1/wallet/accounts/{account}/statement?limit=1000&consistency=linearizable");
            positions.push(answered(&trial, *id, &path).await.text("position"));
        }
        // The load continues, so the nodes are asked about one moment that is past for all of them.
        let at = positions.last().expect("one for each node");
        let mut shown = Vec::new();
        for id in &ids {
            let answer = answered(&trial, *id, &format!("/v1/wallet/accounts/{account}?at={at}")).await;
            shown.push(answer.json()["balances"][CURRENCY].clone());
        }
        assert!(shown.iter().all(|balance| *balance == shown[0] && balance.is_string()), "{account}: {shown:?}");
    }
    trial.finish().await;
}

fn view(trial: &Trial, id: NodeId, verb: &str) {
    let done: CommandOutput = cli(["view", verb, "statements", "--url", trial.cluster.url(id).as_str()]);
    assert_eq!(done.code, Some(0), "{done:?}");
}

/// Asks until the node answers. On a busy machine a view may lag, and says so before a read waits for too long.
async fn answered(trial: &Trial, id: NodeId, path: &str) -> Answer {
    let mut client = trial.cluster.client(id);
    let ask = async || {
        let answer = client.get(path).await.expect("the node answers");
        let has_lagged = answer.status == 504 && answer.json()["code"] == "read_timeout";
        assert!(answer.status == 200 || has_lagged, "node {id}: {answer:?}");
        (answer.status == 200).then_some(answer)
    };
    within(PATIENCE, &format!("node {id} answers {path}"), ask).await
}

/// Waits until the view serves on a node, from the build that was asked for last.
async fn live(trial: &Trial, id: NodeId) {
    let mut client = trial.cluster.client(id);
    let is_live = async || {
        let page: Value = client.get("/v1/machines/wallet/views/statements").await.ok()?.json();
        (page["state"] == "live" && page["serving"]["build"] == 2).then_some(())
    };
    within(PATIENCE, &format!("the view serves on node {id}"), is_live).await;
}
