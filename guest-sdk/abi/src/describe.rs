//! What a module says of itself (`sh1_describe`): names, versions, commands, queries, rejections, events, invariants.
//!
//! CBOR maps with small integer keys; a key an older host does not know is skipped. The host mounts routes, checks
//! bodies and writes OpenAPI from this alone. It knows nothing of how a body is transported.

use alloc::string::String;
use alloc::vec::Vec;

use minicbor::{Decode, Encode};

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Describe {
    /// Name of the machine, `[a-z][a-z0-9_-]{0,31}`.
    #[n(0)]
    pub name: String,
    /// Semantic version of the module.
    #[n(1)]
    pub version: String,
    /// Version of the module's ops, events and rows.
    #[n(2)]
    pub schema: u32,
    /// Older schema versions whose ops and events this module still accepts.
    #[n(3)]
    pub accepts: Vec<u32>,
    #[n(4)]
    pub commands: Vec<CommandDecl>,
    #[n(5)]
    pub queries: Vec<QueryDecl>,
    #[n(6)]
    pub rejections: Vec<RejectionDecl>,
    #[n(7)]
    pub events: Vec<EventDecl>,
    #[n(8)]
    pub invariants: Vec<InvariantDecl>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CommandDecl {
    #[n(0)]
    pub name: String,
    /// `POST`, `PUT` or `DELETE`.
    #[n(1)]
    pub method: String,
    /// Path below `/v1/<machine>/`; `{field}` takes that field of the body from the path.
    #[n(2)]
    pub path: String,
    /// Always a [`Schema::Object`].
    #[n(3)]
    pub body: Schema,
    /// The body's field that carries the command's id (a uuid). Without one the id is the header `Idempotency-Key`,
    /// or made by the host.
    #[n(4)]
    pub id_field: Option<String>,
    /// HTTP status of success.
    #[n(5)]
    pub success: u16,
    #[n(6)]
    pub response: Schema,
    /// One line for people.
    #[n(7)]
    pub summary: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct QueryDecl {
    #[n(0)]
    pub name: String,
    /// Path below `/v1/<machine>/`.
    #[n(1)]
    pub path: String,
    /// Path and query-string parameters, all text on the wire. Always a [`Schema::Object`].
    #[n(2)]
    pub params: Schema,
    /// The parameter that names the entity whose rows are read.
    #[n(3)]
    pub entity_param: Option<String>,
    #[n(4)]
    pub source: QuerySource,
    #[n(5)]
    pub response: Schema,
    #[n(6)]
    pub summary: String,
}

/// What a query is answered from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum QuerySource {
    /// Rows, through `sh1_query`. The host adds `at` and `consistency`.
    #[n(0)]
    Rows,
    /// Events of the entity, newest first, each rendered by `sh1_render`. The host adds `cursor` and `limit`.
    #[n(1)]
    History,
    /// The recorded outcome of a command, rendered by `sh1_render`. `entity_param` is then the parameter with the id.
    #[n(2)]
    Command,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RejectionDecl {
    #[n(0)]
    pub code: String,
    /// 400 … 499.
    #[n(1)]
    pub status: u16,
    #[n(2)]
    pub title: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct EventDecl {
    #[n(0)]
    pub name: String,
    #[n(1)]
    pub summary: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct InvariantDecl {
    #[n(0)]
    pub name: String,
    #[n(1)]
    pub summary: String,
}

/// The shape of a value.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Schema {
    #[n(0)]
    Bool,
    #[n(1)]
    Int {
        #[n(0)]
        min: i64,
        #[n(1)]
        max: i64,
    },
    #[n(2)]
    Text {
        #[n(0)]
        min_chars: u32,
        #[n(1)]
        max_chars: u32,
        #[n(2)]
        format: TextFormat,
    },
    #[n(3)]
    Enum {
        #[n(0)]
        values: Vec<String>,
    },
    #[n(4)]
    Array {
        #[n(0)]
        items: alloc::boxed::Box<Schema>,
        #[n(1)]
        max_items: u32,
    },
    #[n(5)]
    Object {
        #[n(0)]
        fields: Vec<Field>,
    },
    /// An object whose keys are data.
    #[n(6)]
    Map {
        #[n(0)]
        values: alloc::boxed::Box<Schema>,
        #[n(1)]
        max_entries: u32,
    },
    /// Any value; in responses only.
    #[n(7)]
    Any,
}

/// What kind of text a text is. The host checks `Uuid` and `Name`; the rest documents what the module checks itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum TextFormat {
    #[n(0)]
    Plain,
    /// A hyphenated uuid; handed to the guest in lower case.
    #[n(1)]
    Uuid,
    /// Letters, digits, `.`, `_`, `:`, `-` and a leading `@`.
    #[n(2)]
    Name,
    /// A decimal number, to be checked by the module.
    #[n(3)]
    Decimal,
    /// An ISO 4217 code, to be checked by the module.
    #[n(4)]
    Currency,
    /// An RFC 3339 date-time.
    #[n(5)]
    DateTime,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Field {
    #[n(0)]
    pub name: String,
    #[n(1)]
    pub schema: Schema,
    #[n(2)]
    pub required: bool,
    #[n(3)]
    pub summary: String,
}
