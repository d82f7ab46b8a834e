//! Everything wrong that a client can send: each request gets its own definite answer, and nothing changes.
//!
//! In: a table of requests with the status and the problem that each must get. It does not know how bodies are read.

use serde_json::{Value, json};
use statehouse_tests::host::Host;
use statehouse_tests::http::{Client, Request};
use statehouse_tests::oracle::{Ledger, check_audit};
use statehouse_tests::wallet::{self, TRANSFER, TransactionRecord};
use tempfile::tempdir;
use uuid::Uuid;

const A: &str = "account-0";
const B: &str = "account-1";
const FROZEN: &str = "account-2";

/// One wrong request and what it must get.
struct Case {
    name: &'static str,
    content_type: &'static str,
    body: Vec<u8>,
    status: u16,
    problem: &'static str,
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_input_gets_a_definite_answer_and_changes_nothing() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    let ledger = Ledger::open(&mut client, 3, 10_000).await;
    wallet::change(&mut client, FROZEN, "freeze").await;
    let before = accounts(&mut client, &ledger).await;

    let mut wrong = Vec::new();
    for case in refused().into_iter().chain(rejected()) {
        // Each request has a connection of its own: after some of these the host closes it, as it may.
        let found = outcome(&mut host.client(), &case).await;
        if found != (case.status, case.problem.to_owned()) {
            wrong.push(format!("{}: expected {} {}, found {found:?}", case.name, case.status, case.problem));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(accounts(&mut client, &ledger).await, before, "wrong input changes no account");

    host.kill();
    check_audit(data.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_does_not_use_up_the_id_and_a_rejection_does() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    Ledger::open(&mut client, 2, 10_000).await;

    let id = Uuid::new_v4();
    let malformed = wallet::transfer_body(&id.to_string(), A, B, "1.001");
    let refused = client.post(TRANSFER, &malformed).await.expect("the host answers");
    assert!((400..500).contains(&refused.status), "{refused:?}");
    assert_eq!(wallet::recorded(&mut client, id).await, TransactionRecord::Absent);
    let done = wallet::transfer(&mut client, id, A, B, 100).await.expect("the host answers");
    assert_eq!(done.status, 200, "{done:?}");

    let id = Uuid::new_v4();
    let first = wallet::transfer(&mut client, id, A, B, 1_000_000).await.expect("the host answers");
    assert_eq!((first.text("Status"), first.text("Transaction_id")), ("rejected".to_owned(), id.to_string()));
    wallet::deposit(&mut client, A, 2_000_000).await;
    let again = wallet::transfer(&mut client, id, A, B, 1_000_000).await.expect("the host answers");
    assert!(again.is_replayed(), "{again:?}");
    assert_eq!((again.status, again.problem()), (first.status, first.problem()), "a rejection sticks to its id");
}

/// Requests that are refused before anything is recorded: by the host's reading of the body, or by the module's plan.
fn refused() -> Vec<Case> {
    let amount = |name, text: &str| case(name, 422, "malformed_amount", |body| body["amount"] = json!(text));
    vec![
        raw("malformed JSON", "application/json", b"{\"from_account\":".to_vec(), 400, "malformed_body"),
        raw("not an object", "application/json", b"[]".to_vec(), 400, "wrong_type"),
        raw("wrong content type", "text/plain", body_of(|_| {}).into_bytes(), 415, "wrong_content_type"),
        raw("1 MiB body", "application/json", vec![b' '; 1 << 20], 413, "body_too_large"),
        raw("something behind the body", "application/json", trailing(), 400, "malformed_body"),
        raw("duplicate key", "application/json", duplicate_key(), 400, "duplicate_field"),
        case("number for text", 400, "wrong_type", |body| body["amount"] = json!(1)),
        case("fraction", 400, "wrong_type", |body| body["amount"] = json!(1.5)),
        case("unknown field", 400, "unknown_field", |body| body["memo"] = json!("x")),
        case("null", 400, "wrong_type", |body| body["amount"] = json!(null)),
        case("missing field", 400, "missing_field", |body| {
            body.as_object_mut().expect("the body is an object").remove("currency");
        }),
        case("no uuid", 400, "bad_uuid", |body| body["transaction_id"] = json!("42")),
        amount("exponent", "1e3"),
        amount("negative", "-1"),
        amount("plus sign", "+1"),
        amount("zero", "0"),
        amount("too many decimals", "1.001"),
        amount("space", " 1.00"),
        amount("separator", "1,000.00"),
        case("empty amount", 400, "bad_length", |body| body["amount"] = json!("")),
        amount("no digit before the point", ".50"),
        amount("no digit behind the point", "1."),
        case("decimals in JPY", 422, "malformed_amount", |body| {
            body["currency"] = json!("JPY");
            body["amount"] = json!("0.5");
        }),
        case("unknown currency", 422, "unknown_currency", |body| body["currency"] = json!("XYZ")),
        case("currency without exponent", 422, "unknown_currency", |body| body["currency"] = json!("XAU")),
        case("same account twice", 422, "same_account", |body| body["to_account"] = json!(A)),
        case("malformed account", 400, "bad_name", |body| body["to_account"] = json!("no spaces allowed")),
        case("account too long", 400, "bad_length", |body| body["to_account"] = json!("a".repeat(65))),
    ]
}

/// Requests that the module decides, and whose rejection is recorded.
fn rejected() -> Vec<Case> {
    vec![
        case("unknown payer", 404, "account_not_found", |body| body["from_account"] = json!("nobody")),
        case("unknown payee", 404, "account_not_found", |body| body["to_account"] = json!("nobody")),
        case("frozen payer", 409, "account_frozen", |body| body["from_account"] = json!(FROZEN)),
        case("frozen payee", 409, "account_frozen", |body| body["to_account"] = json!(FROZEN)),
        case("more than there is", 409, "insufficient_funds", |body| body["amount"] = json!("100.01")),
    ]
}

/// A good transfer with one thing changed.
fn case(name: &'static str, status: u16, problem: &'static str, change: impl Fn(&mut Value)) -> Case {
    raw(name, "application/json", body_of(change).into_bytes(), status, problem)
}

fn raw(name: &'static str, content_type: &'static str, body: Vec<u8>, status: u16, problem: &'static str) -> Case {
    Case { name, content_type, body, status, problem }
}

fn body_of(change: impl Fn(&mut Value)) -> String {
    let mut body = wallet::transfer_body(&Uuid::new_v4().to_string(), A, B, "1.00");
    change(&mut body);
    body.to_string()
}

fn trailing() -> Vec<u8> {
    (body_of(|_| {}) + "{}").into_bytes()
}

fn duplicate_key() -> Vec<u8> {
    body_of(|_| {}).replacen('{', "{\"amount\":\"2.00\",", 1).into_bytes()
}

async fn outcome(client: &mut Client, case: &Case) -> (u16, String) {
    let headers = vec![("content-type", case.content_type)];
    let request = Request { method: "POST", path: TRANSFER, headers, body: case.body.clone() };
    match client.send(request).await {
        Ok(answer) if answer.status >= 400 => (answer.status, answer.problem()),
        Ok(answer) => (answer.status, String::new()),
        Err(lost) => panic!("{}: no answer: {lost:?}", case.name),
    }
}

/// Balances and versions of all accounts. Positions are left out, because every recorded rejection moves them.
async fn accounts(client: &mut Client, ledger: &Ledger) -> Vec<[Value; 4]> {
    let mut accounts = Vec::new();
    for name in &ledger.accounts {
        let mut account = wallet::account(client, name).await.json();
        accounts.push(["account", "status", "version", "balances"].map(|member| account[member].take()));
    }
    accounts
}
