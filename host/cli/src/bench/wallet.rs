//! The wallet over HTTP: connections that stay open, transfers between random accounts, one per request or in batches.
//!
//! In: addresses of nodes, and which accounts exist. Out: requests, and what was answered. The caller says how many
//! transfers are between two partitions; the others stay in one. It measures nothing.

use std::net::SocketAddr;
use std::ops::Range;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rand::Rng;
use statehouse_kernel::ids::PartitionId;
use statehouse_kernel::machine::slots::partition_of;
use statehouse_node::limits::DEADLINE_MAX;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::output::progress;
use crate::trust::Trust;

/// Accounts opened with one request: each needs two commands, and a batch holds 8,192.
const OPEN_ACCOUNTS: usize = 4096;

/// Which transfers need two partitions, and how those are coordinated.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Mix {
    /// How many in a hundred transfers are between two partitions
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub cross: u32,
    /// Coordinate those by Try-Confirm/Cancel instead of as Sagas
    #[arg(long)]
    pub tcc: bool,
}

/// Accounts by partition, and how transfers are mixed.
pub struct Accounts {
    groups: Vec<Vec<u32>>,
    mix: Mix,
}

impl Accounts {
    /// # Errors
    /// A partition has fewer than two accounts, so nobody could be paid there; or transfers between partitions are
    /// wanted, but there are no two partitions.
    pub fn new(count: u32, partitions: u32, mix: Mix) -> anyhow::Result<Self> {
        ensure!(mix.cross == 0 || 2 <= partitions, "--cross needs --partitions 2 or more");
        let mut groups = vec![Vec::new(); partitions as usize];
        for number in 0..count {
            let PartitionId(partition) = partition_of(name(number).as_bytes(), partitions);
            groups[partition as usize].push(number);
        }
        ensure!(
            groups.iter().all(|group| 2 <= group.len()),
            "{count} accounts are too few for {partitions} partitions"
        );
        Ok(Self { groups, mix })
    }

    /// A new transfer in any partition, or between two.
    pub fn transfer(&self) -> Bytes {
        let mut random = rand::rng();
        let partition = random.random_range(0..self.groups.len());
        if self.mix.cross <= random.random_range(0..100) {
            return self.transfer_in(PartitionId(partition as u32));
        }
        let other = (partition + random.random_range(1..self.groups.len())) % self.groups.len();
        let mut any = |group: &[u32]| group[random.random_range(0..group.len())];
        let (from, to) = (any(&self.groups[partition]), any(&self.groups[other]));
        self.transfer_between(from, to)
    }

    /// A new transfer in this partition.
    pub fn transfer_in(&self, partition: PartitionId) -> Bytes {
        let group = &self.groups[partition.0 as usize];
        let mut random = rand::rng();
        let from = random.random_range(0..group.len());
        let to = (from + 1 + random.random_range(0..group.len() - 1)) % group.len();
        self.transfer_between(group[from], group[to])
    }

    fn transfer_between(&self, from: u32, to: u32) -> Bytes {
        let id = uuid::Builder::from_random_bytes(rand::rng().random()).into_uuid();
        let (from, to) = (name(from), name(to));
        let coordination = if self.mix.tcc { r#","coordination":"tcc""# } else { "" };
        format!(
            r#"{{"from_account":"{from}","to_account":"{to}","amount":"0.01","currency":"USD","transaction_id":"{id}"{coordination}}}"#
        )
        .into()
    }

    /// The body of a batch of new transfers.
    pub fn batch(&self, count: u32) -> Bytes {
        (0..count).map(|_| line("balance_transfer", &self.transfer())).collect::<Vec<_>>().concat().into()
    }
}

/// The name of an account of a bench.
pub fn account_name(number: u32) -> String {
    name(number)
}

fn name(number: u32) -> String {
    format!("acct-{number:07}")
}

fn line(command: &str, body: &[u8]) -> Vec<u8> {
    [br#"{"command":""#, command.as_bytes(), br#"","body":"#, body, b"}\n"].concat()
}

/// Opens these accounts with more money than a bench can move.
pub async fn open_accounts(target: impl Into<BenchTarget>, numbers: Range<u32>) -> anyhow::Result<()> {
    let mut connection = BenchConnection::open(target).await?;
    let bar = progress("accounts opened");
    for start in numbers.clone().step_by(OPEN_ACCOUNTS) {
        let numbers = start..numbers.end.min(start + OPEN_ACCOUNTS as u32);
        let open = |number| format!(r#"{{"account":"{}","currency":"USD"}}"#, name(number));
        let deposit = |number| {
            let (account, id) = (name(number), uuid::Uuid::new_v4());
            format!(r#"{{"account":"{account}","amount":"1000000.00","currency":"USD","transaction_id":"{id}"}}"#)
        };
        let opens = numbers.clone().map(|number| line("open", open(number).as_bytes()));
        let deposits = numbers.clone().map(|number| line("deposit", deposit(number).as_bytes()));
        let answers = connection.send_batch(opens.chain(deposits).collect::<Vec<_>>().concat().into()).await?;
        if let Some(other) = lines(&answers).find(|line| !is_done(line)) {
            bail!("not all accounts were opened: {}", String::from_utf8_lossy(other));
        }
        bar.inc(numbers.len() as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

fn lines(answers: &Bytes) -> impl Iterator<Item = &[u8]> {
    answers.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

fn is_done(line: &[u8]) -> bool {
    line.windows(12).any(|part| part.starts_with(br#""status":2"#))
}

/// A node to send to, and how its certificate is checked if it speaks TLS.
#[derive(Clone)]
pub struct BenchTarget {
    pub address: SocketAddr,
    pub trust: Option<Trust>,
}

impl From<SocketAddr> for BenchTarget {
    fn from(address: SocketAddr) -> Self {
        Self { address, trust: None }
    }
}

/// One connection to one node; a request waits for the one before.
pub struct BenchConnection(SendRequest<Full<Bytes>>);

impl BenchConnection {
    pub async fn open(target: impl Into<BenchTarget>) -> anyhow::Result<Self> {
        let BenchTarget { address, trust } = target.into();
        let stream = TcpStream::connect(address).await.context("connecting to the node")?;
        stream.set_nodelay(true)?;
        match trust {
            Some(trust) => Self::speak(trust.open(stream, &address.ip().to_string()).await?).await,
            None => Self::speak(stream).await,
        }
    }

    async fn speak(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> anyhow::Result<Self> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // The connection ends with the sender, and the next request reports the connection's error.
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// # Errors
    /// The transfer was not made, or it is unknown whether it was.
    pub async fn transfer(&mut self, body: Bytes) -> anyhow::Result<()> {
        self.post("/v1/wallet/balance_transfer", "application/json", body).await.map(drop)
    }

    /// Sends a batch and counts the commands that succeeded.
    pub async fn batch(&mut self, body: Bytes) -> anyhow::Result<u64> {
        Ok(lines(&self.send_batch(body).await?).filter(|line| is_done(line)).count() as u64)
    }

    /// Returns a line for each command.
    async fn send_batch(&mut self, body: Bytes) -> anyhow::Result<Bytes> {
        self.post("/v1/wallet/batch", "application/x-ndjson", body).await
    }

    /// # Errors
    /// The answer is not a success.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<Bytes> {
        let request = Request::builder().method(Method::GET).uri(path).header("host", "localhost");
        self.exchange(request.body(Full::default())?).await
    }

    async fn post(&mut self, path: &str, content_type: &str, body: Bytes) -> anyhow::Result<Bytes> {
        let request = Request::builder().method(Method::POST).uri(path).header("host", "localhost");
        // A batch may take long on a machine with other work, and that time is what is measured.
        let request = request.header("statehouse-deadline", DEADLINE_MAX.as_millis() as u64);
        let request = request.header("content-type", content_type).body(Full::new(body))?;
        self.exchange(request).await
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Bytes> {
        self.0.ready().await?;
        let answer = self.0.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_accounts_of_one_partition_pay_each_other() {
        let accounts = Accounts::new(64, 4, Mix::default()).expect("enough accounts");
        for asked in (0..4).map(PartitionId).cycle().take(200) {
            let body: serde_json::Value =
                serde_json::from_slice(&accounts.transfer_in(asked)).expect("a transfer is JSON");
            let account = |member: &str| body[member].as_str().expect("an account").to_owned();
            let (from, to) = (account("from_account"), account("to_account"));
            assert_ne!(from, to);
            assert_eq!([&from, &to].map(|name| partition_of(name.as_bytes(), 4)), [asked; 2]);
        }
        let refused = Accounts::new(3, 2, Mix::default()).err().expect("one partition has a single account at most");
        assert_eq!(refused.to_string(), "3 accounts are too few for 2 partitions");
    }
}
