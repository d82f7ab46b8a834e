//! Receipts: what an answer says of balances at the position that it names is what every way of reading the past says
//! of that position.
//!
//! It knows the wallet's routes, `?at=`, `audit balance` and `audit log`. It takes what clients were told as right.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use statehouse_audit::audit::Source;
use statehouse_audit::audit::balance::entity_at;
use statehouse_engine::guest::compile_by;
use statehouse_kernel::ids::Position;
use statehouse_kernel::machine::journal::Moment;
use statehouse_tests::host::{Host, Start, argument, cli};
use statehouse_tests::http::{Client, Request};
use statehouse_tests::oracle::Ledger;
use statehouse_tests::process::binary;
use statehouse_tests::wallet::{self, CURRENCY};
use tempfile::tempdir;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::views::live;

const SEED_VARIABLE: &str = "STATEHOUSE_SEED";
const PARTITIONS: &str = "3";
const ACCOUNTS: usize = 9;
const CLIENTS: usize = 4;
const ROUNDS: usize = 6;
/// The commands of one request, most of which go into one entry of each partition.
const BATCH: usize = 40;
/// The receipts that are asked about each way. From genesis each costs a replay of everything.
const ASKED: usize = 60;
const ASKED_FROM_GENESIS: usize = 25;

/// What an answer said of one account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Receipt {
    account: String,
    position: String,
    balance: String,
}

fn seed() -> u64 {
    let seed: u64 = std::env::var(SEED_VARIABLE).map_or_else(|_| rand::random(), |text| text.parse().expect("a seed"));
    println!("{SEED_VARIABLE}={seed}");
    seed
}

async fn start(data: &Path, has_views: bool) -> Host {
    let arguments = vec!["--partitions".to_owned(), PARTITIONS.to_owned()];
    let start = Start { arguments, has_views, ..Start::on(data) };
    Host::start_with(&start).await.expect("the host starts")
}

fn random_command(random: &mut StdRng, accounts: &[String]) -> Value {
    let (from, step) = (random.random_range(0..accounts.len()), random.random_range(1..accounts.len()));
    let (from, to) = (&accounts[from], &accounts[(from + step) % accounts.len()]);
    let (id, amount) = (Uuid::new_v4().to_string(), wallet::amount(random.random_range(1..=900)));
    let paid = json!({"account": from, "amount": amount, "currency": CURRENCY, "transaction_id": id});
    match random.random_range(0..10) {
        0 => json!({"command": "deposit", "body": paid}),
        1 => json!({"command": "withdraw", "body": paid}),
        _ => json!({"command": "balance_transfer", "body": wallet::transfer_body(&id, from, to, &amount)}),
    }
}

/// Sends a batch, and returns the bodies of the commands that succeeded.
async fn send_batch(mut client: Client, commands: Vec<Value>) -> Vec<Value> {
    let body = commands.iter().map(Value::to_string).collect::<Vec<_>>().join("\n").into_bytes();
    let headers = vec![("content-type", "application/x-ndjson"), ("statehouse-deadline", "30000")];
    let request = Request { method: "POST", path: "/v1/wallet/batch", headers, body };
    let answer = client.send(request).await.expect("the host answers");
    let text = String::from_utf8(answer.body.to_vec()).expect("answers are UTF-8");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON"));
    lines.filter(|line| line["status"] == 200).map(|line| line["body"].clone()).collect()
}

fn partition_of(position: &str) -> &str {
    position.split('.').next().expect("a position has a partition")
}

/// What an answer says of each account. Where a command went through several partitions, the position is that of the
/// account's part.
async fn receipts(client: &mut Client, homes: &BTreeMap<String, String>, body: &Value) -> Vec<Receipt> {
    let id = body["Transaction_id"].as_str().expect("it says its id");
    let balances = body["balances"].as_object().unwrap_or_else(|| panic!("no balances in {body}"));
    let position = body["position"].as_str().expect("it says its position").to_owned();
    let is_alone = balances.keys().all(|account| homes[account] == partition_of(&position));
    let phases = match is_alone {
        true => Vec::new(),
        false => {
            let answer = client.get(&format!("/v1/wallet/transactions/{id}")).await.expect("the host answers");
            answer.json()["phases"].as_array().cloned().expect("it went through phases")
        }
    };
    let of_account = |(account, balance): (&String, &Value)| {
        let is_part = |phase: &&Value| {
            let is_here = phase["position"].as_str().is_some_and(|at| partition_of(at) == homes[account]);
            is_here && ["started", "step done"].iter().any(|name| phase["phase"] == *name)
        };
        let part = phases.iter().find(is_part).and_then(|phase| phase["position"].as_str());
        assert!(is_alone || part.is_some(), "no phase of {account}: {phases:?}");
        let position = part.map_or_else(|| position.clone(), str::to_owned);
        let balance = balance[CURRENCY].as_str().expect("it holds some").to_owned();
        Receipt { account: account.clone(), position, balance }
    };
    balances.iter().map(of_account).collect()
}

/// The balance at the receipt's position, and whether a view said so.
async fn past(client: &mut Client, receipt: &Receipt) -> (String, bool) {
    let path = format!("/v1/wallet/accounts/{}?at={}", receipt.account, receipt.position);
    let answer = client.get(&path).await.expect("the host answers");
    assert_eq!(answer.status, 200, "{receipt:?}: {answer:?}");
    let balance = answer.json()["balances"][CURRENCY].as_str().expect("it holds some").to_owned();
    (balance, answer.header("statehouse-view").is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_balance_at_the_position_of_every_answer_is_the_balance_in_the_answer() {
    let mut random = StdRng::seed_from_u64(seed());
    let data = tempdir().expect("a temporary folder");
    let host = start(data.path(), true).await;
    let mut client = host.client();
    live(&mut client, "statements").await;
    let ledger = Ledger::open(&mut client, ACCOUNTS, 5_000).await;
    let mut homes = BTreeMap::new();
    for account in &ledger.accounts {
        let position = wallet::account(&mut client, account).await.text("position");
        homes.insert(account.clone(), partition_of(&position).to_owned());
    }
    assert!(1 < homes.values().collect::<BTreeSet<_>>().len(), "several partitions have accounts: {homes:?}");

    let mut told = Vec::new();
    for round in 0..ROUNDS {
        let mut sending = JoinSet::new();
        for _ in 0..CLIENTS {
            let batch = (0..BATCH).map(|_| random_command(&mut random, &ledger.accounts)).collect();
            sending.spawn(send_batch(host.client(), batch));
        }
        told.extend(sending.join_all().await.concat());
        if round % 2 == 0 {
            let taken = cli(["snapshot", "take", "--url", &format!("http://{}", host.address())]);
            assert_eq!(taken.code, Some(0), "{taken:?}");
        }
    }
    let mut all: Vec<Receipt> = Vec::new();
    for body in &told {
        all.extend(receipts(&mut client, &homes, body).await);
    }
    check_shared(&all);
    all.shuffle(&mut random);

    let mut by_view = 0;
    for receipt in &all[..ASKED] {
        let (balance, is_view) = past(&mut client, receipt).await;
        assert_eq!(balance, receipt.balance, "{receipt:?}, by a view: {is_view}");
        by_view += usize::from(is_view);
    }
    assert!(0 < by_view && by_view < ASKED, "the view says what it can, {by_view} times");
    check_reads(&mut client, &ledger.accounts).await;

    // Without the view, the answers are rebuilt from snapshots.
    let dropped = cli(["view", "drop", "statements", "--url", &format!("http://{}", host.address())]);
    assert_eq!(dropped.code, Some(0), "{dropped:?}");
    for receipt in &all[..ASKED] {
        assert_eq!(past(&mut client, receipt).await, (receipt.balance.clone(), false), "{receipt:?}");
    }
    let metrics = client.get("/metrics").await.expect("the host answers");
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.contains("statehouse_rewinds_total{from=\"snapshot\"}"), "some began at a snapshot: {metrics}");
    check_reads(&mut client, &ledger.accounts).await;
    check_from_genesis(data.path(), &all[..ASKED_FROM_GENESIS]);
    check_log(data.path(), told.len());
}

/// Checks that it is worth asking: entries have many commands, and some have changed one account several times.
fn check_shared(all: &[Receipt]) {
    let mut by_entry: BTreeMap<&str, usize> = BTreeMap::new();
    let mut by_account: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for Receipt { account, position, balance } in all {
        let (entry, _) = position.rsplit_once('.').expect("a position has a number");
        *by_entry.entry(entry).or_default() += 1;
        by_account.entry((entry, account)).or_default().insert(balance);
    }
    assert!(by_entry.values().any(|count| 8 < *count), "entries have many commands: {by_entry:?}");
    let several = by_account.values().filter(|balances| 1 < balances.len()).count();
    assert!(8 < several, "{several} accounts have had several balances within one entry");
}

/// A read has seen the whole entry whose position it names.
async fn check_reads(client: &mut Client, accounts: &[String]) {
    for account in accounts {
        let now = wallet::account(client, account).await;
        let path = format!("/v1/wallet/accounts/{account}?at={}", now.text("position"));
        let then = client.get(&path).await.expect("the host answers");
        assert_eq!(then.status, 200, "{then:?}");
        assert_eq!(then.json()["balances"], now.json()["balances"], "{account} at {}", now.text("position"));
    }
}

/// Checks receipts by the journal alone.
fn check_from_genesis(data: &Path, receipts: &[Receipt]) {
    // This process is no host, so it has no child of its own that compiles.
    compile_by(binary());
    let source = Source::open(data).expect("a data folder can be audited while its node runs");
    for receipt in receipts {
        let position: Position = receipt.position.parse().expect("it was printed as one");
        let found = entity_at(&source, "wallet", &receipt.account, Some(Moment::Position(position)));
        let found = found.unwrap_or_else(|error| panic!("{receipt:?}: {error}"));
        let balance = found.value.find("balances").and_then(|balances| balances.find(CURRENCY)?.as_text());
        assert_eq!(balance, Some(receipt.balance.as_str()), "{receipt:?}");
        assert_eq!(found.position, position, "it says where it was read");
    }
    let Receipt { account, position, balance } = &receipts[0];
    let audit = ["audit", "balance", "--data", argument(data), "--account", account, "--at", position, "--json"];
    let audited = cli(audit);
    let said: Value = serde_json::from_str(&audited.stdout).unwrap_or_else(|error| panic!("{error}: {audited:?}"));
    assert_eq!((&said["balance"][CURRENCY], &said["position"]), (&json!(balance), &json!(position)));
}

/// Checks that the list has all partitions, in an order in which nothing comes before its cause.
fn check_log(data: &Path, told: usize) {
    let log = cli(["audit", "log", "--data", argument(data), "--json"]);
    assert_eq!(log.code, Some(0), "{log:?}");
    let lines = log.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON"));
    let mut before: Option<(String, u32, u64)> = None;
    let (mut started, mut partitions, mut outcomes) = (BTreeSet::new(), BTreeSet::new(), 0);
    for line in lines {
        let position: Position = line["position"].as_str().and_then(|at| at.parse().ok()).expect("it has a position");
        let time = line["time"].as_str().expect("it has a time").to_owned();
        let place = (time, position.partition.0, position.index.0);
        assert!(before.as_ref().is_none_or(|before| *before <= place), "{before:?} stands before {place:?}");
        before = Some(place);
        partitions.insert(position.partition.0);
        let id = line["id"].as_str().map(str::to_owned);
        match (&line["part"], line["kind"].as_str()) {
            (Value::String(part), _) if part == "start" => drop(started.insert(id.clone())),
            (Value::Object(_), _) => assert!(started.contains(&id), "a call stands before its start: {line}"),
            (_, Some("heard")) => assert!(started.contains(&id), "an outcome stands before its start: {line}"),
            _ => {}
        }
        let is_outcome = line["part"] == "whole" || line["part"] == "end";
        outcomes += usize::from(is_outcome && line["rejection"].is_null());
    }
    assert_eq!(partitions.len(), 3);
    assert!(told <= outcomes, "{told} commands were answered, {outcomes} are listed");
    let one = cli(["audit", "log", "--data", argument(data), "--json", "--partition", "1"]);
    let is_of_one = |line: &str| line.contains("\"position\":\"1.");
    assert!(one.stdout.lines().count() > 0 && one.stdout.lines().all(is_of_one), "{}", one.stdout);
    let none = cli(["audit", "log", "--data", argument(data), "--partition", "7"]);
    assert!(none.code != Some(0) && none.stderr.contains("partition"), "{none:?}");
}
