//! One id is one command: sent again, sent with other content, or sent by two clients at once.
//!
//! It knows what §"Idempotency" of the contract promises about ids, and nothing of where ids are kept.

use serde_json::{Value, json};
use statehouse_tests::host::Host;
use statehouse_tests::http::Answer;
use statehouse_tests::oracle::{Ledger, check_audit};
use statehouse_tests::wallet::{self, TRANSFER};
use tempfile::tempdir;
use uuid::Uuid;

const A: &str = "account-0";
const B: &str = "account-1";
const RACES: usize = 50;
const RACERS: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_gets_the_same_answer_and_other_content_is_refused() {
    let data = tempdir().expect("a temporary folder");
    let mut host = Host::start(data.path()).await;
    let mut client = host.client();
    Ledger::open(&mut client, 3, 10_000).await;
    let id = Uuid::new_v4().to_string();
    let body = wallet::transfer_body(&id, A, B, "10.0");
    let first = client.post(TRANSFER, &body).await.expect("the host answers");
    assert_eq!((first.status, first.is_replayed()), (200, false), "{first:?}");

    for round in ["at once", "after a kill"] {
        for amount in ["10.0", "10.00", "10"] {
            let same =
                client.post(TRANSFER, &wallet::transfer_body(&id, A, B, amount)).await.expect("the host answers");
            assert!(same.is_replayed(), "{round}: `{amount}` is the same command: {same:?}");
            assert_eq!((same.status, same.json()), (200, first.json()), "{round}");
        }
        for (field, value) in [("amount", "10.01"), ("to_account", "account-2"), ("currency", "EUR")] {
            let mut other = body.clone();
            other[field] = json!(value);
            let refused = client.post(TRANSFER, &other).await.expect("the host answers");
            assert_eq!((refused.status, refused.problem().as_str()), (422, "id_reused"), "{round}: {field}");
            assert!(refused.json().to_string().contains(field), "{round}: the problem names `{field}`: {refused:?}");
        }
        host.kill();
        host = Host::start(data.path()).await;
        client = host.client();
    }
    assert_eq!([wallet::balance(&mut client, A).await, wallet::balance(&mut client, B).await], [9_000, 11_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn racers_with_one_id_cause_one_execution_and_get_one_answer() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    Ledger::open(&mut client, 2, 10_000).await;
    for _ in 0..RACES {
        let body = wallet::transfer_body(&Uuid::new_v4().to_string(), A, B, "1.00");
        let answers = race(&host, vec![body; RACERS]).await;
        let firsts = answers.iter().filter(|answer| !answer.is_replayed()).count();
        assert_eq!(firsts, 1, "one of them is the first: {answers:?}");
        for answer in &answers {
            assert_eq!((answer.status, answer.json()), (200, answers[0].json()));
        }
    }
    assert_eq!(wallet::balance(&mut client, A).await, 10_000 - 100 * RACES as i128);

    host.kill();
    check_audit(data.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn racers_with_one_id_and_other_content_cause_one_execution() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    Ledger::open(&mut client, 2, 10_000).await;
    let mut spent = 0;
    for _ in 0..RACES {
        let id = Uuid::new_v4().to_string();
        let amounts: Vec<i128> = (1..=RACERS as i128).collect();
        let bodies = amounts.iter().map(|minor| wallet::transfer_body(&id, A, B, &wallet::amount(*minor)));
        let answers = race(&host, bodies.collect()).await;
        let winners: Vec<i128> =
            answers.iter().zip(amounts).filter(|(answer, _)| answer.status == 200).map(|(_, amount)| amount).collect();
        assert_eq!(winners.len(), 1, "one of them wins: {answers:?}");
        assert_eq!(answers.iter().filter(|answer| answer.status == 422).count(), RACERS - 1, "{answers:?}");
        spent += winners[0];
    }
    assert_eq!(wallet::balance(&mut client, A).await, 10_000 - spent);
}

/// Sends every body at the same time, each on a connection of its own. Answers are in the order of the bodies.
async fn race(host: &Host, bodies: Vec<Value>) -> Vec<Answer> {
    let racers: Vec<_> = bodies
        .into_iter()
        .map(|body| {
            let mut client = host.client();
            tokio::spawn(async move { client.post(TRANSFER, &body).await.expect("the host answers") })
        })
        .collect();
    let mut answers = Vec::new();
    for racer in racers {
        answers.push(racer.await.expect("racers do not panic"));
    }
    answers
}
