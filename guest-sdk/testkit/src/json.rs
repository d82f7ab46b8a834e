//! Values as JSON text and back, for scenarios only: guided by the types of JSON, not by a schema.
//!
//! Bytes are printed as `"0x…"` and are never read. The host has its own reading, guided by schemas.

use serde_json::Value as Json;
use statehouse_abi::value::Value;

/// # Errors
/// Why the JSON is no value: a number that is not an integer.
pub fn from_json(json: &Json) -> Result<Value, String> {
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(bool) => Value::Bool(*bool),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(int), _) => Value::Int(int.into()),
            (_, Some(int)) => Value::Int(int.into()),
            _ => return Err(format!("{number} is not an integer")),
        },
        Json::String(text) => Value::text(text),
        Json::Array(items) => Value::Array(items.iter().map(from_json).collect::<Result<_, _>>()?),
        Json::Object(members) => {
            let pairs = members.iter().map(|(key, member)| Ok((key.clone(), from_json(member)?)));
            Value::map(pairs.collect::<Result<Vec<_>, String>>()?)
        }
    })
}

/// One line of JSON, members in the order of the value.
pub fn to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(bool) => Json::Bool(*bool),
        Value::Int(int) => match (i64::try_from(*int), u64::try_from(*int)) {
            (Ok(int), _) => Json::from(int),
            (_, Ok(int)) => Json::from(int),
            _ => Json::String(int.to_string()),
        },
        Value::Text(text) => Json::String(text.clone()),
        Value::Bytes(bytes) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Json::String(format!("0x{digits}"))
        }
        Value::Array(items) => Json::Array(items.iter().map(to_json).collect()),
        Value::Map(pairs) => Json::Object(pairs.iter().map(|(key, value)| (key.clone(), to_json(value))).collect()),
    }
}
