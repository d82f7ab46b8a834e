//! Bytes that are not what they should be: every parser answers with an error, or with a block whose accessors hold.
//!
//! Blocks are written at random, then cut, flipped in one place, or replaced by noise.

use std::hint::black_box;

use proptest::collection::vec;
use proptest::prelude::*;
use statehouse_abi::block::AbiError;
use statehouse_abi::call::{Context, ExecuteOut, parse_apply_in, parse_execute_in, write_apply_in, write_execute_out};
use statehouse_abi::consent::{FreeSteps, mark};
use statehouse_abi::key::Scope;
use statehouse_abi::ops::{OpRole, OpsBlock, OpsWriter};
use statehouse_abi::outcome::{GroupOutcome, OutcomeBlock, OutcomeWriter};
use statehouse_abi::plan::{Coordination, PlanIn, PlanInWriter, PlanItem, PlanOut, PlanOutWriter, Planned, TccRole};
use statehouse_abi::rows::{RowsBlock, RowsWriter, WritesBlock, WritesWriter};
use statehouse_abi::value::Value;

const KEYS: usize = 4;

/// Groups of ops; each op is a payload and keyrefs.
type Groups = Vec<Vec<(Vec<u8>, Vec<u32>)>>;

fn groups() -> impl Strategy<Value = Groups> {
    vec(vec((vec(any::<u8>(), 0..9), vec(0..KEYS as u32, 0..4)), 1..4), 0..5)
}

fn ops(groups: &Groups) -> Vec<u8> {
    let mut writer = OpsWriter::default();
    for at in 0..KEYS {
        writer.key(format!("\x01{at}row").as_bytes());
    }
    for (command, group) in groups.iter().enumerate() {
        writer.group(command as u32);
        for (payload, keyrefs) in group {
            writer.op(b"entity", payload, keyrefs.iter().copied(), OpRole::Step);
        }
    }
    writer.finish(Vec::new())
}

/// Every op gives its payload as an event; groups with an odd number are rejected.
fn outcome(groups: &Groups) -> Vec<u8> {
    let (mut writer, mut op) = (OutcomeWriter::default(), 0);
    for (at, group) in groups.iter().enumerate() {
        let first = writer.event_count();
        for (payload, _) in group {
            writer.event(op, payload);
            op += 1;
        }
        if at % 2 == 0 { writer.accept(first) } else { writer.reject(first, b"rejected") }
    }
    writer.finish(Vec::new())
}

fn rows(rows: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut writer = RowsWriter::default();
    rows.iter().for_each(|row| writer.row(row.as_deref()));
    writer.finish(Vec::new())
}

fn writes(rows: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut writer = WritesWriter::default();
    rows.iter().enumerate().for_each(|(key, row)| writer.write(key as u32, row.as_deref()));
    writer.finish(Vec::new())
}

fn plan_out(groups: &Groups) -> Vec<u8> {
    let mut writer = PlanOutWriter::default();
    for group in groups {
        for (payload, keys) in group {
            writer.step(payload, b"entity", keys.first().map(|_| &b"undo"[..]), TccRole::Try);
            keys.iter().for_each(|key| writer.key(Scope::Local, &key.to_le_bytes()));
        }
        if group.len() % 2 == 0 { writer.refuse(b"no") } else { writer.plan(Coordination::Saga, b"home", b"body") }
    }
    writer.finish(Vec::new())
}

fn plan_in(groups: &Groups) -> Vec<u8> {
    let mut writer = PlanInWriter::default();
    for (body, _) in groups.iter().flatten() {
        writer.item(PlanItem { command: 0, roles: 1, id: [2; 16], caller: b"caller", body });
    }
    writer.finish(Vec::new())
}

/// Uses a value for nothing, so that getting it must not panic.
fn touch<T>(value: T) {
    black_box(value);
}

/// Parses the bytes as everything, and touches all that a parsed block gives access to.
fn read_as_everything(bytes: &[u8], sound_ops: &OpsBlock<'_>) {
    let _: Result<(), AbiError> = OpsBlock::parse(bytes).map(|ops| {
        (0..ops.group_count()).for_each(|at| touch(ops.group(at)));
        (0..ops.op_count()).for_each(|at| assert!(ops.op(at).keyrefs().all(|key| (key as usize) < ops.key_count())));
        assert_eq!(ops.keys().count(), ops.key_count());
    });
    let _ = RowsBlock::parse(bytes).map(|rows| (0..rows.count()).for_each(|at| touch(rows.row(at))));
    let _ =
        WritesBlock::parse(bytes, KEYS).map(|writes| assert!(writes.writes().all(|(key, _)| (key as usize) < KEYS)));
    let _ = OutcomeBlock::parse(bytes, sound_ops).map(|outcome| {
        (0..outcome.group_count()).for_each(|at| touch(outcome.group(at)));
        assert!(outcome.events().all(|event| (event.op as usize) < sound_ops.op_count()));
    });
    let _ = PlanIn::parse(bytes).map(|plan| (0..plan.count()).for_each(|at| touch(plan.item(at))));
    let _ = PlanOut::parse(bytes).map(|plan| {
        for at in 0..plan.count() {
            let Planned::Plan { first_step, step_count, .. } = plan.item(at) else { continue };
            for step in first_step..first_step + step_count {
                let step = plan.step(step);
                (step.first_key..step.first_key + step.key_count).for_each(|key| touch(plan.key(key)));
            }
        }
    });
    let _ = FreeSteps::find(bytes).map(|free| free.map(|free| (0..9).for_each(|step| touch(free.contains(step)))));
    let _ = ExecuteOut::parse(bytes).map(|out| out.needed().for_each(touch));
    let _ = parse_execute_in(bytes);
    let _ = parse_apply_in(bytes);
    if let Ok(value) = Value::from_cbor(bytes) {
        assert_eq!(value.to_cbor().as_deref(), Ok(bytes), "a value has one encoding");
    }
}

fn all(groups: &Groups, values: &[Option<Vec<u8>>]) -> Vec<Vec<u8>> {
    let (ops, rows, writes, outcome) = (ops(groups), rows(values), writes(values), outcome(groups));
    let context = Context { time: 1, seed: [0; 32] };
    let apply_in = write_apply_in(Vec::new(), context, &ops, &rows, &outcome);
    let execute_out = write_execute_out(Vec::new(), &outcome, &writes, [(0, &b"\x01akey"[..])]);
    let marked = mark(&plan_out(groups), |op| op.len() % 2 == 0).expect("it was just written");
    vec![apply_in, execute_out, plan_in(groups), plan_out(groups), marked, ops, rows, writes, outcome]
}

proptest! {
    #[test]
    fn noise_is_refused_or_sound(bytes in vec(any::<u8>(), 0..200)) {
        let sound = ops(&vec![vec![(vec![1], vec![0])]]);
        read_as_everything(&bytes, &OpsBlock::parse(&sound).expect("it was just written"));
    }

    #[test]
    fn a_flipped_bit_or_a_cut_is_refused_or_sound(
        groups in groups(),
        values in vec(proptest::option::of(vec(any::<u8>(), 0..9)), KEYS),
        at in any::<proptest::sample::Index>(),
        bit in 0u8..8,
    ) {
        let sound = ops(&groups);
        let sound = OpsBlock::parse(&sound).expect("it was just written");
        for block in all(&groups, &values) {
            let place = at.index(block.len());
            let mut flipped = block.clone();
            flipped[place] ^= 1 << bit;
            read_as_everything(&flipped, &sound);
            read_as_everything(&block[..place], &sound);
        }
    }

    #[test]
    fn what_is_written_is_read(groups in groups(), values in vec(proptest::option::of(vec(any::<u8>(), 0..9)), KEYS)) {
        let bytes = ops(&groups);
        let parsed = OpsBlock::parse(&bytes).expect("it was just written");
        let mut op_index = 0;
        for (at, group) in groups.iter().enumerate() {
            prop_assert_eq!(parsed.group(at).op_count as usize, group.len());
            for (payload, keyrefs) in group {
                let op = parsed.op(op_index);
                prop_assert_eq!(op.payload, &payload[..]);
                prop_assert_eq!(&op.keyrefs().collect::<Vec<_>>(), keyrefs);
                op_index += 1;
            }
        }
        let bytes = outcome(&groups);
        let outcome = OutcomeBlock::parse(&bytes, &parsed).expect("it was just written");
        for (at, group) in groups.iter().enumerate() {
            match outcome.group(at) {
                GroupOutcome::Events { first, count } => {
                    let events = (first..first + count).map(|at| outcome.event(at as usize).payload);
                    prop_assert!(events.eq(group.iter().map(|(payload, _)| &payload[..])));
                }
                other => prop_assert_eq!(other, GroupOutcome::Rejected(b"rejected")),
            }
        }
        let bytes = rows(&values);
        let rows = RowsBlock::parse(&bytes).expect("it was just written");
        prop_assert!((0..KEYS).all(|at| rows.row(at) == values[at].as_deref()));
        let bytes = writes(&values);
        let writes = WritesBlock::parse(&bytes, KEYS).expect("it was just written");
        prop_assert!(writes.writes().all(|(key, row)| row == values[key as usize].as_deref()));
    }
}

/// One value has one encoding: other spellings of it are refused.
#[test]
fn spellings_that_are_not_deterministic_are_refused() {
    let spellings: [(&str, &[u8]); 9] = [
        ("23 in two bytes", b"\x18\x17"),
        ("a text with a long length", b"\x78\x01a"),
        ("an indefinite array", b"\x9f\xff"),
        ("a float", b"\xf9\x00\x00"),
        ("undefined", b"\xf7"),
        ("a tag", b"\xc0\x00"),
        ("keys out of order", b"\xa2\x61b\x00\x61a\x00"),
        ("a key twice", b"\xa2\x61a\x00\x61a\x00"),
        ("bytes behind the value", b"\x00\x00"),
    ];
    for (what, bytes) in spellings {
        assert!(Value::from_cbor(bytes).is_err(), "{what} was accepted");
    }
}

/// A bomb of nested arrays is refused before it reaches the stack's end.
#[test]
fn deep_nesting_is_refused() {
    assert!(Value::from_cbor(&[0x81; 100_000]).is_err());
    let mut nested = Value::Null;
    for _ in 1..statehouse_abi::value::DEPTH_MAX {
        nested = Value::Array(vec![nested]);
    }
    let bytes = nested.to_cbor().expect("there are no integers in it");
    assert_eq!(Value::from_cbor(&bytes), Ok(nested));
}
