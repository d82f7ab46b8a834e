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

use crate::machine::changed::ChangedLogic;
use crate::machine::decide::{DecidedBatch, Effect, HostFault, decide};
use crate::machine::limits::{DECIDE_ROUNDS_MAX, ISOLATIONS_PER_BATCH_MAX, OUTCOME_BYTES_MAX};
use crate::machine::logic::{Fault, Logic};
use crate::machine::native::NativeLogic;
use crate::machine::plan::{Plan, PlanView};
use crate::machine::replica::no_writes;

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

fn decide_on(rows: &Rows, logic: &dyn Logic, plans: &[Plan]) -> DecidedBatch {
    try_decide(rows, logic, plans).expect("the host does not fault")
}

fn try_decide(rows: &Rows, logic: &dyn Logic, plans: &[Plan]) -> Result<DecidedBatch, HostFault> {
    let views: Vec<PlanView<'_>> = plans.iter().map(Plan::view).collect();
    let fetch = |ops: &OpsBlock<'_>| -> Result<Vec<u8>, HostFault> {
        let mut writer = RowsWriter::default();
        ops.keys().for_each(|key| writer.row(rows.get(key).map(Vec::as_slice)));
        Ok(writer.finish(Vec::new()))
    };
    decide(logic, Context { time: 1, seed: [7; 32] }, &views, fetch)
}

/// Decides everything, batch by batch; returns the outcome of each act: `ok`, or the code of its rejection.
fn outcomes(rows: &mut Rows, acts: &[(&str, &str)], batch: usize) -> Vec<String> {
    let logic = NativeLogic::<Faulty>::new();
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

fn codes(decided: &DecidedBatch) -> Vec<String> {
    let ops = OpsBlock::parse(&decided.ops).expect("the decided block is well-formed");
    let outcome = OutcomeBlock::parse(&decided.outcome, &ops).expect("the outcome answers the ops");
    let code = |at| match outcome.group(at) {
        GroupOutcome::Events { .. } => "ok".to_owned(),
        GroupOutcome::Rejected(bytes) => minicbor::decode::<Recorded>(bytes).expect("a rejection").code,
        GroupOutcome::NeedsKeys => "needs keys".to_owned(),
    };
    (0..outcome.group_count()).map(code).collect()
}

fn write(rows: &mut Rows, decided: &DecidedBatch) {
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
    let logic = NativeLogic::<Faulty>::new();
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

/// The leader called it again and again, with the one command that was left, until the process ended.
#[test]
fn a_module_whose_apply_always_fails_has_an_outcome_for_each_command() {
    let trap = Fault::Trap { text: "apply is another export".to_owned(), backtrace: Vec::new() };
    for (fault, count) in [(trap, 5), (Fault::Budget, 700), (Fault::Output { what: "no block".to_owned() }, 1)] {
        let logic = ChangedLogic::of(Some(fault.clone()), None);
        let plans = plans(&logic, &vec![("a", "add"); count]);
        let decided = decide_on(&Rows::new(), &logic, &plans);
        assert_eq!((decided.plan_count, decided.effect), (1, Effect::Unasked));
        assert_eq!(codes(&decided), [host_rejection::MODULE_TRAP]);
        assert_eq!(decided.writes, no_writes());
        assert!(decided.diagnostics.iter().all(|(plan, _)| *plan == 0) && decided.diagnostics.len() == 1);
        assert!(logic.executed() <= 2 * (ISOLATIONS_PER_BATCH_MAX + 1), "{} calls", logic.executed());
    }
    // A fault of the host says nothing about the command.
    let logic = ChangedLogic::of(Some(Fault::Host { what: "no memory".to_owned() }), None);
    let decided = try_decide(&Rows::new(), &logic, &plans(&logic, &[("a", "add"), ("b", "panic")]));
    assert!(matches!(&decided, Err(HostFault(what)) if what == "no memory"), "{decided:?}");
}

#[test]
fn events_that_fit_into_no_entry_together_get_entries_of_their_own() {
    let logic = ChangedLogic::of(None, Some(OUTCOME_BYTES_MAX / 3));
    let acts = vec![("a", "add"); 9];
    let mut left = plans(&logic, &acts);
    let mut counts = Vec::new();
    while !left.is_empty() {
        let decided = decide_on(&Rows::new(), &logic, &left);
        assert!(decided.outcome.len() <= OUTCOME_BYTES_MAX);
        counts.push(decided.plan_count);
        left.drain(..decided.plan_count);
    }
    assert!(counts.iter().all(|count| (1..=2).contains(count)) && counts.iter().sum::<usize>() == 9, "{counts:?}");
    // Alone it does not fit either. No log takes such an entry, so it is the module's fault.
    let logic = ChangedLogic::of(None, Some(OUTCOME_BYTES_MAX + 1));
    let plans = plans(&logic, &[("a", "add"), ("b", "add")]);
    let decided = decide_on(&Rows::new(), &logic, &plans);
    assert_eq!(codes(&decided), vec![host_rejection::MODULE_TRAP; decided.plan_count]);
    assert!(logic.executed() < DECIDE_ROUNDS_MAX);
}
