//! Every byte that crosses between the host and a view, ABI v1: CBOR maps with small integer keys, of which unknown ones are skipped.
//!
//! Exports: `sh1_alloc`, `sh1_describe`, `sh1_project` ([`ProjectIn`] → [`ProjectOut`]), `sh1_query` ([`QueryIn`] → [`QueryOut`]) and
//! `sh1_panic`, called as those of a module are. A view's description has the keys of a module's ([`statehouse_abi::describe::Describe`])
//! and one more, so either side reads what it knows. It knows nothing of where rows lie or of how an answer is transported.

use minicbor::{Decode, Encode};
use statehouse_abi::cold::{Refusal, Rejection, Row};
use statehouse_abi::describe::{CommandDecl, EventDecl, InvariantDecl, QueryDecl, RejectionDecl};
use statehouse_abi::value::Value;

/// The export that a view has and a module has not.
pub const PROJECT: &str = "sh1_project";

/// What a view says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ViewDescribe {
    /// Name of the view, `[a-z][a-z0-9_-]{0,31}`.
    #[n(0)]
    pub name: String,
    /// Semantic version of the view.
    #[n(1)]
    pub version: String,
    /// Version of the view's rows.
    #[n(2)]
    pub schema: u32,
    /// This and all others up to `invariants` are those of a module, and empty.
    #[n(3)]
    pub accepts: Vec<u32>,
    #[n(4)]
    pub commands: Vec<CommandDecl>,
    /// Paths below `/v1/<source>/`.
    #[n(5)]
    pub queries: Vec<QueryDecl>,
    #[n(6)]
    pub rejections: Vec<RejectionDecl>,
    #[n(7)]
    pub events: Vec<EventDecl>,
    #[n(8)]
    pub invariants: Vec<InvariantDecl>,
    /// Name of the machine whose decisions it reads.
    #[n(9)]
    pub source: String,
}

/// Input of `sh1_project`: decisions of one partition, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ProjectIn {
    #[n(0)]
    pub decisions: Vec<Decision>,
    /// All rows that earlier rounds asked for, in order of key, each once.
    #[n(1)]
    pub rows: Vec<Row>,
}

/// Output of `sh1_project`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ProjectOut {
    /// Rows that change, each once, in order of key; one without a value is removed.
    #[n(0)]
    Writes(#[n(0)] Vec<Row>),
    /// Asks for more rows, by their full keys; the next round has them and all earlier ones.
    #[n(1)]
    Need(#[n(0)] Vec<statehouse_abi::cold::Key>),
}

/// What one entry of a partition's journal says of one command.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Decision {
    #[n(0)]
    pub partition: u32,
    /// Number of the entry in the partition's journal.
    #[n(1)]
    pub index: u64,
    /// Number of the first event, or of the rejection, within the entry.
    #[n(2)]
    pub n: u32,
    /// The first bytes of the journal's head there.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub head8: [u8; 4],
    /// Of the entry, microseconds since 1970 UTC; rising from entry to entry of a partition.
    #[n(4)]
    pub time: i64,
    /// Name of the command.
    #[n(5)]
    pub command: String,
    /// The id that the client chose, in every entry that has to do with the command.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub id: [u8; 16],
    #[n(7)]
    pub part: Part,
    #[n(8)]
    pub caller: String,
    #[n(9)]
    pub request_id: String,
    /// The module that decided: blake3 of its bytes.
    #[cbor(n(10), with = "minicbor::bytes")]
    pub module: [u8; 32],
    /// The canonical body.
    #[n(11)]
    pub body: Value,
    /// What the steps were about, each once.
    #[n(12)]
    pub entities: Vec<String>,
    /// In their order; empty when it was rejected.
    #[n(13)]
    pub events: Vec<Happened>,
    #[n(14)]
    pub rejection: Option<Rejection>,
}

/// What an entry is to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Part {
    /// All of it: it needed no other partition, or was rejected before it asked one.
    #[n(0)]
    Whole,
    /// Its first steps; it goes on in other partitions.
    #[n(1)]
    Start,
    /// Steps of it in this partition, or the undo of those. A rejection here is an answer to the command's coordinator.
    #[n(2)]
    Call,
    /// Its outcome, at the coordinator. The events are those of its other parts, which have told of them already.
    #[n(3)]
    End,
}

impl Part {
    /// Whether the events happened here. Those of an end are told again, so that the whole command is in one place.
    pub fn happens_here(self) -> bool {
        self != Self::End
    }

    /// Whether it carries the outcome that clients are told.
    pub fn is_outcome(self) -> bool {
        matches!(self, Self::Whole | Self::End)
    }
}

/// An event as the module that decided it shows it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Happened {
    #[n(0)]
    pub entity: String,
    #[n(1)]
    pub value: Value,
}

impl Decision {
    /// Where the event with this number of the decision stands, as clients see it.
    pub fn position(&self, event: usize) -> String {
        position(self.partition, self.index, self.n + event as u32, self.head8)
    }
}

/// A position as clients see it.
pub fn position(partition: u32, index: u64, n: u32, head8: [u8; 4]) -> String {
    let [a, b, c, d] = head8;
    format!("{partition}.{index}.{n}~{a:02x}{b:02x}{c:02x}{d:02x}")
}

/// Input of `sh1_query`. All rows and scans come from one moment of the view, in every round.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct QueryIn {
    /// Name of the query in the description.
    #[n(0)]
    pub name: String,
    #[n(1)]
    pub params: Value,
    /// Bits of [`role`](statehouse_abi::role).
    #[n(2)]
    pub roles: u32,
    /// The moment that is asked about, microseconds since 1970 UTC; without one the newest.
    #[n(3)]
    pub at: Option<i64>,
    /// How far the view is in each partition of the machine.
    #[n(4)]
    pub partitions: Vec<Followed>,
    /// The partition of the entity that the query names.
    #[n(5)]
    pub home: Option<u32>,
    /// All rows that earlier rounds asked for.
    #[n(6)]
    pub rows: Vec<ViewRow>,
    /// All scans that earlier rounds asked for.
    #[n(7)]
    pub scans: Vec<Scan>,
}

/// How far a partition is followed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Followed {
    #[n(0)]
    pub partition: u32,
    #[n(1)]
    pub position: String,
    /// Of the last entry that was followed; 0 when there is none.
    #[n(2)]
    pub time: i64,
}

/// A row, and whose.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ViewRow {
    #[n(0)]
    pub partition: u32,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub key: Vec<u8>,
    #[cbor(n(2), with = "minicbor::bytes")]
    pub row: Option<Vec<u8>>,
}

/// In which order a range is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Order {
    #[n(0)]
    Rising,
    #[n(1)]
    Falling,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ScanRange {
    /// One partition's rows; without it those of all, as one range in order of key and then partition.
    #[n(0)]
    pub partition: Option<u32>,
    /// Full key prefix: at least `len ‖ entity`.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub prefix: Vec<u8>,
    /// Only keys behind this one, in the order of reading.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub after: Option<Vec<u8>>,
    #[n(3)]
    pub limit: u32,
    #[n(4)]
    pub order: Order,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Scan {
    #[n(0)]
    pub range: ScanRange,
    #[n(1)]
    pub rows: Vec<ViewRow>,
    /// There are more rows behind the last one.
    #[n(2)]
    pub more: bool,
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
    #[n(0)]
    pub rows: Vec<WantedRow>,
    #[n(1)]
    pub scans: Vec<ScanRange>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct WantedRow {
    #[n(0)]
    pub partition: u32,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub key: Vec<u8>,
}
