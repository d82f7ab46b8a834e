//! The exports of a view as plain functions on bytes: what the wasm exports call, and what native tests compare with.
//!
//! A panic of the view unwinds to the caller, who stands where the host stands and turns it into a trap. It knows nothing of linear memory.

use minicbor::{Decode, Encode};
use statehouse_abi::cold::{Key, Refusal};
use statehouse_abi::export;
use statehouse_guest::{Queries, QueryStop};

use crate::abi::{self, ProjectIn, ProjectOut, QueryIn, QueryOut, ViewDescribe};
use crate::projection::{FromDecision, Projection};
use crate::reader::Reader;
use crate::tx::{Keys, ViewTx};

/// An export that takes and gives bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Export {
    Describe,
    Project,
    Query,
}

impl Export {
    /// Its name in the view.
    pub fn name(self) -> &'static str {
        match self {
            Self::Describe => export::DESCRIBE,
            Self::Project => abi::PROJECT,
            Self::Query => export::QUERY,
        }
    }
}

/// Calls an export of `P`; `input` is empty for [`Export::Describe`].
///
/// # Panics
/// Where the view would trap: when it panics itself, and when the input is not what the ABI says.
pub fn call<P: Projection>(export: Export, input: &[u8]) -> Vec<u8> {
    match export {
        Export::Describe => to_cbor(&describe::<P>()),
        Export::Project => to_cbor(&project::<P>(&from_cbor(export, input))),
        Export::Query => to_cbor(&query::<P>(&from_cbor(export, input))),
    }
}

fn describe<P: Projection>() -> ViewDescribe {
    ViewDescribe {
        name: P::NAME.into(),
        version: P::VERSION.into(),
        schema: P::SCHEMA,
        accepts: Vec::new(),
        commands: Vec::new(),
        queries: P::Query::declare(),
        rejections: Vec::new(),
        events: Vec::new(),
        invariants: Vec::new(),
        source: P::SOURCE.into(),
    }
}

fn project<P: Projection>(input: &ProjectIn) -> ProjectOut {
    let events: Vec<P::Event> = input.decisions.iter().flat_map(P::Event::read).collect();
    let mut tx = ViewTx::new(&input.rows);
    let mut keys = Keys::default();
    events.iter().for_each(|event| P::keys(event, &mut keys));
    let missing: Vec<Key> = keys.keys.into_iter().filter(|key| !tx.is_fetched(key)).map(Key).collect();
    if !missing.is_empty() {
        return ProjectOut::Need(missing);
    }
    for event in &events {
        if P::project(event, &mut tx).is_err() {
            return ProjectOut::Need(tx.needed.drain(..).map(Key).collect());
        }
    }
    ProjectOut::Writes(tx.into_writes())
}

fn query<P: Projection>(input: &QueryIn) -> QueryOut {
    let query = match P::Query::decode(&input.name, &input.params) {
        Some(Ok(query)) => query,
        Some(Err(error)) => {
            let detail = error.to_string();
            let field = (!error.field.is_empty()).then_some(error.field);
            return QueryOut::Refused(Refusal { code: "malformed_parameters".into(), status: 400, detail, field });
        }
        None => {
            let detail = format!("the view has no query {}", input.name);
            return QueryOut::NotFound(Refusal { code: "no_such_query".into(), status: 404, detail, field: None });
        }
    };
    let reader = Reader::new(input);
    match P::query(&query, &reader) {
        Ok(value) => QueryOut::Done(value),
        Err(QueryStop::NotFound(refusal)) => QueryOut::NotFound(refusal),
        Err(QueryStop::Refused(refusal)) => QueryOut::Refused(refusal),
        Err(QueryStop::Pending) => QueryOut::Need(reader.into_need()),
    }
}

fn to_cbor<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("values of a view lie within 64 bits")
}

fn from_cbor<'b, T: Decode<'b, ()>>(export: Export, input: &'b [u8]) -> T {
    minicbor::decode(input).unwrap_or_else(|error| panic!("input of {}: {error}", export.name()))
}
