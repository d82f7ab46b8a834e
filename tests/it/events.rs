//! The event stream of a host: what it shows, where it begins, and that a reader that continues misses nothing and
//! gets nothing twice.
//!
//! It knows the route, CloudEvents and cursors as texts.

use serde_json::{Value, json};
use statehouse_tests::feed::{Message, Stream};
use statehouse_tests::host::{Host, Start};
use statehouse_tests::http::{Answer, Client};
use statehouse_tests::wallet;
use tempfile::tempdir;
use uuid::Uuid;

const EVENTS: &str = "/v1/wallet/events";

async fn stream(host: &Host, query: &str) -> Stream {
    resumed(host, query, None).await
}

async fn resumed(host: &Host, query: &str, cursor: Option<&str>) -> Stream {
    let opened = Stream::open(host.address(), &format!("{EVENTS}{query}"), cursor).await;
    opened.unwrap_or_else(|refused| panic!("{query} {cursor:?}: {refused:?}"))
}

async fn refused(host: &Host, query: &str, cursor: Option<&str>) -> Answer {
    let opened = Stream::open(host.address(), &format!("{EVENTS}{query}"), cursor).await;
    opened.err().flatten().unwrap_or_else(|| panic!("{query} {cursor:?} is not refused"))
}

/// Opens two accounts, pays money in, and sends two transfers, of which the second is rejected.
async fn move_money(client: &mut Client) -> [Uuid; 2] {
    for account in ["alice", "bob"] {
        wallet::open(client, account).await;
    }
    wallet::deposit(client, "alice", 10_000).await;
    let [done, rejected] = [Uuid::new_v4(), Uuid::new_v4()];
    let answer = wallet::transfer(client, done, "alice", "bob", 1_250).await.expect("the host answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = wallet::transfer(client, rejected, "bob", "alice", 9_999_999).await.expect("the host answers");
    assert_eq!(answer.status, 409, "{answer:?}");
    [done, rejected]
}

fn kinds(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| message.text("type").replacen("statehouse.wallet.", "", 1)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_shows_what_happens_as_cloud_events() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut now = stream(&host, "").await;
    let [done, rejected] = move_money(&mut host.client()).await;
    let expected = ["Opened", "Opened", "Deposited", "Debited", "Credited", "CommandRejected"];
    let seen = now.take(expected.len()).await;
    assert_eq!(kinds(&seen), expected);
    for message in &seen {
        let data = message.data.as_ref().expect("an event has data");
        assert_eq!((&data["specversion"], &data["partition"]), (&json!("1.0"), &json!(0)));
        assert_eq!(message.id, Some(message.position()), "with one partition its position is the cursor");
        assert_eq!((message.text("caller"), message.text("module")), ("anonymous".to_owned(), "1.0.1".to_owned()));
        assert!(message.text("source").starts_with("urn:statehouse:") && message.text("source").ends_with(":wallet"));
        assert!(message.text("time").ends_with('Z') && message.event.is_none());
    }
    let [.., debited, credited, refused] = seen.as_slice() else { panic!("there are more than three") };
    assert_eq!((debited.text("subject"), credited.text("subject")), ("alice".to_owned(), "bob".to_owned()));
    for part in [debited, credited] {
        assert_eq!((part.text("commandid"), part.text("command")), (done.to_string(), "balance_transfer".to_owned()));
        let text = part.data.as_ref().expect("an event has data")["data"].to_string();
        assert!(text.contains("12.50") && text.contains("USD"), "rendered by the module: {text}");
    }
    assert_eq!((refused.text("commandid"), refused.text("subject")), (rejected.to_string(), "bob".to_owned()));
    let why = &refused.data.as_ref().expect("a rejection has data")["data"];
    assert_eq!(why["command"], "balance_transfer");
    assert!(why["code"].is_string() && why["detail"].is_string(), "{why}");

    let all = stream(&host, "?after=start").await.take(1 + seen.len()).await;
    assert_eq!(all[0].text("type"), "statehouse.wallet.ModuleActivated");
    assert_eq!(all[1..], seen, "whoever reads from the beginning sees the same");

    let narrowed: [(&str, &[usize]); 6] = [
        ("?after=start&key=bob", &[1, 4, 5]),
        ("?after=start&key=alice&key=bob&type=Debited", &[3]),
        ("?after=start&type=Debited&type=CommandRejected", &[3, 5]),
        ("?after=start&type=statehouse.wallet.Credited", &[4]),
        ("?after=start&partition=0&type=Opened", &[0, 1]),
        ("?after=start&key=alice", &[0, 2, 3, 5]),
    ];
    for (query, expected) in narrowed {
        let shown = stream(&host, query).await.take(expected.len()).await;
        let expected: Vec<Message> = expected.iter().map(|at| seen[*at].clone()).collect();
        assert_eq!(shown, expected, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_goes_on_where_it_stopped() {
    let data = tempdir().expect("a temporary folder");
    let mut start = Start::on(data.path());
    start.arguments = ["--partitions", "3"].map(str::to_owned).to_vec();
    let host = Host::start_with(&start).await.expect("the host starts");
    let mut client = host.client();
    move_money(&mut client).await;
    for account in ["carol", "dave", "erin", "frank", "grace", "heidi"] {
        wallet::open(&mut client, account).await;
        let answer = wallet::transfer(&mut client, Uuid::new_v4(), "alice", account, 100).await;
        assert_eq!(answer.expect("the host answers").status, 200);
    }
    // These are 3 activations, 8 accounts, a deposit, 7 transfers of two events each and one rejection.
    const ALL: usize = 3 + 8 + 1 + 14 + 1;
    let all = stream(&host, "?after=start").await.take(ALL).await;
    let partition = |message: &Message| message.data.as_ref().expect("an event has data")["partition"].clone();
    let by_partition = |messages: &[Message]| -> Vec<Vec<String>> {
        let of =
            |number: u64| messages.iter().filter(move |message| partition(message) == number).map(Message::position);
        (0..3).map(|number| of(number).collect()).collect()
    };
    let expected = by_partition(&all);
    assert!(expected.iter().all(|partition| partition.len() > 1), "every partition has some: {expected:?}");
    let mut host = host;
    for (had, message) in all.iter().enumerate() {
        if had == ALL / 2 {
            // The rest is asked of a process that has never heard of the reader.
            host.kill();
            host = Host::start_with(&start).await.expect("the host starts");
        }
        let cursor = message.id.as_deref().expect("an event has an id");
        assert_eq!(cursor.split(',').count(), 3, "a position for each partition: {cursor}");
        // The header counts where both are given, because a browser repeats the URL.
        let rest = match had % 2 {
            0 => resumed(&host, "?after=start", Some(cursor)).await.take(ALL - had - 1).await,
            _ => stream(&host, &format!("?after={cursor}")).await.take(ALL - had - 1).await,
        };
        let together: Vec<Message> = all[..=had].iter().chain(&rest).cloned().collect();
        assert_eq!(by_partition(&together), expected, "after {cursor}");
    }
    let cursor = all.last().and_then(|message| message.id.clone()).expect("an event has an id");
    let one = resumed(&host, "?partition=1", Some(&cursor)).await.next().await.expect("it begins at once");
    assert_eq!(one.id, Some(cursor), "of the partitions that it does not show a stream keeps what it was given");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_says_nothing_here_is_refused_with_what_to_do() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    move_money(&mut host.client()).await;
    let all = stream(&host, "?after=start").await.take(7).await;
    let last = all.last().and_then(|message| message.id.clone()).expect("an event has an id");
    let (place, _) = last.split_once('~').expect("a position has a head");
    let other = format!("{place}~00000000");
    let mut parts = place.split('.');
    let index: u64 = parts.nth(1).and_then(|index| index.parse().ok()).expect("a position has an index");
    let checks = [
        (format!("?after={other}"), None, 410, "position_gone", "after=start"),
        (String::new(), Some(other.as_str()), 410, "position_gone", "after=start"),
        ("?after=9.0.0~00000000".to_owned(), None, 410, "position_gone", "after=start"),
        // A cursor from before a restore, for instance, is further than this cluster has ever been.
        ("?after=0.9999.0~00000000".to_owned(), None, 410, "position_gone", "after=start"),
        ("?after=yesterday".to_owned(), None, 400, "bad_parameter", "a cursor is the `id` of an event"),
        (String::new(), Some("42"), 400, "bad_header", "a cursor is the `id` of an event"),
        ("?after=start&after=now".to_owned(), None, 400, "bad_parameter", "twice"),
        ("?type=exploded".to_owned(), None, 400, "bad_parameter", "Debited"),
        ("?partition=1".to_owned(), None, 400, "bad_parameter", "below 1"),
        ("?partition=0&key=alice".to_owned(), None, 400, "bad_parameter", "leave it out"),
        ("?since=1".to_owned(), None, 400, "unknown_parameter", "after"),
    ];
    for (query, cursor, status, code, detail) in checks {
        let answer = refused(&host, &query, cursor).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{query} {cursor:?}: {answer:?}");
        assert!(answer.text("detail").contains(detail), "{answer:?}");
    }
    // A position that is ahead may be reached meanwhile, and then has another head.
    let mut client = host.client();
    let ahead = format!("0.{}.0~00000000", index + 1);
    let query = format!("?after={ahead}");
    let (answer, ()) = tokio::join!(refused(&host, &query, None), wallet::open(&mut client, "carol"));
    assert_eq!((answer.status, answer.problem().as_str()), (410, "position_gone"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_shows_signs_of_life_and_ends_with_its_node() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::serve(data.path(), 1, "event_heartbeat_ms = 50\nevent_readers = 2").await;
    let mut quiet = stream(&host, "").await;
    let first = quiet.next().await.expect("it begins at once");
    for _ in 0..3 {
        assert_eq!(quiet.next().await, Some(first.clone()), "a sign of life has the cursor and nothing else");
    }
    let mut other = stream(&host, "").await;
    let answer = refused(&host, "", None).await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "overloaded"));
    assert!(answer.header("retry-after").is_some());
    drop(quiet);
    // The reader's place is free once the host has noticed.
    let again = statehouse_tests::hold::eventually("a place becomes free", async || {
        Stream::open(host.address(), EVENTS, None).await.ok()
    });
    drop(again.await);
    wallet::open(&mut host.client(), "alice").await;
    let opened = other.next_event().await.expect("an account was opened");
    let ending = async {
        let last = other.next_event().await.expect("a stream says why it ends");
        assert_eq!((last.event.as_deref(), last.text("code").as_str()), (Some("closed"), "shutting_down"));
        assert_eq!((&last.id, Some(last.text("cursor"))), (&opened.id, opened.id.clone()));
        assert_eq!(other.next().await, None);
    };
    let (status, ()) = tokio::join!(host.terminate(), ending);
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_needs_a_role_and_is_described() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let openapi = host.client().get("/openapi.json").await.expect("the host answers").json();
    let route = &openapi["paths"]["/v1/{machine}/events"]["get"];
    let named: Vec<&Value> =
        route["parameters"].as_array().expect("it has some").iter().map(|one| &one["name"]).collect();
    for name in ["after", "key", "type", "partition", "Last-Event-ID"] {
        assert!(named.contains(&&json!(name)), "{name}: {named:?}");
    }
    assert!(route["responses"]["200"]["content"]["text/event-stream"].is_object(), "{route}");
    assert!(route["security"].is_array());
}
