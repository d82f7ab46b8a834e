//! What a token may do: its roles, the entities that it is bound to, and the roles that each command is for.
//!
//! It knows the configuration of `serve` and the REST contract. All requests go to the released wallet, whose plans
//! say nothing of consent.

use serde_json::{Value, json};
use statehouse_tests::host::Host;
use statehouse_tests::http::{Answer, Client, Request};
use statehouse_tests::wallet::{self, TRANSFER, transfer_body};
use tempfile::tempdir;
use uuid::Uuid;

/// Sections of a configuration with these tokens, each of which is its own name. `entities` is TOML, or empty.
fn tokens(all: &[(&str, &[&str], &str)]) -> String {
    let token = |(name, roles, entities): &(&str, &[&str], &str)| {
        let hash = blake3::hash(name.as_bytes());
        let entities = if entities.is_empty() { String::new() } else { format!("entities = {entities}\n") };
        format!("[[auth.tokens]]\nname = \"{name}\"\nroles = {roles:?}\nblake3 = \"{hash}\"\n{entities}")
    };
    all.iter().map(token).collect()
}

fn as_(host: &Host, token: &str) -> Client {
    host.client().with_token(token)
}

/// A host with four partitions, and with accounts that have 100.00 each.
async fn host_with(data: &std::path::Path, config: &str, accounts: &[&str]) -> Host {
    let all = tokens(&[
        ("bank", &["client", "treasury"], ""),
        ("shop", &["client"], "[\"shop-1:*\", \"alice\"]"),
        ("till", &["client"], ""),
        ("officer", &["compliance"], ""),
        ("auditor", &["auditor"], ""),
    ]);
    let host = Host::serve(data, 4, &format!("{config}\n{all}")).await;
    let mut bank = as_(&host, "bank");
    for account in accounts {
        wallet::open(&mut bank, account).await;
        wallet::deposit(&mut bank, account, 10_000).await;
    }
    host
}

async fn pay(client: &mut Client, from: &str, to: &str, by: &str) -> Answer {
    let mut body = transfer_body(&Uuid::new_v4().to_string(), from, to, "1.00");
    body["coordination"] = Value::from(by);
    client.post(TRANSFER, &body).await.expect("the host answers")
}

async fn get(client: &mut Client, path: &str) -> Answer {
    client.get(path).await.expect("the host answers")
}

#[track_caller]
fn check_outside(answer: &Answer, entity: &str) {
    assert_eq!((answer.status, answer.problem().as_str()), (403, "entity_forbidden"), "{answer:?}");
    assert!(answer.text("detail").contains(entity), "the answer names {entity}: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_token_moves_and_reads_what_is_its_own() {
    let data = tempdir().expect("a temporary folder");
    let host = host_with(data.path(), "", &["alice", "shop-1:till", "shop-10:till", "bob", "carol", "dave"]).await;
    let mut shop = as_(&host, "shop");
    // This holds wherever the payee lives: a payment that arrives needs nobody's consent.
    for payee in ["bob", "carol", "dave", "shop-1:till", "shop-10:till"] {
        assert_eq!(pay(&mut shop, "alice", payee, "saga").await.status, 200, "{payee}");
        let taken = pay(&mut shop, payee, "alice", "saga").await;
        if payee == "shop-1:till" { assert_eq!(taken.status, 200) } else { check_outside(&taken, payee) }
    }
    assert_eq!(pay(&mut shop, "alice", "shop-1:till", "tcc").await.status, 200);
    // A reservation on an account changes it. A module for which this needs no consent says so in its plan.
    check_outside(&pay(&mut shop, "alice", "bob", "tcc").await, "bob");
    for (path, body) in [
        ("/v1/wallet/accounts/bob/freeze", json!({})),
        ("/v1/wallet/accounts", json!({"account": "bob", "currency": "EUR"})),
        ("/v1/wallet/withdraw", {
            json!({"account": "bob", "amount": "1.00", "currency": "USD", "transaction_id": Uuid::new_v4().to_string()})
        }),
    ] {
        check_outside(&shop.post(path, &body).await.expect("the host answers"), "bob");
    }
    let opened = shop.post("/v1/wallet/accounts", &json!({"account": "shop-1:new", "currency": "USD"})).await;
    assert_eq!(opened.expect("the host answers").status, 201);

    let lines: Vec<String> = [("bob", "alice"), ("alice", "bob")]
        .map(|(from, to)| {
            let body = transfer_body(&Uuid::new_v4().to_string(), from, to, "1.00");
            json!({"command": "balance_transfer", "body": body}).to_string()
        })
        .into();
    let headers = vec![("content-type", "application/x-ndjson")];
    let batch = Request { method: "POST", path: "/v1/wallet/batch", headers, body: lines.join("\n").into_bytes() };
    let batch = shop.send(batch).await.expect("the host answers");
    let statuses: Vec<Value> = String::from_utf8_lossy(&batch.body)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["status"].clone())
        .collect();
    assert_eq!(statuses, [json!(403), json!(200)], "{batch:?}");

    for path in ["accounts/bob", "accounts/bob/history", "accounts/bob?at=2020-01-01T00:00:00Z", "accounts/@bank"] {
        check_outside(
            &get(&mut shop, &format!("/v1/wallet/{path}")).await,
            path.split(['/', '?']).nth(1).expect("a name"),
        );
    }
    check_outside(&get(&mut shop, "/v1/wallet/events?after=start").await, "key=");
    check_outside(&get(&mut shop, "/v1/wallet/events?key=alice&key=bob").await, "bob");
    assert_eq!(get(&mut shop, "/v1/wallet/accounts/alice").await.status, 200);
    assert_eq!(get(&mut shop, "/v1/wallet/accounts/shop-1:till/history").await.status, 200);
    assert_eq!(wallet::balance(&mut as_(&host, "bank"), "bob").await, 10_000 + 100 + 100);
    assert!(host.terminate().await.success());
}

/// A client is shown the outcome of a command, and not who sent it. A bound client is shown only its own commands.
#[tokio::test(flavor = "multi_thread")]
async fn who_sent_a_command_is_shown_to_those_who_watch() {
    let data = tempdir().expect("a temporary folder");
    let host = host_with(data.path(), "", &["alice", "bob"]).await;
    let (mut till, mut shop, mut auditor) = (as_(&host, "till"), as_(&host, "shop"), as_(&host, "auditor"));
    let id = Uuid::new_v4();
    let sent = wallet::transfer(&mut till, id, "alice", "bob", 1).await.expect("the host answers");
    assert_eq!(sent.status, 200, "{sent:?}");
    let path = format!("/v1/wallet/commands/{id}");
    let shown = |answer: &Answer| {
        (answer.status, answer.json().get("caller").cloned(), answer.json().get("request_id").is_some())
    };
    assert_eq!(shown(&get(&mut auditor, &path).await), (200, Some(json!("till")), true));
    assert_eq!(shown(&get(&mut till, &path).await), (200, None, false));
    check_outside(&get(&mut shop, &path).await, "another caller");
    check_outside(&get(&mut shop, &format!("/v1/wallet/transactions/{id}")).await, "another caller");
    let own = Uuid::new_v4();
    let sent = wallet::transfer(&mut shop, own, "alice", "bob", 1).await.expect("the host answers");
    assert_eq!(sent.status, 200, "{sent:?}");
    assert_eq!(get(&mut shop, &format!("/v1/wallet/commands/{own}")).await.status, 200);
    assert_eq!(get(&mut shop, &format!("/v1/wallet/transactions/{own}")).await.status, 200);
    assert_eq!(get(&mut shop, "/v1/wallet/commands?state=in_flight").await.json()["items"], json!([]));
}

/// Somebody else's success is not taken for one's own: without its home, it is shown only to the caller that sent it
/// and to those who watch.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_another_caller_is_shown_with_its_home_alone() {
    let data = tempdir().expect("a temporary folder");
    let host = host_with(data.path(), "", &["alice", "bob", "carol"]).await;
    let (mut till, mut bank, mut shop) = (as_(&host, "till"), as_(&host, "bank"), as_(&host, "shop"));
    let id = Uuid::new_v4();
    let sent = wallet::transfer(&mut till, id, "bob", "alice", 1).await.expect("the host answers");
    assert_eq!(sent.status, 200, "{sent:?}");
    // The bank has used the same id, and was refused or not heard. It asks what became of its own command.
    let refused = wallet::transfer(&mut bank, id, "bob", "carol", 1).await.expect("the host answers");
    assert_eq!((refused.status, refused.problem().as_str()), (422, "id_reused"), "{refused:?}");
    for page in ["transactions", "commands"] {
        let path = format!("/v1/wallet/{page}/{id}");
        let answer = get(&mut bank, &path).await;
        assert_eq!((answer.status, answer.problem().as_str()), (409, "id_ambiguous"), "{page}: {answer:?}");
        assert_eq!(answer.json()["homes"], json!(["bob"]), "it may read any account, and so is told which: {answer:?}");
        assert!(answer.text("detail").contains("another caller"), "{answer:?}");
        assert_eq!(get(&mut bank, &format!("{path}?home=bob")).await.status, 200, "{page}: of that home");
        let own = get(&mut bank, &format!("{path}?home=carol")).await;
        let is_shown = page == "transactions" && own.status == 200 || own.json()["state"] == "recorded";
        assert!(!is_shown, "{page}: carol has sent nothing: {own:?}");
        assert_eq!(get(&mut till, &path).await.status, 200, "{page}: its own");
        assert_eq!(get(&mut as_(&host, "auditor"), &path).await.status, 200, "{page}: who watches");
        let bound = get(&mut shop, &path).await;
        check_outside(&bound, "another caller");
        assert!(!bound.text("detail").contains("bob"), "a bound token is not told whose it is: {bound:?}");
    }
}

/// The wallet was released before there was the role, so the host requires it.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_may_be_for_a_role_of_its_own() {
    let data = tempdir().expect("a temporary folder");
    let commands =
        "[auth.commands.wallet]\nfreeze = [\"compliance\"]\nunfreeze = [\"compliance\"]\nfreze = [\"compliance\"]\n";
    let host = host_with(data.path(), commands, &["alice", "bob"]).await;
    let (mut till, mut officer) = (as_(&host, "till"), as_(&host, "officer"));
    for verb in ["freeze", "unfreeze"] {
        let path = format!("/v1/wallet/accounts/alice/{verb}");
        let refused = till.post(&path, &json!({})).await.expect("the host answers");
        assert_eq!((refused.status, refused.problem().as_str()), (403, "forbidden"), "{refused:?}");
        assert!(refused.text("detail").contains("compliance"), "{refused:?}");
        let line = json!({"command": verb, "body": {"account": "alice"}}).to_string().into_bytes();
        let headers = vec![("content-type", "application/x-ndjson")];
        let batch = Request { method: "POST", path: "/v1/wallet/batch", headers, body: line };
        let batch = till.send(batch).await.expect("the host answers");
        assert_eq!((batch.status, &batch.json()["status"]), (200, &json!(403)), "{batch:?}");
        let done = officer.post(&path, &json!({})).await.expect("the host answers");
        assert_eq!(done.status, 200, "{done:?}");
    }
    let refused = pay(&mut officer, "alice", "bob", "saga").await;
    assert_eq!((refused.status, refused.problem().as_str()), (403, "forbidden"), "{refused:?}");
    assert!(host.output().contains("freze"), "a name that protects nothing is told: {}", host.output());
}
