//! The bytes of `execute` and `apply` at their edges: rows that come out as they were, undeclared keys, foreign input.
//!
//! The module keeps one row per entity and sets it to whatever its op says, in two events.

use std::panic::catch_unwind;

use statehouse_guest::abi::call::{Context, ExecuteOut, NeededKey, write_apply_in, write_execute_in};
use statehouse_guest::abi::key::key;
use statehouse_guest::abi::ops::{OpRole, OpsBlock, OpsWriter};
use statehouse_guest::abi::outcome::{GroupOutcome, OutcomeBlock, OutcomeWriter};
use statehouse_guest::abi::rows::{RowsWriter, WritesBlock};
use statehouse_guest::native::{self, Export};
use statehouse_guest::*;

const CONTEXT: Context = Context { time: 5, seed: [1; 32] };

#[derive(Body)]
struct Nothing {}

#[derive(Commands)]
enum Command {
    /// Does nothing
    #[command(path = "nothing")]
    Nothing(Nothing),
}

#[derive(Rejections)]
enum Rejection {}

struct Setter;

#[module]
impl Module for Setter {
    const NAME: &'static str = "setter";
    const SCHEMA: u32 = 1;

    type Command = Command;
    type Op = u8;
    type Event = u8;
    type Rejection = Rejection;

    fn plan(_: &Command, _: &Caller<'_>, _: &mut Planner<'_, u8>) -> Result<(), Refusal> {
        Ok(())
    }

    fn validate(op: &u8, view: &View<'_>, events: &mut Events<'_, u8>) -> Result<(), Rejection> {
        assert_eq!((view.time(), view.seed(), view.is_undo()), (CONTEXT.time, &CONTEXT.seed, false));
        events.emit(0);
        events.emit(*op);
        Ok(())
    }

    fn apply(event: &u8, tx: &mut Tx<'_>) {
        match event {
            255 => tx.delete("row"),
            value => tx.put("row", &[*value]),
        }
    }

    fn render_response(_: &Done<'_, Self>) -> Value {
        Value::Null
    }

    fn render_event(_: &u8, _: &EventContext<'_, Self>) -> Value {
        Value::Null
    }

    fn render_row(_: &[u8], _: &[u8], _: &[u8]) -> Value {
        Value::Null
    }
}

/// One op on `a`, whose row is there or not, and declared or not.
fn input(op: u8, row: Option<&[u8]>, is_declared: bool) -> (Vec<u8>, Vec<u8>) {
    let (mut ops, mut rows) = (OpsWriter::default(), RowsWriter::default());
    let index = ops.key(&key(b"a", b"row"));
    rows.row(row);
    ops.group(0);
    ops.op(b"a", &[op], is_declared.then_some(index), OpRole::Step);
    (ops.finish(Vec::new()), rows.finish(Vec::new()))
}

/// The writes of executing and of applying, which must be the same.
fn writes(op: u8, row: Option<&[u8]>) -> Vec<(u32, Option<Vec<u8>>)> {
    let (ops, rows) = input(op, row, true);
    let executed = native::call::<Setter>(Export::Execute, &write_execute_in(Vec::new(), CONTEXT, &ops, &rows));
    let executed = ExecuteOut::parse(&executed).expect("the module keeps the contract");
    let apply_in = write_apply_in(Vec::new(), CONTEXT, &ops, &rows, executed.outcome);
    let applied = native::call::<Setter>(Export::Apply, &apply_in);
    assert_eq!(applied, executed.writes);
    let writes = WritesBlock::parse(&applied, 1).expect("the module keeps the contract");
    writes.writes().map(|(key, row)| (key, row.map(<[u8]>::to_vec))).collect()
}

#[test]
fn only_rows_that_changed_are_written() {
    assert_eq!(writes(7, None), [(0, Some(vec![7]))]);
    assert_eq!(writes(7, Some(b"long")), [(0, Some(vec![7]))]);
    assert_eq!(writes(7, Some(&[7])), []);
    assert_eq!(writes(255, Some(&[7])), [(0, None)]);
    assert_eq!(writes(255, None), []);
}

#[test]
fn execute_reports_an_undeclared_key() {
    let (ops, rows) = input(7, None, false);
    let output = native::call::<Setter>(Export::Execute, &write_execute_in(Vec::new(), CONTEXT, &ops, &rows));
    let output = ExecuteOut::parse(&output).expect("the module keeps the contract");
    let needed = key(b"a", b"row");
    assert_eq!(output.needed().collect::<Vec<_>>(), [NeededKey { op: 0, key: &needed }]);
    let ops = OpsBlock::parse(&ops).expect("it was just written");
    let outcome = OutcomeBlock::parse(output.outcome, &ops).expect("the module keeps the contract");
    assert_eq!((outcome.group(0), outcome.event_count()), (GroupOutcome::NeedsKeys, 0));
    assert_eq!(WritesBlock::parse(output.writes, 1).expect("the module keeps the contract").count(), 0);
}

/// The text of the panic that calling the export ends in.
fn panic_of(export: Export, input: &[u8]) -> String {
    let payload = catch_unwind(|| native::call::<Setter>(export, input)).expect_err("the call must panic");
    payload.downcast_ref::<String>().expect("the panic has a formatted text").clone()
}

#[test]
fn apply_panics_at_an_undeclared_key() {
    let (ops, rows) = input(7, None, false);
    let mut outcome = OutcomeWriter::default();
    outcome.event(0, &[7]);
    outcome.accept(0);
    let input = write_apply_in(Vec::new(), CONTEXT, &ops, &rows, &outcome.finish(Vec::new()));
    assert_eq!(panic_of(Export::Apply, &input), "op 0 touched the undeclared key \\x01arow");
}

#[test]
fn foreign_input_panics_with_words() {
    assert_eq!(panic_of(Export::Execute, b""), "input of sh1_execute: block of kind 7 is cut short");
    assert_eq!(panic_of(Export::Query, b"\xff"), "input of sh1_query: input is not the CBOR it should be");
    let (ops, rows) = (input(7, None, true).0, RowsWriter::default().finish(Vec::new()));
    let input = write_execute_in(Vec::new(), CONTEXT, &ops, &rows);
    assert_eq!(panic_of(Export::Execute, &input), "input of sh1_execute: there must be a row for every key");
}

#[test]
fn a_uuid_reads_and_writes_its_one_form() {
    let text = "0123abcd-4567-89ef-0000-fffffffffffe";
    let uuid = Uuid::parse("0123ABCD-4567-89ef-0000-fffffffffffe").expect("it is a uuid");
    assert_eq!(uuid.to_string(), text);
    for wrong in ["", &text[1..], "0123abcd-4567-89ef-0000-fffffffffffg", "0123abcd04567-89ef-0000-fffffffffffe"] {
        assert_eq!(Uuid::parse(wrong), None, "{wrong}");
    }
}
