//! A host that keeps little of its log. With an archive, events, views and the past are read from there, and
//! canonical snapshots are kept and deleted. Without one, what a webhook has not sent stays.
//!
//! It knows `[log] keep_bytes`, `[archive]` and `[snapshots]` of `serve`. The clients send batches, because segments
//! are released whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use statehouse_tests::artefacts;
use statehouse_tests::cluster::release;
use statehouse_tests::feed::Stream;
use statehouse_tests::hold::{PATIENCE, eventually, within};
use statehouse_tests::host::{argument, cli};
use statehouse_tests::http::{Client, Request};
use statehouse_tests::ports::free_address;
use statehouse_tests::process::{Process, binary};
use statehouse_tests::receiver::Receiver;
use statehouse_tests::wallet;
use tempfile::tempdir;
use uuid::Uuid;

const ACCOUNTS: [&str; 2] = ["alice", "bob"];
const OPENING: i128 = 1_000_000_000;
/// Enough for two accounts in each of two partitions.
const ACCOUNTS_MAX: usize = 12;
const BATCH: usize = 1_000;
const KEPT: usize = 2;
/// The segments of a log whose beginning retention would have released.
const SEGMENTS: usize = 5;

/// A node that keeps one MiB of log, with `more` in its configuration.
async fn serve(folder: &Path, data: &Path, more: &str) -> Process {
    let config = folder.join("node.toml");
    let text = format!(
        "[node]\nid = 1\ndata = {:?}\n[http]\nlisten = \"{}\"\n[auth]\nopen = true\n\
         [webhooks]\nallow = [\"127.0.0.1\"]\n[log]\nkeep_bytes = 1048576\n\
         [machines.wallet]\nmodule = {:?}\n{more}",
        argument(data),
        free_address(),
        argument(&release("wallet-1.0.1.wasm"))
    );
    std::fs::write(&config, text).expect("the folder is ours");
    artefacts::lend(data);
    let mut command = Command::new(binary());
    command.args(["serve", "--stop-with-stdin", "--config", argument(&config)]);
    Process::start("a node that releases its log", command)
        .await
        .unwrap_or_else(|refused| panic!("it starts: {refused:?}"))
}

async fn ready(node: &Process) -> Client {
    let mut client = Client::to(node.address());
    within(PATIENCE, "the node is ready", async || {
        client.get("/readyz").await.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
    client
}

/// Waits until the node is ready, and opens the accounts.
async fn begin(node: &Process) -> Client {
    let mut client = ready(node).await;
    for account in ACCOUNTS {
        wallet::open(&mut client, account).await;
        wallet::deposit(&mut client, account, OPENING).await;
    }
    client
}

/// Makes transfers between two accounts in one batch, all of which must be done.
async fn transfer(client: &mut Client, accounts: [&str; 2]) -> Vec<Uuid> {
    let ids: Vec<Uuid> = (0..BATCH).map(|_| Uuid::new_v4()).collect();
    let line = |(at, id): (usize, &Uuid)| {
        let body = wallet::transfer_body(&id.to_string(), accounts[at % 2], accounts[(at + 1) % 2], "0.07");
        json!({"command": "balance_transfer", "body": body}).to_string()
    };
    let body = ids.iter().enumerate().map(line).collect::<Vec<_>>().join("\n");
    let headers = vec![("content-type", "application/x-ndjson")];
    let request = Request { method: "POST", path: "/v1/wallet/batch", headers, body: body.into_bytes() };
    let answer = client.send(request).await.expect("the node answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = String::from_utf8(answer.body.to_vec()).expect("answers are UTF-8");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON"));
    assert!(lines.inspect(|line| assert_eq!(line["status"], 200, "{line}")).count() == BATCH);
    ids
}

/// The first file of the wallet's log.
fn first_segment(data: &Path) -> Option<PathBuf> {
    segments(data)?.into_iter().next()
}

fn segments(data: &Path) -> Option<Vec<PathBuf>> {
    let listed = std::fs::read_dir(data.join("wallet/0/log")).ok()?.flatten().map(|file| file.path());
    let mut segments: Vec<PathBuf> = listed
        .filter(|path| {
            path.file_name()
                .is_some_and(|it| it.to_string_lossy().starts_with("seg-") && it.to_string_lossy().ends_with(".log"))
        })
        .collect();
    segments.sort();
    Some(segments)
}

/// The balances of an account in the past, and whether a view says so.
async fn past(client: &mut Client, account: &str, at: &str) -> (Value, bool) {
    let answer = client.get(&format!("/v1/wallet/accounts/{account}?at={at}")).await.expect("the node answers");
    assert_eq!(answer.status, 200, "{account} at {at}: {answer:?}");
    (answer.json()["balances"].clone(), answer.header("statehouse-view").is_some())
}

async fn view_is_live(client: &mut Client) {
    within(PATIENCE, "the view serves", async || {
        let page = client.get("/v1/machines/wallet/views/statements").await.ok()?.json();
        (page["state"] == "live").then_some(())
    })
    .await;
}

async fn snapshots(client: &mut Client) -> (Vec<Value>, Vec<Value>) {
    let page = client.get("/v1/machines/wallet/snapshots").await.expect("the node answers").json();
    let listed = page.as_array().expect("a list").clone();
    listed.into_iter().partition(|snapshot| snapshot["place"] == "here")
}

/// The events of every command after a cursor, up to those of `last`.
async fn events_behind(process: &Process, cursor: &str, last: Uuid) -> BTreeMap<String, Vec<String>> {
    let mut stream =
        Stream::open(process.address(), "/v1/wallet/events", Some(cursor)).await.expect("it is not refused");
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut place = (0, 0);
    loop {
        let message = stream.next_event().await.expect("the stream goes on");
        assert!(message.event.is_none(), "it is not told to go away: {message:?}");
        let position = message.position();
        let mut parts = position.split(['.', '~']).skip(1).map(|part| part.parse::<u64>().expect("a number"));
        let next = (parts.next().expect("an index"), parts.next().expect("a number"));
        assert!(place < next, "in order: {place:?}, {next:?}");
        place = next;
        let of_command = seen.entry(message.text("commandid")).or_default();
        of_command.push(message.text("type"));
        if message.text("commandid") == last.to_string() && of_command.len() == 2 {
            return seen;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_released_is_read_from_the_archive_by_everybody() {
    let folder = tempdir().expect("a temporary folder");
    let [data, archive] = ["data", "archive"].map(|name| folder.path().join(name));
    // The node takes a snapshot about every MiB, and keeps two of them.
    let more = format!(
        "[snapshots]\nevery_bytes = 1048576\nkeep = {KEPT}\n[archive]\nurl = {:?}\nevery_seconds = 1\n",
        argument(&archive)
    );
    let node = serve(folder.path(), &data, &more).await;
    let mut client = begin(&node).await;
    let created = cli(["view", "create", "statements", "--url", &format!("http://{}", node.address())]);
    assert_eq!(created.code, Some(0), "{created:?}");
    view_is_live(&mut client).await;
    let cursor = wallet::account(&mut client, "bob").await.text("position");
    let mut ids = transfer(&mut client, ACCOUNTS).await;
    // The entries of these moments will be released. Those of one more moment, added below, will not.
    let mut moments = vec![cursor.clone(), wallet::account(&mut client, "bob").await.text("position")];
    let begun = first_segment(&data);
    eventually("the beginning of the log is released", async || {
        ids.extend(transfer(&mut Client::to(node.address()), ACCOUNTS).await);
        (first_segment(&data) != begun).then_some(())
    })
    .await;
    moments.push(wallet::account(&mut client, "bob").await.text("position"));
    println!("{} transfers until the beginning was released", ids.len());

    let last = *ids.last().expect("there are some");
    let seen = events_behind(&node, &cursor, last).await;
    assert_eq!(seen.len(), ids.len(), "every transfer, and nothing else");
    let both = ["statehouse.wallet.Debited", "statehouse.wallet.Credited"];
    assert!(ids.iter().all(|id| seen[&id.to_string()] == both), "each event once");

    let url = format!("http://{}", node.address());
    let mut by_view = Vec::new();
    for at in &moments {
        let (balances, is_view) = within(PATIENCE, "the view answers", async || {
            Some(past(&mut Client::to(node.address()), "alice", at).await).filter(|(_, is_view)| *is_view)
        })
        .await;
        by_view.push((balances, is_view));
    }
    let dropped = cli(["view", "drop", "statements", "--url", &url]);
    assert_eq!(dropped.code, Some(0), "{dropped:?}");
    for (at, (viewed, _)) in moments.iter().zip(&by_view) {
        assert_eq!(past(&mut client, "alice", at).await, (viewed.clone(), false), "replayed, at {at}");
    }
    let metrics = client.get("/metrics").await.expect("the node answers");
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    for from in ["genesis", "snapshot"] {
        assert!(metrics.contains(&format!("statehouse_rewinds_total{{from=\"{from}\"}}")), "{metrics}");
    }
    let created = cli(["view", "create", "statements", "--url", &url]);
    assert_eq!(created.code, Some(0), "{created:?}");
    view_is_live(&mut client).await;
    for (at, viewed) in moments.iter().zip(&by_view) {
        let again = within(PATIENCE, "the view answers again", async || {
            Some(past(&mut Client::to(node.address()), "alice", at).await).filter(|(_, is_view)| *is_view)
        });
        assert_eq!(again.await, *viewed, "built again from the archive, at {at}");
    }
    check_snapshots(&mut client, &data, &archive).await;
    assert!(node.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_webhook_has_not_sent_stays_in_the_log() {
    let folder = tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let node = serve(folder.path(), &data, "").await;
    drop(begin(&node).await);
    let receiver = Receiver::start().await;
    let url = format!("http://{}", node.address());
    let webhook = |arguments: &[&str]| {
        let done = cli(["webhook"].iter().chain(arguments).chain(&["--url", url.as_str()]));
        assert!(matches!(done.code, Some(0 | 1)), "{arguments:?}: {done:?}");
        done
    };
    let created = webhook(&["create", "till", "--to", &receiver.url(), "--from", "start", "--batch", "1000", "--json"]);
    let created: Value = serde_json::from_str(&created.stdout).expect("it prints JSON");
    webhook(&["pause", "till"]);
    let begun = first_segment(&data);
    let is_snapshotted = || std::fs::read_dir(data.join("wallet/0/snapshots")).is_ok_and(|mut it| it.next().is_some());
    let mut ids = Vec::new();
    eventually("the log is far longer than it is to be", async || {
        ids.extend(transfer(&mut Client::to(node.address()), ACCOUNTS).await);
        (SEGMENTS <= segments(&data)?.len() && is_snapshotted()).then_some(())
    })
    .await;
    assert_eq!(first_segment(&data), begun, "nothing is released");

    webhook(&["resume", "till"]);
    let secret = created["secret"].as_str().expect("a secret");
    within(PATIENCE, "everything arrives", async || {
        let count = receiver.received().iter().map(|received| received.events().len()).sum::<usize>();
        (2 * ids.len() < count).then_some(())
    })
    .await;
    let received = receiver.received();
    assert!(received.iter().all(|received| received.is_signed_by(secret)));
    let events = received.iter().flat_map(|received| received.events());
    let commands: BTreeSet<String> =
        events.filter_map(|event| event["commandid"].as_str().map(str::to_owned)).collect();
    assert!(ids.iter().all(|id| commands.contains(&id.to_string())), "each transfer arrived");
    eventually("what was sent is released", async || {
        ids.extend(transfer(&mut Client::to(node.address()), ACCOUNTS).await);
        (first_segment(&data) != begun).then_some(())
    })
    .await;
    assert!(node.terminate().await.success());
}

/// Two accounts with money in each of two partitions.
async fn open_in_both(client: &mut Client) -> [[String; 2]; 2] {
    let mut found: [Vec<String>; 2] = [Vec::new(), Vec::new()];
    for number in 0..ACCOUNTS_MAX {
        let account = format!("account-{number}");
        wallet::open(client, &account).await;
        let position = wallet::account(client, &account).await.text("position");
        let of_partition = &mut found[usize::from(position.starts_with("1."))];
        if of_partition.len() < 2 {
            wallet::deposit(client, &account, OPENING).await;
            of_partition.push(account);
        }
    }
    found.map(|accounts| accounts.try_into().expect("half of them are in each"))
}

/// This used to be a conflict, because nobody could say what the released entry was. But the client had said what it
/// meant.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_commands_under_one_id_the_one_that_is_not_released_is_found_by_its_content() {
    let folder = tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let node = serve(folder.path(), &data, "partitions = 2\n").await;
    let mut client = ready(&node).await;
    let accounts = open_in_both(&mut client).await;
    let id = Uuid::new_v4();
    let mut places = Vec::new();
    for [from, to] in &accounts {
        let body = wallet::transfer_body(&id.to_string(), from, to, "0.01");
        let accepted = client.post_with(wallet::TRANSFER, &body, vec![("prefer", "respond-async")]).await;
        let accepted = accepted.expect("the node answers");
        let place = accepted.header("location").unwrap_or_else(|| panic!("{accepted:?}")).to_owned();
        eventually("it is recorded", async || {
            (client.get(&place).await.ok()?.json()["state"] == "recorded").then_some(())
        })
        .await;
        places.push(place);
    }
    let by_content = |place: &str| {
        let (_, fingerprint) = place.split_once("fingerprint=").expect("it says what was sent");
        format!("/v1/wallet/commands/{id}?fingerprint={fingerprint}")
    };
    let begun = first_segment(&data);
    eventually("the first of them is released", async || {
        transfer(&mut client, accounts[0].each_ref().map(String::as_str)).await;
        (first_segment(&data) != begun).then_some(())
    })
    .await;

    let kept = client.get(&by_content(&places[1])).await.expect("the node answers");
    assert_eq!((kept.status, kept.text("state").as_str()), (200, "recorded"), "{kept:?}");
    assert!(kept.text("position").starts_with("1."), "{kept:?}");
    let released = client.get(&by_content(&places[0])).await.expect("the node answers");
    assert_eq!((released.status, released.problem().as_str()), (410, "outcome_released"), "{released:?}");
    assert!(node.terminate().await.success());
}

/// Checks that the newest snapshots are here, that all are in the archive, and that each is what the journal results
/// in.
async fn check_snapshots(client: &mut Client, data: &Path, archive: &Path) {
    let (here, elsewhere) = within(PATIENCE, "what is beyond those that are kept is deleted", async || {
        let (here, elsewhere) = snapshots(client).await;
        let others = here.iter().filter(|it| it["days"].as_array().is_some_and(Vec::is_empty)).count();
        (others == KEPT && !elsewhere.is_empty()).then_some((here, elsewhere))
    })
    .await;
    println!("{} snapshots here, {} in the archive alone", here.len(), elsewhere.len());
    let name = |it: &Value| it["file"].as_str().expect("a name").to_owned();
    let newest_elsewhere = elsewhere.iter().filter(|it| it["days"] == json!([])).map(name).max();
    let oldest_here = here.iter().filter(|it| it["days"] == json!([])).map(name).min();
    assert!(newest_elsewhere < oldest_here, "the oldest ones go: {newest_elsewhere:?}, {oldest_here:?}");
    let kept = |folder: PathBuf| {
        let listed = std::fs::read_dir(folder).expect("it is a folder").flatten();
        listed.filter(|file| file.path().extension().is_some_and(|it| it == "snapshot")).count()
    };
    assert_eq!(kept(data.join("wallet/0/canonical")), here.len());
    assert!(here.len() + elsewhere.len() <= kept(archive.join("wallet/0")) + KEPT);
    let verified = cli(["snapshot", "verify", "--data", argument(archive)]);
    assert!(verified.code == Some(0) && verified.stdout.contains("verified: every byte"), "{verified:?}");
}
