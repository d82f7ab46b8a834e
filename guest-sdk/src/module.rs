//! The trait that a module implements, and nothing else: what the host calls, in the order of a command's life.
//!
//! Every method is a pure function of its arguments. Whatever panics in `validate` becomes the recorded rejection
//! `module_trap` of that one command; whatever panics in `apply` halts the partition, because state is `apply(events)`.
//! It does not know bytes: those are in `hot.rs` and `cold.rs`.

use borsh::{BorshDeserialize, BorshSerialize};
use statehouse_abi::cold::{Refusal, Row};
use statehouse_abi::value::Value;

use crate::declare::{Commands, Queries, Rejections};
use crate::facts::{Done, EventContext, Violations, body_value, status_value};
use crate::frame::{Events, Tx, View};
use crate::planner::{Caller, Planner};
use crate::reader::{QueryStop, Reader};

/// A name and one line about it, for `describe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    pub name: &'static str,
    pub summary: &'static str,
}

/// A deterministic state machine.
///
/// The attribute [`module`](crate::module) fills in `VERSION` (the crate's), `Query` ([`NoQueries`](crate::NoQueries))
/// and `Tally` (`()`) where the impl leaves them out.
pub trait Module: Sized + 'static {
    /// Name of the machine, `[a-z][a-z0-9_-]{0,31}`.
    const NAME: &'static str;
    /// Semantic version of this module.
    const VERSION: &'static str;
    /// Version of the encodings of ops, events and rows; raise it when one of them changes.
    const SCHEMA: u32;
    /// Older schemas whose ops and events this module still accepts.
    const ACCEPTS: &'static [u32] = &[];
    const EVENTS: &'static [Named] = &[];
    const INVARIANTS: &'static [Named] = &[];

    type Command: Commands;
    type Query: Queries;
    /// One step on one entity. Keep it `Copy`-like: it is decoded once for every execution.
    type Op: BorshSerialize + BorshDeserialize;
    /// The validated fact. It is kept for ever.
    type Event: BorshSerialize + BorshDeserialize;
    type Rejection: Rejections;
    /// What [`check_row`](Self::check_row) adds up over all rows of a partition.
    type Tally: BorshSerialize + BorshDeserialize + Default;

    /// Turns a command into steps. The host has checked the body against its schema; the rest is checked here.
    /// Runs on any node and sees no rows.
    ///
    /// # Errors
    /// A refusal is answered at once and is not recorded.
    fn plan(command: &Self::Command, caller: &Caller<'_>, planner: &mut Planner<'_, Self::Op>) -> Result<(), Refusal>;

    /// Decides about one op on the rows it may see, and emits its events.
    /// A row that the step did not declare reads as absent; the host then adds the key and runs the group again.
    ///
    /// # Errors
    /// A rejection undoes the whole command, is recorded, and sticks to the command's id.
    fn validate(op: &Self::Op, view: &View<'_>, events: &mut Events<'_, Self::Event>) -> Result<(), Self::Rejection>;

    /// Changes rows by one event. It must not decide anything any more. Runs on every replica and in every replay.
    fn apply(event: &Self::Event, tx: &mut Tx<'_>);

    /// Answers a query. `?` on the reader's results asks for rows that are not there yet; the query is then run again
    /// from its start, at most 8 rounds in all.
    ///
    /// # Errors
    /// [`QueryStop::not_found`] and [`QueryStop::refused`]; and what the reader returns.
    fn query(query: &Self::Query, reader: &Reader<'_>) -> Result<Value, QueryStop> {
        let (_, _) = (query, reader);
        Err(QueryStop::not_found("no_such_query", "this module has no queries"))
    }

    /// The body of the answer to a command that succeeded. The host adds `position`.
    fn render_response(done: &Done<'_, Self>) -> Value;

    /// Members to add to the problem that answers a rejected command.
    fn render_rejected(done: &Done<'_, Self>) -> Value {
        let _ = done;
        Value::Map(Vec::new())
    }

    /// The recorded outcome of a command, for whoever asks later: by default id, outcome, time, position and phases.
    fn render_status(done: &Done<'_, Self>) -> Value {
        status_value(done)
    }

    /// One event, as an entity's history and the event stream show it.
    fn render_event(event: &Self::Event, context: &EventContext<'_, Self>) -> Value;

    /// One row, for audit reports.
    fn render_row(entity: &[u8], suffix: &[u8], row: &[u8]) -> Value;

    /// The canonical body of a command, for audit reports: by default as it is.
    fn render_body(done: &Done<'_, Self>) -> Value {
        body_value(done)
    }

    /// Looks at one row of the partition; rows come in order of key.
    fn check_row(tally: &mut Self::Tally, entity: &[u8], suffix: &[u8], row: &[u8], violations: &mut Violations) {
        let (_, _, _, _, _) = (tally, entity, suffix, row, violations);
    }

    /// Judges the whole partition after its last row.
    fn check_end(tally: &Self::Tally, violations: &mut Violations) {
        let (_, _) = (tally, violations);
    }

    /// Brings all rows of one entity from an older schema to [`SCHEMA`](Self::SCHEMA), and returns the rows that
    /// change. It is not called for the module's own schema.
    ///
    /// # Errors
    /// Why these rows cannot be brought over; by default every foreign schema.
    fn migrate(from_schema: u32, entity: &[u8], rows: &[Row]) -> Result<Vec<Row>, String> {
        let (_, _) = (entity, rows);
        Err(format!("rows of schema {from_schema} cannot be brought to schema {}", Self::SCHEMA))
    }

    /// What is done where `op` is refused for ever though it must succeed: the op of a step in Confirm, or the undo of a step in Try. It runs on
    /// the same entity and may touch the step's keys; an operator orders it (`statehouse command settle`), and nothing else does.
    fn last_resort(op: &Self::Op) -> Option<Self::Op> {
        let _ = op;
        None
    }

    /// Whether the module has last resorts. The attribute sets it where [`last_resort`](Self::last_resort) is there.
    const HAS_LAST_RESORTS: bool = false;

    /// Whether an op takes from its entity, or changes it in another way, so that whoever may act for the entity must want it. An op that only
    /// gives needs nobody's consent: a payment that arrives. The host lets a caller that is bound to some entities plan such ops on all others.
    /// Where it is left out, the host knows only what TC/C says: a step in Confirm, on an entity without one in Try, is taken to give.
    fn needs_consent(op: &Self::Op) -> bool {
        let _ = op;
        true
    }

    /// Whether the module says which ops need consent. The attribute sets it where [`needs_consent`](Self::needs_consent) is there.
    const SAYS_CONSENT: bool = false;
}
