//! One golden file per kind of bytes: what version 1 of the contract writes, and that it reads it back the same.
//!
//! A change of these files is a change of the format. `UPDATE_EXPECT=1` rewrites them.

use std::fmt::{Debug, Write};

use expect_test::{ExpectFile, expect_file};
use minicbor::{Decode, Encode};
use statehouse_abi::call::{
    CallIn, Context, ExecuteOut, NeededKey, parse_apply_in, parse_execute_in, write_apply_in, write_execute_in,
    write_execute_out,
};
use statehouse_abi::cold::*;
use statehouse_abi::consent::{FreeSteps, mark};
use statehouse_abi::describe::*;
use statehouse_abi::key::{LOCAL, Scope, key, split_key};
use statehouse_abi::ops::{Group, OpRole, OpsBlock, OpsWriter};
use statehouse_abi::outcome::{Event, GroupOutcome, OutcomeBlock, OutcomeWriter};
use statehouse_abi::plan::{Coordination, PlanIn, PlanInWriter, PlanItem, PlanOut, PlanOutWriter, Planned, TccRole};
use statehouse_abi::rows::{RowsBlock, RowsWriter, WritesBlock, WritesWriter};
use statehouse_abi::value::Value;

const CONTEXT: Context = Context { time: 1_700_000_000_000_000, seed: [7; 32] };

/// 16 bytes a line, so that a difference is seen where it is.
fn check(bytes: &[u8], golden: ExpectFile) {
    let mut text = String::new();
    for line in bytes.chunks(16) {
        let digits: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{:<48} {}", digits.join(" "), line.escape_ascii()).expect("a string takes all text");
    }
    golden.assert_eq(&text);
}

fn check_cbor<T: Encode<()> + for<'b> Decode<'b, ()> + PartialEq + Debug>(value: &T, golden: ExpectFile) {
    let bytes = minicbor::to_vec(value).expect("the value has an encoding");
    check(&bytes, golden);
    assert_eq!(&minicbor::decode::<T>(&bytes).expect("it was just encoded"), value);
}

fn ops() -> Vec<u8> {
    let mut ops = OpsWriter::default();
    let (own, local) = (ops.key(&key(b"alice", b"usd")), ops.key(&key(LOCAL, b"usd")));
    ops.group(0);
    ops.op(b"alice", b"debit", [own, local], OpRole::Step);
    ops.op(b"bob", b"credit", [local], OpRole::Step);
    ops.group(2);
    ops.op(b"alice", b"undo", [], OpRole::Undo);
    ops.finish(Vec::new())
}

fn rows() -> Vec<u8> {
    let mut rows = RowsWriter::default();
    rows.row(Some(b"row"));
    rows.row(None);
    rows.finish(Vec::new())
}

fn outcome() -> Vec<u8> {
    let mut outcome = OutcomeWriter::default();
    outcome.event(0, b"debited");
    outcome.event(1, b"");
    outcome.accept(0);
    outcome.event(2, b"dropped");
    outcome.reject(2, b"rejection");
    outcome.finish(Vec::new())
}

fn writes() -> Vec<u8> {
    let mut writes = WritesWriter::default();
    writes.write(0, None);
    writes.write(1, Some(b"new"));
    writes.finish(Vec::new())
}

#[test]
fn plan_in() {
    let item = PlanItem { command: 3, roles: 33, id: [9; 16], caller: b"alice", body: b"\xa0" };
    let mut writer = PlanInWriter::default();
    writer.item(item);
    let bytes = writer.finish(Vec::new());
    check(&bytes, expect_file!["golden/plan_in.txt"]);
    let parsed = PlanIn::parse(&bytes).expect("it was just written");
    assert_eq!((parsed.count(), parsed.item(0)), (1, item));
}

#[test]
fn plan_out() {
    let mut writer = PlanOutWriter::default();
    writer.step(b"debit", b"alice", Some(b"undo"), TccRole::Try);
    writer.key(Scope::Own, b"usd");
    writer.key(Scope::Local, b"usd");
    writer.step(b"credit", b"bob", None, TccRole::Confirm);
    writer.plan(Coordination::TryConfirmCancel, b"alice", b"\xa0");
    writer.step(b"dropped", b"x", None, TccRole::Try);
    writer.key(Scope::Own, b"dropped");
    writer.refuse(b"refusal");
    let bytes = writer.finish(Vec::new());
    check(&bytes, expect_file!["golden/plan_out.txt"]);
    let parsed = PlanOut::parse(&bytes).expect("it was just written");
    let coordination = Coordination::TryConfirmCancel;
    let plan = Planned::Plan { coordination, home: b"alice", body: b"\xa0", first_step: 0, step_count: 2 };
    assert_eq!((parsed.count(), parsed.item(0), parsed.item(1)), (2, plan, Planned::Refused(b"refusal")));
    let (debit, credit) = (parsed.step(0), parsed.step(1));
    assert_eq!((debit.undo, debit.tcc, debit.key_count), (Some(&b"undo"[..]), TccRole::Try, 2));
    assert_eq!(
        (credit.op, credit.entity, credit.undo, credit.tcc),
        (&b"credit"[..], &b"bob"[..], None, TccRole::Confirm)
    );
    assert_eq!((parsed.key(0), parsed.key(1)), ((Scope::Own, &b"usd"[..]), (Scope::Local, &b"usd"[..])));
}

#[test]
fn plan_out_with_consent() {
    let mut writer = PlanOutWriter::default();
    for op in [&b"debit"[..], b"credit", b"settle"] {
        writer.step(op, b"alice", None, TccRole::Try);
    }
    writer.plan(Coordination::Saga, b"alice", b"\xa0");
    let plain = writer.finish(Vec::new());
    assert!(FreeSteps::find(&plain).expect("it was just written").is_none(), "the module says nothing");
    let bytes = mark(&plain, |op| op != b"debit").expect("it was just written");
    check(&bytes, expect_file!["golden/plan_out_with_consent.txt"]);
    let free = FreeSteps::find(&bytes).expect("it was just written").expect("the section is there");
    assert_eq!([0, 1, 2, 3].map(|step| free.contains(step)), [false, true, true, false]);
    // What a host that does not know the section reads is what there was.
    let (before, after) = (PlanOut::parse(&plain), PlanOut::parse(&bytes));
    let (before, after) = (before.expect("it was just written"), after.expect("the section is optional"));
    assert_eq!((after.count(), after.item(0)), (before.count(), before.item(0)));
    assert!((0..3).all(|step| after.step(step) == before.step(step)));
    // The section ends the block: numbers that are no steps of it, or not in order, are refused.
    let place = bytes.len() - 8;
    for numbers in [[1, 3], [2, 1], [1, 1]] {
        let mut wrong = bytes.clone();
        for (at, number) in numbers.iter().enumerate() {
            wrong[place + at * 4] = *number;
        }
        assert!(FreeSteps::find(&wrong).is_err(), "{numbers:?}");
    }
}

#[test]
fn ops_block() {
    let bytes = ops();
    check(&bytes, expect_file!["golden/ops.txt"]);
    let parsed = OpsBlock::parse(&bytes).expect("it was just written");
    assert_eq!((parsed.group_count(), parsed.op_count(), parsed.key_count()), (2, 3, 2));
    assert_eq!(parsed.group(1), Group { first_op: 2, op_count: 1, command: 2 });
    let op = parsed.op(0);
    assert_eq!((op.payload, op.entity, op.role), (&b"debit"[..], &b"alice"[..], OpRole::Step as u32));
    assert_eq!(op.keyrefs().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(split_key(parsed.key(1)), Some((LOCAL, &b"usd"[..])));
}

#[test]
fn rows_block() {
    let bytes = rows();
    check(&bytes, expect_file!["golden/rows.txt"]);
    let parsed = RowsBlock::parse(&bytes).expect("it was just written");
    assert_eq!((parsed.count(), parsed.row(0), parsed.row(1)), (2, Some(&b"row"[..]), None));
}

#[test]
fn outcome_block() {
    let (ops, bytes) = (ops(), outcome());
    check(&bytes, expect_file!["golden/outcome.txt"]);
    let ops = OpsBlock::parse(&ops).expect("it was just written");
    let parsed = OutcomeBlock::parse(&bytes, &ops).expect("it was just written");
    assert_eq!(parsed.group(0), GroupOutcome::Events { first: 0, count: 2 });
    assert_eq!(parsed.group(1), GroupOutcome::Rejected(b"rejection"));
    assert_eq!(
        parsed.events().collect::<Vec<_>>(),
        [Event { op: 0, payload: b"debited" }, Event { op: 1, payload: b"" }]
    );
}

#[test]
fn writes_block() {
    let bytes = writes();
    check(&bytes, expect_file!["golden/writes.txt"]);
    let parsed = WritesBlock::parse(&bytes, 2).expect("it was just written");
    assert_eq!(parsed.writes().collect::<Vec<_>>(), [(0, None), (1, Some(&b"new"[..]))]);
}

#[test]
fn calls() {
    let (ops, rows, outcome, writes) = (ops(), rows(), outcome(), writes());
    let execute_in = write_execute_in(Vec::new(), CONTEXT, &ops, &rows);
    check(&execute_in, expect_file!["golden/execute_in.txt"]);
    let CallIn { context, ops: ops_in, rows: rows_in, outcome: none } =
        parse_execute_in(&execute_in).expect("it was just written");
    assert_eq!((context, ops_in, rows_in, none), (CONTEXT, &ops[..], &rows[..], None));

    let apply_in = write_apply_in(Vec::new(), CONTEXT, &ops, &rows, &outcome);
    check(&apply_in, expect_file!["golden/apply_in.txt"]);
    assert_eq!(parse_apply_in(&apply_in).expect("it was just written").outcome, Some(&outcome[..]));

    let needed = key(b"alice", b"eur");
    let execute_out = write_execute_out(Vec::new(), &outcome, &writes, [(2, &needed[..])]);
    check(&execute_out, expect_file!["golden/execute_out.txt"]);
    let parsed = ExecuteOut::parse(&execute_out).expect("it was just written");
    assert_eq!((parsed.outcome, parsed.writes), (&outcome[..], &writes[..]));
    assert_eq!(parsed.needed().collect::<Vec<_>>(), [NeededKey { op: 2, key: &needed }]);
}

#[test]
fn values() {
    let value = Value::map([
        ("null", Value::Null),
        ("bool", Value::Bool(true)),
        ("least", Value::Int(-(1 << 64))),
        ("greatest", Value::Int((1 << 64) - 1)),
        ("text", Value::text("ä")),
        ("bytes", Value::Bytes(vec![0, 255])),
        ("array", Value::Array(vec![Value::Int(23), Value::Int(24), Value::Map(Vec::new())])),
    ]);
    let bytes = value.to_cbor().expect("the integers fit");
    check(&bytes, expect_file!["golden/value.txt"]);
    assert_eq!(Value::from_cbor(&bytes), Ok(value));
}

#[test]
fn describe() {
    let field = |name: &str, schema| Field { name: name.into(), schema, required: true, summary: "a field".into() };
    let schema = Schema::Object {
        fields: vec![
            field("bool", Schema::Bool),
            field("int", Schema::Int { min: -1, max: 1 }),
            field("text", Schema::Text { min_chars: 1, max_chars: 64, format: TextFormat::Decimal }),
            field("enum", Schema::Enum { values: vec!["a".into()] }),
            field("array", Schema::Array { items: Box::new(Schema::Any), max_items: 2 }),
            field("map", Schema::Map { values: Box::new(Schema::Bool), max_entries: 3 }),
        ],
    };
    let describe = Describe {
        name: "wallet".into(),
        version: "1.0.0".into(),
        schema: 2,
        accepts: vec![1],
        commands: vec![CommandDecl {
            name: "transfer".into(),
            method: "POST".into(),
            path: "transfer".into(),
            body: schema.clone(),
            id_field: Some("id".into()),
            success: 201,
            response: Schema::Any,
            summary: "moves money".into(),
        }],
        queries: vec![QueryDecl {
            name: "account".into(),
            path: "accounts/{id}".into(),
            params: schema,
            entity_param: Some("id".into()),
            source: QuerySource::History,
            response: Schema::Any,
            summary: "reads".into(),
        }],
        rejections: vec![RejectionDecl { code: "poor".into(), status: 409, title: "not enough".into() }],
        events: vec![EventDecl { name: "Debited".into(), summary: "less".into() }],
        invariants: vec![InvariantDecl { name: "sum".into(), summary: "is 0".into() }],
    };
    check_cbor(&describe, expect_file!["golden/describe.txt"]);
}

fn facts() -> CommandFacts {
    CommandFacts {
        command: "transfer".into(),
        id: [1; 16],
        body: vec![0xa0],
        time: 5,
        position: "0.1.2~00".into(),
        events: vec![EventBytes { entity: b"alice".to_vec(), op: b"op".to_vec(), event: b"event".to_vec() }],
        rejection: Some(Rejection { code: "poor".into(), detail: "has 1".into() }),
        phases: vec![Phase { name: "finished".into(), time: 6, position: "0.2".into(), detail: None }],
    }
}

#[test]
fn render() {
    let facts = facts();
    let event = EventFacts {
        event: facts.events[0].clone(),
        command: facts.command.clone(),
        id: facts.id,
        body: facts.body.clone(),
        time: facts.time,
        position: facts.position.clone(),
    };
    let items = vec![
        RenderItem::Response(facts.clone()),
        RenderItem::Rejected(facts.clone()),
        RenderItem::Status(facts.clone()),
        RenderItem::Event(event),
        RenderItem::Row(Row { key: key(b"alice", b"usd"), row: None }),
        RenderItem::Body(facts),
    ];
    check_cbor(&items, expect_file!["golden/render.txt"]);
}

#[test]
fn query() {
    let row = Row { key: key(b"alice", b"usd"), row: Some(b"row".to_vec()) };
    let range = ScanRange { prefix: key(b"alice", b""), after: Some(row.key.clone()), limit: 10 };
    let scan = Scan { range: range.clone(), rows: vec![row.clone()], more: true };
    let input = QueryIn {
        name: "account".into(),
        params: Value::map([("id", Value::text("alice"))]),
        roles: 63,
        time: 5,
        position: "0.1".into(),
        rows: vec![row.clone()],
        scans: vec![scan],
    };
    check_cbor(&input, expect_file!["golden/query_in.txt"]);
    let refusal = Refusal { code: "no".into(), status: 404, detail: "none".into(), field: Some("id".into()) };
    let outs = vec![
        QueryOut::Done(Value::Null),
        QueryOut::NotFound(refusal.clone()),
        QueryOut::Refused(refusal),
        QueryOut::Need(Need { keys: vec![Key(row.key)], scans: vec![range] }),
    ];
    check_cbor(&outs, expect_file!["golden/query_out.txt"]);
}

#[test]
fn check_and_migrate() {
    let row = Row { key: key(b"alice", b"usd"), row: Some(b"row".to_vec()) };
    let violation = Violation { invariant: "sum".into(), detail: "is 1".into() };
    check_cbor(
        &(
            CheckIn { accumulator: vec![1], rows: vec![row.clone()], is_last: true },
            CheckOut { accumulator: vec![2], violations: vec![violation] },
        ),
        expect_file!["golden/check.txt"],
    );
    check_cbor(
        &(
            MigrateIn { from_schema: 1, entity: b"alice".to_vec(), rows: vec![row.clone()] },
            MigrateOut::Changed(vec![row]),
            MigrateOut::Refused("no".into()),
        ),
        expect_file!["golden/migrate.txt"],
    );
}
