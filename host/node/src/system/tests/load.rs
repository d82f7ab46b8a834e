//! Clients: single commands and reads through any node's router, and a load of transfers from many clients at once.
//!
//! In: the nodes' routers. Out: what each client asked and was told. Every id is sent once, so an answer is about
//! that one attempt. This file does not know which answers are right.

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
use crate::router::answer::{
    Answer, Caller, CommandRequest, Consistency, QueryError, QueryRequest, Unavailability, UnavailableReason,
};

pub const CURRENCY: &str = "USD";
const CLIENTS: u64 = 6;
/// How long a client waits. By then it must have been told something.
pub const DEADLINE: Duration = Duration::from_secs(4);
/// How much later than its deadline an answer may come on a busy machine before it counts as a hang.
const GRACE: Duration = Duration::from_secs(20);
/// The time between two commands of one client.
const PACE: Duration = Duration::from_millis(4);

/// What a client was told about a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Done(Position),
    /// With the code of the rejection.
    Rejected(Position, String),
    /// The command was certainly not accepted.
    NotAccepted(UnavailableReason),
    /// The command may be executed, or not.
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
    submit_as(router, path, (id, "sim"), body, deadline).await
}

/// The same with a request's id, which is recorded with the command.
pub async fn submit_as(
    router: &Router,
    path: &str,
    (id, request_id): (CommandId, &str),
    body: Value,
    deadline: Duration,
) -> Told {
    submit_all(router, path, vec![(id, body)], request_id, deadline).await.pop().expect("one answer each")
}

/// Sends all commands at once, and waits until each has an answer.
async fn submit_all(
    router: &Router,
    path: &str,
    commands: Vec<(CommandId, Value)>,
    request_id: &str,
    deadline: Duration,
) -> Vec<Told> {
    let Some(machine) = router.find_machine(MACHINE) else {
        return vec![Told::NotAccepted(UnavailableReason::Halted); commands.len()];
    };
    let describe = machine.describe();
    let command = describe.commands.iter().find(|command| command.path == path).expect("the wallet has it");
    let deadline = Instant::now() + deadline;
    let request = |(id, body): (CommandId, Value)| CommandRequest {
        command: command.name.as_str().into(),
        body: body.to_cbor().expect("amounts are text"),
        id,
        caller: Arc::new(Caller::unbound("client", role::ALL)),
        request_id: request_id.into(),
        deadline,
    };
    let requests = commands.into_iter().map(request).collect();
    let answering = tokio::time::timeout_at(deadline + GRACE, machine.submit(requests)).await;
    answering.expect("nobody is left without an answer").into_iter().map(told).collect()
}

fn told(answer: Answer) -> Told {
    match answer {
        Answer::Done(recorded) => Told::Done(recorded.position),
        Answer::Rejected(recorded, rejection) => Told::Rejected(recorded.position, rejection.code),
        Answer::Unavailable(unavailable) => Told::NotAccepted(unavailable.reason),
        Answer::Unknown { .. } => Told::Unknown,
        Answer::Refused(refusal) => panic!("the wallet takes what these tests send: {refusal:?}"),
        Answer::Conflict { fields, position } => panic!("no id is sent twice: {fields:?} at {position}"),
    }
}

/// Asks for all of these transfers at once. Each carries this many bytes that mean nothing.
pub async fn burst(
    door: Arc<Router>,
    accounts: Vec<String>,
    mut attempts: Vec<Attempt>,
    padding: usize,
) -> Vec<Attempt> {
    let body = |attempt: &Attempt| {
        let Attempt { id, from, to, amount, is_tcc, .. } = attempt;
        (*id, transfer_body(*id, &accounts[*from], &accounts[*to], *amount, *is_tcc))
    };
    let bodies = attempts.iter().map(body).collect();
    let told = submit_all(&door, "balance_transfer", bodies, &"r".repeat(padding), DEADLINE).await;
    attempts.iter_mut().zip(told).for_each(|(attempt, told)| attempt.told = told);
    attempts
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
    /// A transfer of one cent that no node has been asked for yet.
    pub fn new_attempt(&mut self, from: usize, to: usize) -> Attempt {
        Attempt { id: CommandId(self.random.random()), from, to, amount: 1, is_tcc: false, told: Told::Unknown }
    }

    /// Asks this node for the transfer.
    pub async fn ask(&self, node: NodeId, attempt: &Attempt, is_tcc: bool) -> Told {
        ask(self.node(node).router(), &self.bank.accounts, attempt, is_tcc).await
    }
}

/// Asks through this router.
pub async fn ask(door: &Router, accounts: &[String], attempt: &Attempt, is_tcc: bool) -> Told {
    ask_within(door, accounts, attempt, is_tcc, DEADLINE).await
}

async fn ask_within(door: &Router, accounts: &[String], attempt: &Attempt, is_tcc: bool, deadline: Duration) -> Told {
    let Attempt { id, from, to, amount, .. } = attempt;
    let body = transfer_body(*id, &accounts[*from], &accounts[*to], *amount, is_tcc);
    submit(door, "balance_transfer", *id, body, deadline).await
}

/// An account's balance in minor units.
pub async fn balance(router: &Router, account: &str, consistency: Consistency) -> Result<i128, QueryError> {
    let Some(machine) = router.find_machine(MACHINE) else {
        let unavailable = Unavailability { reason: UnavailableReason::Halted, retry_after: Duration::ZERO };
        return Err(QueryError::Unavailable(unavailable));
    };
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

/// How many commands were acknowledged, and how many were told something else.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    acknowledged: usize,
    other: usize,
}

/// How the clients of a load behave.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// The number of an account that belongs to somebody else.
    pub left_out: Option<usize>,
    /// How long each client waits for an answer.
    pub deadline: Duration,
}

/// Clients that send transfers through any node until they are stopped.
pub struct Load {
    stopping: CancellationToken,
    count: watch::Receiver<Count>,
    clients: Vec<JoinHandle<Vec<Attempt>>>,
}

impl Load {
    pub fn start(doors: Doors, accounts: Vec<String>, seed: u64) -> Self {
        Self::start_as(doors, accounts, Manner { left_out: None, deadline: DEADLINE }, seed)
    }

    pub fn start_as(doors: Doors, accounts: Vec<String>, manner: Manner, seed: u64) -> Self {
        let stopping = CancellationToken::new();
        let (counting, count) = watch::channel(Count::default());
        let client = |number| {
            let client = Client {
                doors: doors.clone(),
                accounts: accounts.clone(),
                manner,
                random: StdRng::seed_from_u64(seed ^ number << 48),
            };
            tokio::spawn(client.send_transfers(stopping.clone(), counting.clone()))
        };
        Self { clients: (1..=CLIENTS).map(client).collect(), stopping, count }
    }

    /// Waits until this many more commands are acknowledged.
    pub async fn more(&mut self, count: usize) {
        let wanted = self.count.borrow().acknowledged + count;
        self.reach(|now| wanted <= now.acknowledged).await;
    }

    /// Waits until this many more commands are acknowledged, or until as many commands as there are clients were told
    /// something else. So it ends whether or not anybody leads.
    pub async fn some(&mut self, count: usize) {
        let before = *self.count.borrow();
        let others = before.other + CLIENTS as usize;
        self.reach(|now| before.acknowledged + count <= now.acknowledged || others <= now.other).await;
    }

    async fn reach(&mut self, is_reached: impl Fn(&Count) -> bool) {
        let reached = tokio::time::timeout(PATIENCE, self.count.wait_for(is_reached)).await;
        reached.expect("commands are acknowledged again").expect("the clients run");
    }

    /// Stops all clients once each has heard its last answer.
    pub async fn stop(self) -> Vec<Attempt> {
        self.stopping.cancel();
        let attempts = join_all(self.clients).await;
        attempts.into_iter().flat_map(|attempts| attempts.expect("no client panics")).collect()
    }
}

/// One of many clients, with a random generator of its own.
struct Client {
    doors: Doors,
    accounts: Vec<String>,
    manner: Manner,
    random: StdRng,
}

impl Client {
    async fn send_transfers(mut self, stopping: CancellationToken, count: watch::Sender<Count>) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        let mut pace = tokio::time::interval(PACE);
        while !stopping.is_cancelled() {
            pace.tick().await;
            let Some(door) = open_door(&self.doors, &mut self.random) else { continue };
            let mut attempt = self.draw();
            if [Some(attempt.from), Some(attempt.to)].contains(&self.manner.left_out) {
                continue;
            }
            let deadline = self.manner.deadline;
            attempt.told = ask_within(&door, &self.accounts, &attempt, attempt.is_tcc, deadline).await;
            count.send_modify(|count| match attempt.told {
                Told::Done(_) | Told::Rejected(..) => count.acknowledged += 1,
                Told::NotAccepted(_) | Told::Unknown => count.other += 1,
            });
            attempts.push(attempt);
        }
        attempts
    }

    fn draw(&mut self) -> Attempt {
        let random = &mut self.random;
        let id = CommandId(random.random());
        // The last account was never opened: nobody pays from it, and a payer to it gets the money back.
        let from = random.random_range(0..self.accounts.len() - 1);
        let to = (from + random.random_range(1..self.accounts.len())) % self.accounts.len();
        let amount = random.random_range(1..=4_000);
        let is_tcc = random.random_bool(0.5);
        Attempt { id, from, to, amount, is_tcc, told: Told::Unknown }
    }
}

/// The router of any running node.
pub fn open_door(doors: &Doors, random: &mut StdRng) -> Option<Arc<Router>> {
    let open: Vec<Arc<Router>> = doors.lock().values().cloned().collect();
    (!open.is_empty()).then(|| open[random.random_range(0..open.len())].clone())
}
