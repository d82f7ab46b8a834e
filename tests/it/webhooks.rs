//! Webhooks of a host: every event arrives, signed and in order, whatever the receiver answers and however often the
//! host is killed.
//!
//! It knows the routes, the command line, and what Standard Webhooks says of headers. The event stream says what has
//! to arrive.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use statehouse_tests::damage::segments;
use statehouse_tests::feed::Stream;
use statehouse_tests::hold::eventually;
use statehouse_tests::host::{CommandOutput, Host, Start, cli};
use statehouse_tests::http::{Answer, Client, Request};
use statehouse_tests::receiver::{ReceivedRequest, Receiver, Reply};
use statehouse_tests::wallet;
use tempfile::tempdir;
use uuid::Uuid;

const WEBHOOKS: &str = "/v1/machines/wallet/webhooks";
const EVENTS: &str = "/v1/wallet/events?after=start";

/// Creates a webhook, and returns its secret.
async fn create(client: &mut Client, receiver: &Receiver, more: Value) -> String {
    let mut body = json!({"webhook": "till", "url": receiver.url(), "from": "start"});
    for (name, value) in more.as_object().expect("members") {
        body[name] = value.clone();
    }
    let answer = client.post(WEBHOOKS, &body).await.expect("the host answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.text("secret")
}

async fn step(client: &mut Client, step: &str, body: Value) -> Answer {
    client.post(&format!("{WEBHOOKS}/till/{step}"), &body).await.expect("the host answers")
}

async fn page(client: &mut Client) -> Value {
    let answer = client.get(&format!("{WEBHOOKS}/till")).await.expect("the host answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn webhook(host: &Host, arguments: &[&str]) -> CommandOutput {
    let url = format!("http://{}", host.address());
    cli(["webhook"].into_iter().chain(arguments.iter().copied()).chain(["--url", &url]))
}

async fn metrics(host: &Host) -> String {
    let metrics = host.client().get("/metrics").await.expect("the host answers");
    String::from_utf8(metrics.body.to_vec()).expect("metrics are text")
}

async fn drop_webhook(client: &mut Client) -> Value {
    let path = format!("{WEBHOOKS}/till");
    let dropped = client.send(Request { method: "DELETE", path: &path, headers: Vec::new(), body: Vec::new() }).await;
    dropped.expect("the host answers").json()
}

/// Opens two accounts, with money for transfers between them.
async fn open_accounts(client: &mut Client) {
    for account in ["alice", "bob"] {
        wallet::open(client, account).await;
    }
    wallet::deposit(client, "alice", 1_000_000).await;
}

async fn transfers(client: &mut Client, count: usize) {
    for _ in 0..count {
        let answer = wallet::transfer(client, Uuid::new_v4(), "alice", "bob", 1).await.expect("the host answers");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// The `count` events that have happened, by partition.
async fn happened(host: &Host, count: usize) -> BTreeMap<u64, Vec<String>> {
    let mut stream = Stream::open(host.address(), EVENTS, None).await.expect("it begins");
    let mut by_partition: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut tells_who = false;
    for message in stream.take(count).await {
        let data = message.data.as_ref().expect("an event has data");
        let partition = data["partition"].as_u64().expect("a partition");
        tells_who |= data.get("caller").is_some() && data.get("requestid").is_some();
        by_partition.entry(partition).or_default().push(message.position());
    }
    assert!(tells_who, "whoever watches is shown who asked");
    by_partition
}

/// Waits until this many requests have arrived.
async fn came(receiver: &Receiver, count: usize) -> Vec<ReceivedRequest> {
    eventually("requests come", async || Some(receiver.received()).filter(|received| count <= received.len())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_arrives_in_order_through_failures_and_kills() {
    let data = tempdir().expect("a temporary folder");
    let mut start = Start::on(data.path());
    start.arguments = ["--partitions", "3"].map(str::to_owned).to_vec();
    let mut host = Host::start_with(&start).await.expect("the host starts");
    let receiver = Receiver::start().await;
    let mut requests = 0;
    // At first the receiver fails, then it is slow, and now and then it fails again.
    receiver.answer(move |_| {
        requests += 1;
        match requests {
            1..=4 => Reply::Status(500),
            5 | 60 => Reply::After(503, 0),
            6..=20 => Reply::Slow(Duration::from_millis(20)),
            40 => Reply::Moved,
            _ => Reply::Status(200),
        }
    });
    let mut client = host.client();
    let secret = create(&mut client, &receiver, json!({"batch": 3})).await;
    open_accounts(&mut client).await;
    const ROUNDS: usize = 3;
    const TRANSFERS: usize = 20;
    for _ in 0..ROUNDS {
        let before = receiver.received().len();
        transfers(&mut host.client(), TRANSFERS).await;
        came(&receiver, before + 5).await;
        host.kill();
        host = Host::start_with(&start).await.expect("the host starts");
    }
    // There are three activations, two accounts, a deposit, and two events of each transfer.
    let expected = happened(&host, 3 + 2 + 1 + 2 * ROUNDS * TRANSFERS).await;
    let taken = eventually("everything arrives", async || {
        let taken = receiver.taken(&secret);
        (taken.values().map(Vec::len).sum::<usize>() == expected.values().map(Vec::len).sum::<usize>()).then_some(taken)
    });
    assert_eq!(taken.await, expected, "what arrives first is the journal of each partition");
    let received = receiver.received();
    assert!(received.iter().all(|received| received.path == "/in"), "no redirect is followed");
    let tells_who = |event: &Value| event.get("caller").is_some() || event.get("requestid").is_some();
    assert!(!received.iter().flat_map(ReceivedRequest::events).any(|event| tells_who(&event)), "that is nobody else's");
    let ids: BTreeSet<&str> = received.iter().map(ReceivedRequest::id).collect();
    println!("{} requests, {} messages", received.len(), ids.len());
    assert!(ids.len() < received.len(), "what failed came again");
    let settled = eventually("its progress is recorded", async || {
        let page = page(&mut host.client()).await;
        (page["lag_entries"] == 0 && page["state"] == "delivering").then_some(page)
    });
    assert_eq!(settled.await["dead_letters"], json!([]));
    // The host was stopped in order and has recorded everything: nothing comes again.
    let count = receiver.received().len();
    assert!(host.terminate().await.success());
    let host = Host::start_with(&start).await.expect("the host starts");
    wallet::open(&mut host.client(), "carol").await;
    let later = came(&receiver, count + 1).await;
    assert_eq!(later[count].events()[0]["subject"], "carol");
    let metrics = metrics(&host).await;
    for metric in ["requests_total", "events_total", "lag_entries", "dead_letters"] {
        assert!(metrics.contains(&format!("statehouse_webhook_{metric}{{")), "{metric}: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_taken_becomes_a_dead_letter_and_the_rest_goes_on() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::serve(data.path(), 1, "[webhooks]\nretry_seconds = 1\nallow = [\"127.0.0.1\"]").await;
    let receiver = Receiver::start().await;
    let is_poison = |received: &ReceivedRequest| received.events()[0]["subject"] == "poison";
    receiver.answer(move |received| Reply::Status(if is_poison(received) { 422 } else { 202 }));
    let mut client = host.client();
    let secret = create(&mut client, &receiver, json!({"types": ["Opened"]})).await;
    for account in ["alice", "poison", "bob"] {
        wallet::open(&mut client, account).await;
    }
    let dead = eventually("it is given up", async || {
        let page = page(&mut client).await;
        page["dead_letters"].as_array().is_some_and(|letters| letters.len() == 1).then_some(page)
    });
    let letter = dead.await["dead_letters"][0].clone();
    assert!(letter["problem"].as_str().is_some_and(|problem| problem.contains("422")), "{letter}");
    eventually("the next one arrives", async || {
        let taken = receiver.taken(&secret);
        (taken.get(&0).map(Vec::len) == Some(2)).then_some(())
    })
    .await;
    let poisoned: Vec<ReceivedRequest> = receiver.received().into_iter().filter(is_poison).collect();
    assert!(1 < poisoned.len() && letter["attempts"].as_u64() == Some(poisoned.len() as u64), "{letter}");
    let failed = webhook(&host, &["redeliver", "till"]);
    assert!(failed.code == Some(1) && failed.stdout.contains("422"), "{failed:?}");
    let listed = webhook(&host, &["dead-letters", "till", "--json"]);
    assert!(listed.code == Some(1) && listed.stdout.contains(letter["letter"].as_str().expect("a text")), "{listed:?}");
    let gauge =
        |letters: u32| format!("statehouse_webhook_dead_letters{{machine=\"wallet\",webhook=\"till\"}} {letters}\n");
    assert!(metrics(&host).await.contains(&gauge(1)));
    // A receiver that takes its time does not make the letter a dead one for ever.
    receiver.answer(|_| Reply::Slow(Duration::from_millis(1500)));
    let path = format!("{WEBHOOKS}/till/redeliver");
    let (body, headers) = (json!({"letter": letter["letter"]}), vec![("statehouse-deadline", "1000")]);
    let hurried = client.post_with(&path, &body, headers).await.expect("the host answers");
    assert_eq!(hurried.status, 200, "{hurried:?}");
    assert_eq!((&hurried.json()["is_delivered"], hurried.text("problem").contains("deadline")), (&json!(false), true));
    receiver.answer(|_| Reply::Status(200));
    let again = webhook(&host, &["redeliver", "till", "--json"]);
    assert!(again.code == Some(0) && again.stdout.contains(poisoned[0].id()), "{again:?}");
    let last = receiver.received().pop().expect("it came");
    assert_eq!((last.id(), &last.body), (poisoned[0].id(), &poisoned[0].body));
    assert_eq!(page(&mut client).await["dead_letters"], json!([]));
    let unknown = step(&mut client, "redeliver", json!({"letter": letter["letter"]})).await;
    assert_eq!((unknown.status, unknown.problem().as_str()), (422, "invalid_change"));
    // There is one more letter, and its metric goes with the webhook.
    receiver.answer(|_| Reply::Status(422));
    wallet::open(&mut client, "carol").await;
    eventually("it is given up", async || metrics(&host).await.contains(&gauge(1)).then_some(())).await;
    drop_webhook(&mut client).await;
    eventually("it has no letters", async || metrics(&host).await.contains(&gauge(0)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_is_left_alone() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let receiver = Receiver::start().await;
    receiver.answer(|_| Reply::Status(410));
    let mut client = host.client();
    let secret = create(&mut client, &receiver, json!({})).await;
    wallet::open(&mut client, "alice").await;
    let paused = eventually("it is paused", async || {
        let page = page(&mut client).await;
        (page["state"] == "paused").then_some(page)
    });
    assert_eq!(paused.await["problem"], "its receiver answered 410 Gone");
    let count = receiver.received().len();
    receiver.answer(|_| Reply::Status(200));
    assert_eq!(step(&mut client, "resume", json!({})).await.status, 200);
    let received = came(&receiver, count + 2).await;
    assert_eq!(received[count].id(), received[0].id(), "it goes on with what was refused");
    assert_eq!(receiver.taken(&secret), happened(&host, 2).await);

    assert_eq!(webhook(&host, &["pause", "till"]).code, Some(0), "it is done");
    assert_eq!(webhook(&host, &["status", "till"]).code, Some(1), "a paused webhook does not deliver");
    assert_eq!(webhook(&host, &["list"]).code, Some(1));
    let count = receiver.received().len();
    wallet::open(&mut client, "bob").await;
    let tested = webhook(&host, &["test", "till", "--json"]);
    assert_eq!(tested.code, Some(0), "{tested:?}");
    let received = came(&receiver, count + 1).await;
    assert_eq!(received[count].events()[0]["type"], "statehouse.wallet.WebhookTest", "and nothing else");
    assert_eq!(webhook(&host, &["resume", "till"]).code, Some(0));
    came(&receiver, count + 2).await;
    let aside = json!({"webhook": "aside", "url": receiver.url()});
    assert_eq!(client.post(WEBHOOKS, &aside).await.expect("the host answers").status, 200);
    assert_eq!(webhook(&host, &["pause", "till"]).code, Some(0));
    assert_eq!(webhook(&host, &["drop", "aside"]).code, Some(0), "whatever becomes of the others");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_change_without_a_gap_and_no_journal_has_them() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let receiver = Receiver::start().await;
    let mut client = host.client();
    let given = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let body = json!({"webhook": "till", "url": receiver.url(), "from": "start", "secret": given});
    let created = client.post(WEBHOOKS, &body).await.expect("the host answers");
    assert_eq!((created.status, created.json().get("secret")), (200, None), "who gave it knows it");
    let old = given;
    let last = came(&receiver, 1).await.pop().expect("it came");
    assert!(last.is_signed_by(old));
    let new = step(&mut client, "rotate", json!({})).await.text("secret");
    wallet::open(&mut client, "alice").await;
    let last = came(&receiver, 2).await.pop().expect("it came");
    assert!(last.is_signed_by(old) && last.is_signed_by(&new), "{last:?}");
    let finished = step(&mut client, "rotate", json!({"finish": true})).await;
    assert_eq!((finished.status, finished.json()["secrets"].as_array().map(Vec::len)), (200, Some(1)));
    wallet::open(&mut client, "bob").await;
    let last = came(&receiver, 3).await.pop().expect("it came");
    assert!(!last.is_signed_by(old) && last.is_signed_by(&new), "{last:?}");

    let from_start = webhook(&host, &["replay", "till", "--from", "start"]);
    assert_eq!(from_start.code, Some(0), "{from_start:?}");
    let received = came(&receiver, 6).await;
    let ids = |range: std::ops::Range<usize>| received[range].iter().map(ReceivedRequest::id).collect::<Vec<_>>();
    assert_eq!(ids(3..6), ids(0..3), "what is replayed has the ids it had");
    // Of all the files that the node has written, only those of secrets contain the secret.
    host.kill();
    let (mut kept, mut files) = (Vec::new(), Vec::new());
    list_files(data.path(), &mut |path| {
        let content = std::fs::read(path).expect("it can be read");
        let is_secret = path.parent().is_some_and(|folder| folder.ends_with("webhook-secrets"));
        if is_secret { kept.push(content) } else { files.push((path.to_owned(), content)) }
    });
    assert!(!kept.is_empty());
    let texts = [&new, given].map(|secret| secret.trim_start_matches("whsec_").as_bytes().to_vec());
    for secret in kept.iter().chain(&texts) {
        let has = |content: &[u8]| content.windows(secret.len()).any(|window| window == secret);
        let found = files.iter().find(|(_, content)| has(content)).map(|(path, _)| path);
        assert_eq!(found, None);
    }
}

fn list_files(folder: &Path, on_file: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).expect("it is a folder") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() { list_files(&path, on_file) } else { on_file(&path) }
    }
}

/// Sends this many transfers in one request.
async fn batch(client: &mut Client, count: usize) {
    let line = |_| {
        let body = wallet::transfer_body(&Uuid::new_v4().to_string(), "alice", "bob", "0.01");
        json!({"command": "balance_transfer", "body": body}).to_string()
    };
    let body = (0..count).map(line).collect::<Vec<_>>().join("\n").into_bytes();
    let headers = vec![("content-type", "application/x-ndjson"), ("statehouse-deadline", "30000")];
    let answer = client.send(Request { method: "POST", path: "/v1/wallet/batch", headers, body }).await;
    assert_eq!(answer.expect("the host answers").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_begins_before_what_the_node_has_kept() {
    let data = tempdir().expect("a temporary folder");
    let kept = "[log]\nkeep_bytes = 1048576\n[archive]\nevery_seconds = 1\n[webhooks]\nallow = [\"127.0.0.1\"]";
    let host = Host::serve(data.path(), 1, kept).await;
    let mut client = host.client();
    open_accounts(&mut client).await;
    let first = || segments(&data.path().join("node/wallet/0")).into_iter().next();
    let begun = first();
    let mut written = 0;
    eventually("the beginning is released", async || {
        batch(&mut client, 2_000).await;
        written += 2_000;
        (first() != begun).then_some(())
    })
    .await;
    wallet::open(&mut client, "carol").await;
    let receiver = Receiver::start().await;
    let secret = create(&mut client, &receiver, json!({"types": ["Opened", "ModuleActivated"]})).await;
    let received = came(&receiver, 4).await;
    println!("{written} transfers until the beginning was released");
    let subjects: Vec<Value> = received.iter().map(|received| received.events()[0]["subject"].clone()).collect();
    assert_eq!(subjects, [Value::Null, json!("alice"), json!("bob"), json!("carol")]);
    assert_eq!(receiver.taken(&secret)[&0].len(), 4);
    // Without the archive such a webhook is refused: it would be stuck from its first day on.
    host.kill();
    let host = Host::serve(data.path(), 1, "[log]\nkeep_bytes = 1048576\n[webhooks]\nallow = [\"127.0.0.1\"]").await;
    let body = json!({"webhook": "late", "url": receiver.url(), "from": "start"});
    let answer = host.client().post(WEBHOOKS, &body).await.expect("the host answers");
    assert_eq!((answer.status, answer.problem().as_str()), (410, "history_released"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_with_what_to_do() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let receiver = Receiver::start().await;
    let mut client = host.client();
    let good = json!({"webhook": "till", "url": receiver.url()});
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    let checks = [
        (with("url", json!("http://10.0.0.7/in")), 422, "invalid_change", "not a public address"),
        (with("url", json!("https://user:pass@example.com/in")), 422, "invalid_change", "name or password"),
        (with("url", json!("ftp://example.com/in")), 422, "invalid_change", "neither https nor http"),
        (with("webhook", json!("Till")), 422, "invalid_change", "small letters"),
        (with("types", json!(["exploded"])), 400, "bad_parameter", "Debited"),
        (with("partitions", json!([1])), 422, "invalid_change", "below 1"),
        (with("from", json!("yesterday")), 422, "invalid_change", "a cursor is the `id` of an event"),
        (with("from", json!("0.1.0~00000000")), 410, "position_gone", "not in this history"),
        (with("secret", json!("whsec_c2hvcnQ=")), 422, "invalid_change", "24 to 64 bytes"),
        (with("batch", json!(0)), 400, "out_of_range", "batch"),
        (with("colour", json!("red")), 400, "unknown_field", "colour"),
        (json!({"webhook": "till"}), 400, "missing_field", "url"),
    ];
    for (body, status, code, detail) in checks {
        let answer = client.post(WEBHOOKS, &body).await.expect("the host answers");
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{body}: {answer:?}");
        assert!(answer.text("detail").contains(detail), "{body}: {answer:?}");
    }
    let unknown = step(&mut client, "pause", json!({})).await;
    assert_eq!((unknown.status, unknown.problem().as_str()), (404, "unknown_webhook"));
    create(&mut client, &receiver, json!({})).await;
    let again = client.post(WEBHOOKS, &good).await.expect("the host answers");
    assert_eq!((again.status, again.problem().as_str()), (409, "step_refused"));
    for body in [b"{}".to_vec(), Vec::new()] {
        let headers = vec![("content-type", "application/json")];
        let path = format!("{WEBHOOKS}/till/replay");
        let answer = client.send(Request { method: "POST", path: &path, headers, body }).await;
        assert_eq!(answer.expect("the host answers").status, 400, "all of history is sent to whoever says so");
    }
    assert_eq!(drop_webhook(&mut client).await["webhooks"], json!([]));
    assert!(receiver.received().iter().all(|received| received.path == "/in"));
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_sent_only_by_nodes_that_allow_it() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::serve(data.path(), 1, "[webhooks]\nplaintext = true").await;
    // Nobody has this address.
    let body = json!({"webhook": "till", "url": "http://192.0.2.1:9/in", "from": "start"});
    let created = host.client().post(WEBHOOKS, &body).await.expect("the host answers");
    assert_eq!(created.status, 200, "{created:?}");
    host.kill();
    let host = Host::serve(data.path(), 1, "").await;
    let mut client = host.client();
    let page = eventually("it says why it sends nothing", async || {
        let page = page(&mut client).await;
        page["problem"].as_str().is_some_and(|problem| problem.contains("webhooks.plaintext")).then_some(page)
    });
    assert_eq!(page.await["state"], "failing");
    let tested = step(&mut client, "test", json!({})).await;
    assert_eq!((tested.status, tested.problem().as_str()), (409, "step_refused"), "{tested:?}");
}
