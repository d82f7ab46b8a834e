//! JSON at the edge: bodies and parameters become deterministic CBOR by the schema a module declares, values become
//! JSON again.
//!
//! ```text
//! Schema → Shape (once per module)      bytes + Shape → CBOR (read)      Value → bytes (print)
//! ```
//! Nothing is built in between, no float exists, and whatever a schema does not allow is refused with the JSON pointer
//! of the place. It knows nothing of HTTP.

mod error;
mod shape;
mod scalar;
mod read;
mod object;
mod value;
mod print;
#[cfg(test)]
mod tests;

pub use error::{BodyError, JsonFault};
pub use print::{Json, print};
pub use read::{Body, read_cbor, read_json, read_texts};
pub use shape::ObjectShape;
