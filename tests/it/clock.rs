//! A wall clock that is wrong for a while, or that was wrong when entries were written. Writes continue, and what was
//! said not to be executed is not executed.
//!
//! In: a real process whose wall clock is moved by libfaketime, while its monotonic clock stays right. Out: counts of
//! answers and balances, never times.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use statehouse_tests::hold::{eventually, hold};
use statehouse_tests::host::{CommandOutput, Host, Start, cli};
use statehouse_tests::http::{Answer, Client};
use statehouse_tests::oracle::check_audit;
use statehouse_tests::skipped::skipped;
use statehouse_tests::wall_clock::{WallClock, forget_clock};
use statehouse_tests::wallet;
use tempfile::tempdir;
use uuid::Uuid;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
const PARTITIONS: usize = 4;
const OPENING: i128 = 100_000;
const DEADLINE: &str = "statehouse-deadline";

async fn start(data: &Path, clock: &WallClock) -> Host {
    let environment = clock.environment().map(|(name, value)| (name.to_owned(), value)).to_vec();
    let arguments = vec!["--partitions".to_owned(), PARTITIONS.to_string()];
    Host::start_with(&Start { environment, arguments, ..Start::on(data) }).await.expect("the host starts")
}

/// One account in each partition, with money.
async fn one_in_each(client: &mut Client) -> Vec<String> {
    let mut found: Vec<Option<String>> = vec![None; PARTITIONS];
    for number in 0.. {
        let account = format!("account-{number}");
        wallet::open(client, &account).await;
        let position = wallet::account(client, &account).await.text("position");
        let partition: usize = position.split('.').next().and_then(|first| first.parse().ok()).expect("a position");
        if found[partition].is_none() {
            wallet::deposit(client, &account, OPENING).await;
            found[partition] = Some(account);
        }
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    found.into_iter().flatten().collect()
}

async fn transfer(client: &mut Client, [from, to]: [&str; 2], by: Option<&str>, deadline: Option<&str>) -> Answer {
    let mut body = wallet::transfer_body(&Uuid::new_v4().to_string(), from, to, "1.00");
    if let Some(by) = by {
        body["coordination"] = Value::from(by);
    }
    let headers = deadline.map(|deadline| (DEADLINE, deadline)).into_iter().collect();
    client.post_with(wallet::TRANSFER, &body, headers).await.expect("the host answers")
}

/// Transfers between all partitions by both protocols; each must be done. Returns how many there were.
async fn transfer_all(client: &mut Client, accounts: &[String]) -> usize {
    let mut count = 0;
    for by in [None, Some("tcc")] {
        for from in accounts {
            for to in accounts.iter().filter(|to| *to != from) {
                let answer = transfer(client, [from.as_str(), to.as_str()], by, None).await;
                assert_eq!(answer.status, 200, "{from} to {to} by {by:?}: {answer:?}");
                count += 1;
            }
        }
    }
    count
}

/// How many seconds each of the wallet's journals is ahead of the right time, which is `right` seconds ahead of this
/// machine's.
async fn ahead(client: &mut Client, right: i64) -> Vec<i64> {
    let page = client.get("/v1/cluster").await.expect("the host answers").json();
    let machines = page["machines"].as_array().cloned().unwrap_or_default();
    let wallet = machines.iter().find(|machine| machine["name"] == "wallet").expect("it has the wallet");
    let now = jiff::Timestamp::now().as_second() + right;
    let times = wallet["partitions"].as_array().into_iter().flatten().filter_map(|replica| replica["time"].as_str());
    let parse = |time: &str| time.parse::<jiff::Timestamp>().unwrap_or_else(|error| panic!("{error}: {time}"));
    times.map(|time| parse(time).as_second() - now).collect()
}

async fn ready_text(client: &mut Client) -> String {
    let answer = client.get("/readyz").await.expect("the host answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    String::from_utf8_lossy(&answer.body).into_owned()
}

fn cluster(host: &Host, verb: &str) -> CommandOutput {
    cli(["cluster", verb, "--url", &format!("http://{}", host.address())])
}

/// All writes used to be refused for an hour afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn an_hour_ahead_for_three_seconds_is_in_no_entry_and_stops_no_write() {
    let clock = match WallClock::new() {
        Ok(clock) => clock,
        Err(reason) => return skipped(&reason),
    };
    let data = tempdir().expect("a temporary folder");
    let host = start(data.path(), &clock).await;
    let mut client = host.client();
    let accounts = one_in_each(&mut client).await;
    for offset in [HOUR, 0, HOUR, 0] {
        clock.set_ahead(offset);
        for _ in 0..3 {
            assert_eq!(transfer_all(&mut client, &accounts).await, 2 * PARTITIONS * (PARTITIONS - 1));
            hold(Duration::from_millis(500)).await;
        }
        let ahead = ahead(&mut client, 0).await;
        assert!(ahead.iter().all(|ahead| *ahead < HOUR / 2), "{offset}: {ahead:?}");
        let (text, is_leapt) = (ready_text(&mut client).await, 0 < offset);
        assert_eq!(text.contains("has jumped"), is_leapt, "{text}");
    }
    // The clock is wrong in the same way while the process starts.
    eventually("what is believed is on disk", async || data.path().join("clock").exists().then_some(())).await;
    host.kill();
    clock.set_ahead(HOUR);
    let host = start(data.path(), &clock).await;
    let mut client = host.client();
    transfer_all(&mut client, &accounts).await;
    eventually("the leap is seen", async || ready_text(&mut client).await.contains("has jumped").then_some(())).await;
    clock.set_ahead(0);
    transfer_all(&mut client, &accounts).await;
    let found = ahead(&mut client, 0).await;
    assert!(found.iter().all(|ahead| *ahead < HOUR / 2), "{found:?}");
    eventually("all is well", async || (!ready_text(&mut client).await.contains("has jumped")).then_some(())).await;
    let refused = cluster(&host, "accept-clock");
    assert!(refused.stderr.contains("nothing to accept"), "{refused:?}");
    // The last leap is a correction, which an operator vouches for.
    clock.set_ahead(HOUR);
    eventually("the leap is seen", async || ready_text(&mut client).await.contains("has jumped").then_some(())).await;
    let accepted = cluster(&host, "accept-clock");
    assert_eq!(accepted.code, Some(0), "{accepted:?}");
    assert!(!ready_text(&mut client).await.contains("has jumped"));
    transfer_all(&mut client, &accounts).await;
    let ahead = ahead(&mut client, 0).await;
    assert!(ahead.iter().all(|ahead| HOUR / 2 < *ahead), "entries follow it: {ahead:?}");
    host.terminate().await;
    check_audit(data.path());
}

/// A command that was reported as *not executed* while the journal is a day ahead of the clock is never executed.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_a_day_ahead_takes_writes_and_is_as_good_as_its_word() {
    let clock = match WallClock::new() {
        Ok(clock) => clock,
        Err(reason) => return skipped(&reason),
    };
    let data = tempdir().expect("a temporary folder");
    clock.set_ahead(DAY);
    let host = start(data.path(), &clock).await;
    let accounts = one_in_each(&mut host.client()).await;
    host.kill();
    clock.set_ahead(0);
    forget_clock(data.path());
    let host = start(data.path(), &clock).await;
    let mut client = host.client();
    transfer_all(&mut client, &accounts).await;
    let ahead = ahead(&mut client, 0).await;
    assert!(ahead.iter().all(|ahead| DAY - HOUR < *ahead), "time never goes back: {ahead:?}");
    let text = ready_text(&mut client).await;
    assert!(text.starts_with("ok\n") && text.contains("s ahead of the clock"), "{text}");
    let status = cluster(&host, "status");
    assert!(status.code == Some(1) && status.stdout.contains("s ahead of the clock"), "{status:?}");
    let metrics = client.get("/metrics").await.expect("the host answers");
    assert!(String::from_utf8_lossy(&metrics.body).contains("statehouse_journal_ahead_seconds{"), "{metrics:?}");

    let (mut executed, mut not_executed) = (0, 0);
    let before = wallet::balance(&mut client, &accounts[1]).await;
    for _ in 0..40 {
        let answer = transfer(&mut client, [accounts[0].as_str(), accounts[1].as_str()], None, Some("2")).await;
        let is_executed = match answer.status {
            200 => true,
            504 => resolve(&mut client, &answer).await,
            503 => false,
            _ => panic!("done, unknown or not accepted: {answer:?}"),
        };
        if is_executed { executed += 1 } else { not_executed += 1 }
    }
    println!("{executed} executed, {not_executed} not");
    transfer_all(&mut client, &accounts).await;
    let after = wallet::balance(&mut client, &accounts[1]).await;
    assert_eq!(after - before, 100 * executed, "what was said to be executed is, and nothing else");
    host.terminate().await;
    check_audit(data.path());
}

async fn resolve(client: &mut Client, unknown: &Answer) -> bool {
    let url = unknown.text("resolve");
    eventually("the outcome becomes definite", async || {
        let answer = client.get(&url).await.expect("the host answers");
        match answer.text("state").as_str() {
            "recorded" => Some(answer.text("outcome") == "done"),
            "not_executed" => Some(false),
            _ => None,
        }
    })
    .await
}

/// Calls from such a partition used to be put off for a day.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_four_partitions_most_of_a_day_ahead_takes_part_in_transfers() {
    let clock = match WallClock::new() {
        Ok(clock) => clock,
        Err(reason) => return skipped(&reason),
    };
    let data = tempdir().expect("a temporary folder");
    // The clock shows one o'clock on the day before yesterday, and then 20 hours later, so that no midnight writes a
    // tick in the other partitions.
    let now = jiff::Timestamp::now().as_second();
    let right = (now.div_euclid(DAY) - 2) * DAY + HOUR - now;
    clock.set_ahead(right);
    let host = start(data.path(), &clock).await;
    let accounts = one_in_each(&mut host.client()).await;
    host.terminate().await;
    clock.set_ahead(right + 20 * HOUR);
    forget_clock(data.path());
    let host = start(data.path(), &clock).await;
    wallet::deposit(&mut host.client(), &accounts[0], OPENING).await;
    host.terminate().await;
    clock.set_ahead(right);
    forget_clock(data.path());
    let host = start(data.path(), &clock).await;
    let mut client = host.client();
    let is_ahead: Vec<bool> = ahead(&mut client, right).await.into_iter().map(|ahead| 10 * HOUR < ahead).collect();
    assert_eq!(is_ahead, [true, false, false, false]);
    let mut total = 0;
    for account in &accounts {
        total += wallet::balance(&mut client, account).await;
    }
    transfer_all(&mut client, &accounts).await;
    for account in &accounts {
        total -= wallet::balance(&mut client, account).await;
    }
    assert_eq!(total, 0, "no money came or went");
    let listed = client.get("/v1/wallet/commands?state=in_flight").await.expect("the host answers");
    assert_eq!(listed.json()["items"], Value::Array(Vec::new()), "nothing is under way: {listed:?}");
    host.terminate().await;
    check_audit(data.path());
}
