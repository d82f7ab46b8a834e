//! `bench cluster`: what three nodes do together, each in its own process, asked over HTTP.
//!
//! ```text
//! nodes → accounts → load: one per request, batches → a killed leader → a rolling restart │ other nodes → idle
//! ```
//! Clients and nodes share the machine, so the figures are what it does with all of them. If something fails, or on
//! Ctrl-C, the figures measured so far are printed. It does not know how nodes agree.

mod nodes;
mod writers;
mod failover;
mod idle;
mod report;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, ensure};
use clap::Args;
use indicatif::ProgressBar;
use statehouse_node::limits::{BATCH_COMMANDS_MAX, SLOT_COUNT};
use tokio::time::sleep;

use self::nodes::Nodes;
use self::report::{BenchReport, IdleFigures, RateRow};
use super::load::{Load, RequestLoad};
use super::wallet::{Accounts, Mix, open_accounts};
use crate::host::{self, Process};
use crate::output::{print, print_json, progress};

/// The fixed figures of other systems were measured with these, so every run measures them first.
const ACCOUNTS: u32 = 10_000;
const BATCH: u32 = BATCH_COMMANDS_MAX as u32;
const BATCHES: &str = "batches of 8,192";
/// Enough partitions to make the work per partition and tick visible.
const IDLE_PARTITIONS: u32 = 16;
/// After its start a cluster still settles: leaders move, files are compacted.
const SETTLE: Duration = Duration::from_secs(5);

#[derive(Args)]
pub struct BenchClusterArgs {
    /// For how many seconds each row is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// The number of partitions of the wallet
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    partitions: u32,
    /// The number of accounts for two more rows of batches; they are measured only if it is more than the 10,000 of the
    /// other rows
    #[arg(
        long, default_value_t = ACCOUNTS,
        value_parser = clap::value_parser!(u32).range(i64::from(ACCOUNTS)..=10_000_000)
    )]
    accounts: u32,
    /// The numbers of clients that send one transfer per request, separated by commas; one row for each
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    clients: Vec<u32>,
    #[command(flatten)]
    mix: Mix,
    /// How many times the leader is killed; with 0, only the rates are measured
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

pub fn run(args: BenchClusterArgs) -> anyhow::Result<ExitCode> {
    const { assert!(256 <= SLOT_COUNT && BATCH == 8192) };
    ensure!(!args.clients.contains(&0), "--clients: numbers are at least 1");
    host::run(async move |process: Process| {
        let mut report = BenchReport {
            partitions: args.partitions,
            cross: args.mix.cross,
            tcc: args.mix.tcc,
            ..BenchReport::default()
        };
        report.load_average[0] = load_average();
        let measured = tokio::select! {
            measured = measure(&args, &mut report) => measured,
            () = process.stop.cancelled() => Err(anyhow!("stopped before all was measured")),
        };
        report.load_average[1] = load_average();
        if args.json {
            print_json(&report)?;
        } else {
            print(&report.text())?;
        }
        measured.map(|()| ExitCode::SUCCESS)
    })
}

async fn measure(args: &BenchClusterArgs, report: &mut BenchReport) -> anyhow::Result<()> {
    let bar = progress("starting three nodes");
    let mut nodes = Nodes::start(args.partitions).await?;
    bar.finish_and_clear();
    open_accounts(nodes.addresses()[0], 0..ACCOUNTS).await?;
    let accounts = Arc::new(Accounts::new(ACCOUNTS, args.partitions, args.mix)?);
    for clients in &args.clients {
        report.rates.push(rate(&nodes, args, (ACCOUNTS, &accounts), *clients, RequestLoad::Transfer).await?);
    }
    for clients in [1, 2] {
        report.rates.push(rate(&nodes, args, (ACCOUNTS, &accounts), clients, RequestLoad::Batch(BATCH)).await?);
    }
    if ACCOUNTS < args.accounts {
        open_accounts(nodes.addresses()[0], ACCOUNTS..args.accounts).await?;
        let accounts = Arc::new(Accounts::new(args.accounts, args.partitions, args.mix)?);
        for clients in [1, 2] {
            report
                .rates
                .push(rate(&nodes, args, (args.accounts, &accounts), clients, RequestLoad::Batch(BATCH)).await?);
        }
    }
    if args.kills == 0 {
        return nodes.stop_all().await;
    }
    let bar = progress("leaders killed");
    report.failover = Some(failover::kill_leaders(&mut nodes, &accounts, args.partitions, args.kills, &bar).await?);
    bar.set_message("nodes restarted");
    bar.set_position(0);
    report.rolling_restart = Some(failover::restart_all(&mut nodes, &accounts, args.partitions, &bar).await?);
    bar.set_message("stopping");
    nodes.stop_all().await?;
    report.idle = Some(idle_nodes(args.seconds, &bar).await?);
    bar.finish_and_clear();
    Ok(())
}

async fn rate(
    nodes: &Nodes,
    args: &BenchClusterArgs,
    (count, accounts): (u32, &Arc<Accounts>),
    clients: u32,
    work: RequestLoad,
) -> anyhow::Result<RateRow> {
    let name = match work {
        RequestLoad::Transfer => "one per request",
        RequestLoad::TransferOrTwice => "one per request, some of them twice",
        RequestLoad::Batch(_) => BATCHES,
    };
    let bar = progress(&format!("{name}, {count} accounts; clients"));
    bar.set_position(u64::from(clients));
    let before = nodes.append_bytes().await?;
    let targets: Vec<_> = nodes.addresses().into_iter().map(Into::into).collect();
    let rate = Load { targets: &targets, accounts, seconds: args.seconds }.run(clients, work).await?;
    let append_bytes = nodes.append_bytes().await? - before;
    bar.finish_and_clear();
    Ok(RateRow::new(name, count, clients, rate, append_bytes))
}

async fn idle_nodes(seconds: u64, bar: &ProgressBar) -> anyhow::Result<IdleFigures> {
    bar.set_message("idle nodes");
    let nodes = Nodes::start(IDLE_PARTITIONS).await?;
    sleep(SETTLE).await;
    let percent = idle::percent_of_a_core(&nodes.pids(), seconds.max(5)).await?;
    nodes.stop_all().await?;
    Ok(IdleFigures { partitions: IDLE_PARTITIONS, percent })
}

/// The load average of the last minute, if the system provides it.
fn load_average() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}
