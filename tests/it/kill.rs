//! The host is killed at any moment under load, many times, and everything acknowledged is there.
//!
//! In: a printed seed for what clients ask and when the kill comes. The oracle judges; this file only kills.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use statehouse_tests::hold::{eventually, hold};
use statehouse_tests::host::Host;
use statehouse_tests::oracle::{Ledger, check_audit};
use statehouse_tests::workload::{Transfer, TransferOutcome, Workload};
use tempfile::tempdir;

const KILLS: usize = 24;
const CLIENTS: usize = 16;
const ACCOUNTS: usize = 20;
/// Minor units in each account at first: few enough that some transfers are rejected.
const OPENING: i128 = 20_000;
/// The least number of acknowledged transfers between two kills.
const PROGRESS: usize = 50;
const SEED_VARIABLE: &str = "STATEHOUSE_SEED";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_or_doubled_by_kills_under_load() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let data = tempdir().expect("a temporary folder");
    let mut host = Host::start(data.path()).await;
    let ledger = Ledger::open(&mut host.client(), ACCOUNTS, OPENING).await;
    let workload = Workload::start(host.address(), &ledger.accounts, CLIENTS, seed);
    for _ in 0..KILLS {
        let enough = workload.done_count() + PROGRESS;
        eventually("clients make progress", async || (workload.done_count() >= enough).then_some(())).await;
        hold(Duration::from_micros(random.random_range(0..50_000))).await;
        host.kill();
        host = Host::start(data.path()).await;
        workload.moved_to(host.address());
    }
    let attempts = workload.stop().await;
    report(&attempts);

    let done = ledger.check(&mut host.client(), &attempts).await;
    check_audit(data.path());
    host.kill();
    check_audit(data.path());
    let host = Host::start(data.path()).await;
    assert_eq!(ledger.check(&mut host.client(), &attempts).await, done, "a restart changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_order_loses_no_answered_request() {
    let seed = seed();
    let data = tempdir().expect("a temporary folder");
    let mut host = Host::start(data.path()).await;
    let ledger = Ledger::open(&mut host.client(), ACCOUNTS, OPENING).await;
    let workload = Workload::start(host.address(), &ledger.accounts, CLIENTS, seed);
    for _ in 0..3 {
        let enough = workload.done_count() + PROGRESS;
        eventually("clients make progress", async || (workload.done_count() >= enough).then_some(())).await;
        let status = host.terminate().await;
        assert!(status.success(), "SIGTERM ends the host in order: {status}");
        host = Host::start(data.path()).await;
        workload.moved_to(host.address());
    }
    let attempts = workload.stop().await;
    ledger.check(&mut host.client(), &attempts).await;
}

/// The seed from the environment, or a new one. It is printed, so that a failure can be repeated.
fn seed() -> u64 {
    let seed = std::env::var(SEED_VARIABLE).ok().map(|text| text.parse().expect("the seed is a number"));
    let seed = seed.unwrap_or_else(rand::random);
    println!("{SEED_VARIABLE}={seed}");
    seed
}

fn report(attempts: &[(Transfer, TransferOutcome)]) {
    let count = |is: fn(&TransferOutcome) -> bool| attempts.iter().filter(|(_, told)| is(told)).count();
    println!(
        "{} attempts: {} done, {} rejected, {} not accepted, {} unknown; {KILLS} kills",
        attempts.len(),
        count(|told| matches!(told, TransferOutcome::Done)),
        count(|told| matches!(told, TransferOutcome::Rejected(_))),
        count(|told| matches!(told, TransferOutcome::NotAccepted)),
        count(|told| matches!(told, TransferOutcome::Unknown)),
    );
}
