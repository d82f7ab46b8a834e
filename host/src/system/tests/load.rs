//! Clients: single commands and reads through any node's router, and a load of transfers from many at once.
//!
//! In: the nodes' entrances. Out: what each client asked and was told. Every id is sent once, so that what is told is about that one
//! attempt. It does not know what is right.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use statehouse_abi::role;
use statehouse_abi::value::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Cluster, Doors, MACHINE, PATIENCE};
use crate::ids::{CommandId, NodeId, Position};
use crate::router::Router;
use crate::router::answer::{Answer, Caller, CommandRequest, Consistency, QueryError, QueryRequest, UnavailableReason};

pub const CURRENCY: &str = "USD";
const CLIENTS: u64 = 6;
/// How long a client waits; then it must have been told something.
pub const DEADLINE: Duration = Duration::from_secs(4);
/// How much later than its deadline an answer may come on a busy machine before it counts as a hang.
const GRACE: Duration = Duration::from_secs(20);
/// Between two commands of one client.
const PACE: Duration = Duration::from_millis(4);

/// What a client was told about a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Done(Position),
    /// With the code.
    Rejected(Position, String),
    /// Certainly not accepted.
    NotAccepted(UnavailableReason),
    /// It may be executed, or not.
    Unknown,
}

/// A transfer in minor units between two accounts, by their numbers.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub id: CommandId,
    pub from: usize,
    pub to: usize,
    pub amount: i128,
    pub is_tcc: bool,
    pub told: Told,
}

/// Sends one command and waits until there is an answer.
pub async fn submit(router: &Router, path: &str, id: CommandId, body: Value, deadline: Duration) -> Told {
    let Some(machine) = router.find_machine(MACHINE) else { return Told::NotAccepted(UnavailableReason::Halted) };
    let describe = machine.describe();
    let command = describe.commands.iter().find(|command| command.path == path).expect("the wallet has it");
    let deadline = Instant::now() + deadline;
    let request = CommandRequest {
        command: command.name.as_str().into(),
        body: body.to_cbor().expect("amounts are text"),
        id,
        caller: Arc::new(Caller::unbound("client", role::ALL)),
        request_id: "sim".into(),
        deadline,
    };
    let answering = tokio::time::timeout_at(deadline + GRACE, machine.submit(vec![request])).await;
    match answering.expect("nobody is left without an answer").pop().expect("one answer each") {
        Answer::Done(recorded) => Told::Done(recorded.position),
        Answer::Rejected(recorded, rejection) => Told::Rejected(recorded.position, rejection.code),
        Answer::Unavailable(unavailable) => Told::NotAccepted(unavailable.reason),
        Answer::Unknown { .. } => Told::Unknown,
        Answer::Refused(refusal) => panic!("the wallet takes what these tests send: {refusal:?}"),
        Answer::Conflict { fields, position } => panic!("no id is sent twice: {fields:?} at {position}"),
    }
}

fn transfer_body(id: CommandId, from: &str, to: &str, minor: i128, is_tcc: bool) -> Value {
    Value::map([
        ("from_account", Value::text(from)),
        ("to_account", Value::text(to)),
        ("amount", Value::text(format!("{}.{:02}", minor / 100, minor % 100))),
        ("currency", Value::text(CURRENCY)),
        ("transaction_id", Value::text(id.to_string())),
        ("coordination", Value::text(if is_tcc { "tcc" } else { "saga" })),
    ])
}

impl Cluster {
    /// A transfer of one cent that nobody was asked for yet.
    pub fn new_attempt(&mut self, from: usize, to: usize) -> Attempt {
        Attempt { id: CommandId(self.random.random()), from, to, amount: 1, is_tcc: false, told: Told::Unknown }
    }

    /// Asks this node for it.
    pub async fn ask(&self, node: NodeId, attempt: &Attempt, is_tcc: bool) -> Told {
        ask(self.node(node).router(), &self.bank.accounts, attempt, is_tcc).await
    }
}

async fn ask(door: &Router, accounts: &[String], attempt: &Attempt, is_tcc: bool) -> Told {
    let Attempt { id, from, to, amount, .. } = attempt;
    let body = transfer_body(*id, &accounts[*from], &accounts[*to], *amount, is_tcc);
    submit(door, "balance_transfer", *id, body, DEADLINE).await
}

/// An account's balance in minor units.
pub async fn balance(router: &Router, account: &str, consistency: Consistency) -> Result<i128, QueryError> {
    let machine = router.find_machine(MACHINE).expect("the node serves the wallet");
    let describe = machine.describe();
    let query = describe.queries.iter().find(|query| query.path == "accounts/{account}").expect("the wallet has it");
    let deadline = Instant::now() + DEADLINE;
    let request = QueryRequest {
        query: query.name.as_str().into(),
        params: Value::map([("account", Value::text(account))]),
        caller: Arc::new(Caller::unbound("client", role::ALL)),
        consistency,
        at: None,
        cursor: None,
        limit: 1,
        home: None,
        deadline,
    };
    let answering = tokio::time::timeout_at(deadline + GRACE, machine.query(request)).await;
    let answer = answering.expect("nobody is left without an answer")?;
    let balances = answer.body.find("balances").expect("an account has balances");
    let shown = balances.find(CURRENCY).and_then(Value::as_text).unwrap_or("0.00");
    Ok(shown.replace('.', "").parse().expect("an amount has two decimals"))
}

/// Clients that send transfers through any node until they are stopped.
pub struct Load {
    stopping: CancellationToken,
    acknowledged: watch::Receiver<usize>,
    clients: Vec<JoinHandle<Vec<Attempt>>>,
}

impl Load {
    pub fn start(doors: Doors, accounts: Vec<String>, seed: u64) -> Self {
        let stopping = CancellationToken::new();
        let (count, acknowledged) = watch::channel(0);
        let client = |number| {
            let random = StdRng::seed_from_u64(seed ^ number << 48);
            tokio::spawn(send_transfers(doors.clone(), accounts.clone(), random, stopping.clone(), count.clone()))
        };
        Self { clients: (1..=CLIENTS).map(client).collect(), stopping, acknowledged }
    }

    /// Waits until so many more commands are acknowledged.
    pub async fn more(&mut self, count: usize) {
        let wanted = *self.acknowledged.borrow() + count;
        let reached = self.acknowledged.wait_for(|acknowledged| wanted <= *acknowledged);
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        reached.expect("commands are acknowledged again").expect("the clients run");
    }

    /// Lets every client hear its last answer.
    pub async fn stop(self) -> Vec<Attempt> {
        self.stopping.cancel();
        let attempts = join_all(self.clients).await;
        attempts.into_iter().flat_map(|attempts| attempts.expect("no client panics")).collect()
    }
}

async fn send_transfers(
    doors: Doors,
    accounts: Vec<String>,
    mut random: StdRng,
    stopping: CancellationToken,
    acknowledged: watch::Sender<usize>,
) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let mut pace = tokio::time::interval(PACE);
    while !stopping.is_cancelled() {
        pace.tick().await;
        let open: Vec<(NodeId, Arc<Router>)> = doors.lock().iter().map(|(node, door)| (*node, door.clone())).collect();
        if open.is_empty() {
            continue;
        }
        let (_, door) = &open[random.random_range(0..open.len())];
        let id = CommandId(random.random());
        // The last one was never opened: nobody has it to pay from, and who pays to it is given back what was taken.
        let from = random.random_range(0..accounts.len() - 1);
        let to = (from + random.random_range(1..accounts.len())) % accounts.len();
        let amount = random.random_range(1..=4_000);
        let is_tcc = random.random_bool(0.5);
        let mut attempt = Attempt { id, from, to, amount, is_tcc, told: Told::Unknown };
        attempt.told = ask(door, &accounts, &attempt, is_tcc).await;
        if matches!(attempt.told, Told::Done(_) | Told::Rejected(..)) {
            acknowledged.send_modify(|count| *count += 1);
        }
        attempts.push(attempt);
    }
    attempts
}
