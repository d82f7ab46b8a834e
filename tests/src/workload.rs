//! Clients that transfer at random until told to stop, across kills of the host, and remember what they were told.
//!
//! Every attempt has an id of its own. A lost answer makes its outcome *unknown*. Half of those are sent again with
//! the same id until there is an answer; the others are left for the oracle. This file does not judge.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::{Builder, Uuid};

use crate::hold::hold;
use crate::http::{Answer, Client, LostAnswer};
use crate::wallet;

/// Most transfers are below this, so that an account runs empty now and then.
const AMOUNT_MAX: i128 = 3_000;
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What a client asked for.
#[derive(Clone, Debug)]
pub struct Transfer {
    pub id: Uuid,
    /// Index into the accounts.
    pub from: usize,
    pub to: usize,
    /// In minor units.
    pub amount: i128,
}

/// What a client knows about its transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferOutcome {
    Done,
    /// With the code of the rejection.
    Rejected(String),
    /// 429, 503, 507: certainly not accepted.
    NotAccepted,
    /// 504, or no answer.
    Unknown,
}

/// Clients at work.
pub struct Workload {
    clients: JoinSet<Vec<(Transfer, TransferOutcome)>>,
    address: watch::Sender<SocketAddr>,
    shared: Arc<WorkloadState>,
}

/// What the clients and the test tell each other.
#[derive(Default)]
struct WorkloadState {
    is_stopping: AtomicBool,
    done_count: AtomicUsize,
    not_accepted_count: AtomicUsize,
}

impl Workload {
    /// Starts `client_count` clients that transfer between the accounts. The seed decides what they do, not when.
    pub fn start(address: SocketAddr, accounts: &[String], client_count: usize, seed: u64) -> Self {
        let (address, _) = watch::channel(address);
        let shared = Arc::<WorkloadState>::default();
        let mut clients = JoinSet::new();
        for number in 0..client_count {
            let worker = Worker {
                accounts: accounts.to_vec(),
                address: address.subscribe(),
                shared: shared.clone(),
                random: StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(number as u64)),
            };
            clients.spawn(worker.run());
        }
        Self { clients, address, shared }
    }

    /// Transfers acknowledged so far.
    pub fn done_count(&self) -> usize {
        self.shared.done_count.load(Ordering::Relaxed)
    }

    /// Transfers that were so far refused as certainly not accepted.
    pub fn not_accepted_count(&self) -> usize {
        self.shared.not_accepted_count.load(Ordering::Relaxed)
    }

    /// Tells the clients that the host is at another address now.
    pub fn moved_to(&self, address: SocketAddr) {
        self.address.send_replace(address);
    }

    /// Lets every client finish what it has in hand, for which the host must be up. Returns what the clients were told.
    pub async fn stop(self) -> Vec<(Transfer, TransferOutcome)> {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        // A client that waits for the host to move learns that it will not, and connects again where the host is.
        drop(self.address);
        self.clients.join_all().await.concat()
    }
}

struct Worker {
    accounts: Vec<String>,
    address: watch::Receiver<SocketAddr>,
    shared: Arc<WorkloadState>,
    random: StdRng,
}

impl Worker {
    async fn run(mut self) -> Vec<(Transfer, TransferOutcome)> {
        let mut client = Client::to(*self.address.borrow_and_update());
        let mut attempts = Vec::new();
        while !self.shared.is_stopping.load(Ordering::Relaxed) {
            let transfer = self.next();
            let sends_again = self.random.random_bool(0.5);
            let mut told = self.ask(&mut client, &transfer).await;
            if told == TransferOutcome::Unknown && sends_again {
                told = self.ask_until_known(&mut client, &transfer).await;
            }
            match told {
                TransferOutcome::Done => _ = self.shared.done_count.fetch_add(1, Ordering::Relaxed),
                TransferOutcome::NotAccepted => {
                    self.shared.not_accepted_count.fetch_add(1, Ordering::Relaxed);
                    hold(RETRY_PAUSE).await;
                }
                TransferOutcome::Rejected(_) | TransferOutcome::Unknown => {}
            }
            attempts.push((transfer, told));
        }
        attempts
    }

    fn next(&mut self) -> Transfer {
        let from = self.random.random_range(0..self.accounts.len());
        let step = self.random.random_range(1..self.accounts.len());
        let amount = self.random.random_range(1..=AMOUNT_MAX);
        let id = Builder::from_random_bytes(self.random.random()).into_uuid();
        Transfer { id, from, to: (from + step) % self.accounts.len(), amount }
    }

    /// Sends a transfer again until it is done or rejected. That it is not accepted now says nothing about the first
    /// time.
    async fn ask_until_known(&mut self, client: &mut Client, transfer: &Transfer) -> TransferOutcome {
        loop {
            match self.ask(client, transfer).await {
                TransferOutcome::NotAccepted => hold(RETRY_PAUSE).await,
                TransferOutcome::Unknown => {}
                told => return told,
            }
        }
    }

    /// Sends a transfer once, and after a loss waits until the host is back.
    async fn ask(&mut self, client: &mut Client, transfer: &Transfer) -> TransferOutcome {
        let (from, to) = (&self.accounts[transfer.from], &self.accounts[transfer.to]);
        let answer = wallet::transfer(client, transfer.id, from, to, transfer.amount).await;
        if answer.is_err() && self.address.changed().await.is_ok() {
            *client = Client::to(*self.address.borrow_and_update());
        }
        told(answer)
    }
}

fn told(answer: Result<Answer, LostAnswer>) -> TransferOutcome {
    let Ok(answer) = answer else { return TransferOutcome::Unknown };
    match answer.status {
        200 => TransferOutcome::Done,
        429 | 503 | 507 => {
            assert!(answer.header("retry-after").is_some(), "it says when to come back: {answer:?}");
            TransferOutcome::NotAccepted
        }
        504 => TransferOutcome::Unknown,
        _ => {
            assert_eq!(answer.text("Status"), "rejected", "an honest transfer is done or rejected: {answer:?}");
            TransferOutcome::Rejected(answer.text("code"))
        }
    }
}
