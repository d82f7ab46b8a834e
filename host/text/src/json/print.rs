//! The printer: a value becomes JSON, alone or as a part of something else that is serialized.
//!
//! In: a value. Out: JSON; integers whole, however large, bytes as lower-case hexadecimal text, members in the value's
//! own order. It knows nothing of schemas.

use std::fmt::Write;

use serde::{Serialize, Serializer};
use statehouse_abi::value::Value;

/// A value that is serialized as JSON.
pub struct Json<'a>(pub &'a Value);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Int(value) => match i64::try_from(*value) {
                Ok(value) => serializer.serialize_i64(value),
                Err(_) => serializer.serialize_i128(*value),
            },
            Value::Text(value) => serializer.serialize_str(value),
            Value::Bytes(value) => serializer.serialize_str(&hex(value)),
            Value::Array(items) => serializer.collect_seq(items.iter().map(Json)),
            Value::Map(pairs) => serializer.collect_map(pairs.iter().map(|(key, value)| (key, Json(value)))),
        }
    }
}

/// Serializes anything of this crate to JSON.
pub fn print(what: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(what).expect("keys are text, and writing to memory cannot fail")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to memory cannot fail");
        text
    })
}
