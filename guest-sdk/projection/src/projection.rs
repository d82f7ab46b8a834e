//! The trait that a view implements, and nothing else: what the host calls.
//!
//! Every method is a pure function of its arguments. Whatever panics in `project` stops this view, and nothing else: the host shows the
//! panic's text, and goes on once a repaired version is there. It does not know bytes: those are in `native.rs`.

use statehouse_abi::value::Value;
use statehouse_guest::{Queries, QueryStop};

use crate::abi::Decision;
use crate::reader::Reader;
use crate::tx::{Keys, Pending, ViewTx};

/// What a view reads from decisions: its own typed events.
pub trait FromDecision: Sized {
    /// What a decision means to this view, in order; nothing of what it does not know.
    fn read(decision: &Decision) -> Vec<Self>;
}

/// For views that are about decisions as such.
impl FromDecision for Decision {
    fn read(decision: &Decision) -> Vec<Self> {
        vec![decision.clone()]
    }
}

/// A read model of one machine.
pub trait Projection: Sized + 'static {
    /// Name of the view, `[a-z][a-z0-9_-]{0,31}`.
    const NAME: &'static str;
    /// Semantic version: `env!("CARGO_PKG_VERSION")`.
    const VERSION: &'static str;
    /// Name of the machine whose decisions it reads.
    const SOURCE: &'static str;
    /// Version of the rows. Every other version of a view is built anew from the whole history, so nothing is ever migrated.
    const SCHEMA: u32;

    type Event: FromDecision;
    type Query: Queries;

    /// Names rows that `project` will read, so that those of a whole batch are fetched at once. One that is missing here is fetched when it
    /// is touched, which costs a call more.
    fn keys(event: &Self::Event, keys: &mut Keys) {
        let (_, _) = (event, keys);
    }

    /// Changes rows by one event. It sees the rows of the event's partition only.
    ///
    /// # Errors
    /// [`Pending`], made by `tx` alone: hand it on with `?`.
    fn project(event: &Self::Event, tx: &mut ViewTx<'_>) -> Result<(), Pending>;

    /// Answers a query. `?` on the reader's results asks for rows that are not there yet; the query is then run again from its start, at
    /// most 8 rounds in all.
    ///
    /// # Errors
    /// [`QueryStop::not_found`] and [`QueryStop::refused`]; and what the reader returns.
    fn query(query: &Self::Query, reader: &Reader<'_>) -> Result<Value, QueryStop>;
}
