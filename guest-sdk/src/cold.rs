//! The bytes of the calls in CBOR: describe, query, render, check and migrate.
//!
//! They are not made for every batch, so they decode, call the module, and encode. They know nothing of rounds:
//! the host calls `query` again with more rows until it is done.

use minicbor::{Decode, Encode};
use statehouse_abi::block::AbiError;
use statehouse_abi::cold::{CheckIn, CheckOut, MigrateIn, MigrateOut, QueryIn, QueryOut, Refusal, RenderItem};
use statehouse_abi::describe::{Describe, EventDecl, InvariantDecl};
use statehouse_abi::key::split_key;
use statehouse_abi::value::Value;

use crate::declare::{Commands, Queries, Rejections, refuse_body};
use crate::facts::{Done, EventContext, Violations};
use crate::frame::encode;
use crate::hot::decode;
use crate::module::Module;
use crate::reader::{QueryStop, Reader};

pub(crate) fn describe<M: Module>() -> Vec<u8> {
    let event = |named: &crate::Named| EventDecl { name: named.name.into(), summary: named.summary.into() };
    let invariant = |named: &crate::Named| InvariantDecl { name: named.name.into(), summary: named.summary.into() };
    to_cbor(&Describe {
        name: M::NAME.into(),
        version: M::VERSION.into(),
        schema: M::SCHEMA,
        accepts: M::ACCEPTS.to_vec(),
        commands: M::Command::declare(),
        queries: M::Query::declare(),
        rejections: M::Rejection::declare(),
        events: M::EVENTS.iter().map(event).collect(),
        invariants: M::INVARIANTS.iter().map(invariant).collect(),
    })
}

pub(crate) fn query<M: Module>(input: &[u8]) -> Result<Vec<u8>, AbiError> {
    let input: QueryIn = from_cbor(input)?;
    let query = match M::Query::decode(&input.name, &input.params) {
        Some(Ok(query)) => query,
        Some(Err(error)) => return Ok(to_cbor(&QueryOut::Refused(refuse_body(error)))),
        None => {
            let detail = format!("the module has no query {}", input.name);
            let refusal = Refusal { code: "no_such_query".into(), status: 404, detail, field: None };
            return Ok(to_cbor(&QueryOut::NotFound(refusal)));
        }
    };
    let reader = Reader::new(&input);
    Ok(to_cbor(&match M::query(&query, &reader) {
        Ok(value) => QueryOut::Done(value),
        Err(QueryStop::NotFound(refusal)) => QueryOut::NotFound(refusal),
        Err(QueryStop::Refused(refusal)) => QueryOut::Refused(refusal),
        Err(QueryStop::Pending) => QueryOut::Need(reader.into_need()),
    }))
}

pub(crate) fn render<M: Module>(input: &[u8]) -> Result<Vec<u8>, AbiError> {
    let items: Vec<RenderItem> = from_cbor(input)?;
    Ok(to_cbor(&items.iter().map(render_item::<M>).collect::<Vec<Value>>()))
}

fn render_item<M: Module>(item: &RenderItem) -> Value {
    match item {
        RenderItem::Response(facts) => M::render_response(&Done::new(facts)),
        RenderItem::Rejected(facts) => M::render_rejected(&Done::new(facts)),
        RenderItem::Status(facts) => M::render_status(&Done::new(facts)),
        RenderItem::Body(facts) => M::render_body(&Done::new(facts)),
        RenderItem::Event(facts) => match borsh::from_slice(&facts.event.event) {
            Ok(event) => M::render_event(&event, &EventContext::new(facts)),
            Err(_) => Value::Bytes(facts.event.event.clone()),
        },
        RenderItem::Row(row) => match (split_key(&row.key), &row.row) {
            (Some((entity, suffix)), Some(bytes)) => M::render_row(entity, suffix, bytes),
            _ => Value::Null,
        },
    }
}

pub(crate) fn check<M: Module>(input: &[u8]) -> Result<Vec<u8>, AbiError> {
    let input: CheckIn = from_cbor(input)?;
    let mut tally: M::Tally =
        if input.accumulator.is_empty() { Default::default() } else { decode("accumulator", &input.accumulator) };
    let mut violations = Violations::default();
    for row in &input.rows {
        if let (Some((entity, suffix)), Some(bytes)) = (split_key(&row.key), &row.row) {
            M::check_row(&mut tally, entity, suffix, bytes, &mut violations);
        }
    }
    if input.is_last {
        M::check_end(&tally, &mut violations);
    }
    let mut accumulator = Vec::new();
    encode(&mut accumulator, &tally);
    Ok(to_cbor(&CheckOut { accumulator, violations: violations.found }))
}

pub(crate) fn migrate<M: Module>(input: &[u8]) -> Result<Vec<u8>, AbiError> {
    let input: MigrateIn = from_cbor(input)?;
    let changed = if input.from_schema == M::SCHEMA {
        Ok(Vec::new())
    } else {
        M::migrate(input.from_schema, &input.entity, &input.rows)
    };
    Ok(to_cbor(&changed.map_or_else(MigrateOut::Refused, MigrateOut::Changed)))
}

fn to_cbor<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("values of a module lie within 64 bits")
}

fn from_cbor<'b, T: Decode<'b, ()>>(input: &'b [u8]) -> Result<T, AbiError> {
    minicbor::decode(input).map_err(|_| AbiError::Value { what: "input is not the CBOR it should be" })
}
