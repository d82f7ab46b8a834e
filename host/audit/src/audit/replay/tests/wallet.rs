//! A long history of the released wallet, with every rejection that can be provoked, replayed under every other
//! release. It is compared with a model that knows accounts as numbers and each release's rule in one line.
//!
//! 10,000 commands by default, 1,000,000 in `make chaos`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use statehouse_abi::value::Value;
use tempfile::TempDir;

use crate::audit::replay::tests::maker::{ClientCommand, Maker, Step, id_of};
use crate::audit::replay::tests::{Numbers, PARTITIONS, check_same, first, names, replay, uuid};
use crate::audit::replay::{Class, ReplayMode};
use crate::guest::{CacheOptions, Engine, EngineOptions};
use crate::machine::logic::Logic;
use crate::registry::{self, Registry};

const RECORDED: &[u8] = include_bytes!("../../../../../../modules/releases/wallet-1.0.1.wasm");
const REFACTORED: &[u8] = include_bytes!("../../../../../../modules/releases/wallet-1.1.0.wasm");
const NEVER_EMPTY: &[u8] = include_bytes!("../../../../../../modules/releases/wallet-1.2.0-bug.wasm");
const MISREADS: &[u8] = include_bytes!("../../../../../../modules/releases/wallet-1.2.1-bug.wasm");
const LIMITED: &[u8] = include_bytes!("../../../../../../modules/releases/wallet-2.0.0.wasm");

/// Accounts of each partition.
const ACCOUNTS: usize = 12;
/// A name that nobody opens.
const NOBODY: &str = "nobody";

static REGISTRY: LazyLock<(TempDir, Registry)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    // Compiling takes longer than replaying, so each release is compiled once.
    let cache = Some(CacheOptions { folder: folder.path().join("artefacts"), key: [0; 32] });
    let options = EngineOptions { cache, ..EngineOptions::default() };
    let engine = Engine::new(options).expect("the engine starts");
    let registry = registry::open(folder.path().join("modules"), engine).expect("a new folder");
    (folder, registry)
});

fn module(wasm: &[u8]) -> Arc<dyn Logic> {
    REGISTRY.1.stage(wasm).expect("a released module")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Open,
    Frozen,
    Closed,
}

#[derive(Clone, Debug)]
enum Act {
    Open,
    Freeze,
    Unfreeze,
    Close,
    Deposit(i64),
    Withdraw(i64),
    Transfer { to: String, amount: i64, is_euro: bool },
}

#[derive(Clone, Debug)]
struct Command {
    account: String,
    act: Act,
}

/// Whether a balance allows an amount to be taken: the rule in which the releases differ.
type Rule = fn(i64, i64) -> bool;

/// What was sent.
#[derive(Default)]
struct SentCommands {
    commands: BTreeMap<u64, Command>,
    /// The last command of each batch.
    ends: BTreeSet<u64>,
}

/// What follows next for a transfer that was debited.
enum Continuation {
    Credit,
    Undo,
}

/// The wallet as numbers.
struct Model {
    may_take: Rule,
    accounts: BTreeMap<String, (Status, i64)>,
    /// How many calls each transfer still has in the record; `None`: every call that becomes due will have its place
    /// there.
    calls_left: Option<BTreeMap<u64, u64>>,
    /// Transfers for which the record has another call.
    on_the_way: BTreeMap<u64, Continuation>,
    /// Transfers of the current batch for which it has none: they are credited after the batch.
    unrecorded: Vec<u64>,
    /// Transfers whose undo it does not have: they are undone when their coordinator hears of the refusal.
    refused: BTreeSet<u64>,
    rejected: BTreeMap<&'static str, u64>,
    /// Commands that emptied an account.
    emptied: Vec<u64>,
    /// How many would have emptied one, but were rejected for another reason.
    would_have_emptied: u64,
}

impl Model {
    fn new(may_take: Rule, calls_left: Option<BTreeMap<u64, u64>>) -> Self {
        Self {
            may_take,
            accounts: BTreeMap::new(),
            calls_left,
            on_the_way: BTreeMap::new(),
            unrecorded: Vec::new(),
            refused: BTreeSet::new(),
            rejected: BTreeMap::new(),
            emptied: Vec::new(),
            would_have_emptied: 0,
        }
    }

    fn balance(&self, account: &str) -> i64 {
        self.accounts.get(account).map_or(0, |(_, balance)| *balance)
    }

    fn check(&self, account: &str, is_euro: bool) -> Result<i64, &'static str> {
        match self.accounts.get(account) {
            None => Err("account_not_found"),
            Some((Status::Frozen, _)) => Err("account_frozen"),
            Some((Status::Closed, _)) => Err("account_closed"),
            Some(_) if is_euro => Err("currency_not_held"),
            Some((Status::Open, balance)) => Ok(*balance),
        }
    }

    fn add(&mut self, account: &str, amount: i64) {
        self.accounts.get_mut(account).expect("it was checked").1 += amount;
    }

    fn set(&mut self, account: &str, status: Status) {
        self.accounts.get_mut(account).expect("it was checked").0 = status;
    }

    fn has_call(&self, id: u64) -> bool {
        self.calls_left.as_ref().is_none_or(|left| left.get(&id).is_some_and(|left| 0 < *left))
    }

    /// Ignores everything that was not sent by [`make`].
    fn step(&mut self, step: &Step, sending: &SentCommands, maker: &Maker) {
        let (Step::Sent(id) | Step::Called(id) | Step::Heard(id)) = step;
        let Some(command) = sending.commands.get(id) else { return };
        match step {
            Step::Sent(_) => {
                if let Err(code) = self.decide(*id, command, maker) {
                    *self.rejected.entry(code).or_default() += 1;
                }
                if sending.ends.contains(id) {
                    for id in std::mem::take(&mut self.unrecorded) {
                        if !self.credit(&sending.commands[&id]) {
                            self.undo(&sending.commands[&id]);
                        }
                    }
                }
            }
            Step::Called(_) => {
                if let Some(left) = &mut self.calls_left {
                    *left.get_mut(id).expect("all calls were counted") -= 1;
                }
                match self.on_the_way.remove(id) {
                    Some(Continuation::Undo) => self.undo(command),
                    Some(Continuation::Credit) if self.credit(command) => {}
                    Some(Continuation::Credit) if self.has_call(*id) => {
                        self.on_the_way.insert(*id, Continuation::Undo);
                    }
                    Some(Continuation::Credit) => drop(self.refused.insert(*id)),
                    None => {}
                }
            }
            Step::Heard(_) => {
                if self.refused.remove(id) {
                    self.undo(command);
                }
            }
        }
    }

    /// The second half of a transfer; returns `false` if the payee cannot receive it.
    fn credit(&mut self, command: &Command) -> bool {
        let Act::Transfer { to, amount, is_euro } = &command.act else { panic!("only transfers go on elsewhere") };
        match self.check(to, *is_euro) {
            Ok(_) => self.add(to, *amount),
            Err(code) => *self.rejected.entry(code).or_default() += 1,
        }
        self.check(to, *is_euro).is_ok()
    }

    fn undo(&mut self, Command { account, act }: &Command) {
        let Act::Transfer { amount, .. } = act else { panic!("only transfers go on elsewhere") };
        self.add(account, *amount);
        if self.accounts[account].0 == Status::Closed {
            self.set(account, Status::Frozen);
        }
    }

    fn decide(&mut self, id: u64, command: &Command, maker: &Maker) -> Result<(), &'static str> {
        let Command { account, act } = command;
        match act {
            Act::Open => match self.check(account, false) {
                Err("account_not_found") => drop(self.accounts.insert(account.clone(), (Status::Open, 0))),
                found => return found.and(Err("account_exists")),
            },
            Act::Freeze => match self.check(account, false) {
                Err("account_frozen") => return Err("already_frozen"),
                found => found.map(|_| self.set(account, Status::Frozen))?,
            },
            Act::Unfreeze => match self.check(account, false) {
                Err("account_frozen") => self.set(account, Status::Open),
                found => return found.and(Err("account_not_frozen")),
            },
            Act::Close => match self.check(account, false)? {
                0 => self.set(account, Status::Closed),
                _ => return Err("account_not_empty"),
            },
            Act::Deposit(amount) => self.check(account, false).map(|_| self.add(account, *amount))?,
            Act::Withdraw(amount) => self.take(id, account, *amount, false, None)?,
            Act::Transfer { to, amount, is_euro } => {
                let is_here = maker.partition_of(account) == maker.partition_of(to);
                // All or nothing: an amount is taken here only if it can be received here.
                self.take(id, account, *amount, *is_euro, is_here.then_some(to))?;
                match self.has_call(id) {
                    _ if is_here => self.add(to, *amount),
                    true => drop(self.on_the_way.insert(id, Continuation::Credit)),
                    false => self.unrecorded.push(id),
                }
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        id: u64,
        account: &str,
        amount: i64,
        is_euro: bool,
        payee: Option<&String>,
    ) -> Result<(), &'static str> {
        let balance = self.check(account, is_euro)?;
        if !(self.may_take)(balance, amount) {
            return Err("insufficient_funds");
        }
        let can_receive = payee.map_or(Ok(0), |payee| self.check(payee, is_euro));
        self.would_have_emptied += u64::from(balance == amount && can_receive.is_err());
        can_receive?;
        if balance == amount {
            self.emptied.push(id);
        }
        self.add(account, -amount);
        Ok(())
    }
}

/// What was sent, with the resulting history.
struct MadeHistory {
    maker: Maker,
    sending: SentCommands,
    /// How many calls each transfer has in the record.
    calls: BTreeMap<u64, u64>,
}

impl MadeHistory {
    /// The model after everything, under a rule.
    fn model(&self, may_take: Rule) -> Model {
        let mut model = Model::new(may_take, Some(self.calls.clone()));
        self.maker.script.iter().for_each(|step| model.step(step, &self.sending, &self.maker));
        assert!(model.on_the_way.is_empty() && model.unrecorded.is_empty() && model.refused.is_empty());
        model
    }
}

fn sent(id: u64, command: &Command) -> ClientCommand {
    let Command { account, act } = command;
    let text = |text: &str| Value::text(text);
    let money = |amount: &i64| Value::Text(format!("{}.{:02}", amount / 100, amount % 100));
    let one = |amount| {
        Value::map([
            ("account", text(account)),
            ("amount", money(amount)),
            ("currency", text("USD")),
            ("transaction_id", uuid(id)),
        ])
    };
    let name = Value::map([("account", text(account))]);
    let (name, body) = match act {
        Act::Open => ("open", Value::map([("account", text(account)), ("currency", text("USD"))])),
        Act::Freeze => ("freeze", name),
        Act::Unfreeze => ("unfreeze", name),
        Act::Close => ("close", name),
        Act::Deposit(amount) => ("deposit", one(amount)),
        Act::Withdraw(amount) => ("withdraw", one(amount)),
        Act::Transfer { to, amount, is_euro } => {
            let body = Value::map([
                ("from_account", text(account)),
                ("to_account", text(to)),
                ("amount", money(amount)),
                ("currency", text(if *is_euro { "EUR" } else { "USD" })),
                ("transaction_id", uuid(id)),
            ]);
            ("balance_transfer", body)
        }
    };
    ClientCommand { id, name, body }
}

/// Random commands in batches; calls are carried out now and then.
fn make(commands_max: usize) -> MadeHistory {
    let mut maker = Maker::new(module(RECORDED), PARTITIONS);
    credit_pending(&mut maker);
    let mut numbers = Numbers(11);
    let here: Vec<Vec<String>> = (0..PARTITIONS as usize).map(|at| names(&maker, at, ACCOUNTS)).collect();
    let all: Vec<String> = here.iter().flatten().cloned().collect();
    let (mut sending, mut seen) = (SentCommands::default(), 0);
    let mut model = Model::new(|balance, amount| amount <= balance, None);
    let mut id = 1_000;
    while sending.commands.len() < commands_max {
        let partition = numbers.below(u64::from(PARTITIONS)) as usize;
        let mut batch = Vec::new();
        for _ in 0..1 + numbers.below(120) {
            id += 1;
            let account = here[partition][numbers.below(ACCOUNTS as u64) as usize].clone();
            let is_local = 0 < numbers.below(8);
            let payees = if is_local { &here[partition] } else { &all };
            let to = payees[numbers.below(payees.len() as u64) as usize].clone();
            let act = act(&mut numbers, model.balance(&account), &account, to);
            let command = Command { account, act };
            batch.push(sent(id, &command));
            sending.commands.insert(id, command);
        }
        sending.ends.insert(id);
        maker.batch(partition, &batch);
        for _ in 0..numbers.below(40) {
            let partition = numbers.below(u64::from(PARTITIONS)) as usize;
            if numbers.below(2) == 0 {
                maker.call(partition, false)
            } else {
                maker.hear(partition)
            };
        }
        if numbers.below(8) == 0 {
            maker.settle();
        }
        for step in &maker.script[seen..] {
            model.step(step, &sending, &maker);
        }
        seen = maker.script.len();
    }
    maker.settle();
    let mut calls: BTreeMap<u64, u64> = BTreeMap::new();
    for step in &maker.script {
        if let Step::Called(id) = step {
            *calls.entry(*id).or_default() += 1;
        }
    }
    MadeHistory { maker, sending, calls }
}

fn act(numbers: &mut Numbers, balance: i64, account: &str, to: String) -> Act {
    let amount = 1 + numbers.below(20_000) as i64;
    match numbers.below(200) {
        0..6 => Act::Open,
        6 | 7 => Act::Freeze,
        8..16 => Act::Unfreeze,
        16 => Act::Close,
        17..60 => Act::Deposit(amount),
        60..70 => Act::Withdraw(amount),
        // The whole balance, if there is any.
        70..74 if 0 < balance => Act::Withdraw(balance),
        74..80 if 0 < balance && to != account => Act::Transfer { to, amount: balance, is_euro: false },
        80 if to != account => Act::Transfer { to, amount, is_euro: true },
        81 => Act::Transfer { to: NOBODY.to_owned(), amount, is_euro: false },
        _ if to != account => Act::Transfer { to, amount, is_euro: false },
        _ => Act::Deposit(amount),
    }
}

/// A payee that is closed between Try and Confirm, on accounts of their own that the model does not know.
fn credit_pending(maker: &mut Maker) {
    let name = |partition| names(maker, partition, ACCOUNTS + 1).remove(ACCOUNTS);
    let (payer, payee) = (name(0), name(1));
    let command = |account: &str, act| Command { account: account.to_owned(), act };
    maker.batch(0, &[sent(1, &command(&payer, Act::Open)), sent(2, &command(&payer, Act::Deposit(100)))]);
    maker.batch(1, &[sent(3, &command(&payee, Act::Open))]);
    let mut pay = sent(4, &command(&payer, Act::Transfer { to: payee.clone(), amount: 100, is_euro: false }));
    if let Value::Map(members) = pay.body {
        let more = [("coordination".to_owned(), Value::text("tcc"))];
        pay.body = Value::map(members.into_iter().chain(more));
    }
    maker.batch(0, &[pay]);
    assert!(maker.call(1, false), "the payee is tried");
    maker.batch(1, &[sent(5, &command(&payee, Act::Close))]);
    maker.settle();
}

/// The history that all tests of this file share.
static MADE: LazyLock<MadeHistory> = LazyLock::new(|| {
    let is_chaos = std::env::var_os("STATEHOUSE_CHAOS").is_some();
    make(if is_chaos { 1_000_000 } else { 10_000 })
});

#[test]
fn the_model_and_the_record_agree_on_every_rejection() {
    let report = replay(&MADE.maker, module(RECORDED), ReplayMode::Isolated);
    check_same(&report);
    let model = MADE.model(|balance, amount| amount <= balance);
    let mut expected: BTreeMap<String, u64> =
        model.rejected.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect();
    expected.insert("credit_pending".to_owned(), 1);
    assert_eq!(report.coverage.rejections, expected);
    // That would take 2⁶² of the largest credits.
    assert_eq!(report.coverage.rejections_never, ["balance_overflow"]);
    assert!(report.coverage.commands_never.is_empty(), "{:?}", report.coverage.commands_never);
}

#[test]
fn releases_that_decide_alike_replay_alike_in_both_modes() {
    for wasm in [RECORDED, REFACTORED, LIMITED] {
        for mode in [ReplayMode::Isolated, ReplayMode::Cumulative] {
            check_same(&replay(&MADE.maker, module(wasm), mode));
        }
    }
}

#[test]
fn whoever_spends_everything_meets_the_first_bug() {
    let model = MADE.model(|balance, amount| amount <= balance);
    let report = replay(&MADE.maker, module(NEVER_EMPTY), ReplayMode::Isolated);
    // The additional one is the payment of `credit_pending`.
    assert_eq!(report.count_of(Class::AcceptedToRejected), model.emptied.len() as u64 + 1);
    assert_eq!(report.count_of(Class::ReasonDiffers), model.would_have_emptied, "the payer is looked at first");
    assert_eq!(report.difference_count(), model.emptied.len() as u64 + 1 + model.would_have_emptied);
    let difference = first(&report, Class::AcceptedToRejected);
    assert_eq!(difference.brief.candidate_outcome, "insufficient_funds");
    assert_eq!(difference.brief.id, id_of(4).to_string(), "that of `credit_pending` is the first");
    let ids: Vec<String> = model.emptied.iter().map(|id| id_of(*id).to_string()).collect();
    let listed = report.differences.iter().filter(|brief| brief.class == Class::AcceptedToRejected).skip(1);
    let listed: Vec<&str> = listed.map(|brief| brief.id.as_str()).collect();
    assert_eq!(listed, ids[..listed.len()], "in the order of time");
}

#[test]
fn the_consequences_of_the_first_bug_are_those_of_the_model() {
    let recorded = MADE.model(|balance, amount| amount <= balance);
    let candidate = MADE.model(|balance, amount| amount < balance);
    let expected: BTreeMap<&str, (i64, i64)> = recorded
        .accounts
        .iter()
        .filter(|(account, (_, balance))| candidate.accounts[*account].1 != *balance)
        .map(|(account, (_, balance))| (account.as_str(), (*balance, candidate.accounts[account].1)))
        .collect();
    assert!(!expected.is_empty(), "it has consequences");
    let report = replay(&MADE.maker, module(NEVER_EMPTY), ReplayMode::Cumulative);
    let rows = report.rows.as_ref().expect("a cumulative report has rows");
    let minor = |text: &str| text.replace('.', "").parse::<i64>().unwrap_or_else(|_| panic!("`{text}` is an amount"));
    let found: BTreeMap<&str, (i64, i64)> = rows
        .numbers
        .iter()
        .filter(|number| number.path == "balances.USD" && recorded.accounts.contains_key(&number.entity))
        .map(|number| (number.entity.as_str(), (minor(&number.recorded), minor(&number.candidate))))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn whoever_sends_tens_of_cents_meets_the_second_bug() {
    let amount_of = |command: &Command| match &command.act {
        Act::Deposit(amount) | Act::Withdraw(amount) | Act::Transfer { amount, .. } => *amount,
        Act::Open | Act::Freeze | Act::Unfreeze | Act::Close => 0,
    };
    let is_misread = |command: &&Command| amount_of(command) % 10 == 0 && amount_of(command) % 100 != 0;
    let expected = MADE.sending.commands.values().filter(is_misread).count() as u64;
    let report = replay(&MADE.maker, module(MISREADS), ReplayMode::Isolated);
    assert_eq!(report.count_of(Class::PlanDiffers), expected);
    assert_eq!(report.difference_count(), expected, "{:?}", report.classes);
}
