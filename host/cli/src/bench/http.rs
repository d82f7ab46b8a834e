//! `bench http`: transfers over HTTP against a node of its own: one per request by 1, 16 and 64 clients, in batches,
//! and with repeated requests.
//!
//! The clients run in the same process and on the same cores, so the figures are what one machine does with both. It
//! does not know how a transfer is decided.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rcgen::ExtendedKeyUsagePurpose;
use statehouse_node::api::Acceptor;
use statehouse_node::config::HttpTlsConfig;
use statehouse_node::system::Node;

use super::BenchFolder;
use super::bench_node::BenchNode;
use super::load::{Load, Rate, RequestLoad};
use super::wallet::{Accounts, BenchTarget, Mix, open_accounts};
use crate::authority::{Authority, IssuedCertificate};
use crate::output::{print, table};
use crate::trust::{TlsArgs, Trust};

#[derive(Args)]
pub struct HttpArgs {
    /// The number of accounts
    #[arg(long, default_value_t = 10_000)]
    accounts: u32,
    /// For how many seconds each row is measured
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// The numbers of clients that send one transfer per request, separated by commas; one row for each
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    clients: Vec<u32>,
    /// The number of commands in a batch
    #[arg(long, default_value_t = 8189)]
    batch: u32,
    /// In the last row, a client sends a whole recorded batch again at once, and then every so many seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    retry_seconds: u64,
    /// The number of partitions of the wallet
    #[arg(long, default_value_t = 1)]
    partitions: u32,
    /// Use TLS
    #[arg(long)]
    tls: bool,
    #[command(flatten)]
    mix: Mix,
    /// The folder for the node's data; the default is a temporary one
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
}

pub fn run(args: HttpArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(args))
}

async fn measure(args: HttpArgs) -> anyhow::Result<ExitCode> {
    let folder = BenchFolder::new(args.dir.clone())?;
    let (acceptor, trust) = if args.tls { secure(folder.path())? } else { (Acceptor::Plaintext, None) };
    let bench = BenchNode::start_behind(acceptor, folder.path(), args.partitions, Vec::new(), None).await?;
    let (node, address, start_ms) = (&bench.node, bench.address, bench.start_ms);
    let target = BenchTarget { address, trust };
    open_accounts(target.clone(), 0..args.accounts).await?;
    let accounts = Arc::new(Accounts::new(args.accounts, args.partitions, args.mix)?);
    let load = Load { targets: &[target], accounts: &accounts, seconds: args.seconds };
    let headings = [
        "what",
        "clients",
        "transfers/s",
        "ms p50",
        "ms p99",
        "ms max",
        "bytes/transfer in the log",
        "entries/1000 transfers",
    ];
    let mut rows = table(&headings);
    for clients in &args.clients {
        let before = LogSize::of(node);
        let rate = load.run(*clients, RequestLoad::Transfer).await?;
        rows.add_row(row(&rate, "one per request", *clients, before.until(node)));
    }
    for clients in [1, 2] {
        let before = LogSize::of(node);
        let rate = load.run(clients, RequestLoad::Batch(args.batch)).await?;
        rows.add_row(row(&rate, "batches", clients, before.until(node)));
    }
    let clients = args.clients.iter().copied().max().unwrap_or(1);
    let before = LogSize::of(node);
    let rate = load.run(clients, RequestLoad::TransferOrTwice).await?;
    rows.add_row(row(&rate, "one per request, 10 % sent twice", clients, before.until(node)));
    let before = LogSize::of(node);
    let every = Duration::from_secs(args.retry_seconds);
    let (rate, retries) = load.run_beside(clients, RequestLoad::TransferOrTwice, args.batch, every).await?;
    rows.add_row(row(&rate, "the same beside a whole batch sent again", clients, before.until(node)));
    bench.end().await?;
    print(&format!(
        "{rows}\na whole batch was sent again {} times, which took {:.0} ms p50, {:.0} ms max\nnode started in \
         {start_ms} ms; {} accounts on {} partitions, {} % of transfers between two, batches of {}\non a comparable \
         machine: one per request PostgreSQL 15 (function) 8,000/s at 16 clients, 11,600/s at 64;\na bare axum JSON \
         echo 104,000/s; batches TigerBeetle, one replica, 391,000/s with 10 k accounts, 132,000/s with 1 M\n",
        retries.count, retries.ms_p50, retries.ms_max, args.accounts, args.partitions, args.mix.cross, args.batch
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// TLS with an authority that exists only while the bench runs.
fn secure(folder: &Path) -> anyhow::Result<(Acceptor, Option<Trust>)> {
    let authority = Authority::open(&folder.join("tls"), "Statehouse bench")?;
    let names = vec![Ipv4Addr::LOCALHOST.to_string()];
    let IssuedCertificate { certificate, key } =
        authority.issue("node", names, &[ExtendedKeyUsagePurpose::ServerAuth])?;
    let acceptor = Acceptor::new(Some(&HttpTlsConfig::new(certificate, key)))?;
    let trust = Trust::new(&TlsArgs { ca: Some(authority.certificate()), ..TlsArgs::default() })?;
    Ok((acceptor, Some(trust)))
}

/// The content of the logs of all partitions.
struct LogSize {
    bytes: u64,
    entries: u64,
}

impl LogSize {
    fn of(node: &Node) -> Self {
        let partitions = || node.router().machines().into_iter().flat_map(|machine| machine.status().partitions);
        let entries = partitions().map(|partition| partition.position.index.0).sum();
        Self { bytes: partitions().map(|partition| partition.log_bytes).sum(), entries }
    }

    /// What was added since.
    fn until(&self, node: &Node) -> Self {
        let now = Self::of(node);
        Self { bytes: now.bytes - self.bytes, entries: now.entries - self.entries }
    }
}

fn row(rate: &Rate, what: &str, clients: u32, logged: LogSize) -> [String; 8] {
    let per_transfer = |count: u64| count as f64 / rate.transfers.max(1) as f64;
    [
        what.to_owned(),
        clients.to_string(),
        format!("{:.0}", rate.transfers_per_second()),
        format!("{:.2}", rate.spread.ms_p50),
        format!("{:.2}", rate.spread.ms_p99),
        format!("{:.2}", rate.spread.ms_max),
        format!("{:.0}", per_transfer(logged.bytes)),
        format!("{:.1}", 1000.0 * per_transfer(logged.entries)),
    ]
}
