//! Views over the real binary: their routes, their lag, the past in three ways, and kills while they follow and while
//! they are built again.
//!
//! It knows the wallet's views and `statehouse view`. What the wallet itself and the journal say is right.

use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use statehouse_audit::audit::balance::entity_at;
use statehouse_audit::audit::{AuditError, Source};
use statehouse_engine::guest::compile_by;
use statehouse_kernel::machine::journal::Moment;
use statehouse_tests::hold::eventually;
use statehouse_tests::host::{CommandOutput, Host, Start, argument, cli};
use statehouse_tests::http::{Answer, Client};
use statehouse_tests::oracle::{Ledger, check_audit};
use statehouse_tests::process::binary;
use statehouse_tests::wallet::{self, BANK, CURRENCY};
use statehouse_tests::workload::Workload;
use tempfile::tempdir;
use uuid::Uuid;

const VIEWS: [&str; 3] = ["audit_trail", "double_charges", "statements"];
const SEED_VARIABLE: &str = "STATEHOUSE_SEED";
/// Taken while clients work, so that some moments are after one and some before.
const SNAPSHOTS: usize = 3;

async fn start(data: &Path, partitions: u32) -> Host {
    let arguments = vec!["--partitions".to_owned(), partitions.to_string()];
    let start = Start { arguments, has_views: true, ..Start::on(data) };
    let host = Host::start_with(&start).await.expect("the host starts");
    for view in VIEWS {
        live(&mut host.client(), view).await;
    }
    host
}

async fn page(client: &mut Client, view: &str) -> Value {
    client.get(&format!("/v1/machines/wallet/views/{view}")).await.expect("the host answers").json()
}

/// Waits until the view serves and nothing is built beside it.
pub async fn live(client: &mut Client, view: &str) -> Value {
    eventually("the view serves", async || {
        let page = page(client, view).await;
        (page["state"] == "live").then_some(page)
    })
    .await
}

async fn get(client: &mut Client, path: &str) -> Answer {
    client.get(path).await.expect("the host answers")
}

async fn good(client: &mut Client, path: &str) -> Value {
    let answer = get(client, path).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

fn url(host: &Host) -> String {
    format!("http://{}", host.address())
}

fn command(host: &Host, arguments: &[&str]) -> CommandOutput {
    let url = url(host);
    cli(["view"].iter().chain(arguments).chain(&["--url", url.as_str()]))
}

/// The newest position of an account's partition.
async fn position(client: &mut Client, account: &str) -> String {
    wallet::account(client, account).await.text("position")
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_trail_and_double_charges_are_answered_with_what_was_just_written() {
    let data = tempdir().expect("a temporary folder");
    let host = start(data.path(), 1).await;
    let mut client = host.client();
    for name in ["alice", "bob"] {
        wallet::open(&mut client, name).await;
    }
    wallet::deposit(&mut client, "alice", 10_000).await;
    for _ in 0..2 {
        let paid = wallet::transfer(&mut client, Uuid::new_v4(), "alice", "bob", 1_250).await.expect("an answer");
        assert_eq!(paid.status, 200, "{paid:?}");
    }
    let refused = wallet::transfer(&mut client, Uuid::new_v4(), "alice", "bob", 99_999).await.expect("an answer");
    assert_eq!(refused.status, 409, "{refused:?}");
    let at = position(&mut client, "alice").await;

    let path = format!("/v1/wallet/accounts/alice/statement?at_least={at}");
    let answer = get(&mut client, &path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("statehouse-view"), Some("statements 1.0.0"));
    let lag = answer.header("statehouse-view-lag").expect("it says how far behind it is");
    assert!(lag.starts_with("entries=") && lag.contains("seconds="), "{lag}");
    let statement = answer.json();
    let amounts: Vec<&str> = texts(&statement["postings"], "amount");
    assert_eq!(amounts, ["100.00", "-12.50", "-12.50"]);
    assert_eq!(texts(&statement["postings"], "balance"), ["100.00", "87.50", "75.00"]);
    assert_eq!(statement["closing"], json!({"USD": "75.00"}));

    let trail = good(&mut client, &format!("/v1/wallet/audit/trail?account=alice&at_least={at}")).await;
    let outcomes: Vec<&str> = texts(&trail["items"], "outcome");
    assert_eq!(outcomes, ["rejected", "accepted", "accepted", "accepted", "accepted"], "newest first: {trail}");
    assert_eq!(trail["items"][0]["code"], "insufficient_funds");
    assert_eq!(trail["items"][0]["caller"], "anonymous");
    let modules = good(&mut client, "/v1/machines/wallet/modules").await;
    assert_eq!(trail["items"][0]["module"], modules["active"], "it names the module that decided");

    // Before its first posting the view cannot say where the balance of the bank was read, so it does not answer.
    let opened = trail["items"][4]["time"].as_i64().expect("it has a time");
    let opened = statehouse_text::rfc3339::print_time(statehouse_kernel::ids::Micros(opened));
    let (then, now) = (format!("/v1/wallet/accounts/@bank?at={opened}"), position(&mut client, "@bank").await);
    let then = get(&mut client, &then).await;
    assert_eq!((then.status, then.header("statehouse-view")), (200, None), "{then:?}");
    assert_ne!(then.text("position"), now, "{then:?}");

    let pairs = good(&mut client, &format!("/v1/wallet/audit/double_charges?window=3600&at_least={at}")).await;
    assert_eq!(texts(&pairs["items"], "amount"), ["12.50"], "{pairs}");
    assert_eq!(pairs["items"][0]["payee"], "bob");

    for (path, status, code) in [
        ("accounts/nobody/statement", 404, "account_not_found"),
        ("accounts/alice/statement?from=yesterday", 400, "malformed_time"),
        ("accounts/alice/statement?form=2026-01-01", 400, "unknown_parameter"),
        ("audit/double_charges?window=0", 400, "malformed_window"),
        ("audit/trail?at=2999-01-01T00:00:00Z", 400, "bad_parameter"),
        ("accounts/alice?at=2999-01-01T00:00:00Z", 400, "bad_parameter"),
        ("audit/trail?at_least=0.1.0~00000000", 410, "position_gone"),
        ("audit/trail?at_least=0.9999.0~00000000", 410, "position_gone"),
        ("audit/nothing", 404, "not_found"),
    ] {
        let answer = get(&mut client, &format!("/v1/wallet/{path}")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{path}");
    }
    let metrics = get(&mut client, "/metrics").await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.contains("statehouse_view_lag_entries{machine=\"wallet\",view=\"statements\"}"), "{metrics}");
    let routes = good(&mut client, "/openapi.json").await;
    assert!(routes["paths"]["/v1/wallet/accounts/{account}/statement"]["get"].is_object());
}

fn texts<'v>(items: &'v Value, member: &str) -> Vec<&'v str> {
    let items = items.as_array().unwrap_or_else(|| panic!("no items: {items}"));
    items.iter().map(|item| item[member].as_str().unwrap_or_else(|| panic!("no `{member}` in {item}"))).collect()
}

/// The balances of an account at a moment, and whether a view said so.
async fn past(client: &mut Client, account: &str, at: &str) -> (Option<Value>, bool) {
    let answer = get(client, &format!("/v1/wallet/accounts/{account}?at={at}")).await;
    let is_view = answer.header("statehouse-view").is_some();
    match answer.status {
        200 => {
            let Value::Object(mut state) = answer.json() else { panic!("no object: {answer:?}") };
            // Where it was read does not matter here.
            state.remove("position");
            (Some(Value::Object(state)), is_view)
        }
        // A view says this where the module would say it, too.
        404 => (None, is_view),
        _ => panic!("{account} at {at}: {answer:?}"),
    }
}

/// Every page of an account's history, and whether a view said so.
async fn history(client: &mut Client, account: &str) -> (Vec<Value>, bool) {
    let (mut pages, mut is_view, mut cursor) = (Vec::new(), true, String::new());
    loop {
        let path = format!("/v1/wallet/accounts/{account}/history?limit=7{cursor}");
        let answer = get(client, &path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        is_view &= answer.header("statehouse-view").is_some();
        let mut page = answer.json();
        // Where it was read does not matter here.
        page.as_object_mut().expect("an object").remove("position");
        let next = page["next_cursor"].as_str().map(|next| format!("&cursor={next}"));
        pages.push(page);
        match next {
            Some(next) => cursor = next,
            None => return (pages, is_view),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_of_the_past_is_the_same_by_view_from_a_snapshot_and_from_genesis() {
    let seed: u64 = std::env::var(SEED_VARIABLE).map_or_else(|_| rand::random(), |text| text.parse().expect("a seed"));
    println!("{SEED_VARIABLE}={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let data = tempdir().expect("a temporary folder");
    let host = start(data.path(), 3).await;
    let mut client = host.client();
    let ledger = Ledger::open(&mut client, 6, 5_000).await;
    let workload = Workload::start(host.address(), &ledger.accounts, 4, seed);
    for round in 1..=SNAPSHOTS {
        let enough = round * 200 / (SNAPSHOTS + 1);
        eventually("clients make progress", async || (enough <= workload.done_count()).then_some(())).await;
        let taken = cli(["snapshot", "take", "--url", &url(&host)]);
        assert_eq!(taken.code, Some(0), "{taken:?}");
    }
    eventually("clients make progress", async || (200 <= workload.done_count()).then_some(())).await;
    workload.stop().await;
    wallet::change(&mut client, &ledger.accounts[0], "freeze").await;

    // The moments are those of decisions, and some between them.
    let trail = good(&mut client, "/v1/wallet/audit/trail?limit=1000&consistency=linearizable").await;
    let times: Vec<i64> =
        trail["items"].as_array().expect("items").iter().filter_map(|item| item["time"].as_i64()).collect();
    assert!(200 < times.len(), "there are moments to ask about");
    let moments: Vec<String> = (0..12)
        .map(|_| {
            let micros = times[random.random_range(0..times.len())] + random.random_range(-1..=1);
            statehouse_text::rfc3339::print_time(statehouse_kernel::ids::Micros(micros))
        })
        .collect();
    let accounts: Vec<&str> = ledger.accounts.iter().map(String::as_str).chain([BANK]).collect();
    let mut by_view = Vec::new();
    for at in &moments {
        for account in &accounts {
            // The view may lag for a moment, and then the wallet answers. It always answers for the bank, of which the
            // view does not say where its balance was read.
            let state = eventually("the view answers", async || {
                let (state, is_view) = past(&mut host.client(), account, at).await;
                assert!(!is_view || *account != BANK, "{state:?}");
                (is_view || state.is_none() || *account == BANK).then_some(state)
            });
            by_view.push(state.await);
        }
    }
    let mut histories = Vec::new();
    for account in &ledger.accounts {
        let (pages, is_view) = history(&mut client, account).await;
        assert!(is_view, "the history of {account} was not answered by the view");
        histories.push(pages);
    }
    let dropped = command(&host, &["drop", "statements"]);
    assert_eq!(dropped.code, Some(0), "{dropped:?}");
    for (account, viewed) in ledger.accounts.iter().zip(histories) {
        assert_eq!(history(&mut client, account).await, (viewed, false), "{account}");
    }
    check_without_view(&mut client, data.path(), &moments, &accounts, by_view).await;
}

/// Checks that what the view has said of each moment and account is also the result of a replay from a snapshot, and
/// of one from the first entry on.
async fn check_without_view(
    client: &mut Client,
    data: &Path,
    moments: &[String],
    accounts: &[&str],
    by_view: Vec<Option<Value>>,
) {
    // This process is no host, so it has no child of its own that compiles.
    compile_by(binary());
    let source = Source::open(data).expect("a data folder can be audited while its node runs");
    let mut answers = by_view.into_iter();
    for at in moments {
        for account in accounts {
            let viewed = answers.next().expect("one for each");
            let (rebuilt, is_view) = past(client, account, at).await;
            assert!(!is_view, "the view is gone");
            assert_eq!(viewed, rebuilt, "{account} at {at}");
            let balance = viewed.as_ref().and_then(|state| state["balances"][CURRENCY].as_str());
            assert_eq!(balance, replayed(&source, account, at).as_deref(), "{account} at {at}");
        }
    }
    let metrics = get(client, "/metrics").await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.contains("statehouse_rewinds_total{from=\"snapshot\"}"), "some began at a snapshot: {metrics}");

    let (at, account) = (moments.first().expect("there are some"), accounts[0]);
    let audit = ["audit", "balance", "--data", argument(data), "--account", account, "--currency", CURRENCY];
    let audited = cli(audit.iter().chain(&["--at", at.as_str(), "--json"]));
    let said: Option<Value> = serde_json::from_str(&audited.stdout).ok();
    let said = said.as_ref().and_then(|said| said["balance"].as_str());
    assert_eq!(said, replayed(&source, account, at).as_deref(), "{audited:?}");
}

/// The result of replaying the journal from its first entry on; `None` where there was no such account.
fn replayed(source: &Source, account: &str, at: &str) -> Option<String> {
    let moment = Moment::Time(statehouse_text::rfc3339::parse_time(at).expect("it was printed as one"));
    match entity_at(source, "wallet", account, Some(moment)) {
        Ok(found) => found.value.find("balances")?.find(CURRENCY)?.as_text().map(str::to_owned),
        Err(AuditError::Query(_)) => None,
        Err(error) => panic!("{account} at {at}: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_while_views_follow_and_are_made_again_change_nothing_of_what_they_say() {
    let data = tempdir().expect("a temporary folder");
    let mut host = start(data.path(), 2).await;
    let ledger = Ledger::open(&mut host.client(), 8, 100_000).await;
    let workload = Workload::start(host.address(), &ledger.accounts, 6, 7);
    for round in 0..6 {
        let enough = workload.done_count() + 80;
        eventually("clients make progress", async || (enough <= workload.done_count()).then_some(())).await;
        if round % 2 == 1 {
            let asked = command(&host, &["rebuild", "statements"]);
            assert_eq!(asked.code, Some(0), "{asked:?}");
        }
        host.kill();
        let arguments = vec!["--partitions".to_owned(), "2".to_owned()];
        let start = Start { arguments, has_views: true, ..Start::on(data.path()) };
        host = Host::start_with(&start).await.expect("the host starts");
        workload.moved_to(host.address());
    }
    let attempts = workload.stop().await;
    let mut client = host.client();
    ledger.check(&mut client, &attempts).await;
    live(&mut client, "statements").await;
    let mut followed = Vec::new();
    for account in &ledger.accounts {
        let path = format!("/v1/wallet/accounts/{account}/statement?limit=1000&consistency=linearizable");
        let statement = good(&mut client, &path).await;
        let now = wallet::account(&mut client, account).await.json();
        assert_eq!(statement["closing"], now["balances"], "{account}");
        followed.push(statement);
    }
    let rebuilt = command(&host, &["rebuild", "statements", "--json"]);
    assert_eq!(rebuilt.code, Some(0), "{rebuilt:?}");
    live(&mut client, "statements").await;
    for (account, followed) in ledger.accounts.iter().zip(followed) {
        let path = format!("/v1/wallet/accounts/{account}/statement?limit=1000&consistency=linearizable");
        assert_eq!(without_position(good(&mut client, &path).await), without_position(followed), "{account}");
    }
    check_audit(data.path());
}

/// The view may have moved on since it was read.
fn without_position(mut statement: Value) -> Value {
    statement.as_object_mut().expect("an object").remove("position");
    statement
}

#[tokio::test(flavor = "multi_thread")]
async fn views_are_listed_dropped_and_created_again_and_that_survives_a_restart() {
    let data = tempdir().expect("a temporary folder");
    let host = start(data.path(), 1).await;
    let listed = command(&host, &["list"]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    assert!(VIEWS.iter().all(|view| listed.stdout.contains(view)), "{}", listed.stdout);
    let dropped = command(&host, &["drop", "double_charges"]);
    assert!(dropped.code == Some(0) && !dropped.stdout.contains("double_charges"), "{dropped:?}");
    assert!(host.terminate().await.success());

    let data_start = Start { has_views: true, ..Start::on(data.path()) };
    let host = Host::start_with(&data_start).await.expect("the host starts");
    let mut client = host.client();
    live(&mut client, "statements").await;
    assert_eq!(page(&mut client, "double_charges").await["code"], "unknown_view", "it does not come back by itself");
    let again = command(&host, &["drop", "double_charges"]);
    assert!(again.code == Some(2) && again.stderr.contains("there is no view"), "{again:?}");
    let created = command(&host, &["create", "double_charges"]);
    assert_eq!(created.code, Some(0), "{created:?}");
    live(&mut client, "double_charges").await;
    let twice = command(&host, &["create", "double_charges"]);
    assert!(twice.code == Some(2) && twice.stderr.contains("rebuild it"), "{twice:?}");
    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/../modules/releases/wallet-1.1.0.wasm");
    let module = command(&host, &["create", module]);
    assert!(module.code == Some(2) && module.stderr.contains("and not a view"), "{module:?}");
    let view = concat!(env!("CARGO_MANIFEST_DIR"), "/../modules/releases/statements-1.0.0.wasm");
    let staged = cli(["module", "stage", view, "--url", &url(&host)]);
    assert!(staged.code == Some(2) && staged.stderr.contains("view create"), "{staged:?}");
}

/// A view `statements` that is not part of the program, and its hash.
pub fn other_statements(folder: &Path) -> (PathBuf, blake3::Hash) {
    let released = concat!(env!("CARGO_MANIFEST_DIR"), "/../modules/releases/statements-1.0.0.wasm");
    let mut wasm = std::fs::read(released).expect("a release stays");
    let words = b"What was posted to an account";
    let place = wasm.windows(words.len()).position(|window| window == words).expect("the view says so of itself");
    wasm[place] = b'w';
    let (file, id) = (folder.join("mine.wasm"), blake3::hash(&wasm));
    std::fs::write(&file, wasm).expect("a new file");
    (file, id)
}

/// The command used to start the view and yet to fail with 409, and the module was listed among the refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_waits_for_its_module_is_created_again_with_it() {
    let data = tempdir().expect("a temporary folder");
    let (file, id) = other_statements(data.path());
    let host = Host::start(data.path()).await;
    let created = command(&host, &["create", argument(&file)]);
    assert_eq!(created.code, Some(0), "{created:?}");
    live(&mut host.client(), "statements").await;
    assert!(host.terminate().await.success());

    // So is a node that was restored from an archive without the modules of views.
    std::fs::remove_file(data.path().join(format!("modules/{id}.wasm"))).expect("it was kept");
    let host = Host::start_unready(&Start::on(data.path())).await.expect("the host runs");
    let mut client = host.client();
    eventually("the view waits", async || (page(&mut client, "statements").await["state"] == "waiting").then_some(()))
        .await;
    let again = command(&host, &["create", argument(&file)]);
    assert_eq!(again.code, Some(0), "{again:?}");
    let page = live(&mut client, "statements").await;
    assert_eq!(page["serving"]["module"], id.to_string(), "{page}");
    let modules = good(&mut client, "/v1/machines/wallet/modules").await;
    assert_eq!(modules["refused"], json!([]), "{modules}");
    assert!(host.terminate().await.success());
    check_audit(data.path());
}

/// Otherwise a view with the path of the machine's own read could say anything about the past, in the machine's name.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_view_that_an_admin_names_answers_in_place_of_the_machine() {
    let data = tempdir().expect("a temporary folder");
    let (file, id) = other_statements(data.path());
    let mut host = Host::serve(data.path(), 1, "").await;
    let created = command(&host, &["create", argument(&file)]);
    assert_eq!(created.code, Some(0), "{created:?}");
    for (config, may_answer) in [(String::new(), false), (format!("[views]\ninstead = [\"{id}\"]"), true)] {
        host.kill();
        host = Host::serve(data.path(), 1, &config).await;
        let mut client = host.client();
        live(&mut client, "statements").await;
        if !may_answer {
            wallet::open(&mut client, "alice").await;
            wallet::deposit(&mut client, "alice", 500).await;
        }
        // Below its own path the view answers either way.
        let own = get(&mut client, "/v1/wallet/accounts/alice/statement?consistency=linearizable").await;
        assert_eq!((own.status, own.header("statehouse-view")), (200, Some("statements 1.0.0")), "{own:?}");
        let position = wallet::account(&mut client, "alice").await.text("position");
        let (state, is_view) = past(&mut client, "alice", &position).await;
        assert_eq!(state.expect("alice is there")["balances"]["USD"], "5.00");
        let (pages, is_view_too) = history(&mut client, "alice").await;
        assert_eq!(pages[0]["items"].as_array().map(Vec::len), Some(2));
        assert_eq!((is_view, is_view_too), (may_answer, may_answer), "{config}");
    }
}
