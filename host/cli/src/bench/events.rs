//! `bench events`: how many events a node delivers to 1, 100 and 1,000 concurrent readers of its event stream.
//!
//! The readers and the client that makes the events run in the same process and on the same cores, so the figures are
//! what one machine does with all of them. Every reader gets every event; each row ends when the last reader has the
//! last one. It does not know what an event means.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use statehouse_node::limits::DESCRIPTORS_KEPT_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::BenchFolder;
use super::bench_node::BenchNode;
use super::wallet::{Accounts, BenchConnection, Mix, open_accounts};
use crate::descriptors;
use crate::output::{print, table};

/// Lines of an event in the stream: its id, its data, and the empty line after them.
const LINES_PER_EVENT: i64 = 3;
/// A transfer between two accounts is a debit and a credit.
const EVENTS_PER_TRANSFER: u64 = 2;
const READ_BYTES: usize = 64 << 10;
/// Descriptors that the node has open or reserves, beside those for connections.
const DESCRIPTORS_BESIDE: u64 = 256 + DESCRIPTORS_KEPT_MAX as u64;
/// A reader that receives nothing for this long has failed.
const SILENCE_MAX: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct EventsArgs {
    /// The numbers of readers, separated by commas; one row for each
    #[arg(long, value_delimiter = ',', default_value = "1,100,1000")]
    readers: Vec<u32>,
    /// How many events are delivered in each row, to all readers together
    #[arg(long, default_value_t = 1_000_000)]
    deliveries: u64,
    /// The number of transfers in a batch of the client that makes the events
    #[arg(long, default_value_t = 100)]
    batch: u32,
    /// The number of partitions of the wallet
    #[arg(long, default_value_t = 1)]
    partitions: u32,
    /// The folder for the node's data; the default is a temporary one
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
}

pub fn run(args: EventsArgs) -> anyhow::Result<ExitCode> {
    let readers_max = args.readers.iter().copied().max().unwrap_or_default();
    raise_descriptors(u64::from(readers_max) * 2 + DESCRIPTORS_BESIDE)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(args))
}

/// Both ends of every connection are in this process, so each takes two descriptors.
fn raise_descriptors(wanted: u64) -> anyhow::Result<()> {
    let raised = descriptors::raise();
    ensure!(raised.is_none_or(|limit| wanted <= limit), "so many readers need {wanted} open files; raise `ulimit -Hn`");
    Ok(())
}

async fn measure(args: EventsArgs) -> anyhow::Result<ExitCode> {
    const ACCOUNTS: u32 = 1000;
    let folder = BenchFolder::new(args.dir.clone())?;
    let bench = BenchNode::start(folder.path(), args.partitions, Vec::new()).await?;
    open_accounts(bench.address, 0..ACCOUNTS).await?;
    // Each transfer is two events, wherever its accounts are.
    let accounts = Arc::new(Accounts::new(ACCOUNTS, args.partitions, Mix { cross: 0, tcc: false })?);
    let mut rows = table(&["readers", "events", "made in s", "delivered", "in s", "delivered/s", "MB/s"]);
    for readers in &args.readers {
        rows.add_row(row(&args, bench.address, &accounts, *readers).await?);
    }
    bench.end().await?;
    print(&format!(
        "{rows}\none client makes the events in batches of {} transfers; {} partitions; client, node and readers share \
         this machine\n",
        args.batch, args.partitions
    ))?;
    Ok(ExitCode::SUCCESS)
}

async fn row(
    args: &EventsArgs,
    address: SocketAddr,
    accounts: &Arc<Accounts>,
    readers: u32,
) -> anyhow::Result<[String; 7]> {
    let (total, made) = watch::channel(None);
    let mut reading = Vec::new();
    for _ in 0..readers {
        let connection = begin(address).await?;
        reading.push(tokio::spawn(read(connection, made.clone())));
    }
    let started = Instant::now();
    let wanted = args.deliveries / u64::from(readers).max(1);
    let mut client = BenchConnection::open(address).await?;
    let mut events = 0;
    while events < wanted {
        events += client.batch(accounts.batch(args.batch)).await? * EVENTS_PER_TRANSFER;
    }
    total.send_replace(Some(events));
    let made_seconds = started.elapsed().as_secs_f64();
    let mut bytes = 0;
    for reader in reading {
        bytes += reader.await??;
    }
    let seconds = started.elapsed().as_secs_f64();
    let delivered = events * u64::from(readers);
    Ok([
        readers.to_string(),
        events.to_string(),
        format!("{made_seconds:.2}"),
        delivered.to_string(),
        format!("{seconds:.2}"),
        format!("{:.0}", delivered as f64 / seconds),
        format!("{:.0}", bytes as f64 / seconds / 1e6),
    ])
}

/// A reader whose stream has begun: later events reach it.
async fn begin(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut connection = TcpStream::connect(address).await?;
    let request = format!("GET /v1/wallet/events HTTP/1.1\r\nhost: {address}\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    let mut byte = [0];
    // The head, the length of the first chunk, and the first line of the stream.
    while !head.ends_with(b"\n\n") {
        ensure!(connection.read(&mut byte).await? == 1, "refused: {}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    ensure!(head.starts_with(b"HTTP/1.1 200"), "refused: {}", String::from_utf8_lossy(&head));
    Ok(connection)
}

/// Counts the events until all have arrived; returns how many bytes they took.
async fn read(mut connection: TcpStream, mut made: watch::Receiver<Option<u64>>) -> anyhow::Result<u64> {
    let mut buffer = vec![0; READ_BYTES];
    let (mut lines, mut bytes, mut total) = (0_i64, 0, None);
    loop {
        // HTTP ends its chunks with a carriage return; the stream does not end its lines with one.
        if total.is_some_and(|total: u64| total as i64 * LINES_PER_EVENT <= lines) {
            return Ok(bytes);
        }
        let count = tokio::select! {
            count = connection.read(&mut buffer) => count?,
            changed = made.changed(), if total.is_none() => {
                changed?;
                total = *made.borrow();
                continue;
            }
            () = tokio::time::sleep(SILENCE_MAX) => anyhow::bail!("a reader got nothing for {SILENCE_MAX:?}"),
        };
        ensure!(count > 0, "a stream ended early");
        bytes += count as u64;
        lines += lines_in(&buffer[..count]);
    }
}

/// Counts line ends that are not those of chunks. A pair that is split between two reads is right in their sum.
fn lines_in(text: &[u8]) -> i64 {
    let count = |wanted: u8| text.iter().filter(|byte| **byte == wanted).count() as i64;
    count(b'\n') - count(b'\r')
}
