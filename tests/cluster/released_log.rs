//! Logs of which little is kept: a node that needs what was released is sent a snapshot, and says what it can no
//! longer show.
//!
//! The clients here send batches, because segments are released whole. The oracle reads whole logs, so this file
//! compares balances, heads and ids instead.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use statehouse_kernel::ids::{NodeId, PartitionId};
use statehouse_tests::cluster::{Cluster, MACHINE, Shape};
use statehouse_tests::damage::segments;
use statehouse_tests::hold::{PATIENCE, eventually, within};
use statehouse_tests::http::{Answer, Client, Request};
use statehouse_tests::process::{CommandOutput, argument, cli};
use statehouse_tests::wallet::{self, BANK};
use uuid::Uuid;

use crate::alone;

const SHAPE: Shape = Shape { nodes: 3, partitions: 1, log_keep_bytes: Some(1 << 20), has_capacity: false };
const PARTITION: PartitionId = PartitionId(0);
const ACCOUNTS: [&str; 2] = ["alice", "bob"];
const OPENING: i128 = 1_000_000_000;
const BATCH: usize = 2_000;
const INSTALLED: &str = "statehouse_snapshots_installed_total";

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_needs_what_was_released_is_sent_a_snapshot() {
    let _alone = alone().await;
    let mut cluster = Cluster::start(SHAPE).await;
    let leader = cluster.leader(PARTITION).await;
    let mut client = cluster.client(leader);
    for account in ACCOUNTS {
        wallet::open(&mut client, account).await;
        wallet::deposit(&mut client, account, OPENING).await;
    }
    let created = cli(["view", "create", "statements", "--url", cluster.url(leader).as_str()]);
    assert_eq!(created.code, Some(0), "{created:?}");
    for id in cluster.ids() {
        check_view(&cluster, id, "live").await;
    }
    let mut ids = transfer(&cluster, 1).await;
    cluster.settle().await;
    let behind = cluster.ids().into_iter().find(|id| *id != leader).expect("a cluster has followers");
    cluster.terminate(behind).await;
    ids.extend(transfer(&cluster, BATCH).await);
    let missed = client.get("/v1/wallet/accounts/alice").await.expect("the leader answers").text("position");
    ids.extend(write_until_released(&cluster, &cluster.running()).await);

    cluster.restart(behind).await;
    check_caught_up(&mut cluster, behind, &ids).await;
    for id in cluster.running() {
        check_view(&cluster, id, if id == behind { "stopped" } else { "live" }).await;
    }
    check_says_what_is_missing(&cluster, behind, &missed).await;

    let new = cluster.start_another().await;
    let added = cluster.add(leader, new);
    assert_eq!(added.code, Some(0), "node {new} is taken in: {added:?}");
    check_caught_up(&mut cluster, new, &ids).await;

    // All nodes open again what they have kept.
    for id in cluster.ids() {
        cluster.terminate(id).await;
    }
    for id in cluster.ids() {
        cluster.restart(id).await;
    }
    cluster.ready().await;
    ids.extend(transfer(&cluster, 10).await);
    check_same(&cluster, &ids).await;
}

/// Sends this many transfers in one batch, and returns the ids of those that were done.
async fn transfer(cluster: &Cluster, count: usize) -> Vec<Uuid> {
    let ids: Vec<Uuid> = (0..count).map(|_| Uuid::new_v4()).collect();
    let line = |(at, id): (usize, &Uuid)| {
        let (from, to) = (ACCOUNTS[at % 2], ACCOUNTS[(at + 1) % 2]);
        let body = wallet::transfer_body(&id.to_string(), from, to, "0.07");
        json!({"command": "balance_transfer", "body": body}).to_string()
    };
    let body = ids.iter().enumerate().map(line).collect::<Vec<_>>().join("\n");
    let at = cluster.leader(PARTITION).await;
    let headers = vec![("content-type", "application/x-ndjson")];
    let request = Request { method: "POST", path: "/v1/wallet/batch", headers, body: body.into_bytes() };
    let answer = cluster.client(at).send(request).await.expect("the leader answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = String::from_utf8(answer.body.to_vec()).expect("answers are UTF-8");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON"));
    ids.into_iter().zip(lines).filter(|(_, line)| line["status"] == 200).map(|(id, _)| id).collect()
}

/// Writes until all these nodes have deleted the beginning of the log.
async fn write_until_released(cluster: &Cluster, nodes: &[NodeId]) -> Vec<Uuid> {
    let first = |id: &NodeId| segments(&cluster.partition_folder(*id, PARTITION)).into_iter().next();
    let begun: Vec<_> = nodes.iter().map(first).collect();
    let mut done = Vec::new();
    eventually("the nodes release the beginning of their logs", async || {
        done.extend(transfer(cluster, BATCH).await);
        let is_released = nodes.iter().zip(&begun).all(|(id, begun)| first(id) != *begun);
        is_released.then_some(())
    })
    .await;
    println!("{} transfers until the beginning was released", done.len());
    done
}

/// Asserts that a node has caught up by a snapshot, and has what the others have.
async fn check_caught_up(cluster: &mut Cluster, id: NodeId, ids: &[Uuid]) {
    cluster.ready_on(id).await;
    let what = format!("node {id} installs a snapshot");
    within(PATIENCE, &what, async || {
        let metrics = cluster.client(id).get("/metrics").await.ok()?;
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        text.lines().any(|line| line.starts_with(INSTALLED) && !line.ends_with(" 0")).then_some(())
    })
    .await;
    cluster.ready_on(id).await;
    check_same(cluster, ids).await;
}

/// Asserts that all nodes have the same journal, the same balances, and know every id.
async fn check_same(cluster: &Cluster, ids: &[Uuid]) {
    let settled = cluster.settle().await;
    assert!(settled.contains_key(&(MACHINE.to_owned(), PARTITION)));
    let mut shown = BTreeSet::new();
    for id in cluster.running() {
        let mut client = cluster.client(id);
        let mut balances = Vec::new();
        for account in ACCOUNTS.into_iter().chain([BANK]) {
            balances.push(wallet::balance_stale(&mut client, account).await);
        }
        assert_eq!(balances.iter().sum::<i128>(), 0, "node {id}: the books do not balance: {balances:?}");
        shown.insert(balances);
        let known: Vec<&Uuid> = ids.iter().step_by(500).chain(ids.last()).collect();
        for command in known {
            let answer = when_known(&mut client, &format!("/v1/wallet/commands/{command}")).await;
            let is_known = answer.status == 200 || is_problem(&answer, "outcome_released");
            assert!(is_known, "node {id} knows {command}: {answer:?}");
        }
    }
    assert_eq!(shown.len(), 1, "the nodes show different balances: {shown:?}");
}

/// Asks again while a node says that it cannot know yet.
async fn when_known(client: &mut Client, path: &str) -> Answer {
    within(PATIENCE, "the node knows the answer", async || {
        let answer = client.get(path).await.ok()?;
        (!matches!(answer.status, 503 | 504)).then_some(answer)
    })
    .await
}

fn is_problem(answer: &Answer, code: &str) -> bool {
    answer.status == 410 && answer.text("code") == code
}

/// Waits until the view is in this state on the node, and asserts that a view which has stopped names what it lacks.
async fn check_view(cluster: &Cluster, id: NodeId, expected: &str) {
    let mut client = cluster.client(id);
    let page = within(PATIENCE, &format!("the view is {expected} on node {id}"), async || {
        let page: Value = client.get("/v1/machines/wallet/views/statements").await.ok()?.json();
        (page["state"] == expected).then_some(page)
    })
    .await;
    if expected == "stopped" {
        let text = page.to_string();
        assert!(text.contains("is not on this node any more") && text.contains("[archive]"), "{page:#}");
    }
}

/// Asserts that a node without the history names where its own begins, instead of showing less. `missed` is a
/// position before that.
async fn check_says_what_is_missing(cluster: &Cluster, id: NodeId, missed: &str) {
    let mut client = cluster.client(id);
    // The node's view has followed what came before, and answers for it.
    let before = when_known(&mut client, "/v1/wallet/accounts/alice?at=2020-01-01T00:00:00Z").await;
    assert_eq!((before.status, before.text("code").as_str()), (404, "account_not_found"), "{before:?}");
    let past = format!("/v1/wallet/accounts/alice?at={missed}");
    for path in [past, "/v1/wallet/accounts/alice/history?limit=1000".to_owned()] {
        let mut path = path;
        let answer = loop {
            let answer = when_known(&mut client, &path).await;
            if answer.status != 200 {
                break answer;
            }
            let cursor = answer.text("next_cursor");
            path = format!("/v1/wallet/accounts/alice/history?limit=1000&cursor={cursor}");
        };
        assert!(is_problem(&answer, "history_released"), "{path}: {answer:?}");
        let detail = answer.text("detail");
        assert!(detail.contains("begins with entry"), "{detail}");
        println!("node {id}: {detail}");
    }
    let CommandOutput { code, stdout, stderr } =
        cli(["audit", "verify", "--machine", MACHINE, "--data", argument(cluster.data(id))]);
    assert_eq!(code, Some(1), "what is not here cannot be verified: {stdout}{stderr}");
    assert!(stdout.contains("audit the folder of another node"), "{stdout}{stderr}");
}
