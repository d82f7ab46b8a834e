//! The sets a module declares: its commands, its queries, its rejections. Derive macros write the impls.
//!
//! Each is an enum; the declarations go into `describe`, the decoding is by index or by name.
//! It knows nothing of what a command does.

use statehouse_abi::cold::Refusal;
use statehouse_abi::describe::{CommandDecl, QueryDecl, RejectionDecl};
use statehouse_abi::value::Value;

use crate::body::BodyError;

/// An enum of commands, a [`Body`](crate::Body) in each variant.
pub trait Commands: Sized {
    fn declare() -> Vec<CommandDecl>;
    /// Reads the body of the command with this index in [`declare`](Self::declare); `None` when there is no such.
    fn decode(index: u32, body: &Value) -> Option<Result<Self, BodyError>>;
    /// The index of the command with this name.
    fn find(name: &str) -> Option<u32>;
    /// The body again, in its canonical form.
    fn to_value(&self) -> Value;
}

/// An enum of queries, a [`Body`](crate::Body) with the parameters in each variant.
pub trait Queries: Sized {
    fn declare() -> Vec<QueryDecl>;
    /// Reads the parameters of the query with this name; `None` when there is no such.
    fn decode(name: &str, params: &Value) -> Option<Result<Self, BodyError>>;
}

/// An enum of rejections.
pub trait Rejections: Sized {
    fn declare() -> Vec<RejectionDecl>;
    fn code(&self) -> &'static str;
    /// What is wrong in this case, for people.
    fn detail(&self) -> String;
}

/// The queries of a module that has none.
pub enum NoQueries {}

impl Queries for NoQueries {
    fn declare() -> Vec<QueryDecl> {
        Vec::new()
    }

    fn decode(_: &str, _: &Value) -> Option<Result<Self, BodyError>> {
        None
    }
}

/// The refusal of a body that is not what the schema says.
pub(crate) fn refuse_body(error: BodyError) -> Refusal {
    let detail = error.to_string();
    let field = (!error.field.is_empty()).then_some(error.field);
    Refusal { code: "malformed_body".into(), status: 400, detail, field }
}
