//! The cold calls in CBOR: refusals and rejections, query, render, check and migrate.
//!
//! Structures are CBOR maps with small integer keys; a key that is not known is skipped. They know nothing of where
//! rows come from or of how an answer is transported.

use alloc::string::String;
use alloc::vec::Vec;

use minicbor::{Decode, Encode};

use crate::value::Value;

/// Why `sh1_plan` will not plan a command. Not recorded; the same body may be planned later.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Refusal {
    /// Stable, `[a-z][a-z0-9_]*`.
    #[n(0)]
    pub code: String,
    /// 400, 403 or 422.
    #[n(1)]
    pub status: u16,
    /// What is wrong and what to do, for people.
    #[n(2)]
    pub detail: String,
    /// The body's field that is to blame.
    #[n(3)]
    pub field: Option<String>,
}

/// Why a group was rejected. Recorded in the journal; it sticks to the command's id.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Rejection {
    /// A code of [`Describe::rejections`](crate::describe::Describe), or one of [`host_rejection`].
    #[n(0)]
    pub code: String,
    #[n(1)]
    pub detail: String,
}

/// Rejections that the host records itself.
pub mod host_rejection {
    pub const MODULE_TRAP: &str = "module_trap";
    pub const BUDGET: &str = "budget";
    pub const MODULE_INCONSISTENT: &str = "module_inconsistent";
    /// An op touched more undeclared keys, or more often, than the host allows.
    pub const KEYS: &str = "undeclared_keys";
}

/// Input of `sh1_query`. All rows and scans come from one position, in every round.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct QueryIn {
    /// Name of the query in `describe`.
    #[n(0)]
    pub name: String,
    #[n(1)]
    pub params: Value,
    /// Bits of [`role`](crate::role).
    #[n(2)]
    pub roles: u32,
    /// Time of the position that is read, microseconds since 1970 UTC.
    #[n(3)]
    pub time: i64,
    /// The position, as clients see it.
    #[n(4)]
    pub position: String,
    /// All rows that earlier rounds asked for.
    #[n(5)]
    pub rows: Vec<Row>,
    /// All scans that earlier rounds asked for.
    #[n(6)]
    pub scans: Vec<Scan>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Row {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub key: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub row: Option<Vec<u8>>,
}

/// Rows of one entity in order of key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Scan {
    #[n(0)]
    pub range: ScanRange,
    #[n(1)]
    pub rows: Vec<Row>,
    /// There are more rows behind the last one.
    #[n(2)]
    pub more: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ScanRange {
    /// Full key prefix: at least `len ‖ entity`.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub prefix: Vec<u8>,
    /// Only keys behind this one.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub after: Option<Vec<u8>>,
    #[n(2)]
    pub limit: u32,
}

/// Output of `sh1_query`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum QueryOut {
    #[n(0)]
    Done(#[n(0)] Value),
    /// The thing asked for does not exist: 404.
    #[n(1)]
    NotFound(#[n(0)] Refusal),
    #[n(2)]
    Refused(#[n(0)] Refusal),
    /// Asks for more rows; the next round has them and all earlier ones.
    #[n(3)]
    Need(#[n(0)] Need),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Need {
    /// Full keys.
    #[n(0)]
    pub keys: Vec<Key>,
    #[n(1)]
    pub scans: Vec<ScanRange>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Key(#[cbor(n(0), with = "minicbor::bytes")] pub Vec<u8>);

/// Input of `sh1_render`: a list of these; output: as many [`Value`]s, in order.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum RenderItem {
    /// The body of a successful answer to a command.
    #[n(0)]
    Response(#[n(0)] CommandFacts),
    /// Members to add to the problem that answers a rejected command.
    #[n(1)]
    Rejected(#[n(0)] CommandFacts),
    /// The recorded outcome of a command, for whoever asks later.
    #[n(2)]
    Status(#[n(0)] CommandFacts),
    /// One event, as the history of its entity and the event stream show it.
    #[n(3)]
    Event(#[n(0)] EventFacts),
    /// One row, for audit reports.
    #[n(4)]
    Row(#[n(0)] Row),
    /// The canonical body of a command, for audit reports.
    #[n(5)]
    Body(#[n(0)] CommandFacts),
}

/// What is known of a command whose outcome is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CommandFacts {
    /// Name in `describe`.
    #[n(0)]
    pub command: String,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub id: [u8; 16],
    /// The canonical body, CBOR of a value.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub body: Vec<u8>,
    /// Microseconds since 1970 UTC.
    #[n(3)]
    pub time: i64,
    #[n(4)]
    pub position: String,
    #[n(5)]
    pub events: Vec<EventBytes>,
    /// Set when it was rejected.
    #[n(6)]
    pub rejection: Option<Rejection>,
    #[n(7)]
    pub phases: Vec<Phase>,
}

/// An event and the op that produced it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct EventBytes {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub entity: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub op: Vec<u8>,
    #[cbor(n(2), with = "minicbor::bytes")]
    pub event: Vec<u8>,
}

/// One phase a command went through, for its status.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Phase {
    /// `started`, `step done`, `finished`, ….
    #[n(0)]
    pub name: String,
    #[n(1)]
    pub time: i64,
    #[n(2)]
    pub position: String,
    #[n(3)]
    pub detail: Option<String>,
}

/// An event of an entity with the command it came from.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct EventFacts {
    #[n(0)]
    pub event: EventBytes,
    #[n(1)]
    pub command: String,
    #[cbor(n(2), with = "minicbor::bytes")]
    pub id: [u8; 16],
    #[cbor(n(3), with = "minicbor::bytes")]
    pub body: Vec<u8>,
    #[n(4)]
    pub time: i64,
    #[n(5)]
    pub position: String,
}

/// Input of `sh1_check`: a chunk of rows in order of key, and what the chunk before left.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CheckIn {
    /// Empty for the first chunk.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub accumulator: Vec<u8>,
    #[n(1)]
    pub rows: Vec<Row>,
    /// No chunk follows: judge the whole.
    #[n(2)]
    pub is_last: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CheckOut {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub accumulator: Vec<u8>,
    #[n(1)]
    pub violations: Vec<Violation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Violation {
    /// Name of the invariant in `describe`.
    #[n(0)]
    pub invariant: String,
    #[n(1)]
    pub detail: String,
}

/// Input of `sh1_migrate`: all rows of one entity.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct MigrateIn {
    #[n(0)]
    pub from_schema: u32,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub entity: Vec<u8>,
    #[n(2)]
    pub rows: Vec<Row>,
}

/// Output of `sh1_migrate`: the rows that change; a row without a value is deleted.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum MigrateOut {
    #[n(0)]
    Changed(#[n(0)] Vec<Row>),
    #[n(1)]
    Refused(#[n(0)] String),
}
