//! Clients that never give up, and the longest time in which none of them succeeded.
//!
//! ```text
//! transfer → success: a beat │ anything else, or no answer: the same transfer again, at the next node
//! ```
//! A transfer keeps its id until it succeeds, as with a careful client. The writers do not know what is done to the
//! cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use parking_lot::Mutex;
use statehouse_kernel::ids::PartitionId;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::bench::wallet::{Accounts, BenchConnection};

/// If a node takes longer to answer, the next one is tried.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Keeps clients from spinning while nobody listens; shorter than what is measured.
const PAUSE: Duration = Duration::from_millis(2);

/// Writers under way; dropping the value ends them.
pub struct Writers {
    shared: Arc<WriteLoad>,
    tasks: JoinSet<()>,
}

struct WriteLoad {
    addresses: Vec<SocketAddr>,
    accounts: Arc<Accounts>,
    partition: PartitionId,
    started: Instant,
    pulse: Mutex<TransferPulse>,
    failed: AtomicU64,
    is_over: AtomicBool,
}

impl Writers {
    pub fn start(addresses: Vec<SocketAddr>, accounts: Arc<Accounts>, partition: PartitionId, clients: u32) -> Self {
        let shared = Arc::new(WriteLoad {
            addresses,
            accounts,
            partition,
            started: Instant::now(),
            pulse: Mutex::default(),
            failed: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        let mut tasks = JoinSet::new();
        for client in 0..clients as usize {
            tasks.spawn(write(shared.clone(), client));
        }
        Self { shared, tasks }
    }

    /// Forgets all silences so far; the one under way counts from its beginning.
    pub fn listen(&self) {
        self.shared.pulse.lock().longest = Duration::ZERO;
    }

    /// The longest time without a success since [`Writers::listen`].
    pub fn longest_silence(&self) -> Duration {
        self.shared.pulse.lock().longest_at(self.shared.started.elapsed())
    }

    /// Waits until `more` further transfers have succeeded.
    pub async fn wait_for(&self, more: u64, at_most: Duration) -> anyhow::Result<()> {
        let wanted = self.shared.pulse.lock().count + more;
        let enough = async {
            while self.shared.pulse.lock().count < wanted {
                sleep(PAUSE).await;
            }
        };
        timeout(at_most, enough).await.with_context(|| format!("no {more} transfers in {} s", at_most.as_secs()))
    }

    /// Ends the writers; returns how many transfers succeeded and how many requests did not.
    pub async fn finish(mut self) -> (u64, u64) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        let count = self.shared.pulse.lock().count;
        (count, self.shared.failed.load(Ordering::Relaxed))
    }
}

async fn write(shared: Arc<WriteLoad>, mut at: usize) {
    let mut connection = None;
    let mut body = shared.accounts.transfer_in(shared.partition);
    while !shared.is_over.load(Ordering::Relaxed) {
        let address = shared.addresses[at % shared.addresses.len()];
        match timeout(ANSWER_MAX, attempt(connection.take(), address, body.clone())).await {
            Ok(Ok(open)) => {
                shared.pulse.lock().beat(shared.started.elapsed());
                connection = Some(open);
                body = shared.accounts.transfer_in(shared.partition);
            }
            Ok(Err(_)) | Err(_) => {
                shared.failed.fetch_add(1, Ordering::Relaxed);
                at += 1;
                sleep(PAUSE).await;
            }
        }
    }
}

async fn attempt(open: Option<BenchConnection>, address: SocketAddr, body: Bytes) -> anyhow::Result<BenchConnection> {
    let mut connection = match open {
        Some(connection) => connection,
        None => BenchConnection::open(address).await?,
    };
    connection.transfer(body).await?;
    Ok(connection)
}

/// When a transfer succeeded last, and the longest time without a success; times are counted from the writers' start.
#[derive(Default)]
struct TransferPulse {
    last: Duration,
    longest: Duration,
    count: u64,
}

impl TransferPulse {
    fn beat(&mut self, now: Duration) {
        self.longest = self.longest_at(now);
        // Clients read the clock before they take the lock, so they may take it in another order.
        self.last = self.last.max(now);
        self.count += 1;
    }

    /// The silence under way counts too.
    fn longest_at(&self, now: Duration) -> Duration {
        self.longest.max(now.saturating_sub(self.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_silence_is_between_two_beats_or_still_under_way() {
        let ms = Duration::from_millis;
        let mut pulse = TransferPulse::default();
        assert_eq!(pulse.longest_at(ms(5)), ms(5), "before the first success there was none");
        for now in [10, 12, 40, 39, 41] {
            pulse.beat(ms(now));
        }
        assert_eq!((pulse.longest, pulse.last, pulse.count), (ms(28), ms(41), 5));
        assert_eq!(pulse.longest_at(ms(60)), ms(28));
        assert_eq!(pulse.longest_at(ms(141)), ms(100));
        pulse.longest = Duration::ZERO;
        pulse.beat(ms(44));
        assert_eq!(pulse.longest_at(ms(45)), ms(3));
    }
}
