//! The host ends itself between any two durable steps, under load, and everything acknowledged is there afterwards.
//!
//! The binary is both host and test. Started with a command of the CLI it is the host, with its fail points compiled
//! in. Otherwise it is the test, which finds the points in the host's source, so that none is forgotten. Each point
//! is reached at once and a little later. Points that need a torn tail are left to the log's own tests.

mod orders;
mod replays;
mod snapshots;
mod views;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use statehouse_tests::cluster::release;
use statehouse_tests::hold::eventually;
use statehouse_tests::host::{Host, Start, argument, cli};
use statehouse_tests::oracle::{Ledger, check_audit};
use statehouse_tests::workload::Workload;
use tempfile::tempdir;
use tokio::task::LocalSet;

/// How many points are checked at the same time.
const LANES: usize = 2;
const CLIENTS: usize = 8;
const ACCOUNTS: usize = 8;
const OPENING: i128 = 100_000;
/// How often a point is passed before the host ends there.
const PASSES: [usize; 2] = [0, 5];
/// Enough acknowledged transfers to fill the first segment, so that the points of rolling over are reached.
const PROGRESS_MAX: usize = 12_000;
/// A new data folder passes these points once.
const FIRST_START: [&str; 2] = ["folder::", "registry::"];
/// An orderly stop writes what is not on disk yet, and merges files when there are many.
const ORDERLY_STOP: [&str; 2] = ["store::", "ids::"];
/// Enough accounts that each partition migrates several chunks.
const MIGRATED_ACCOUNTS: usize = 300;
/// The most stops until the files are merged for the first time.
const STOPS_MAX: usize = 12;
/// These points are passed when a module whose rows have another schema becomes active.
const MIGRATION: &str = "migration::";
/// These points are reached only after a power cut, which a kill is not.
const TORN_TAIL: &str = "log::repair_";

fn main() -> ExitCode {
    if matches!(std::env::args().nth(1).as_deref(), Some("dev" | "audit" | "snapshot" | "compile-module")) {
        let _scenario = fail::FailScenario::setup();
        return statehouse::main();
    }
    // `cargo test … -- NAME` runs the points that have NAME in their names.
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let all = points().into_iter().chain([orders::POINT.to_owned()]);
    let points: Vec<String> = all.filter(|point| point.contains(&wanted)).collect();
    assert!(!points.is_empty(), "the host's source has no such fail point: `{wanted}`");
    println!("\nrunning {} tests", points.len());
    let left = Mutex::new(points.iter());
    let next = || left.lock().expect("nobody panics while taking a point").next();
    let failed: usize = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(|| run_points(&next))).collect();
        lanes.into_iter().map(|lane| lane.join().expect("a failure ends the task of its point only")).sum()
    });
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {} passed; {failed} failed", points.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Checks points until there are none left; returns how many failed.
fn run_points<'p>(next: &impl Fn() -> Option<&'p String>) -> usize {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let mut failed = 0;
    while let Some(point) = next() {
        // Each check is a task of its own, so that a panic is the failure of its point and ends nothing else.
        let check = check_point(point.clone());
        let is_ok =
            runtime.block_on(LocalSet::new().run_until(async { tokio::task::spawn_local(check).await.is_ok() }));
        println!("test {point} ... {}", if is_ok { "ok" } else { "FAILED" });
        failed += usize::from(!is_ok);
    }
    failed
}

async fn check_point(point: String) {
    if point == orders::POINT {
        orders::check().await;
    } else if begins(&replays::POINTS, &point) {
        replays::check(&point).await;
    } else if point.starts_with(snapshots::POINTS) {
        snapshots::check(&point).await;
    } else if begins(&FIRST_START, &point) {
        check_first_start(point).await;
    } else if point.starts_with(MIGRATION) {
        check_migration(point).await;
    } else if point.starts_with(views::POINTS) {
        views::check(&point).await;
    } else if begins(&ORDERLY_STOP, &point) {
        check_orderly_stop(point).await;
    } else {
        check(point).await;
    }
}

fn begins(prefixes: &[&str], point: &str) -> bool {
    prefixes.iter().any(|prefix| point.starts_with(prefix))
}

/// Lets the host end at the point under load, restarts it, and lets the oracle judge.
async fn check(point: String) {
    let data = tempdir().expect("a temporary folder");
    let mut host = Host::start_with(&start(data.path(), None)).await.expect("the host starts");
    let ledger = Ledger::open(&mut host.client(), ACCOUNTS, OPENING).await;
    let workload = Workload::start(host.address(), &ledger.accounts, CLIENTS, 1);
    let mut reached_count = 0;
    // Segments are prepared and rolled over a few times in a run, not six.
    let is_rare = point.contains("roll") || point.contains("spare");
    for passes in PASSES.into_iter().take(if is_rare { 1 } else { PASSES.len() }) {
        host.kill();
        // If the host ends while it starts, it has reached the point, too.
        match Host::start_with(&start(data.path(), Some(format!("{point}={passes}*off->return")))).await {
            Err(_) => reached_count += 1,
            Ok(mut cut) => {
                workload.moved_to(cut.address());
                let enough = workload.done_count() + PROGRESS_MAX;
                let has_ended = eventually("the point is reached, or enough is done", async || {
                    let has_ended = cut.has_ended();
                    (has_ended || workload.done_count() >= enough).then_some(has_ended)
                });
                reached_count += usize::from(has_ended.await);
            }
        }
        host = Host::start_with(&start(data.path(), None)).await.expect("the host starts again");
        workload.moved_to(host.address());
    }
    let attempts = workload.stop().await;
    ledger.check(&mut host.client(), &attempts).await;
    host.kill();
    check_audit(data.path());
    assert!(0 < reached_count, "{point} was never reached: the load does not do what leads there");
}

/// Lets the very first start end at the point. The second one finds a folder that it can use.
async fn check_first_start(point: String) {
    let data = tempdir().expect("a temporary folder");
    let first = Host::start_with(&start(data.path(), Some(format!("{point}=return")))).await;
    assert!(first.is_err(), "{point} was not reached by the first start");
    let host = Host::start_with(&start(data.path(), None)).await.expect("the host starts");
    let ledger = Ledger::open(&mut host.client(), 2, OPENING).await;
    ledger.check(&mut host.client(), &[]).await;
    host.kill();
    check_audit(data.path());
}

/// Lets the host end at the point while its rows are migrated, at once and some chunks later. The next start
/// continues the migration, and no row is half of one schema and half of the other.
async fn check_migration(point: String) {
    for passes in [0, 1] {
        let data = tempdir().expect("a temporary folder");
        let host = Host::start_with(&start(data.path(), None)).await.expect("the host starts");
        let ledger = Ledger::open(&mut host.client(), MIGRATED_ACCOUNTS, OPENING).await;
        let url = format!("http://{}", host.address());
        let module = release("wallet-2.0.0.wasm");
        for step in ["stage", "prepare"] {
            let done = cli(["module", step, argument(&module), "--url", &url]);
            assert_eq!(done.code, Some(0), "{done:?}");
        }
        host.kill();
        let ending = format!("{point}={passes}*off->return");
        let mut host = Host::start_with(&start(data.path(), Some(ending))).await.expect("nothing leads there yet");
        let url = format!("http://{}", host.address());
        eventually("the host ends while it migrates", async || {
            let asked = cli(["module", "activate", argument(&module), "--without-proof", "--url", &url]);
            assert!(asked.code != Some(0), "the host does not get past {point}: {asked:?}");
            let has_ended = host.has_ended();
            if !has_ended {
                println!("{point}: asked again after {asked:?}");
            }
            has_ended.then_some(())
        })
        .await;
        drop(host);
        let host = Host::start_with(&start(data.path(), None)).await.expect("the host starts again");
        let mut client = host.client();
        eventually("every partition is migrated", async || {
            let page = client.get("/v1/machines/wallet/modules").await.ok()?.json();
            page["partitions"].as_array()?.iter().all(|partition| partition["schema"] == 3).then_some(())
        })
        .await;
        ledger.check(&mut client, &[]).await;
        host.kill();
        check_audit(data.path());
    }
}

/// Lets orderly stops end at the point until it is reached. Nothing is missing afterwards.
async fn check_orderly_stop(point: String) {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start_with(&start(data.path(), None)).await.expect("the host starts");
    let ledger = Ledger::open(&mut host.client(), ACCOUNTS, OPENING).await;
    host.kill();
    let mut attempts = Vec::new();
    let mut is_reached = false;
    for seed in 1..=STOPS_MAX as u64 {
        // If the host ends while it starts, it has reached the point, too.
        let Ok(host) = Host::start_with(&start(data.path(), Some(format!("{point}=return")))).await else {
            is_reached = true;
            break;
        };
        let workload = Workload::start(host.address(), &ledger.accounts, CLIENTS, seed);
        eventually("some transfers are done", async || (100 < workload.done_count()).then_some(())).await;
        attempts.extend(workload.stop().await);
        is_reached = !host.terminate().await.success();
        if is_reached {
            break;
        }
    }
    assert!(is_reached, "{point} was never reached by {STOPS_MAX} orderly stops");
    let host = Host::start_with(&start(data.path(), None)).await.expect("the host starts again");
    ledger.check(&mut host.client(), &attempts).await;
    host.kill();
    check_audit(data.path());
}

/// This binary as the host, ending at a point or nowhere.
fn start(data: &Path, ending: Option<String>) -> Start {
    let environment = ending.map(|ending| ("FAILPOINTS".to_owned(), ending)).into_iter().collect();
    let program = std::env::current_exe().expect("a test knows its own path");
    // There is more than one partition, so that an end in the middle of a transfer between two is covered.
    let arguments = vec!["--partitions".to_owned(), "2".to_owned()];
    Start { program, environment, arguments, ..Start::on(data) }
}

/// Every point that the source of the host and of its crates names and that ends the process.
fn points() -> BTreeSet<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host");
    let mut folders: Vec<PathBuf> = vec![source];
    let mut points = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the host's source can be listed") {
            let path = entry.expect("the host's source can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("sources are text");
                let named = text.split("fail_point!(\"").skip(1).filter_map(|rest| rest.split('"').next());
                // Points not named `folder::step` make a step fail instead of ending the process.
                let ends = |point: &&str| point.contains("::") && !point.starts_with(TORN_TAIL);
                points.extend(named.filter(ends).map(str::to_owned));
            }
        }
    }
    points
}
