//! `bench archive`: how fast a node archives its journals and its snapshots, and how fast they can be fetched.
//!
//! Transfers make the journals first; then the node starts again with an empty archive. Every object is uploaded, read
//! back, hashed and renamed, so its bytes are transferred at least twice. It does not know how an archive is organized.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use statehouse_node::archive::Archive;
use statehouse_node::system::ArchiveOptions;

use super::BenchFolder;
use super::bench_node::BenchNode;
use super::load::{Load, RequestLoad};
use super::wallet::{Accounts, Mix, open_accounts};
use crate::output::{print, table};

/// How often to check whether everything is archived.
const LOOK: Duration = Duration::from_millis(20);
/// If archiving takes longer, it makes no progress.
const ARCHIVED_MAX: Duration = Duration::from_secs(3600);
/// Commands in each request that makes the journals.
const BATCH: u32 = 8189;

#[derive(Args)]
pub struct ArchiveArgs {
    /// The archive: a folder, or an s3://bucket/prefix that is empty; the default is a temporary folder
    #[arg(long)]
    url: Option<String>,
    /// The number of accounts
    #[arg(long, default_value_t = 10_000)]
    accounts: u32,
    /// For how many seconds transfers are sent to make the journals
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// The number of partitions of the wallet
    #[arg(long, default_value_t = 1)]
    partitions: u32,
    /// The folder for the node's data; the default is a temporary one
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub fn run(args: ArchiveArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(args))
}

async fn measure(args: ArchiveArgs) -> anyhow::Result<ExitCode> {
    let folder = BenchFolder::new(args.dir.clone())?;
    let transfers = make_journals(&args, &folder).await?;
    let url = args.url.unwrap_or_else(|| folder.path().join("archive").display().to_string());
    let archive = Archive::open(&url)?;
    ensure!(archive.owner().await?.is_none(), "{url} has a history already; name one that has none");

    let options = ArchiveOptions { url: url.clone(), every: LOOK };
    let bench = BenchNode::start_archiving(folder.path(), args.partitions, Vec::new(), Some(options)).await?;
    let (started, cluster) = (Instant::now(), bench.node.cluster());
    while !cluster.is_archived() {
        ensure!(started.elapsed() < ARCHIVED_MAX, "the archive does not get on; the log says why");
        tokio::time::sleep(LOOK).await;
    }
    let uploading = started.elapsed();
    bench.end().await?;

    let fetched = AtomicU64::new(0);
    let on_bytes = |bytes| {
        fetched.fetch_add(bytes, Ordering::Relaxed);
    };
    let started = Instant::now();
    let mirror = archive.mirror(&folder.path().join("fetched"), &on_bytes).await?;
    let fetching = started.elapsed();
    let files = mirror.manifest.partitions.iter().flat_map(|partition| &partition.files);
    let (count, bytes) = files.fold((0_u64, 0), |(count, bytes), file| (count + 1, bytes + file.bytes));

    let mut rows = table(&["way", "segments", "MB", "s", "MB/s", "transfers/s"]);
    let mut row = |way: &str, bytes: u64, took: Duration| {
        let (megabytes, seconds) = (bytes as f64 / 1e6, took.as_secs_f64());
        let rates = (megabytes / seconds, transfers as f64 / seconds);
        rows.add_row([
            way.to_owned(),
            count.to_string(),
            format!("{megabytes:.1}"),
            format!("{seconds:.2}"),
            format!("{:.1}", rates.0),
            format!("{:.0}", rates.1),
        ]);
    };
    row("in", bytes, uploading);
    if archive.folder().is_none() {
        row("out", fetched.into_inner(), fetching);
    }
    print(&format!("{rows}\n{transfers} transfers on {} partitions, archived at {url}\n", args.partitions))?;
    Ok(ExitCode::SUCCESS)
}

/// Makes the journals; returns how many transfers they have.
async fn make_journals(args: &ArchiveArgs, folder: &BenchFolder) -> anyhow::Result<u64> {
    let bench = BenchNode::start(folder.path(), args.partitions, Vec::new()).await?;
    open_accounts(bench.address, 0..args.accounts).await?;
    let accounts = Arc::new(Accounts::new(args.accounts, args.partitions, Mix::default())?);
    let targets = [bench.address.into()];
    let load = Load { targets: &targets, accounts: &accounts, seconds: args.seconds };
    let rate = load.run(2, RequestLoad::Batch(BATCH)).await?;
    bench.end().await?;
    Ok(rate.transfers)
}
