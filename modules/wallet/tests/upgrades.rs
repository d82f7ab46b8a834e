//! The later releases in `modules/releases`, against this one: the refactoring decides alike to the byte, the two with a bug
//! do not, and the one with daily limits does as long as there is no limit.
//!
//! In: the scenarios of this module and random commands, played by the released wasm. Nothing is compiled here.

use expect_test::{Expect, expect};
use proptest::collection::vec;
use proptest::prelude::*;
use statehouse_guest::native::Export;
use statehouse_guest::{Value, role};
use statehouse_testkit::{Command, Engine, EngineError, Native, Outcome, Wasm, World, expect_file, play};
use wallet::WalletModule;

const SCENARIOS: [&str; 5] = [
    include_str!("scenarios/transfers.txt"),
    include_str!("scenarios/settlement.txt"),
    include_str!("scenarios/lifecycle.txt"),
    include_str!("scenarios/refusals.txt"),
    include_str!("scenarios/phases.txt"),
];

fn release(version: &str) -> Wasm {
    let file = format!("{}/../releases/wallet-{version}.wasm", env!("CARGO_MANIFEST_DIR"));
    Wasm::new(&std::fs::read(file).expect("a release stays")).expect("a release is a module")
}

/// This source and another version, which must give the same bytes for every call; only `describe` may differ.
struct Alike(Native<WalletModule>, Wasm);

impl Engine for Alike {
    fn call(&self, export: Export, input: &[u8]) -> Result<Vec<u8>, EngineError> {
        let (ours, theirs) = (self.0.call(export, input), self.1.call(export, input));
        if export == Export::Describe || ours == theirs {
            return ours;
        }
        Err(EngineError::Twins { export: export.name(), native: format!("{ours:?}"), wasm: format!("{theirs:?}") })
    }
}

/// The first line of today's scenarios that another version answers otherwise, with its answer and the command before it.
fn first_difference(version: &str) -> String {
    for scenario in SCENARIOS {
        let played = play(release(version), scenario).expect("it plays");
        let mut command = "";
        for (expected, found) in scenario.lines().zip(played.lines()) {
            if expected != found {
                return format!("{command}\n- {expected}\n+ {found}\n");
            }
            if expected.starts_with("> ") {
                command = expected;
            }
        }
        assert_eq!(scenario.lines().count(), played.lines().count(), "one version says more than the other");
    }
    String::new()
}

fn check_difference(version: &str, expected: Expect) {
    expected.assert_eq(&first_difference(version));
}

#[test]
fn the_refactoring_plays_every_scenario_alike() {
    check_difference("1.1.0", expect![[""]]);
}

#[test]
fn without_a_limit_the_daily_limits_change_nothing() {
    check_difference("2.0.0", expect![[""]]);
}

#[test]
fn whoever_spends_everything_meets_the_first_bug() {
    check_difference(
        "1.2.0-bug",
        expect![[r#"
        > {"command": "balance_transfer", "body": {"from_account": "alice", "to_account": "bob", "amount": "66.42", "currency": "USD", "transaction_id": "00000000-0000-4000-8000-000000000008"}}
        - 200 {"Status":"success","balances":{"bob":{"USD":"100.00"},"alice":{"USD":"0.00"}},"Transaction_id":"00000000-0000-4000-8000-000000000008"}
        + rejected 409 insufficient_funds: the payer alice holds 66.42 USD, 66.42 USD are needed: send less, or add money and send it under a new id {"Status":"rejected","Transaction_id":"00000000-0000-4000-8000-000000000008"}
    "#]],
    );
}

#[test]
fn whoever_moves_fifty_cents_meets_the_second_bug() {
    check_difference(
        "1.2.1-bug",
        expect![[r#"
        > {"command": "balance_transfer", "body": {"from_account": "alice", "to_account": "bob", "amount": "1.5", "currency": "USD", "transaction_id": "00000000-0000-4000-8000-000000000003"}}
        - 200 {"Status":"success","balances":{"bob":{"USD":"31.55"},"alice":{"USD":"68.45"}},"Transaction_id":"00000000-0000-4000-8000-000000000003"}
        + 200 {"Status":"success","balances":{"bob":{"USD":"31.10"},"alice":{"USD":"68.90"}},"Transaction_id":"00000000-0000-4000-8000-000000000003"}
    "#]],
    );
}

#[test]
fn daily_limits() {
    let file = expect_file!["../../releases/wallet-2.0.0/tests/scenarios/daily_limit.txt"];
    file.assert_eq(&play(release("2.0.0"), &file.data()).expect("it plays"));
}

fn command() -> impl Strategy<Value = Command> {
    let accounts = ["a", "b", "@bank"];
    let names = ["open", "open", "deposit", "deposit", "balance_transfer", "withdraw", "freeze", "unfreeze", "close"];
    (0..names.len(), 0..accounts.len(), 0..accounts.len(), 0..2usize, 1..40u64, 0..3usize, any::<u8>()).prop_map(
        move |(name, from, to, currency, amount, coordination, id)| {
            let (from, to) = (Value::text(accounts[from]), Value::text(accounts[to]));
            let amount = match currency {
                0 => format!("{}.{}0", amount / 10, amount % 10),
                _ => amount.to_string(),
            };
            let (amount, currency) = (Value::Text(amount), Value::text(["USD", "JPY"][currency]));
            let id_text = Value::Text(format!("00000000-0000-4000-8000-0000000000{id:02x}"));
            let name = names[name];
            let body = match name {
                "balance_transfer" => Value::map([
                    ("from_account", from),
                    ("to_account", to),
                    ("amount", amount),
                    ("currency", currency),
                    ("transaction_id", id_text),
                    (
                        "coordination",
                        [Value::text("saga"), Value::text("tcc"), Value::text("both")][coordination].clone(),
                    ),
                ]),
                "deposit" | "withdraw" => Value::map([
                    ("account", from),
                    ("amount", amount),
                    ("currency", currency),
                    ("transaction_id", id_text),
                ]),
                "open" => Value::map([("account", from), ("currency", currency)]),
                _ => Value::map([("account", from)]),
            };
            Command { name: name.into(), body, caller: "test".into(), roles: role::ALL, id: [id; 16] }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(12) })]

    #[test]
    fn the_refactoring_gives_the_same_bytes_for_every_call(
        commands in vec(command(), 1..40),
        sizes in vec(1usize..9, 1..4),
    ) {
        let alike = Alike(Native::default(), release("1.1.0"));
        let mut world = World::new(alike).expect("it describes itself");
        for (at, played) in world.play_in_batches(&commands, &sizes, 7).expect("both play alike").iter().enumerate() {
            let items = World::<Alike>::event_items(played);
            prop_assert!(world.render(&items).is_ok(), "command {at} is rendered alike");
        }
        prop_assert_eq!(world.check(2), Ok(vec![]));
    }

    /// Migrating the rows comes to the same as having decided everything with the later version.
    #[test]
    fn migrated_rows_are_those_the_later_version_would_have_written(
        before in vec(command(), 1..40),
        after in vec(command(), 1..10),
    ) {
        for from in ["1.0.0", "1.0.1", "1.1.0"] {
            let mut migrated = World::new(release(from)).expect("it describes itself");
            migrated.play_in_batches(&before, &[7], 7).expect("it plays");
            let mut migrated = migrated.activate(release("2.0.0")).expect("the rows are migrated");
            let mut later = World::new(release("2.0.0")).expect("it describes itself");
            later.play_in_batches(&before, &[7], 7).expect("it plays");
            prop_assert_eq!(migrated.rows(), later.rows());
            let [migrated_after, later_after] =
                [&mut migrated, &mut later].map(|world| world.play(&after, 8).expect("it plays"));
            prop_assert_eq!(migrated_after, later_after);
            prop_assert_eq!(migrated.check(2), Ok(vec![]));
        }
    }
}

/// The daily limit once more, in other words: who may pay what when.
#[derive(Clone, Copy, Default)]
struct Model {
    balance: u64,
    limit: Option<u64>,
    /// What was paid by day since there is a limit.
    paid: [u64; DAYS],
}

const DAYS: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Act {
    Deposit,
    Withdraw,
    Transfer,
    Limit,
    NoLimit,
}

impl Act {
    /// `amount` is in cents.
    fn command(self, account: &str, other: &str, amount: u64) -> Command {
        let name = |name| (name, Value::text(account));
        let currency = ("currency", Value::text("USD"));
        let id = ("transaction_id", Value::text("00000000-0000-4000-8000-000000000001"));
        let amount = |name| (name, Value::Text(format!("0.{amount:02}")));
        let (command, body) = match self {
            Self::Deposit => ("deposit", vec![name("account"), amount("amount"), currency, id]),
            Self::Withdraw => ("withdraw", vec![name("account"), amount("amount"), currency, id]),
            Self::Limit => ("set_daily_limit", vec![name("account"), amount("limit"), currency]),
            Self::NoLimit => ("set_daily_limit", vec![name("account"), currency]),
            Self::Transfer => {
                let to = ("to_account", Value::text(other));
                ("balance_transfer", vec![name("from_account"), to, amount("amount"), currency, id])
            }
        };
        Command { name: command.into(), body: Value::map(body), caller: "test".into(), roles: role::ALL, id: [1; 16] }
    }

    /// The code of the rejection.
    fn play(self, account: &mut Model, other: &mut Model, amount: u64, day: usize) -> Option<&'static str> {
        match self {
            Self::Deposit => account.balance += amount,
            Self::Limit => account.limit = Some(amount),
            Self::NoLimit => (account.limit, account.paid) = (None, [0; DAYS]),
            Self::Withdraw | Self::Transfer if account.balance < amount => return Some("insufficient_funds"),
            Self::Withdraw | Self::Transfer => {
                if let Some(limit) = account.limit {
                    if limit < account.paid[day] + amount {
                        return Some("daily_limit_exceeded");
                    }
                    account.paid[day] += amount;
                }
                account.balance -= amount;
                if matches!(self, Self::Transfer) {
                    other.balance += amount;
                }
            }
        }
        None
    }
}

fn act() -> impl Strategy<Value = (Act, usize, u64, bool)> {
    let acts = [Act::Deposit, Act::Withdraw, Act::Withdraw, Act::Transfer, Act::Transfer, Act::Limit, Act::NoLimit];
    (0..acts.len(), 0..2usize, 1..30u64, prop::bool::weighted(0.1))
        .prop_map(move |(act, account, amount, is_next_day)| (acts[act], account, amount, is_next_day))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn daily_limits_are_those_of_the_model(acts in vec(act(), 1..60)) {
        let names = ["a", "b"];
        let mut world = World::new(release("2.0.0")).expect("it describes itself");
        let mut models = [Model::default(); 2];
        for name in names {
            let body = Value::map([("account", Value::text(name)), ("currency", Value::text("USD"))]);
            let open = Command { name: "open".into(), body, caller: String::new(), roles: role::ALL, id: [0; 16] };
            world.play(&[open], 0).expect("it plays");
        }
        let mut day = 0;
        for (at, (act, account, amount, is_next_day)) in acts.into_iter().enumerate() {
            day = (day + usize::from(is_next_day)).min(DAYS - 1);
            let [a, b] = &mut models;
            let (ours, other) = if account == 0 { (a, b) } else { (b, a) };
            let expected = act.play(ours, other, amount, day);
            let command = act.command(names[account], names[1 - account], amount);
            let played = world.play(&[command], day as i64 * 86_400_000_000 + at as i64).expect("it plays");
            let found = match &played[0].outcome {
                Outcome::Rejected(rejection) => Some(rejection.code.as_str()),
                Outcome::Accepted => None,
                other => return Err(TestCaseError::fail(format!("{act:?}: {other:?}"))),
            };
            prop_assert_eq!(found, expected, "{:?} of {} on day {}", act, amount, day);
        }
        prop_assert_eq!(world.check(2), Ok(vec![]));
    }
}

#[test]
fn rows_that_no_version_wrote_are_not_migrated() {
    let world = World::new(release("2.0.0")).expect("it describes itself");
    let migrate = |from_schema: u32, row: &[u8]| {
        let key = statehouse_guest::abi::key::key(b"a", b"");
        let row = statehouse_guest::Row { key, row: Some(row.to_vec()) };
        match world.migrate(from_schema, b"a", vec![row]).expect("it answers") {
            statehouse_guest::abi::cold::MigrateOut::Changed(rows) => format!("{} rows", rows.len()),
            statehouse_guest::abi::cold::MigrateOut::Refused(why) => why,
        }
    };
    let good = wallet::Account::opened(wallet::Currency(*b"USD"));
    assert_eq!(migrate(1, &good), "1 rows");
    assert_eq!(migrate(2, &good), "1 rows");
    assert_eq!(migrate(3, &good), "0 rows");
    assert_eq!(migrate(4, &good), "rows of schema 4 cannot be brought to schema 3");
    assert!(migrate(2, &good[..good.len() - 1]).contains("malformed"));
    assert!(migrate(2, &[good.as_slice(), &[0; 27]].concat()).contains("malformed"));
    assert!(migrate(2, b"").contains("malformed"));
}
