//! `Prefer: respond-async`: the command proceeds without the client, which asks later what became of the command, and
//! hears the truth.
//!
//! It knows the header, the answer 202 and what a command's outcome looks like. What is asked at `Location` becomes
//! definite, whatever becomes of the command.

use serde_json::{Value, json};
use statehouse_tests::hold::eventually;
use statehouse_tests::host::Host;
use statehouse_tests::http::{Answer, Client};
use statehouse_tests::wallet::{self, TRANSFER, transfer_body};
use tempfile::tempdir;
use uuid::Uuid;

const RACES: usize = 10;

async fn send(client: &mut Client, body: &serde_json::Value, deadline_ms: &str) -> Answer {
    let headers = vec![("prefer", "respond-async"), ("statehouse-deadline", deadline_ms)];
    client.post_with(TRANSFER, body, headers).await.expect("it answers")
}

/// Where to ask about a command that was accepted.
fn location(accepted: &Answer) -> String {
    assert_eq!(accepted.status, 202, "{accepted:?}");
    assert_eq!(accepted.header("preference-applied"), Some("respond-async"));
    accepted.header("location").expect("it says where to ask").to_owned()
}

/// The answer once it is definite. Until then it must name the same `until`.
async fn outcome(client: &mut Client, location: &str) -> Answer {
    let mut until = None;
    eventually("the outcome becomes definite", async || {
        let answer = client.get(location).await.expect("the host answers");
        assert_eq!(answer.status, 200, "{answer:?}");
        match answer.text("state").as_str() {
            "recorded" | "not_executed" => return Some(answer),
            "undecided" => {
                let first = until.get_or_insert_with(|| answer.text("until"));
                assert_eq!(answer.text("until"), *first, "it does not move");
                assert_eq!(answer.text("resolve"), location, "it is asked about at the same place");
            }
            state => assert_eq!(state, "in_flight", "{answer:?}"),
        }
        None
    })
    .await
}

/// The value of a parameter of a URL.
fn parameter<'a>(url: &'a str, name: &str) -> &'a str {
    let (_, query) = url.split_once('?').expect("it has parameters");
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(other, _)| *other == name).map(|(_, value)| value).expect("it is there")
}

async fn start(accounts: &[&str]) -> (tempfile::TempDir, Host, Client) {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    for account in accounts {
        wallet::open(&mut client, account).await;
    }
    wallet::deposit(&mut client, accounts[0], 10_000).await;
    (data, host, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_nobody_waits_for_can_be_asked_for() {
    let (_data, _host, mut client) = start(&["alice", "bob"]).await;
    for (amount, expected) in [("1.00", "done"), ("99999.00", "rejected")] {
        let id = Uuid::new_v4().to_string();
        let body = transfer_body(&id, "alice", "bob", amount);
        let location = location(&send(&mut client, &body, "30000").await);
        assert!(location.starts_with(&format!("/v1/wallet/commands/{id}?home=alice&expires=")), "{location}");
        let answer = outcome(&mut client, &location).await;
        assert_eq!((answer.text("outcome").as_str(), answer.text("id")), (expected, id.clone()), "{answer:?}");
        // A client that sends the command again and waits this time gets the outcome that it has.
        let again = client.post(TRANSFER, &body).await.expect("it answers");
        assert!(again.is_replayed(), "{again:?}");
        assert_eq!(again.json()["Transaction_id"], json!(id));
        // A client that does not wait finds the outcome at once.
        let again = send(&mut client, &body, "30000").await;
        let location = self::location(&again);
        let found = client.get(&location).await.expect("it answers");
        assert_eq!(found.text("state"), "recorded");
    }
    assert_eq!(wallet::balance(&mut client, "bob").await, 100, "once, however often it was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_refused_at_once_and_what_is_not_executed_says_so() {
    let (_data, _host, mut client) = start(&["alice", "bob"]).await;
    let fresh = |from: &str, to: &str, amount: &str| transfer_body(&Uuid::new_v4().to_string(), from, to, amount);
    let mut foreign = fresh("alice", "bob", "1.00");
    foreign["currency"] = json!("XXX");
    let refused = [
        fresh("alice", "bob", "1.005"),
        fresh("alice", "bob", "-1.00"),
        fresh("alice", "bob", "1e2"),
        fresh("alice", "alice", "1.00"),
        foreign,
    ];
    for body in &refused {
        let told = send(&mut client, body, "5000").await;
        let waited = client.post(TRANSFER, body).await.expect("it answers");
        assert!((400..500).contains(&told.status), "{body}: {told:?}");
        assert_eq!((told.status, told.problem()), (waited.status, waited.problem()), "{body}");
    }

    // An id that was used belongs to another command.
    let id = Uuid::new_v4().to_string();
    let first = location(&send(&mut client, &transfer_body(&id, "alice", "bob", "1.00"), "30000").await);
    assert_eq!(outcome(&mut client, &first).await.text("outcome"), "done");
    let reused = send(&mut client, &transfer_body(&id, "alice", "bob", "2.00"), "5000").await;
    assert_eq!((reused.status, reused.problem().as_str()), (422, "id_reused"), "{reused:?}");
    assert_eq!(reused.json()["fields"], json!(["amount"]));
    let again = location(&send(&mut client, &transfer_body(&id, "alice", "bob", "1.0"), "5000").await);
    assert_eq!(outcome(&mut client, &again).await.text("outcome"), "done");

    // Somebody asks for ever, or without saying when the command expires. Neither keeps others from an answer.
    let never = Uuid::new_v4();
    for query in ["", "?expires=9223372036854775807", "?home=alice&expires=9223372036854775807"] {
        let answer = client.get(&format!("/v1/wallet/commands/{never}{query}")).await.expect("it answers");
        assert_eq!(answer.text("state"), "undecided", "{answer:?}");
        let resolve = answer.text("resolve");
        assert_ne!(parameter(&resolve, "expires"), "9223372036854775807", "it ends");
        let (first, second) = (client.get(&resolve).await, client.get(&resolve).await);
        let (first, second) = (first.expect("it answers"), second.expect("it answers"));
        assert_eq!((first.text("until"), first.text("resolve")), (second.text("until"), resolve), "it stays the same");
    }

    // This command was never sent, as if it had been accepted and lost. Time passes although nobody submits anything.
    let short = location(&send(&mut client, &fresh("alice", "bob", "1.00"), "300").await);
    let lost = short.replace(&short["/v1/wallet/commands/".len()..][..36], &never.to_string());
    assert_eq!(outcome(&mut client, &lost).await.text("state"), "not_executed");
    for bad in ["?expires=soon", "?fingerprint=1", "?until=1"] {
        let answer = client.get(&format!("/v1/wallet/commands/{never}{bad}")).await.expect("it answers");
        assert_eq!(answer.status, 400, "{bad}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_commands_with_one_id_each_is_told_its_own_outcome() {
    let (_data, host, mut client) = start(&["alice", "bob"]).await;
    let mut paid = 0;
    for _ in 0..RACES {
        let id = Uuid::new_v4().to_string();
        let racer = |minor| race(host.client(), transfer_body(&id, "alice", "bob", &wallet::amount(minor)));
        let (first, second) = tokio::join!(racer(1), racer(2));
        let winners: Vec<i128> =
            [(first, 1), (second, 2)].into_iter().filter_map(|(won, minor)| won.then_some(minor)).collect();
        assert_eq!(winners.len(), 1, "one of them is executed, and the other hears that it is not: {winners:?}");
        paid += winners[0];
    }
    assert_eq!(wallet::balance(&mut client, "bob").await, paid);
}

/// Whether this command was executed; the other one with its id hears that it was not.
async fn race(mut client: Client, body: Value) -> bool {
    let told = send(&mut client, &body, "30000").await;
    if told.status == 422 {
        assert_eq!(told.problem(), "id_reused");
        return false;
    }
    let outcome = outcome(&mut client, &location(&told)).await;
    if outcome.text("state") == "recorded" {
        return true;
    }
    assert_eq!(outcome.text("reason"), "id_reused", "{outcome:?}");
    false
}
