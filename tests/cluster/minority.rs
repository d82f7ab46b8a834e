//! A node that is cut off from the majority says so: it accepts no write and answers no linearizable read.
//!
//! It may have been the leader, and its clients may still reach it. It answers stale reads, for clients that ask for
//! them.

use serde_json::Value;
use statehouse_kernel::ids::{NodeId, PartitionId};
use statehouse_tests::hold::{PATIENCE, within};
use statehouse_tests::http::{Answer, Client};
use statehouse_tests::trial::Trial;
use statehouse_tests::wallet::{self, BANK};
use uuid::Uuid;

use crate::alone;

#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_leader_refuses_writes_and_linearizable_reads() {
    let _alone = alone().await;
    let trial = Trial::start().await;
    let leader = trial.cluster.leader(PartitionId(0)).await;
    check(trial, leader).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_follower_refuses_writes_and_linearizable_reads() {
    let _alone = alone().await;
    let trial = Trial::start().await;
    let leaders = [trial.cluster.leader(PartitionId(0)).await, trial.cluster.leader(PartitionId(1)).await];
    let follower = trial.cluster.ids().into_iter().find(|id| !leaders.contains(id));
    check(trial, follower.expect("two partitions have two leaders at most")).await;
}

async fn check(mut trial: Trial, isolated: NodeId) {
    let mut client = trial.cluster.client(isolated);
    let account = trial.account(0).to_owned();
    // A follower on a busy machine may not have applied the first entries yet.
    let path = format!("/v1/wallet/accounts/{account}?consistency=stale");
    within(PATIENCE, "the node has the account", async || (client.get(&path).await.ok()?.status == 200).then_some(()))
        .await;
    trial.cluster.network().isolate(isolated);
    // From here on the majority knows what the isolated node cannot know.
    trial.progress().await;
    for what in ["a write", "a linearizable read"] {
        let refusal = within(PATIENCE, &format!("{what} is refused"), async || {
            let answer = match what {
                "a write" => deposit(&mut client, &account).await,
                _ => wallet::account(&mut client, &account).await,
            };
            assert!([503, 504].contains(&answer.status), "{what} on an isolated node: {answer:?}");
            (answer.status == 503).then_some(answer)
        })
        .await;
        assert!(!refusal.problem().is_empty() && !refusal.text("detail").is_empty(), "it says why: {refusal:?}");
        assert!(refusal.header("retry-after").is_some(), "it says when to come back: {refusal:?}");
    }
    let readiness = within(PATIENCE, "it is not ready", async || {
        let answer = client.get("/readyz").await.expect("the node answers");
        (answer.status == 503).then_some(answer)
    })
    .await;
    let reasons = readiness.json()["detail"].as_str().map(str::to_owned).unwrap_or_default();
    assert!(reasons.contains("leader"), "it says in words what is missing: {reasons}");
    wallet::balance_stale(&mut client, &account).await;

    trial.cluster.network().heal();
    trial.cluster.ready_on(isolated).await;
    let read = wallet::account(&mut client, &account).await;
    assert_eq!(read.status, 200, "it serves again: {read:?}");
    trial.finish().await;
}

async fn deposit(client: &mut Client, account: &str) -> Answer {
    let body: Value = wallet::transfer_body(&Uuid::new_v4().to_string(), BANK, account, "0.01");
    client.post(wallet::TRANSFER, &body).await.expect("the node answers")
}
