//! The exports of a module as plain functions on bytes: what the wasm exports call, and what native tests compare with.
//!
//! A panic of the module unwinds to the caller, who stands where the host stands and turns it into a trap.
//! It knows nothing of linear memory.

use statehouse_abi::export;

use crate::module::Module;
use crate::{cold, hot};

/// An export that takes and gives bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Export {
    Describe,
    Plan,
    Execute,
    Apply,
    Query,
    Render,
    Check,
    Migrate,
}

impl Export {
    pub const ALL: [Self; 8] =
        [Self::Describe, Self::Plan, Self::Execute, Self::Apply, Self::Query, Self::Render, Self::Check, Self::Migrate];

    /// Its name in the module.
    pub fn name(self) -> &'static str {
        match self {
            Self::Describe => export::DESCRIBE,
            Self::Plan => export::PLAN,
            Self::Execute => export::EXECUTE,
            Self::Apply => export::APPLY,
            Self::Query => export::QUERY,
            Self::Render => export::RENDER,
            Self::Check => export::CHECK,
            Self::Migrate => export::MIGRATE,
        }
    }
}

/// Calls an export of `M`; `input` is empty for [`Export::Describe`].
///
/// # Panics
/// Where the module would trap: when it panics itself, and when the input is not what the ABI says.
pub fn call<M: Module>(export: Export, input: &[u8]) -> Vec<u8> {
    let output = match export {
        Export::Describe => Ok(cold::describe::<M>()),
        Export::Plan => hot::plan::<M>(input),
        Export::Execute => hot::execute::<M>(input),
        Export::Apply => hot::apply::<M>(input),
        Export::Query => cold::query::<M>(input),
        Export::Render => cold::render::<M>(input),
        Export::Check => cold::check::<M>(input),
        Export::Migrate => cold::migrate::<M>(input),
    };
    output.unwrap_or_else(|error| panic!("input of {}: {error}", export.name()))
}
