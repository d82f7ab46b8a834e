//! Transfers between partitions. To a client they are like any other. They are visible while they are under way, and
//! they are whole or undone whatever fails.
//!
//! Both protocols are tested here, on one node. What a cluster adds is tested with the clusters.

use std::path::Path;

use serde_json::Value;
use statehouse_tests::hold::eventually;
use statehouse_tests::host::{Host, Start, argument, cli};
use statehouse_tests::http::{Answer, Client};
use statehouse_tests::oracle::check_audit;
use statehouse_tests::wallet::{self, BANK};
use tempfile::tempdir;
use uuid::Uuid;

const PARTITIONS: usize = 4;
/// Enough that they cannot all be in one partition.
const ACCOUNTS: usize = 16;
const OPENING: i128 = 10_000;
const PROTOCOLS: [Option<&str>; 2] = [None, Some("tcc")];

async fn start(data: &Path) -> Host {
    let arguments = vec!["--partitions".to_owned(), PARTITIONS.to_string()];
    Host::start_with(&Start { arguments, ..Start::on(data) }).await.expect("the host starts")
}

/// Opens accounts until there are two in different partitions, each with the opening amount.
async fn two_apart(client: &mut Client) -> [String; 2] {
    let mut first: Option<(String, String)> = None;
    for number in 0..ACCOUNTS {
        let account = format!("account-{number}");
        wallet::open(client, &account).await;
        wallet::deposit(client, &account, OPENING).await;
        let position = wallet::account(client, &account).await.text("position");
        let partition = position.split('.').next().expect("a position begins with its partition").to_owned();
        match &first {
            None => first = Some((account, partition)),
            Some((other, found)) if *found != partition => return [other.clone(), account],
            Some(_) => {}
        }
    }
    panic!("{ACCOUNTS} accounts lie in one of {PARTITIONS} partitions");
}

async fn transfer(client: &mut Client, id: Uuid, from: &str, to: &str, minor: i128, by: Option<&str>) -> Answer {
    let mut body = wallet::transfer_body(&id.to_string(), from, to, &wallet::amount(minor));
    if let Some(by) = by {
        body["coordination"] = Value::from(by);
    }
    client.post(wallet::TRANSFER, &body).await.expect("the host answers")
}

async fn phases(client: &mut Client, id: Uuid) -> Vec<String> {
    let answer = client.get(&format!("/v1/wallet/transactions/{id}")).await.expect("the host answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    let phases = answer.json()["phases"].as_array().cloned().unwrap_or_default();
    for phase in &phases {
        assert!(phase["position"].as_str().is_some_and(|position| position.contains('~')), "it has a place: {phase}");
    }
    phases.iter().map(|phase| phase["phase"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_between_partitions_is_like_any_other() {
    let data = tempdir().expect("a temporary folder");
    let host = start(data.path()).await;
    let mut client = host.client();
    let [payer, payee] = two_apart(&mut client).await;
    for (round, by) in (1..).zip(PROTOCOLS) {
        let id = Uuid::new_v4();
        let first = transfer(&mut client, id, &payer, &payee, 100, by).await;
        assert_eq!(first.status, 200, "{by:?}: {first:?}");
        assert_eq!(first.json()["balances"][&payer][wallet::CURRENCY], wallet::amount(OPENING - 100 * round));
        assert_eq!(first.json()["balances"][&payee][wallet::CURRENCY], wallet::amount(OPENING + 100 * round));
        let again = transfer(&mut client, id, &payer, &payee, 100, by).await;
        assert!(again.is_replayed() && again.json() == first.json(), "the same answer again: {again:?}");
        let other = transfer(&mut client, id, &payer, &payee, 101, by).await;
        assert_eq!((other.status, other.problem().as_str()), (422, "id_reused"), "{other:?}");
        let phases = phases(&mut client, id).await;
        assert_eq!(phases.first().map(String::as_str), Some("started"), "{phases:?}");
        assert_eq!(phases.last().map(String::as_str), Some("finished"), "{phases:?}");
        assert_eq!(wallet::balance(&mut client, &payee).await, OPENING + 100 * round);
    }
    let listed = client.get("/v1/wallet/commands?state=in_flight").await.expect("the host answers");
    assert_eq!(listed.json()["items"], Value::Array(Vec::new()), "nothing is under way: {listed:?}");
    assert!(client.get("/v1/wallet/commands").await.is_ok_and(|answer| answer.status == 400));
    let history = client.get(&format!("/v1/wallet/accounts/{payer}/history")).await.expect("the host answers").json();
    let paid =
        history["items"].as_array().map_or(0, |items| items.iter().filter(|item| item["type"] == "debit").count());
    assert_eq!(paid, 2, "each transfer was paid once: {history}");
    check_log(data.path(), &payer, 2);
    host.terminate().await;
    check_audit(data.path());
}

/// The auditor's list shows each debit of the payer once, and the start and the end of every transfer.
fn check_log(data: &Path, payer: &str, transfers: usize) {
    let lines = |partition: usize| {
        let number = partition.to_string();
        let log = cli(["audit", "log", "--data", argument(data), "--partition", &number, "--json"]);
        assert_eq!(log.code, Some(0), "{log:?}");
        let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        log.stdout.lines().map(parse).collect::<Vec<_>>()
    };
    let all: Vec<Value> = (0..PARTITIONS).flat_map(lines).collect();
    let events = all.iter().filter_map(|line| line["events"].as_array()).flatten();
    let debits = events.filter(|event| event["type"] == "debit" && event["account"] == payer).count();
    assert_eq!(debits, transfers, "each debit is listed once: {all:#?}");
    for part in ["start", "end"] {
        assert_eq!(all.iter().filter(|line| line["part"] == part).count(), transfers, "{part}: {all:#?}");
    }
    assert!(all.iter().any(|line| line["part"]["call"].is_string()), "calls are named: {all:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_payee_refuses_is_given_back() {
    let data = tempdir().expect("a temporary folder");
    let host = start(data.path()).await;
    let mut client = host.client();
    let [payer, payee] = two_apart(&mut client).await;
    wallet::change(&mut client, &payee, "freeze").await;
    for by in PROTOCOLS {
        let id = Uuid::new_v4();
        let refused = transfer(&mut client, id, &payer, &payee, 100, by).await;
        assert_eq!(refused.problem(), "account_frozen", "{by:?}: {refused:?}");
        assert_eq!(wallet::balance(&mut client, &payer).await, OPENING, "{by:?}: it was given back");
        assert_eq!(
            wallet::recorded(&mut client, id).await,
            wallet::TransactionRecord::Rejected("account_frozen".to_owned())
        );
        let phases = phases(&mut client, id).await;
        for expected in ["started", "step refused", "compensating", "compensated", "aborted"] {
            assert!(phases.iter().any(|phase| phase == expected), "{by:?}: no `{expected}` in {phases:?}");
        }
        let history = client.get(&format!("/v1/wallet/accounts/{payer}/history")).await.expect("the host answers");
        let history = history.json();
        let items = history["items"].as_array().cloned().unwrap_or_default();
        let linked: Vec<&str> = items
            .iter()
            .filter(|item| item["transaction_id"] == id.to_string())
            .filter_map(|item| item["type"].as_str())
            .collect();
        assert_eq!(linked, ["debit_reversal", "debit"], "{by:?}: both postings name the transaction: {history}");
    }
    wallet::change(&mut client, &payee, "unfreeze").await;
    let poor = transfer(&mut client, Uuid::new_v4(), &payer, &payee, OPENING + 1, None).await;
    assert_eq!(poor.problem(), "insufficient_funds", "{poor:?}");
    assert_eq!(wallet::balance(&mut client, &payee).await, OPENING);
    host.terminate().await;
    check_audit(data.path());
}

/// 64 clients want more from one account than it has.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_drained_by_exactly_what_it_has() {
    const CLIENTS: usize = 64;
    const ASKED: usize = 4;
    let data = tempdir().expect("a temporary folder");
    let host = start(data.path()).await;
    let mut client = host.client();
    let [payer, payee] = two_apart(&mut client).await;
    let amount = 100;
    let affordable = (OPENING / amount) as usize;
    assert!(affordable < CLIENTS * ASKED);
    let asking = (0..CLIENTS).map(|number| {
        let (mut client, payer, payee) = (host.client(), payer.clone(), payee.clone());
        tokio::spawn(async move {
            let mut done = 0;
            for _ in 0..ASKED {
                let by = PROTOCOLS[number % PROTOCOLS.len()];
                let answer = transfer(&mut client, Uuid::new_v4(), &payer, &payee, amount, by).await;
                match answer.status {
                    200 => done += 1,
                    _ => assert_eq!(answer.problem(), "insufficient_funds", "{answer:?}"),
                }
            }
            done
        })
    });
    let mut done = 0;
    for asking in asking.collect::<Vec<_>>() {
        done += asking.await.expect("no client panics");
    }
    assert_eq!(done, affordable, "exactly as many as the account could pay");
    assert_eq!(wallet::balance(&mut client, &payer).await, 0);
    assert_eq!(wallet::balance(&mut client, &payee).await, OPENING * 2);
    assert!(wallet::balance(&mut client, BANK).await <= -2 * OPENING, "it is the sum of all partitions");
    host.terminate().await;
    check_audit(data.path());
}

/// Everything that was under way when the process was killed is finished after its start, without anybody asking.
#[tokio::test(flavor = "multi_thread")]
async fn transfers_under_way_survive_a_kill() {
    const KILLS: usize = 5;
    let data = tempdir().expect("a temporary folder");
    let mut host = start(data.path()).await;
    let [payer, payee] = two_apart(&mut host.client()).await;
    let mut sent = Vec::new();
    for round in 0..KILLS {
        let asking: Vec<_> = (0..8)
            .map(|number| {
                let (mut client, payer, payee) = (host.client(), payer.clone(), payee.clone());
                let by = PROTOCOLS[number % PROTOCOLS.len()];
                let ids: Vec<Uuid> = (0..20).map(|_| Uuid::new_v4()).collect();
                sent.extend(ids.iter().copied());
                tokio::spawn(async move {
                    for id in ids {
                        let mut body = wallet::transfer_body(&id.to_string(), &payer, &payee, "0.01");
                        body["coordination"] = Value::from(by.unwrap_or("saga"));
                        if client.post(wallet::TRANSFER, &body).await.is_err() {
                            return;
                        }
                    }
                })
            })
            .collect();
        // The kill comes somewhere in the middle of them, a little later each time.
        let enough = OPENING + (round as i128 + 1) * 10;
        let mut watching = host.client();
        eventually("transfers arrive", async || {
            (enough <= wallet::balance_stale(&mut watching, &payee).await).then_some(())
        })
        .await;
        host.kill();
        for asking in asking {
            asking.await.expect("no client panics");
        }
        host = start(data.path()).await;
    }
    let mut client = host.client();
    eventually("everything that was under way is over", async || {
        let listed = client.get("/v1/wallet/commands?state=in_flight").await.ok()?;
        (listed.json()["items"] == Value::Array(Vec::new())).then_some(())
    })
    .await;
    let mut done = 0;
    for id in &sent {
        match wallet::recorded(&mut client, *id).await {
            wallet::TransactionRecord::Success => done += 1,
            wallet::TransactionRecord::Absent => {}
            other => panic!("nobody refuses an honest transfer: {other:?}"),
        }
    }
    assert!(0 < done);
    assert_eq!(wallet::balance(&mut client, &payer).await, OPENING - done, "each took once, or not at all");
    assert_eq!(wallet::balance(&mut client, &payee).await, OPENING + done);
    host.terminate().await;
    check_audit(data.path());
}
