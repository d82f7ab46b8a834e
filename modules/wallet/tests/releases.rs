//! What an earlier release decided, this version decides in the same way: plans, outcomes, events, rows and what is shown of them.
//!
//! In: random commands, played by the released 1.0.0 and by this source. Transfers by `tcc` are not among them: 1.0.1 plans
//! them in another way. Nor are the rows that an op asks for compared: closing an account now looks at its reservations.

use proptest::collection::vec;
use proptest::prelude::*;
use statehouse_guest::abi::cold::RenderItem;
use statehouse_guest::abi::plan::{PlanInWriter, PlanItem};
use statehouse_guest::native::Export;
use statehouse_guest::{Commands, Value, role};
use statehouse_testkit::{Command, Engine, Native, Outcome, Wasm, World};
use wallet::WalletModule;

const ID: &str = "00000000-0000-4000-8000-000000000000";

fn plan_in(commands: &[Command]) -> Vec<u8> {
    let mut input = PlanInWriter::default();
    for Command { name, body, caller, roles, id } in commands {
        let command = wallet::Command::find(name).expect("the command exists");
        let body = body.to_cbor().expect("the body is a value");
        input.item(PlanItem { command, roles: *roles, id: *id, caller: caller.as_bytes(), body: &body });
    }
    input.finish(Vec::new())
}

fn first_release() -> Wasm {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../releases/wallet-1.0.0.wasm");
    Wasm::new(&std::fs::read(file).expect("a release stays")).expect("a release is a module")
}

fn command() -> impl Strategy<Value = Command> {
    let accounts = ["a", "b", "@bank"];
    let names = ["open", "open", "deposit", "deposit", "balance_transfer", "withdraw", "freeze", "unfreeze", "close"];
    (0..names.len(), 0..accounts.len(), 0..accounts.len(), 0..2usize, 1..40u64).prop_map(
        move |(name, from, to, currency, amount)| {
            let (from, to) = (Value::text(accounts[from]), Value::text(accounts[to]));
            let (amount, currency) = (Value::Text(amount.to_string()), Value::text(["USD", "JPY"][currency]));
            let (name, id) = (names[name], Value::text(ID));
            let body = match name {
                "balance_transfer" => Value::map([
                    ("from_account", from),
                    ("to_account", to),
                    ("amount", amount),
                    ("currency", currency),
                    ("transaction_id", id),
                ]),
                "deposit" | "withdraw" => {
                    Value::map([("account", from), ("amount", amount), ("currency", currency), ("transaction_id", id)])
                }
                "open" => Value::map([("account", from), ("currency", currency)]),
                _ => Value::map([("account", from)]),
            };
            Command { name: name.into(), body, caller: "test".into(), roles: role::ALL, id: [0; 16] }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    #[test]
    fn the_first_release_decides_the_same(commands in vec(command(), 1..40), sizes in vec(1usize..9, 1..4)) {
        let plans = plan_in(&commands);
        prop_assert_eq!(first_release().call(Export::Plan, &plans), Native::<WalletModule>::default().call(Export::Plan, &plans));
        let mut released = World::new(first_release()).expect("it describes itself");
        let mut current = World::new(Native::<WalletModule>::default()).expect("it describes itself");
        let before = released.play_in_batches(&commands, &sizes, 7).expect("it plays");
        let now = current.play_in_batches(&commands, &sizes, 7).expect("it plays");
        prop_assert_eq!(&before, &now);
        prop_assert_eq!(released.rows(), current.rows());
        for played in &now {
            let mut items = World::<Wasm>::event_items(played);
            if played.outcome == Outcome::Accepted {
                items.push(RenderItem::Response(played.facts.clone()));
            }
            prop_assert_eq!(released.render(&items).expect("it renders"), current.render(&items).expect("it renders"));
        }
        prop_assert_eq!(current.check(1).expect("it checks"), vec![]);
    }
}
