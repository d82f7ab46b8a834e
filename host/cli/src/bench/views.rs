//! `bench views`: by how much views lag while transfers are made as fast as possible, how soon they catch up, and how
//! long statements take afterwards.
//!
//! Node, clients and views share the cores of one machine, and the views have the lower priority: the figures are the
//! worst case. It does not know what a view shows.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use rand::Rng;
use statehouse_node::api::print_time;
use statehouse_node::clock::{Clock, SystemClock};
use statehouse_node::system::{Cluster, ModuleSource};
use statehouse_node::views::View;

use super::BenchFolder;
use super::bench_node::BenchNode;
use super::load::{Load, RequestLoad};
use super::spread::LatencySpread;
use super::wallet::{Accounts, BenchConnection, Mix, account_name, open_accounts};
use crate::output::{print, table};
use crate::shipped;

/// How often the lag is read.
const LOOK: Duration = Duration::from_millis(100);
/// If a view has not caught up after this long, its status says why.
const CATCH_UP_MAX: Duration = Duration::from_secs(3600);

#[derive(Args)]
pub struct ViewsArgs {
    /// The number of accounts
    #[arg(long, default_value_t = 10_000)]
    accounts: u32,
    /// For how many seconds the full load lasts, and each row of queries
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// The number of commands in a batch
    #[arg(long, default_value_t = 8189)]
    batch: u32,
    /// The number of partitions of the wallet
    #[arg(long, default_value_t = 1)]
    partitions: u32,
    /// The views that follow, by name or file, separated by commas; the default is all that come with this program
    #[arg(long, value_delimiter = ',')]
    views: Vec<String>,
    /// The numbers of clients that ask for statements, separated by commas; one row for each
    #[arg(long, value_delimiter = ',', default_value = "1,16")]
    clients: Vec<u32>,
    /// The folder for the node's data; the default is a temporary one
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
}

pub fn run(args: ViewsArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(args))
}

async fn measure(args: ViewsArgs) -> anyhow::Result<ExitCode> {
    let folder = BenchFolder::new(args.dir.clone())?;
    let views: Vec<ModuleSource> = if args.views.is_empty() {
        shipped::all()
    } else {
        args.views.iter().map(|view| shipped::find(view)).collect::<anyhow::Result<_>>()?
    };
    let count = views.len();
    let bench = BenchNode::start(folder.path(), args.partitions, views).await?;
    let cluster = bench.node.cluster();
    open_accounts(bench.address, 0..args.accounts).await?;
    let opened = caught_up(&cluster, count).await?;
    let accounts = Arc::new(Accounts::new(args.accounts, args.partitions, Mix::default())?);
    let targets = [bench.address.into()];
    let load = Load { targets: &targets, accounts: &accounts, seconds: args.seconds };
    let (sampling, watched) = (Arc::new(tokio::sync::Notify::new()), cluster.clone());
    let sampler = tokio::spawn(sample(watched, sampling.clone()));
    let rate = load.run(2, RequestLoad::Batch(args.batch)).await?;
    sampling.notify_one();
    let lags = sampler.await?;
    let behind = caught_up(&cluster, count).await?;
    let mut lag = table(&["view", "largest lag, entries", "largest lag, s", "bytes on disk"]);
    for view in cluster.views("wallet") {
        let largest = lags.iter().filter(|(name, ..)| name == view.name());
        let (entries, micros) =
            largest.fold((0, 0), |(entries, micros), (_, more, longer)| (entries.max(*more), micros.max(*longer)));
        let bytes = view.status().serving.map_or(0, |build| build.bytes);
        let seconds = format!("{:.2}", micros as f64 / 1e6);
        lag.add_row([view.name().to_owned(), entries.to_string(), seconds, bytes.to_string()]);
    }
    let mut rows = table(&["query", "clients", "per second", "ms p50", "ms p99", "ms max"]);
    for clients in &args.clients {
        for (what, at) in [("statement of 20", false), ("balance of the past", true)] {
            let (spread, seconds) = ask(&args, bench.address, *clients, at).await?;
            rows.add_row([
                what.to_owned(),
                clients.to_string(),
                format!("{:.0}", spread.count as f64 / seconds),
                format!("{:.2}", spread.ms_p50),
                format!("{:.2}", spread.ms_p99),
                format!("{:.2}", spread.ms_max),
            ]);
        }
    }
    bench.end().await?;
    print(&format!(
        "{lag}\n{rows}\n{} accounts on {} partitions; {} transfers in {:.1} s, {:.0}/s, with {count} views beside \
         them, each of which has two postings a transfer to follow;\nthey had caught up {:.1} s after the last \
         transfer, and {:.1} s after the accounts were opened\n",
        args.accounts,
        args.partitions,
        rate.transfers,
        rate.seconds,
        rate.transfers_per_second(),
        behind.as_secs_f64(),
        opened.as_secs_f64(),
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Waits until all views serve without a lag; returns how long that took.
async fn caught_up(cluster: &Cluster, count: usize) -> anyhow::Result<Duration> {
    let started = Instant::now();
    loop {
        let views = cluster.views("wallet");
        let is_done = |view: &Arc<View>| {
            view.status().serving.is_some_and(|build| build.lag.entries == 0 && !build.partitions.is_empty())
        };
        if views.len() == count && views.iter().all(is_done) {
            return Ok(started.elapsed());
        }
        ensure!(started.elapsed() < CATCH_UP_MAX, "the views do not catch up");
        tokio::time::sleep(LOOK).await;
    }
}

/// Name, entries and microseconds of every look at every view.
async fn sample(cluster: Cluster, over: Arc<tokio::sync::Notify>) -> Vec<(String, u64, i64)> {
    let mut lags = Vec::new();
    loop {
        for view in cluster.views("wallet") {
            if let Some(build) = view.status().serving {
                lags.push((view.name().to_owned(), build.lag.entries, build.lag.micros));
            }
        }
        tokio::select! {
            () = over.notified() => return lags,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn ask(
    args: &ViewsArgs,
    address: std::net::SocketAddr,
    clients: u32,
    is_past: bool,
) -> anyhow::Result<(LatencySpread, f64)> {
    let started = Instant::now();
    let until = started + Duration::from_secs(args.seconds);
    let now = print_time(SystemClock.now());
    let accounts = args.accounts;
    let asking = (0..clients).map(|_| {
        let now = now.clone();
        tokio::spawn(async move {
            let (mut connection, mut took) = (BenchConnection::open(address).await?, Vec::new());
            while Instant::now() < until {
                let account = account_name(rand::rng().random_range(0..accounts));
                let path = if is_past {
                    format!("/v1/wallet/accounts/{account}?at={now}")
                } else {
                    format!("/v1/wallet/accounts/{account}/statement?limit=20")
                };
                let sent = Instant::now();
                connection.get(&path).await.context("asking a view")?;
                took.push(sent.elapsed());
            }
            Ok::<_, anyhow::Error>(took)
        })
    });
    let mut took = Vec::new();
    for task in asking.collect::<Vec<_>>() {
        took.extend(task.await??);
    }
    Ok((LatencySpread::of(took), started.elapsed().as_secs_f64()))
}
