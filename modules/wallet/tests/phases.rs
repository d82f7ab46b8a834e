//! Transfers in phases, however they interleave with anything else: what Try has accepted can always be confirmed, and
//! always be cancelled, and the books balance in between.
//!
//! Each side is tried by itself, as on two partitions. In: random steps. Out: compared with sums in plain maps.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use statehouse_guest::abi::cold::QueryOut;
use statehouse_guest::{Value, role};
use statehouse_testkit::{Command, Native, Outcome, Part, World};
use wallet::WalletModule;

const ACCOUNTS: [&str; 3] = ["a", "b", "c"];
const ID: &str = "00000000-0000-4000-8000-000000000000";

#[derive(Clone, Debug)]
enum Step {
    /// Try of a transfer; either side may come first.
    Begin {
        from: usize,
        to: usize,
        amount: u64,
        is_payee_first: bool,
    },
    /// Confirm of one that is in flight, or Cancel.
    End {
        chosen: prop::sample::Index,
        part: Part,
    },
    Transfer {
        from: usize,
        to: usize,
        amount: u64,
    },
    Deposit {
        to: usize,
        amount: u64,
    },
    Turn {
        account: usize,
        command: &'static str,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let account = 0..ACCOUNTS.len();
    let pair = (account.clone(), 1..ACCOUNTS.len()).prop_map(|(from, by)| (from, (from + by) % ACCOUNTS.len()));
    let parts = prop_oneof![Just(Part::Confirm), Just(Part::Cancel)];
    prop_oneof![
        4 => (pair.clone(), 1u64..60, any::<bool>())
            .prop_map(|((from, to), amount, is_payee_first)| Step::Begin { from, to, amount, is_payee_first }),
        4 => (any::<prop::sample::Index>(), parts).prop_map(|(chosen, part)| Step::End { chosen, part }),
        1 => (pair, 1u64..60).prop_map(|((from, to), amount)| Step::Transfer { from, to, amount }),
        2 => (account.clone(), 1u64..100).prop_map(|(to, amount)| Step::Deposit { to, amount }),
        2 => (account, prop_oneof![Just("freeze"), Just("unfreeze"), Just("unfreeze"), Just("close")])
            .prop_map(|(account, command)| Step::Turn { account, command }),
    ]
}

fn command(name: &str, members: &[(&str, &str)]) -> Command {
    let body = Value::map(members.iter().map(|(key, text)| (*key, Value::text(*text))));
    Command { name: name.into(), body, caller: "test".into(), roles: role::ALL, id: [0; 16] }
}

fn transfer(from: usize, to: usize, amount: u64, coordination: &str) -> Command {
    let members = [
        ("from_account", ACCOUNTS[from]),
        ("to_account", ACCOUNTS[to]),
        ("amount", &amount.to_string()),
        ("currency", "JPY"),
        ("transaction_id", ID),
        ("coordination", coordination),
    ];
    command("balance_transfer", &members)
}

struct InFlight {
    command: Command,
    sides: [usize; 2],
    amount: i128,
}

struct Played {
    world: World<Native<WalletModule>>,
    balances: BTreeMap<usize, i128>,
    in_flight: Vec<InFlight>,
    time: i64,
}

impl Played {
    fn new() -> Self {
        let world = World::new(Native::<WalletModule>::default()).expect("it describes itself");
        let mut played = Self { world, balances: BTreeMap::new(), in_flight: Vec::new(), time: 0 };
        for account in ACCOUNTS {
            assert!(played.play(&command("open", &[("account", account), ("currency", "JPY")])), "{account} is new");
        }
        played
    }

    fn play(&mut self, command: &Command) -> bool {
        self.time += 1;
        let played = self.world.play(std::slice::from_ref(command), self.time).expect("it plays");
        played[0].outcome == Outcome::Accepted
    }

    fn part(&mut self, command: &Command, part: Part, account: usize) -> bool {
        self.time += 1;
        let entity = Some(ACCOUNTS[account].as_bytes());
        self.world.play_part(command, part, entity, self.time).expect("it plays").outcome == Outcome::Accepted
    }

    fn post(&mut self, account: usize, amount: i128) {
        *self.balances.entry(account).or_default() += amount;
    }

    /// As the host does: when one side is refused, the other one is cancelled.
    fn begin(&mut self, from: usize, to: usize, amount: u64, is_payee_first: bool) {
        let command = transfer(from, to, amount, "tcc");
        let sides = if is_payee_first { [to, from] } else { [from, to] };
        let tried = sides.map(|side| self.part(&command, Part::Try, side));
        if tried == [true, true] {
            self.post(from, -i128::from(amount));
            self.in_flight.push(InFlight { command, sides: [from, to], amount: amount.into() });
            return;
        }
        for (side, is_done) in sides.into_iter().zip(tried) {
            assert!(!is_done || self.part(&command, Part::Cancel, side), "what was tried can be cancelled");
        }
    }

    fn end(&mut self, at: usize, part: Part) {
        let InFlight { command, sides: [from, to], amount } = self.in_flight.swap_remove(at);
        if part == Part::Confirm {
            assert!(self.part(&command, Part::Confirm, to), "what was tried can be confirmed");
            self.post(to, amount);
        } else {
            for side in [to, from] {
                assert!(self.part(&command, Part::Cancel, side), "what was tried can be cancelled");
            }
            self.post(from, amount);
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Begin { from, to, amount, is_payee_first } => self.begin(*from, *to, *amount, *is_payee_first),
            Step::End { .. } if self.in_flight.is_empty() => {}
            Step::End { chosen, part } => self.end(chosen.index(self.in_flight.len()), *part),
            Step::Transfer { from, to, amount } => {
                if self.play(&transfer(*from, *to, *amount, "tcc")) {
                    self.post(*from, -i128::from(*amount));
                    self.post(*to, (*amount).into());
                }
            }
            Step::Deposit { to, amount } => {
                let amount_text = amount.to_string();
                let members =
                    [("account", ACCOUNTS[*to]), ("amount", &amount_text), ("currency", "JPY"), ("transaction_id", ID)];
                if self.play(&command("deposit", &members)) {
                    self.post(*to, (*amount).into());
                }
            }
            Step::Turn { account, command: name } => {
                let is_turned = self.play(&command(name, &[("account", ACCOUNTS[*account])]));
                let is_payee = self.in_flight.iter().any(|transfer| transfer.sides[1] == *account);
                assert!(!(is_turned && is_payee && *name == "close"), "who is about to receive is not closed");
            }
        }
    }

    fn shown(&self, account: usize) -> String {
        let params = Value::map([("account", Value::text(ACCOUNTS[account]))]);
        let answer = self.world.query("account", params, role::ALL, self.time).expect("the query is answered");
        let QueryOut::Done(state) = answer else { panic!("{answer:?} is no state") };
        let balance = state.find("balances").and_then(|balances| balances.find("JPY")).and_then(Value::as_text);
        balance.expect("the account holds yen").to_owned()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn whatever_was_tried_can_be_ended(steps in vec(step(), 1..60)) {
        let mut played = Played::new();
        for step in &steps {
            played.step(step);
            prop_assert_eq!(played.world.check(2).expect("it checks"), vec![]);
        }
        while let Some(last) = played.in_flight.len().checked_sub(1) {
            played.end(last, if last % 2 == 0 { Part::Confirm } else { Part::Cancel });
        }
        prop_assert_eq!(played.world.check(1).expect("it checks"), vec![]);
        for account in 0..ACCOUNTS.len() {
            let expected = played.balances.get(&account).copied().unwrap_or_default();
            prop_assert_eq!(played.shown(account), expected.to_string());
        }
        let in_between = played.world.rows().iter().filter(|(key, row)| {
            key.ends_with(b"reserved/JPY") || key.ends_with(b"transit/JPY") && row.iter().any(|byte| *byte != 0)
        });
        prop_assert_eq!(in_between.count(), 0, "nothing is reserved or in transit any more");
    }
}
