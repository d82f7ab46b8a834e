//! Clients that send transfers to nodes as fast as they are answered, for a number of seconds: one per request, or in
//! batches.
//!
//! In: nodes, and how many clients are spread over them. Out: how many transfers were made and how long each request
//! took. Any answer but success ends the run, because only a healthy cluster is measured. It does not know what a node
//! does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::spread::LatencySpread;
use super::wallet::{Accounts, BenchConnection, BenchTarget};

/// Who sends to which nodes, and for how long.
pub struct Load<'a> {
    /// Each client keeps to one target; the targets are assigned in turn.
    pub targets: &'a [BenchTarget],
    pub accounts: &'a Arc<Accounts>,
    pub seconds: u64,
}

/// The result of a run.
pub struct Rate {
    pub transfers: u64,
    pub seconds: f64,
    pub spread: LatencySpread,
}

impl Rate {
    pub fn transfers_per_second(&self) -> f64 {
        self.transfers as f64 / self.seconds
    }
}

/// What a request carries.
#[derive(Clone, Copy)]
pub enum RequestLoad {
    Transfer,
    /// The same, but every tenth is sent twice.
    TransferOrTwice,
    /// This many transfers.
    Batch(u32),
}

impl Load<'_> {
    /// The same, beside one client that sends a recorded batch again, at once and then at this interval. Also returns
    /// how long that took.
    pub async fn run_beside(
        &self,
        clients: u32,
        work: RequestLoad,
        batch: u32,
        every: Duration,
    ) -> anyhow::Result<(Rate, LatencySpread)> {
        let batch = self.accounts.batch(batch);
        let mut connection = BenchConnection::open(self.targets[0].clone()).await?;
        connection.batch(batch.clone()).await?;
        let until = Instant::now() + Duration::from_secs(self.seconds);
        let sending = tokio::spawn(send_again(connection, batch, every, until));
        let rate = self.run(clients, work).await?;
        Ok((rate, LatencySpread::of(sending.await??)))
    }

    pub async fn run(&self, clients: u32, work: RequestLoad) -> anyhow::Result<Rate> {
        let started = Instant::now();
        let until = started + Duration::from_secs(self.seconds);
        let targets = self.targets.iter().cycle().take(clients as usize);
        let tasks = targets.map(|target| tokio::spawn(client(target.clone(), self.accounts.clone(), work, until)));
        let (mut transfers, mut took) = (0, Vec::new());
        for task in tasks.collect::<Vec<_>>() {
            let (made, requests) = task.await??;
            transfers += made;
            took.extend(requests);
        }
        Ok(Rate { transfers, seconds: started.elapsed().as_secs_f64(), spread: LatencySpread::of(took) })
    }
}

/// Sends a recorded batch repeatedly; returns how long each time took.
async fn send_again(
    mut connection: BenchConnection,
    batch: Bytes,
    every: Duration,
    until: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let (mut took, mut turns) = (Vec::new(), tokio::time::interval(every));
    // The next turn may be after the end.
    while tokio::time::timeout_at(until.into(), turns.tick()).await.is_ok() {
        let sent = Instant::now();
        connection.batch(batch.clone()).await?;
        took.push(sent.elapsed());
    }
    Ok(took)
}

async fn client(
    target: BenchTarget,
    accounts: Arc<Accounts>,
    work: RequestLoad,
    until: Instant,
) -> anyhow::Result<(u64, Vec<Duration>)> {
    let mut connection = BenchConnection::open(target).await?;
    let (mut transfers, mut took) = (0, Vec::new());
    while Instant::now() < until {
        // The body is made before the clock starts, because that is the client's work.
        let body = match work {
            RequestLoad::Transfer | RequestLoad::TransferOrTwice => accounts.transfer(),
            RequestLoad::Batch(size) => accounts.batch(size),
        };
        let again = (matches!(work, RequestLoad::TransferOrTwice) && transfers % 10 == 0).then(|| body.clone());
        let sent = Instant::now();
        transfers += match work {
            RequestLoad::Transfer | RequestLoad::TransferOrTwice => connection.transfer(body).await.map(|()| 1)?,
            RequestLoad::Batch(_) => connection.batch(body).await?,
        };
        took.push(sent.elapsed());
        if let Some(body) = again {
            let sent = Instant::now();
            connection.transfer(body).await?;
            took.push(sent.elapsed());
        }
    }
    Ok((transfers, took))
}
