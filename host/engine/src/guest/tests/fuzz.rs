//! Fuzz targets: what a module says of itself, and the check of CBOR before it is decoded.
//!
//! In: any bytes, as a hostile module may return them. Out: nothing, if a description that is accepted is written again
//! as it was read, within memory in proportion to the bytes. It does not know how inputs are made.

use statehouse_abi::describe::{
    CommandDecl, Describe, EventDecl, Field, InvariantDecl, QueryDecl, QuerySource, RejectionDecl, Schema, TextFormat,
};
use statehouse_fuzz::{Target, fuzz, within};
use statehouse_projection::abi::ViewDescribe;

use super::*;
use crate::guest::cbor;

/// Memory for reading: an empty text of one byte becomes 24 in a list that grows, and names are sorted besides.
fn bound(input: &[u8]) -> usize {
    (16 << 10) + 256 * input.len()
}

fn field(name: &str, schema: Schema) -> Field {
    Field { name: name.to_owned(), schema, required: true, summary: "a field".to_owned() }
}

/// A description that has one of everything.
fn description() -> Describe {
    let text = |format| Schema::Text { min_chars: 1, max_chars: 64, format };
    let nested =
        Schema::Array { items: Box::new(Schema::Object { fields: vec![field("x", Schema::Any)] }), max_items: 9 };
    let body = vec![
        field("id", text(TextFormat::Uuid)),
        field("account", text(TextFormat::Name)),
        field("amount", Schema::Int { min: -1, max: i64::MAX }),
        field("side", Schema::Enum { values: vec!["left".to_owned(), "right".to_owned()] }),
        field("lines", nested),
        field("tags", Schema::Map { values: Box::new(Schema::Bool), max_entries: 2 }),
    ];
    Describe {
        name: "wallet".to_owned(),
        version: "1.0.0-beta+1".to_owned(),
        schema: 3,
        accepts: vec![1, 2],
        commands: vec![CommandDecl {
            name: "transfer".to_owned(),
            method: "POST".to_owned(),
            path: "accounts/{account}/transfers".to_owned(),
            body: Schema::Object { fields: body.clone() },
            id_field: Some("id".to_owned()),
            success: 201,
            response: Schema::Object { fields: body.clone() },
            summary: "moves money".to_owned(),
        }],
        queries: vec![QueryDecl {
            name: "history".to_owned(),
            path: "accounts/{account}/history".to_owned(),
            params: Schema::Object { fields: body },
            entity_param: Some("account".to_owned()),
            source: QuerySource::History,
            response: Schema::Any,
            summary: "what happened".to_owned(),
        }],
        rejections: vec![RejectionDecl { code: "too_little".to_owned(), status: 409, title: "too little".to_owned() }],
        events: vec![EventDecl { name: "debit".to_owned(), summary: "money left".to_owned() }],
        invariants: vec![InvariantDecl { name: "books".to_owned(), summary: "they balance".to_owned() }],
    }
}

fn to_cbor(description: &Describe) -> Vec<u8> {
    minicbor::to_vec(description).expect("a vector takes all bytes")
}

#[test]
fn a_description_that_is_accepted_is_written_as_it_was() {
    let described = to_cbor(&description());
    assert!(describe::read(&described, false).is_ok(), "the seed is good");
    let small = Describe { commands: Vec::new(), queries: Vec::new(), ..description() };
    fuzz!(Target::new("describe").seeds([described, to_cbor(&small)]), |input| {
        for is_view in [false, true] {
            let Ok(read) = within(bound(input), || describe::read(input, is_view)) else { continue };
            assert_eq!(read.source.is_some(), is_view);
            if !is_view {
                let again = describe::read(&to_cbor(&read.describe), false);
                assert_eq!(again.map(|again| again.describe), Ok(read.describe));
            }
        }
    });
}

/// What the check passes is decoded by types of all kinds, none of which may recurse without end or ask for much.
#[test]
fn cbor_that_is_accepted_is_decoded_within_bounds() {
    let value = Value::map([("a", Value::Array(vec![Value::Int(1), Value::text("x"), Value::Bytes(vec![1; 30])]))]);
    let value = value.to_cbor().expect("a small value");
    fuzz!(Target::new("guest_cbor").seeds([value, to_cbor(&description())]), |input| {
        if within(bound(input), || cbor::check(input)).is_err() {
            return;
        }
        within(bound(input), || drop(minicbor::decode::<Describe>(input)));
        within(bound(input), || drop(minicbor::decode::<ViewDescribe>(input)));
        if let Ok(value) = within(bound(input), || Value::from_cbor(input)) {
            let again = value.to_cbor().expect("what was read can be written");
            assert_eq!(Value::from_cbor(&again), Ok(value));
        }
    });
}
