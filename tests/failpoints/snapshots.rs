//! A process that ends at midnight: between the entry that begins the day and the file of the state before it, in
//! whichever order things are done.
//!
//! It knows the route of snapshots, and needs a wall clock that a test can move.

use std::collections::BTreeSet;

use serde_json::Value;
use statehouse_tests::hold::eventually;
use statehouse_tests::host::{Host, argument, cli};
use statehouse_tests::http::Client;
use statehouse_tests::oracle::{Ledger, check_audit};
use statehouse_tests::skipped::skipped;
use statehouse_tests::wall_clock::{WallClock, forget_clock};
use statehouse_tests::workload::Workload;
use tempfile::tempdir;

use crate::{ACCOUNTS, CLIENTS, OPENING, start};

pub const POINTS: &str = "canonical::";
const DAY: i64 = 86_400;
/// The partitions of the wallet and of `system`.
const PARTITIONS: usize = 3;

pub async fn check(point: &str) {
    for passes in [0, 1] {
        let clock = match WallClock::new() {
            Ok(clock) => clock,
            Err(reason) => return skipped(&reason),
        };
        let data = tempdir().expect("a temporary folder");
        let with_clock = |ending: Option<String>| {
            let mut start = start(data.path(), ending);
            start.environment.extend(clock.environment().map(|(name, value)| (name.to_owned(), value)));
            start
        };
        let ending = format!("{point}={passes}*off->return");
        let mut host = Host::start_with(&with_clock(Some(ending))).await.expect("nothing leads there yet");
        let ledger = Ledger::open(&mut host.client(), ACCOUNTS, OPENING).await;
        let workload = Workload::start(host.address(), &ledger.accounts, CLIENTS, 1);
        eventually("some transfers are done", async || (100 < workload.done_count()).then_some(())).await;
        clock.set_ahead(DAY);
        let url = format!("http://{}", host.address());
        eventually("the host has ended", async || {
            // A leap is believed at once on an operator's word. The command's result is not needed: the host ends as
            // soon as the word counts.
            drop(cli(["cluster", "accept-clock", "--url", &url]));
            host.has_ended().then_some(())
        })
        .await;
        forget_clock(data.path());
        let host = Host::start_with(&with_clock(None)).await.expect("the host starts again");
        workload.moved_to(host.address());
        let mut client = host.client();
        eventually("each partition has its snapshot", async || {
            let snapshots = list(&mut client).await?;
            let of = |one: &Value| (one["machine"].to_string(), one["partition"].to_string());
            let partitions: BTreeSet<_> = snapshots.iter().map(of).collect();
            (partitions.len() == PARTITIONS).then_some(())
        })
        .await;
        let attempts = workload.stop().await;
        ledger.check(&mut client, &attempts).await;
        let snapshots = list(&mut client).await.expect("the host answers");
        let mut days = BTreeSet::new();
        for snapshot in &snapshots {
            for day in snapshot["days"].as_array().expect("a list") {
                let is_first =
                    days.insert((snapshot["machine"].to_string(), snapshot["partition"].to_string(), day.to_string()));
                assert!(is_first, "one a day: {snapshots:#?}");
            }
        }
        host.kill();
        check_audit(data.path());
        let verified = cli(["snapshot", "verify", "--data", argument(data.path()), "--json"]);
        assert_eq!(verified.code, Some(0), "{verified:?}");
        let report: Value = serde_json::from_str(&verified.stdout).expect("it is JSON");
        let count: u64 =
            report["partitions"].as_array().expect("a list").iter().filter_map(|one| one["verified"].as_u64()).sum();
        assert_eq!(count, snapshots.len() as u64, "{verified:?}");
    }
}

async fn list(client: &mut Client) -> Option<Vec<Value>> {
    let mut found = Vec::new();
    for machine in ["wallet", "system"] {
        let page =
            client.get(&format!("/v1/machines/{machine}/snapshots")).await.ok().filter(|page| page.status == 200)?;
        found.extend(page.json().as_array()?.clone());
    }
    Some(found)
}
