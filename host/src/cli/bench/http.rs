//! `bench http`: transfers over HTTP against a node of its own: one per request by 1, 16 and 64 clients, and in batches.
//!
//! The clients run in the same process and on the same cores, so the figures are what one machine does with both.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rand::Rng;
use tokio::net::{TcpListener, TcpStream};

use crate::api::{self, ApiOptions, Callers};
use crate::cli::bench::{Folder, WALLET};
use crate::cli::output::{print, progress, table};
use crate::clock::SystemClock;
use crate::config::LimitsConfig;
use crate::ids::NodeId;
use crate::limits;
use crate::log::RealDisk;
use crate::system::{MachineSpec, ModuleSource, Node, NodeOptions};

#[derive(Args)]
pub struct HttpArgs {
    /// Accounts that exist
    #[arg(long, default_value_t = 10_000)]
    accounts: u32,
    /// Seconds to measure each row
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Numbers of clients that send one transfer per request
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    clients: Vec<u32>,
    /// Commands in a batch
    #[arg(long, default_value_t = 8189)]
    batch: u32,
    /// Folder for the node's data; a temporary one without it
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
}

pub fn run(args: HttpArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(args))
}

async fn measure(args: HttpArgs) -> anyhow::Result<ExitCode> {
    let folder = Folder::new(args.dir.clone())?;
    let wallet = MachineSpec { name: "wallet".to_owned(), module: ModuleSource::Embedded(WALLET), partitions: 1 };
    let started = Instant::now();
    let node = Node::open(NodeOptions {
        data: folder.path().join("node"),
        node: NodeId(1),
        machines: vec![wallet],
        disk: Arc::new(RealDisk),
        clock: Arc::new(SystemClock),
        paranoid: false,
        hot_bytes_max: limits::HOT_TABLE_BYTES_MAX,
        peer: None,
        http: None,
    });
    let node = node.await?;
    let start_ms = started.elapsed().as_millis();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let limits = LimitsConfig::default();
    let options = ApiOptions {
        cluster: node.cluster(),
        callers: Callers::new(&[], address)?,
        requests_max: limits.http_requests,
        metrics: None,
    };
    let service = api::server(node.router().clone(), options);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(api::serve(listener, service, limits.http_connections, async move {
        drop(stopped.await);
    }));
    open_accounts(address, args.accounts).await?;
    let log_bytes = |node: &Node| -> u64 {
        node.router().machines().iter().flat_map(|machine| machine.status().partitions).map(|p| p.log_bytes).sum()
    };
    let mut rows =
        table(&["what", "clients", "transfers/s", "ms p50", "ms p99", "ms max", "bytes/transfer in the log"]);
    for clients in &args.clients {
        let before = log_bytes(&node);
        let figures = single(address, *clients, &args).await?;
        rows.add_row(figures.row("one per request", *clients, log_bytes(&node) - before));
    }
    for clients in [1, 2] {
        let before = log_bytes(&node);
        let figures = batches(address, clients, &args).await?;
        rows.add_row(figures.row("batches", clients, log_bytes(&node) - before));
    }
    drop(stop);
    server.await??;
    node.close().await?;
    print(&format!(
        "{rows}\nnode started in {start_ms} ms; {} accounts, batches of {}\n\
         on a comparable machine: one per request PostgreSQL 15 (function) 8,000/s at 16 clients, 11,600/s at 64;\n\
         a bare axum JSON echo 104,000/s; batches TigerBeetle, one replica, 391,000/s with 10 k accounts, 132,000/s with 1 M\n",
        args.accounts, args.batch
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// What one row is made of.
struct Figures {
    transfers: u64,
    seconds: f64,
    took: Vec<Duration>,
}

impl Figures {
    fn row(mut self, what: &str, clients: u32, bytes: u64) -> [String; 7] {
        self.took.sort();
        let ms = |share: f64| {
            let at = ((self.took.len().max(1) - 1) as f64 * share) as usize;
            self.took.get(at).map_or(0.0, |took| took.as_secs_f64() * 1e3)
        };
        [
            what.to_owned(),
            clients.to_string(),
            format!("{:.0}", self.transfers as f64 / self.seconds),
            format!("{:.2}", ms(0.5)),
            format!("{:.2}", ms(0.99)),
            format!("{:.2}", ms(1.0)),
            format!("{:.0}", bytes as f64 / self.transfers.max(1) as f64),
        ]
    }
}

async fn single(address: SocketAddr, clients: u32, args: &HttpArgs) -> anyhow::Result<Figures> {
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let started = Instant::now();
    let accounts = args.accounts;
    let client = || async move {
        let mut connection = connect(address).await?;
        let mut took = Vec::new();
        while Instant::now() < until {
            let body = transfer(accounts);
            let sent = Instant::now();
            let (status, answer) =
                post(&mut connection, "/v1/wallet/balance_transfer", "application/json", body).await?;
            anyhow::ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&answer));
            took.push(sent.elapsed());
        }
        anyhow::Ok(took)
    };
    let tasks: Vec<_> = (0..clients).map(|_| tokio::spawn(client())).collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await??);
    }
    Ok(Figures { transfers: took.len() as u64, seconds: started.elapsed().as_secs_f64(), took })
}

async fn batches(address: SocketAddr, clients: u32, args: &HttpArgs) -> anyhow::Result<Figures> {
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let started = Instant::now();
    let done = Arc::new(AtomicU64::new(0));
    let (accounts, batch) = (args.accounts, args.batch);
    let client = |done: Arc<AtomicU64>| async move {
        let mut connection = connect(address).await?;
        let mut took = Vec::new();
        while Instant::now() < until {
            let body = (0..batch).map(|_| line("balance_transfer", &transfer(accounts))).collect::<Vec<_>>().concat();
            let sent = Instant::now();
            let count = post_batch(&mut connection, body.into()).await?;
            took.push(sent.elapsed());
            done.fetch_add(count, Ordering::Relaxed);
        }
        anyhow::Ok(took)
    };
    let tasks: Vec<_> = (0..clients).map(|_| tokio::spawn(client(done.clone()))).collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await??);
    }
    Ok(Figures { transfers: done.load(Ordering::Relaxed), seconds: started.elapsed().as_secs_f64(), took })
}

fn transfer(accounts: u32) -> Bytes {
    let mut random = rand::rng();
    let from = random.random_range(0..accounts);
    let to = (from + 1 + random.random_range(0..accounts - 1)) % accounts;
    let id = uuid::Builder::from_random_bytes(random.random()).into_uuid();
    format!(
        r#"{{"from_account":"acct-{from:07}","to_account":"acct-{to:07}","amount":"0.01","currency":"USD","transaction_id":"{id}"}}"#
    )
    .into()
}

fn line(command: &str, body: &[u8]) -> Vec<u8> {
    [br#"{"command":""#, command.as_bytes(), br#"","body":"#, body, b"}\n"].concat()
}

async fn open_accounts(address: SocketAddr, accounts: u32) -> anyhow::Result<()> {
    let mut connection = connect(address).await?;
    let bar = progress("accounts opened");
    for start in (0..accounts).step_by(4096) {
        let numbers = start..(start + 4096).min(accounts);
        let open =
            |number: u32| line("open", format!(r#"{{"account":"acct-{number:07}","currency":"USD"}}"#).as_bytes());
        let deposit = |number: u32| {
            let id = uuid::Uuid::new_v4();
            let body = format!(
                r#"{{"account":"acct-{number:07}","amount":"1000000.00","currency":"USD","transaction_id":"{id}"}}"#
            );
            line("deposit", body.as_bytes())
        };
        let body = numbers.clone().map(open).chain(numbers.clone().map(deposit)).collect::<Vec<_>>().concat();
        let count = post_batch(&mut connection, body.into()).await?;
        anyhow::ensure!(count == 2 * numbers.len() as u64, "only {count} of {} accounts were opened", numbers.len());
        bar.inc(numbers.len() as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

async fn connect(address: SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await.context("connecting to the node")?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn post(
    connection: &mut SendRequest<Full<Bytes>>,
    path: &str,
    content_type: &str,
    body: Bytes,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let request = Request::builder().method(Method::POST).uri(path).header("host", "bench");
    let request = request.header("content-type", content_type).body(Full::new(body))?;
    connection.ready().await?;
    let answer = connection.send_request(request).await?;
    let status = answer.status();
    Ok((status, answer.into_body().collect().await?.to_bytes()))
}

/// Sends a batch and counts the commands that succeeded.
async fn post_batch(connection: &mut SendRequest<Full<Bytes>>, body: Bytes) -> anyhow::Result<u64> {
    let (status, answer) = post(connection, "/v1/wallet/batch", "application/x-ndjson", body).await?;
    anyhow::ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&answer));
    let is_done = |line: &&[u8]| line.windows(12).any(|part| part.starts_with(br#""status":2"#));
    Ok(answer.split(|byte| *byte == b'\n').filter(is_done).count() as u64)
}
