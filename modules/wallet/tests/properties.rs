//! What must be true of any commands in any order: the books balance, nobody is overdrawn, batches make no difference,
//! and a canonical body is its own canonical body.
//!
//! A model in plain maps says what must come out. It looks at rendered answers and at rows, never at the module inside.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use statehouse_guest::abi::cold::QueryOut;
use statehouse_guest::abi::plan::{PlanInWriter, PlanItem, PlanOut, Planned};
use statehouse_guest::native::{self, Export};
use statehouse_guest::{Commands, Value, role};
use statehouse_testkit::{Command as Sent, Native, Outcome, World};
use wallet::{Command, WalletModule};

const ACCOUNTS: [&str; 5] = ["a", "b", "c", "@bank", "@card"];
const CURRENCIES: [&str; 2] = ["USD", "JPY"];
const ID: &str = "00000000-0000-4000-8000-000000000000";

#[derive(Clone, Debug)]
struct Step {
    command: &'static str,
    from: usize,
    to: usize,
    currency: usize,
    amount: u64,
    /// How a transfer is coordinated makes no difference inside one partition.
    coordination: &'static str,
}

fn step() -> impl Strategy<Value = Step> {
    let commands = prop_oneof![
        6 => Just("balance_transfer"),
        3 => Just("deposit"),
        2 => Just("withdraw"),
        3 => Just("open"),
        1 => Just("freeze"),
        2 => Just("unfreeze"),
        1 => Just("close"),
    ];
    let coordination = prop_oneof![Just("saga"), Just("tcc")];
    (commands, 0..ACCOUNTS.len(), 0..ACCOUNTS.len(), 0..CURRENCIES.len(), 1u64..200, coordination).prop_map(
        |(command, from, to, currency, amount, coordination)| Step {
            command,
            from,
            to,
            currency,
            amount,
            coordination,
        },
    )
}

fn amount_text(step: &Step) -> String {
    match CURRENCIES[step.currency] {
        "JPY" => step.amount.to_string(),
        _ => format!("{}.{:02}", step.amount / 100, step.amount % 100),
    }
}

fn sent(step: &Step) -> Sent {
    let (from, to) = (ACCOUNTS[step.from], ACCOUNTS[step.to]);
    let (amount, currency) = (Value::Text(amount_text(step)), Value::text(CURRENCIES[step.currency]));
    let id = Value::text(ID);
    let body = match step.command {
        "balance_transfer" => Value::map([
            ("from_account", Value::text(from)),
            ("to_account", Value::text(to)),
            ("amount", amount),
            ("currency", currency),
            ("transaction_id", id),
            ("coordination", Value::text(step.coordination)),
        ]),
        "deposit" | "withdraw" => Value::map([
            ("account", Value::text(from)),
            ("amount", amount),
            ("currency", currency),
            ("transaction_id", id),
        ]),
        "open" => Value::map([("account", Value::text(from)), ("currency", currency)]),
        _ => Value::map([("account", Value::text(from))]),
    };
    Sent { name: step.command.into(), body, caller: "test".into(), roles: role::ALL, id: [0; 16] }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Open,
    Frozen,
    Closed,
}

#[derive(Default)]
struct Model {
    status: BTreeMap<usize, Status>,
    balances: BTreeMap<(usize, usize), i128>,
}

fn is_settlement(account: usize) -> bool {
    ACCOUNTS[account].starts_with('@')
}

impl Model {
    /// Whether the account can be posted to.
    fn takes_part(&self, account: usize, currency: usize) -> bool {
        is_settlement(account)
            || self.status.get(&account) == Some(&Status::Open) && self.balances.contains_key(&(account, currency))
    }

    fn moves(&mut self, from: usize, to: usize, step: &Step) -> bool {
        let amount = i128::from(step.amount);
        if from == to || is_settlement(from) && is_settlement(to) {
            return false;
        }
        if !self.takes_part(from, step.currency) || !self.takes_part(to, step.currency) {
            return false;
        }
        if !is_settlement(from) && self.balances[&(from, step.currency)] < amount {
            return false;
        }
        *self.balances.entry((from, step.currency)).or_default() -= amount;
        *self.balances.entry((to, step.currency)).or_default() += amount;
        true
    }

    /// Whether the step is accepted.
    fn play(&mut self, step: &Step) -> bool {
        const BANK: usize = 3;
        let account = step.from;
        let status = self.status.get(&account).copied();
        match step.command {
            "balance_transfer" => self.moves(step.from, step.to, step),
            "deposit" => !is_settlement(account) && self.moves(BANK, account, step),
            "withdraw" => !is_settlement(account) && self.moves(account, BANK, step),
            _ if is_settlement(account) => false,
            "open" => {
                let is_new = !self.balances.contains_key(&(account, step.currency));
                let is_open = is_new && matches!(status, None | Some(Status::Open));
                if is_open {
                    self.status.insert(account, Status::Open);
                    self.balances.insert((account, step.currency), 0);
                }
                is_open
            }
            "close" => {
                let is_empty = (0..CURRENCIES.len())
                    .all(|currency| self.balances.get(&(account, currency)).is_none_or(|balance| *balance == 0));
                self.turn(account, Status::Open, Status::Closed, is_empty)
            }
            "freeze" => self.turn(account, Status::Open, Status::Frozen, true),
            _ => self.turn(account, Status::Frozen, Status::Open, true),
        }
    }

    fn turn(&mut self, account: usize, from: Status, to: Status, is_allowed: bool) -> bool {
        let turns = is_allowed && self.status.get(&account) == Some(&from);
        if turns {
            self.status.insert(account, to);
        }
        turns
    }
}

/// The balances that the account shows, by currency.
fn shown(world: &World<Native<WalletModule>>, account: &str) -> BTreeMap<String, String> {
    let params = Value::map([("account", Value::text(account))]);
    let answer = world.query("account", params, role::ALL, 0).expect("the query is answered");
    let QueryOut::Done(state) = answer else { return BTreeMap::new() };
    let Some(Value::Map(balances)) = state.find("balances") else { panic!("{state:?} has no balances") };
    balances.iter().map(|(code, text)| (code.clone(), text.as_text().unwrap_or_default().into())).collect()
}

fn expected(model: &Model, account: usize) -> BTreeMap<String, String> {
    let held = model.balances.iter().filter(|((holder, _), _)| *holder == account);
    held.map(|((_, currency), balance)| {
        let code = CURRENCIES[*currency];
        let currency = wallet::Currency::parse(code).expect("the currency is known");
        (code.to_string(), wallet::format_amount(*balance, currency))
    })
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn any_commands_in_any_batches(steps in vec(step(), 1..60), sizes in vec(1usize..9, 1..5)) {
        let commands: Vec<Sent> = steps.iter().map(sent).collect();
        let mut one_by_one = World::new(Native::<WalletModule>::default()).expect("it describes itself");
        let mut batched = World::new(Native::<WalletModule>::default()).expect("it describes itself");
        let singly = one_by_one.play_in_batches(&commands, &[1], 7).expect("it plays");
        let together = batched.play_in_batches(&commands, &sizes, 7).expect("it plays");
        let mut model = Model::default();
        for ((step, single), other) in steps.iter().zip(&singly).zip(&together) {
            prop_assert_eq!(single.decision(), other.decision());
            prop_assert_eq!(single.outcome == Outcome::Accepted, model.play(step), "{:?}", step);
        }
        prop_assert_eq!(one_by_one.rows(), batched.rows());
        prop_assert_eq!(batched.check(2).expect("it checks"), vec![]);
        for (index, account) in ACCOUNTS.iter().enumerate() {
            prop_assert_eq!(shown(&batched, account), expected(&model, index));
        }
    }

    #[test]
    fn a_canonical_body_is_its_own(step in step(), zeros in 0usize..3, is_said: bool) {
        let mut command = sent(&step);
        if let Value::Map(members) = &mut command.body {
            let text = amount_text(&step);
            // Fewer zeros behind the point are the same amount.
            let shorter = if text.contains('.') && zeros > 0 {
                text.trim_end_matches('0').trim_end_matches('.').to_string()
            } else {
                text
            };
            if let Some((_, amount)) = members.iter_mut().find(|(key, _)| key == "amount") {
                *amount = Value::Text(shorter);
            }
            // A Saga need not be asked for.
            members.retain(|(key, _)| is_said || key != "coordination" || step.coordination != "saga");
        }
        let Some(canonical) = canonical(&command.name, &command.body) else { return Ok(()) };
        let again = Value::from_cbor(&canonical).expect("a canonical body is a value");
        prop_assert_eq!(self::canonical(&command.name, &again), Some(canonical));
        let plain = self::canonical(&command.name, &sent(&step).body);
        prop_assert_eq!(self::canonical(&command.name, &command.body), plain);
    }
}

/// The canonical body in CBOR; `None` when the command is refused.
fn canonical(name: &str, body: &Value) -> Option<Vec<u8>> {
    let body = body.to_cbor().expect("the body is a value");
    let mut input = PlanInWriter::default();
    let command = Command::find(name).expect("the command exists");
    input.item(PlanItem { command, roles: role::ALL, id: [0; 16], caller: b"test", body: &body });
    let output = native::call::<WalletModule>(Export::Plan, &input.finish(Vec::new()));
    match PlanOut::parse(&output).expect("plan gives a PLAN_OUT block").item(0) {
        Planned::Plan { body, .. } => Some(body.to_vec()),
        Planned::Refused(_) => None,
    }
}
