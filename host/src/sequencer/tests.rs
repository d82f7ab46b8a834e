//! Deciding batches of a module that misbehaves on demand: culprits are rejected, their neighbours are not.

use std::collections::BTreeMap;

use statehouse_abi::call::Context;
use statehouse_abi::cold::{Rejection as Recorded, host_rejection};
use statehouse_abi::key::key;
use statehouse_abi::ops::OpsBlock;
use statehouse_abi::outcome::{GroupOutcome, OutcomeBlock};
use statehouse_abi::plan::{PlanInWriter, PlanItem};
use statehouse_abi::role;
use statehouse_abi::rows::{RowsWriter, WritesBlock};
use statehouse_abi::value::Value;
use statehouse_guest::borsh;

use faulty::Faulty;

use crate::machine::logic::Logic;
use crate::machine::native::Native;
use crate::sequencer::decide::{Decided, HostFault, decide};
use crate::sequencer::submission::{Plan, PlanView};

const VALUE: &[u8] = b"value";
const ID: &str = "00000000-0000-4000-8000-000000000000";

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn plans(logic: &dyn Logic, acts: &[(&str, &str)]) -> Vec<Plan> {
    let mut items = PlanInWriter::default();
    for (account, what) in acts {
        let body = Value::map([
            ("account", Value::text(*account)),
            ("what", Value::text(*what)),
            ("request_id", Value::text(ID)),
        ]);
        let body = body.to_cbor().expect("small numbers only");
        items.item(PlanItem { command: 0, roles: role::ALL, id: [0; 16], caller: b"test", body: &body });
    }
    let output = logic.plan(&items.finish(Vec::new())).expect("planning does not fault");
    let planned = Plan::all(output).expect("the SDK writes a block");
    planned.into_iter().map(|plan| plan.expect("nothing is refused")).collect()
}

fn decide_on(rows: &Rows, logic: &dyn Logic, plans: &[Plan]) -> Decided {
    let views: Vec<PlanView<'_>> = plans.iter().map(Plan::view).collect();
    let fetch = |ops: &OpsBlock<'_>| -> Result<Vec<u8>, HostFault> {
        let mut writer = RowsWriter::default();
        ops.keys().for_each(|key| writer.row(rows.get(key).map(Vec::as_slice)));
        Ok(writer.finish(Vec::new()))
    };
    decide(logic, Context { time: 1, seed: [7; 32] }, &views, fetch).expect("the host does not fault")
}

/// Decides everything, batch by batch, and gives the outcome of each act: `ok`, or the code of its rejection.
fn outcomes(rows: &mut Rows, acts: &[(&str, &str)], batch: usize) -> Vec<String> {
    let logic = Native::<Faulty>::new();
    let mut found = Vec::new();
    for acts in acts.chunks(batch) {
        let mut left = plans(&logic, acts);
        while !left.is_empty() {
            let decided = decide_on(rows, &logic, &left);
            found.extend(codes(&decided));
            write(rows, &decided);
            left.drain(..decided.plan_count);
        }
    }
    found
}

fn codes(decided: &Decided) -> Vec<String> {
    let ops = OpsBlock::parse(&decided.ops).expect("the decided block is well-formed");
    let outcome = OutcomeBlock::parse(&decided.outcome, &ops).expect("the outcome answers the ops");
    let code = |at| match outcome.group(at) {
        GroupOutcome::Events { .. } => "ok".to_owned(),
        GroupOutcome::Rejected(bytes) => minicbor::decode::<Recorded>(bytes).expect("a rejection").code,
        GroupOutcome::NeedsKeys => "needs keys".to_owned(),
    };
    (0..outcome.group_count()).map(code).collect()
}

fn write(rows: &mut Rows, decided: &Decided) {
    let ops = OpsBlock::parse(&decided.ops).expect("the decided block is well-formed");
    for (key, row) in WritesBlock::parse(&decided.writes, ops.key_count()).expect("checked").writes() {
        match row {
            Some(row) => rows.insert(ops.key(key as usize).to_vec(), row.to_vec()),
            None => rows.remove(ops.key(key as usize)),
        };
    }
}

fn value(rows: &Rows, account: &str, suffix: &[u8]) -> u64 {
    rows.get(&key(account.as_bytes(), suffix)).map_or(0, |row| borsh::from_slice(row).expect("a number"))
}

#[test]
fn a_panic_is_pinned_to_its_command() {
    let mut rows = Rows::new();
    let acts = [("a", "add"), ("b", "panic"), ("a", "add"), ("c", "reject"), ("a", "panic"), ("b", "add")];
    let trap = host_rejection::MODULE_TRAP;
    assert_eq!(outcomes(&mut rows, &acts, 100), ["ok", trap, "ok", "asked", trap, "ok"]);
    assert_eq!((value(&rows, "a", VALUE), value(&rows, "b", VALUE)), (2, 1));
}

#[test]
fn the_panic_text_is_kept_beside_the_outcome() {
    let logic = Native::<Faulty>::new();
    let plans = plans(&logic, &[("a", "add"), ("b", "panic")]);
    let decided = decide_on(&Rows::new(), &logic, &plans);
    let (plan, diagnostic) = decided.diagnostics.first().expect("one command was isolated");
    assert_eq!((*plan, diagnostic.text.as_str()), (1, "asked to panic"));
}

#[test]
fn a_module_whose_execute_and_apply_disagree_harms_only_itself() {
    let mut rows = Rows::new();
    let acts = [("a", "add"), ("b", "drift"), ("a", "add")];
    assert_eq!(outcomes(&mut rows, &acts, 100), ["ok", host_rejection::MODULE_INCONSISTENT, "ok"]);
    assert_eq!((value(&rows, "a", VALUE), value(&rows, "b", VALUE)), (2, 0));
}

#[test]
fn undeclared_keys_are_discovered() {
    let mut rows = Rows::new();
    assert_eq!(outcomes(&mut rows, &[("a", "wander"), ("b", "add"), ("a", "wander")], 100), ["ok", "ok", "ok"]);
    assert_eq!(value(&rows, "a", b"elsewhere"), 2);
}

#[test]
fn a_batch_is_its_commands_one_at_a_time() {
    let words = ["add", "panic", "reject", "wander", "add", "drift", "add"];
    let accounts = ["a", "b", "c"];
    let acts: Vec<(&str, &str)> =
        (0..200).map(|at| (accounts[at % 3], words[(at * at + at / 3) % words.len()])).collect();
    let mut one_by_one = Rows::new();
    let expected = outcomes(&mut one_by_one, &acts, 1);
    for batch in [2, 3, 7, 64, 200] {
        let mut rows = Rows::new();
        assert_eq!(outcomes(&mut rows, &acts, batch), expected, "batches of {batch}");
        assert_eq!(rows, one_by_one, "batches of {batch}");
    }
}
