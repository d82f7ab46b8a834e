//! The wallet's routes as a test calls them, and amounts as numbers that can be added.
//!
//! It knows paths and bodies, but not what is right: it returns what the host answered.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::hold::eventually;
use crate::http::{Answer, Client, LostAnswer};

pub const TRANSFER: &str = "/v1/wallet/balance_transfer";
/// The settlement account that money comes from unless a request names another.
pub const BANK: &str = "@bank";
pub const CURRENCY: &str = "USD";

/// The body of a transfer in [`CURRENCY`].
pub fn transfer_body(id: &str, from: &str, to: &str, amount: &str) -> Value {
    json!({"from_account": from, "to_account": to, "amount": amount, "currency": CURRENCY, "transaction_id": id})
}

pub async fn transfer(client: &mut Client, id: Uuid, from: &str, to: &str, minor: i128) -> Result<Answer, LostAnswer> {
    client.post(TRANSFER, &transfer_body(&id.to_string(), from, to, &amount(minor))).await
}

/// Opens an account for [`CURRENCY`]; panics unless that succeeds.
pub async fn open(client: &mut Client, account: &str) {
    let body = json!({"account": account, "currency": CURRENCY});
    let answer = client.post("/v1/wallet/accounts", &body).await.expect("the host answers");
    assert_eq!(answer.status, 201, "open {account}: {answer:?}");
}

/// Pays an amount in from [`BANK`]; panics unless that succeeds.
pub async fn deposit(client: &mut Client, account: &str, minor: i128) {
    let id = Uuid::new_v4().to_string();
    let body = json!({"account": account, "amount": amount(minor), "currency": CURRENCY, "transaction_id": id});
    let answer = client.post("/v1/wallet/deposit", &body).await.expect("the host answers");
    assert_eq!(answer.status, 200, "deposit {account}: {answer:?}");
}

/// `freeze`, `unfreeze` or `close`; panics unless that succeeds.
pub async fn change(client: &mut Client, account: &str, verb: &str) {
    let answer =
        client.post(&format!("/v1/wallet/accounts/{account}/{verb}"), &json!({})).await.expect("the host answers");
    assert_eq!(answer.status, 200, "{verb} {account}: {answer:?}");
}

/// The account as the host shows it.
pub async fn account(client: &mut Client, account: &str) -> Answer {
    client.get(&format!("/v1/wallet/accounts/{account}")).await.expect("the host answers")
}

/// The balance in minor units of [`CURRENCY`]; 0 where the account has none.
pub async fn balance(client: &mut Client, name: &str) -> i128 {
    let answer = account(client, name).await;
    shown(name, &answer)
}

/// Like [`balance`], but from the asked node's own rows.
pub async fn balance_stale(client: &mut Client, name: &str) -> i128 {
    let path = format!("/v1/wallet/accounts/{name}?consistency=stale");
    shown(name, &client.get(&path).await.expect("the host answers"))
}

fn shown(name: &str, answer: &Answer) -> i128 {
    assert_eq!(answer.status, 200, "read {name}: {answer:?}");
    answer.json()["balances"][CURRENCY].as_str().map_or(0, minor)
}

/// What the host has recorded about a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionRecord {
    Success,
    /// With the rejection's code.
    Rejected(String),
    /// Nothing is recorded.
    Absent,
}

/// What the host has recorded, once the transaction is no longer under way.
pub async fn recorded(client: &mut Client, id: Uuid) -> TransactionRecord {
    let ended = async || {
        let answer = client.get(&format!("/v1/wallet/transactions/{id}")).await.expect("the host answers");
        if answer.status == 404 {
            return Some(TransactionRecord::Absent);
        }
        assert_eq!(answer.status, 200, "transaction {id}: {answer:?}");
        match answer.text("Status").as_str() {
            "success" => Some(TransactionRecord::Success),
            "rejected" => Some(TransactionRecord::Rejected(answer.text("code"))),
            "in_flight" => None,
            other => panic!("transaction {id} has the status `{other}`"),
        }
    };
    eventually("the transaction ends", ended).await
}

/// Minor units of [`CURRENCY`] as the decimal text of the API.
pub fn amount(minor: i128) -> String {
    let sign = if minor < 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", minor.unsigned_abs() / 100, minor.unsigned_abs() % 100)
}

/// The decimal text of the API as minor units of [`CURRENCY`].
pub fn minor(amount: &str) -> i128 {
    let (units, cents) = amount.split_once('.').unwrap_or_else(|| panic!("`{amount}` has no decimals"));
    assert_eq!(cents.len(), 2, "`{amount}` is not printed with the currency's decimals");
    format!("{units}{cents}").parse().unwrap_or_else(|error| panic!("`{amount}` is no amount: {error}"))
}

#[test]
fn amounts_survive_the_way_out_and_back() {
    for (number, text) in [(0, "0.00"), (7, "0.07"), (-7, "-0.07"), (-1_000_001, "-10000.01")] {
        assert_eq!(amount(number), text);
        assert_eq!(minor(text), number);
    }
}
