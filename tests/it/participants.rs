//! Commands with more than two participants. Orders of the machine `capacity` over pools in many partitions take all
//! of them or none. Payments of the machine `toll` reach the payee and the keeper of the toll, or nobody.
//!
//! The host is killed while many commands are under way. A client that was told nothing asks again.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use statehouse_tests::cluster::release;
use statehouse_tests::hold::eventually;
use statehouse_tests::host::{Host, Start, argument};
use statehouse_tests::http::Client;
use statehouse_tests::oracle::check_audit;
use tempfile::tempdir;
use uuid::Uuid;

const PARTITIONS: usize = 8;
const POOLS: usize = 8;
/// Fewer than are wanted, so that pools that others have emptied refuse some orders.
const CAPACITY: u64 = 40;
const CLIENTS: usize = 8;
const ORDERS: usize = 12;
const KILLS: usize = 2;

async fn start(data: &Path) -> Host {
    let machine = format!("capacity={}", argument(&release("capacity-1.0.0.wasm")));
    let arguments = vec!["--partitions".to_owned(), PARTITIONS.to_string(), "--machine".to_owned(), machine];
    Host::start_with(&Start { arguments, ..Start::on(data) }).await.expect("the host starts")
}

/// An order of one seat from each of `count` pools, beginning with the pool `first`.
fn order(first: usize, count: usize) -> Value {
    let line = |at: usize| json!({"pool": pool((first + at) % POOLS), "type": "seat", "quantity": 1});
    json!({"order_id": Uuid::new_v4().to_string(), "lines": (0..count).map(line).collect::<Vec<_>>()})
}

fn pool(number: usize) -> String {
    format!("pool-{number}")
}

/// Opens the pools; returns in how many partitions they are.
async fn open_pools(client: &mut Client) -> usize {
    let mut partitions = BTreeSet::new();
    for number in 0..POOLS {
        let body = json!({"pool": pool(number), "capacities": [{"type": "seat", "capacity": CAPACITY}]});
        let answer = client.post("/v1/capacity/pools", &body).await.expect("the host answers");
        assert_eq!(answer.status, 201, "{answer:?}");
        partitions.extend(answer.text("position").split('.').next().map(str::to_owned));
    }
    partitions.len()
}

/// Whether an order was placed. Asks until the host says so.
async fn outcome(client: &mut Client, order: &Value) -> bool {
    eventually("the order is decided", async || match client.post("/v1/capacity/orders", order).await {
        Ok(answer) if answer.status == 201 => Some(true),
        Ok(answer) if answer.status == 409 && answer.problem() == "sold_out" => Some(false),
        Ok(answer) => {
            assert!([429, 503, 504].contains(&answer.status), "{answer:?}");
            None
        }
        Err(_) => None,
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_over_many_partitions_take_all_pools_or_none_through_kills() {
    let data = tempdir().expect("a temporary folder");
    let mut host = start(data.path()).await;
    let partitions = open_pools(&mut host.client()).await;
    assert!(4 <= partitions, "the pools lie in {partitions} partitions only");
    let mut orders = Vec::new();
    for kill in 0..KILLS {
        let asking: Vec<_> = (0..CLIENTS)
            .map(|number| {
                // Each order has three to eight participants.
                let sent: Vec<Value> = (0..ORDERS).map(|turn| order(number + turn, 3 + (turn + kill) % 6)).collect();
                orders.extend(sent.iter().cloned());
                let mut client = host.client();
                tokio::spawn(async move {
                    for order in sent {
                        if client.post("/v1/capacity/orders", &order).await.is_err() {
                            return;
                        }
                    }
                })
            })
            .collect();
        let mut watching = host.client();
        eventually("some orders are placed", async || {
            let answer = watching.get("/v1/capacity/pools/pool-0?consistency=stale").await.ok()?;
            let ordered = answer.json()["capacities"]["seat"]["ordered"].as_u64()?;
            (CAPACITY * (kill as u64 + 1) / 8 <= ordered).then_some(())
        })
        .await;
        host.kill();
        for asking in asking {
            asking.await.expect("no client panics");
        }
        host = start(data.path()).await;
    }
    let mut client = host.client();
    let mut expected = [0; POOLS];
    let mut refused = 0;
    for order in &orders {
        if !outcome(&mut client, order).await {
            refused += 1;
            continue;
        }
        for line in order["lines"].as_array().expect("an order has lines") {
            let name = line["pool"].as_str().expect("a line names its pool");
            let number: usize = name.trim_start_matches("pool-").parse().expect("the pools have numbers");
            expected[number] += 1;
        }
    }
    assert!(0 < refused, "more is wanted than there is");
    for (number, expected) in expected.into_iter().enumerate() {
        let state = client.get(&format!("/v1/capacity/pools/{}", pool(number))).await.expect("the host answers");
        let seat = &state.json()["capacities"]["seat"];
        assert_eq!((seat["ordered"].as_u64(), seat["left"].as_u64()), (Some(expected), Some(CAPACITY - expected)));
    }
    let listed = client.get("/v1/capacity/commands?state=in_flight").await.expect("the host answers");
    assert_eq!(listed.json()["items"], json!([]), "nothing is left under way");
    host.terminate().await;
    check_audit(data.path());
}

/// A payment of the machine `toll`: payer, payee and keeper of the toll.
fn payment(number: usize) -> Value {
    // Every fifth payment goes to a purse that nobody has opened.
    let to = if number % 5 == 4 { "nobody".to_owned() } else { purse(number * 3 + 1) };
    let mut body = json!({
        "from": purse(number), "to": to, "amount": 3 + number % 7, "keeper": purse(number * 5 + 2), "toll": 1,
        "request_id": Uuid::new_v4().to_string(),
    });
    if number.is_multiple_of(2) {
        body["coordination"] = json!("tcc");
    }
    body
}

fn purse(number: usize) -> String {
    format!("purse-{}", number % PURSES)
}

const PURSES: usize = 16;
const COINS: i64 = 300;

/// Whether a payment was made. Asks until the host says so.
async fn is_paid(client: &mut Client, payment: &Value) -> bool {
    eventually("the payment is decided", async || match client.post("/v1/toll/payments", payment).await {
        Ok(answer) if answer.status == 200 => Some(true),
        Ok(answer) if answer.status == 409 => Some(false),
        Ok(answer) => {
            assert!([429, 503, 504].contains(&answer.status), "{answer:?}");
            None
        }
        Err(_) => None,
    })
    .await
}

/// Sends payments from several clients at once, and kills the host in the middle of them.
async fn pay_until_killed(host: Host, payments: &[Value]) {
    let asking: Vec<_> = payments
        .chunks(payments.len() / CLIENTS)
        .map(|sent| {
            let (mut client, sent) = (host.client(), sent.to_vec());
            tokio::spawn(async move {
                for payment in sent {
                    if client.post("/v1/toll/payments", &payment).await.is_err() {
                        return;
                    }
                }
            })
        })
        .collect();
    let mut watching = host.client();
    eventually("some are paid", async || {
        let state = watching.get("/v1/toll/purses/purse-2?consistency=stale").await.ok()?;
        (state.json()["coins"].as_i64()? != COINS).then_some(())
    })
    .await;
    host.kill();
    for asking in asking {
        asking.await.expect("no client panics");
    }
}

/// What each purse must hold, according to what the host says of each payment; and how many payments were refused.
async fn settle(client: &mut Client, payments: &[Value]) -> ([i64; PURSES], usize) {
    let number = |payment: &Value, field: &str| -> Option<usize> {
        payment[field].as_str()?.strip_prefix("purse-")?.parse().ok()
    };
    let (mut expected, mut refused) = ([COINS; PURSES], 0);
    for payment in payments {
        if !is_paid(client, payment).await {
            refused += 1;
            continue;
        }
        let coins = |field: &str| payment[field].as_i64().expect("a number");
        expected[number(payment, "from").expect("a purse")] -= coins("amount") + coins("toll");
        expected[number(payment, "to").expect("nobody is paid who is not there")] += coins("amount");
        expected[number(payment, "keeper").expect("a purse")] += coins("toll");
    }
    (expected, refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_with_a_toll_reach_both_payees_or_nobody_through_a_kill() {
    let data = tempdir().expect("a temporary folder");
    let machine = format!("toll={}", argument(&release("toll-1.0.0.wasm")));
    let arguments = vec!["--partitions".to_owned(), PARTITIONS.to_string(), "--machine".to_owned(), machine];
    let start = async || Host::start_with(&Start { arguments: arguments.clone(), ..Start::on(data.path()) }).await;
    let host = start().await.expect("the host starts");
    let mut client = host.client();
    for number in 0..PURSES {
        let body = json!({"purse": purse(number), "coins": COINS, "request_id": Uuid::new_v4().to_string()});
        assert_eq!(client.post("/v1/toll/purses", &body).await.expect("the host answers").status, 201);
    }
    let payments: Vec<Value> = (0..240).map(payment).collect();
    pay_until_killed(host, &payments).await;
    // The audit also passes in the middle of the payments: what is in transit is what the commands in flight have
    // moved.
    check_audit(data.path());

    let host = start().await.expect("the host starts");
    let mut client = host.client();
    let (expected, refused) = settle(&mut client, &payments).await;
    assert!(payments.len() / 5 <= refused, "those to nobody at least");
    for (number, expected) in expected.into_iter().enumerate() {
        let state = client.get(&format!("/v1/toll/purses/{}", purse(number))).await.expect("the host answers");
        assert_eq!(state.json()["coins"].as_i64(), Some(expected), "{}", purse(number));
    }
    let listed = client.get("/v1/toll/commands?state=in_flight").await.expect("the host answers");
    assert_eq!(listed.json()["items"], json!([]), "nothing is left under way");
    host.terminate().await;
    check_audit(data.path());
}
