//! Clients of a cluster. Each asks one node after the other, and keeps asking until every outcome is known.
//!
//! Between new transfers they read accounts and send old ids again, to other nodes. A missing answer makes an outcome
//! *unknown*. Its id is sent again, at once or later, until there is an answer. This file records and does not judge.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use statehouse_kernel::ids::{NodeId, Position};
use tokio::task::JoinSet;
use uuid::{Builder, Uuid};

use crate::hold::{PATIENCE, find_within, hold};
use crate::http::{Answer, Client, LostAnswer};
use crate::oracle::model::Protocol;
use crate::recording::{AccountRead, Attempt, Consistency, Moments, Recording, Span, Transfer, TransferAnswer};
use crate::wallet::{self, BANK};

/// Most transfers are below this, so that an account runs empty now and then.
const AMOUNT_MAX: i128 = 3_000;
/// The pause after an answer that says "later", and after no answer.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How long a client asks the host to wait at most. A paused node does not learn this limit.
const DEADLINE_MS: &str = "2000";
const REQUEST_PATIENCE: Duration = Duration::from_secs(4);
/// A client with this many unknown outcomes resolves one before it asks for more.
const UNKNOWN_MAX: usize = 8;

/// Accounts that transfers go between, spread over the partitions.
#[derive(Clone, Debug)]
pub struct Accounts {
    names: Vec<String>,
    /// The deposits that the accounts began with.
    pub recording: Recording,
}

impl Accounts {
    /// Opens `count` accounts on one of the nodes and pays `opening` into each.
    pub async fn open(load: &Setup, count: usize, opening: i128) -> Self {
        let mut partitions = BTreeSet::new();
        let mut names = Vec::new();
        let mut recording = Recording::default();
        let mut asker = Asker::new(load);
        for number in 0..count {
            let account = format!("account-{number}");
            wallet::open(asker.client(), &account).await;
            let id = Uuid::new_v4();
            let (from, to, by) = (BANK.to_owned(), account.clone(), Protocol::Saga);
            let deposit = Transfer { id, from, to, amount: opening, by };
            let told = asker.ask(&deposit, &mut recording).await;
            let TransferAnswer::Done { position } = told else { panic!("{account} was not paid into: {told:?}") };
            partitions.insert(position.partition);
            names.push(account);
        }
        println!("{count} accounts on {} partitions", partitions.len());
        Self { names, recording }
    }

    pub fn all(&self) -> impl Iterator<Item = &String> {
        self.names.iter()
    }
}

/// The nodes that clients ask, and what the clients share.
#[derive(Clone)]
pub struct Setup {
    nodes: Vec<(NodeId, SocketAddr)>,
    shared: Arc<LoadState>,
}

impl Setup {
    pub fn of(nodes: Vec<(NodeId, SocketAddr)>) -> Self {
        Self { nodes, shared: Arc::new(LoadState::default()) }
    }
}

#[derive(Default)]
struct LoadState {
    moments: Moments,
    is_stopping: AtomicBool,
    done_count: AtomicUsize,
    pulse: Mutex<Option<Pulse>>,
}

/// The time between successful writes.
struct Pulse {
    last: Instant,
    gap_max: Duration,
}

impl LoadState {
    fn on_done(&self) {
        self.done_count.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut pulse = self.pulse.lock().expect("taking the pulse does not panic");
        let pulse = pulse.get_or_insert(Pulse { last: now, gap_max: Duration::ZERO });
        pulse.gap_max = pulse.gap_max.max(now.saturating_duration_since(pulse.last));
        pulse.last = now;
    }
}

/// Clients at work.
pub struct Load {
    clients: JoinSet<Recording>,
    shared: Arc<LoadState>,
    recording: Recording,
}

impl Load {
    /// Starts `client_count` clients that transfer between the accounts. The seed decides what they do, not when.
    pub fn start(setup: &Setup, accounts: &Accounts, client_count: usize, seed: u64) -> Self {
        let mut clients = JoinSet::new();
        for number in 0..client_count {
            let worker = Worker {
                accounts: accounts.names.clone(),
                asker: Asker::starting_at(setup, number),
                other_asker: Asker::starting_at(setup, number + 1),
                random: StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(number as u64)),
                recording: Recording::default(),
                unknown: VecDeque::new(),
                known: Vec::new(),
            };
            clients.spawn(worker.run());
        }
        Self { clients, shared: setup.shared.clone(), recording: accounts.recording.clone() }
    }

    /// Transfers acknowledged so far.
    pub fn done_count(&self) -> usize {
        self.shared.done_count.load(Ordering::Relaxed)
    }

    /// Waits until `count` more transfers were acknowledged.
    pub async fn progress(&self, count: usize) {
        let enough = self.done_count() + count;
        let progress = find_within(PATIENCE, async || (enough <= self.done_count()).then_some(())).await;
        let done = count - enough.saturating_sub(self.done_count()).min(count);
        assert!(progress.is_some(), "clients make no progress: {done} of {count} transfers within {PATIENCE:?}");
    }

    /// The longest time without a successful write since the last call.
    pub fn take_gap(&self) -> Duration {
        let mut pulse = self.shared.pulse.lock().expect("taking the pulse does not panic");
        let Some(pulse) = pulse.as_mut() else { return Duration::ZERO };
        std::mem::take(&mut pulse.gap_max).max(Instant::now().saturating_duration_since(pulse.last))
    }

    /// Lets every client finish and resolve what it does not know yet, for which the cluster must answer. Returns all
    /// that was asked and told.
    pub async fn stop(mut self) -> Recording {
        self.recording.gap_max = self.take_gap();
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        for recording in self.clients.join_all().await {
            self.recording.add(recording);
        }
        self.recording
    }
}

/// A client that remembers which node it asks next.
struct Asker {
    nodes: Vec<(NodeId, Client)>,
    at: usize,
    shared: Arc<LoadState>,
}

impl Asker {
    fn new(setup: &Setup) -> Self {
        Self::starting_at(setup, 0)
    }

    fn starting_at(setup: &Setup, at: usize) -> Self {
        let client = |(id, address): &(NodeId, SocketAddr)| (*id, Client::impatient(*address, REQUEST_PATIENCE));
        Self { nodes: setup.nodes.iter().map(client).collect(), at, shared: setup.shared.clone() }
    }

    /// The client of the next node.
    fn client(&mut self) -> &mut Client {
        &mut self.next().1
    }

    fn next(&mut self) -> &mut (NodeId, Client) {
        self.at += 1;
        let count = self.nodes.len();
        &mut self.nodes[self.at % count]
    }

    /// Sends a transfer once, to the next node.
    async fn ask(&mut self, transfer: &Transfer, recording: &mut Recording) -> TransferAnswer {
        let shared = self.shared.clone();
        let (node, client) = self.next();
        let Transfer { id, from, to, amount, by } = transfer;
        let mut body = wallet::transfer_body(&id.to_string(), from, to, &wallet::amount(*amount));
        if *by == Protocol::Phases {
            body["coordination"] = "tcc".into();
        }
        let invoked = shared.moments.next();
        let answer = client.post_with(wallet::TRANSFER, &body, vec![("statehouse-deadline", DEADLINE_MS)]).await;
        let span = Span { invoked, returned: shared.moments.next() };
        let told = told(answer);
        if matches!(told, TransferAnswer::Done { .. }) {
            shared.on_done();
        }
        recording.attempts.push(Attempt { transfer: transfer.clone(), node: *node, span, told: told.clone() });
        told
    }

    /// Reads an account on the next node, and returns whether the node could answer.
    async fn read(&mut self, account: &str, consistency: Consistency, recording: &mut Recording) -> bool {
        let shared = self.shared.clone();
        let (node, client) = self.next();
        let path = match consistency {
            Consistency::Linearizable => format!("/v1/wallet/accounts/{account}"),
            Consistency::Stale => format!("/v1/wallet/accounts/{account}?consistency=stale"),
        };
        let invoked = shared.moments.next();
        let answer = client.get(&path).await;
        let span = Span { invoked, returned: shared.moments.next() };
        let Ok(answer) = answer else { return false };
        match answer.status {
            200 => recording.reads.push(seen(account, *node, consistency, span, &answer)),
            // A node that lags may not know the account yet.
            404 if consistency == Consistency::Stale => {}
            429 | 503 | 504 => return false,
            _ => panic!("read {account} on node {node}: {answer:?}"),
        }
        true
    }
}

/// Whether an earlier request may have brought a transfer to the leader that decides it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EarlierRequest {
    New,
    Sent,
}

struct Worker {
    accounts: Vec<String>,
    asker: Asker,
    /// Asks at the same time as the first one.
    other_asker: Asker,
    random: StdRng,
    recording: Recording,
    /// Transfers whose outcome is not known, oldest first.
    unknown: VecDeque<Transfer>,
    /// Some transfers whose outcome is known.
    known: Vec<Transfer>,
}

impl Worker {
    async fn run(mut self) -> Recording {
        while !self.asker.shared.is_stopping.load(Ordering::Relaxed) {
            match self.random.random_range(0..100) {
                0..5 => self.repeat().await,
                5..30 => self.read().await,
                30..36 if self.unknown.len() < UNKNOWN_MAX => self.use_one_id_twice().await,
                36..46 => self.resolve_one().await,
                _ if UNKNOWN_MAX <= self.unknown.len() => self.resolve_one().await,
                _ => self.transfer().await,
            }
        }
        let is_resolved = tokio::time::timeout(PATIENCE, self.resolve_all()).await.is_ok();
        assert!(is_resolved, "outcomes are still unknown after {PATIENCE:?}: {:?}", self.unknown);
        self.recording
    }

    async fn resolve_all(&mut self) {
        while !self.unknown.is_empty() {
            self.resolve_one().await;
        }
    }

    async fn transfer(&mut self) {
        let transfer = self.next();
        self.ask(transfer, EarlierRequest::New).await;
    }

    /// Sends two transfers under one id at the same moment, through two nodes. They have different payers, and one
    /// account that both need.
    async fn use_one_id_twice(&mut self) {
        let one = self.next();
        let payer = loop {
            let at = self.random.random_range(0..self.accounts.len());
            if self.accounts[at] != one.from {
                break self.accounts[at].clone();
            }
        };
        let mut other = Transfer { from: payer, ..self.next() };
        other.id = one.id;
        // The payee of the second is the payee of the first, or its payer.
        other.to = if other.from != one.to && self.random.random_bool(0.5) { one.to.clone() } else { one.from.clone() };
        let mut recording = Recording::default();
        let told =
            tokio::join!(self.asker.ask(&one, &mut self.recording), self.other_asker.ask(&other, &mut recording));
        self.recording.add(recording);
        for (transfer, told) in [(one, told.0), (other, told.1)] {
            match told {
                TransferAnswer::Done { .. } | TransferAnswer::Rejected { .. } | TransferAnswer::Reused => {
                    self.known.push(transfer)
                }
                TransferAnswer::NotAccepted => {}
                TransferAnswer::Unknown => self.unknown.push_back(transfer),
            }
        }
    }

    async fn resolve_one(&mut self) {
        if let Some(transfer) = self.unknown.pop_front() {
            self.ask(transfer, EarlierRequest::Sent).await;
        }
    }

    /// Asks again for a known outcome: the answer must be the same, on any node.
    async fn repeat(&mut self) {
        if self.known.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.known.len());
        let transfer = self.known.swap_remove(at);
        self.asker.ask(&transfer, &mut self.recording).await;
    }

    async fn read(&mut self) {
        let at = self.random.random_range(0..self.accounts.len());
        let stale = self.random.random_bool(0.2);
        let consistency = if stale { Consistency::Stale } else { Consistency::Linearizable };
        if !self.asker.read(&self.accounts[at], consistency, &mut self.recording).await {
            hold(RETRY_PAUSE).await;
        }
    }

    /// Sends a transfer until there is an answer, or leaves it for later.
    async fn ask(&mut self, transfer: Transfer, mut before: EarlierRequest) {
        loop {
            match self.asker.ask(&transfer, &mut self.recording).await {
                TransferAnswer::Done { .. } | TransferAnswer::Rejected { .. } | TransferAnswer::Reused => {
                    return self.known.push(transfer);
                }
                // This request was not accepted; an earlier one may have been.
                TransferAnswer::NotAccepted if before == EarlierRequest::New => return hold(RETRY_PAUSE).await,
                TransferAnswer::NotAccepted => {}
                TransferAnswer::Unknown => before = EarlierRequest::Sent,
            }
            hold(RETRY_PAUSE).await;
            if self.random.random_bool(0.5) {
                return self.unknown.push_back(transfer);
            }
        }
    }

    fn next(&mut self) -> Transfer {
        let accounts = &self.accounts;
        let from = self.random.random_range(0..accounts.len());
        let step = self.random.random_range(1..accounts.len());
        let id = Builder::from_random_bytes(self.random.random()).into_uuid();
        let amount = self.random.random_range(1..=AMOUNT_MAX);
        let by = if self.random.random_bool(0.25) { Protocol::Phases } else { Protocol::Saga };
        Transfer { id, from: accounts[from].clone(), to: accounts[(from + step) % accounts.len()].clone(), amount, by }
    }
}

fn told(answer: Result<Answer, LostAnswer>) -> TransferAnswer {
    let Ok(answer) = answer else { return TransferAnswer::Unknown };
    match answer.status {
        200 => TransferAnswer::Done { position: position(&answer) },
        429 | 503 | 507 => {
            assert!(answer.header("retry-after").is_some(), "it says when to come back: {answer:?}");
            TransferAnswer::NotAccepted
        }
        504 => TransferAnswer::Unknown,
        422 if answer.problem() == "id_reused" && answer.json().get("Status").is_none() => TransferAnswer::Reused,
        _ => {
            assert_eq!(answer.text("Status"), "rejected", "an honest transfer is done or rejected: {answer:?}");
            TransferAnswer::Rejected { code: answer.text("code"), position: position(&answer) }
        }
    }
}

fn seen(account: &str, node: NodeId, consistency: Consistency, span: Span, answer: &Answer) -> AccountRead {
    let json = answer.json();
    AccountRead {
        account: account.to_owned(),
        node,
        consistency,
        span,
        position: position(answer),
        version: json["version"].as_u64().unwrap_or_else(|| panic!("no `version` in {json}")),
        balance: json["balances"][wallet::CURRENCY].as_str().map_or(0, wallet::minor),
    }
}

fn position(answer: &Answer) -> Position {
    let text = answer.text("position");
    text.parse().unwrap_or_else(|error| panic!("no position: {error}: {answer:?}"))
}
