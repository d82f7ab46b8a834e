//! Recorded bytes as JSON, rendered by the module to which they belong.
//!
//! In: rows, events and bodies. Out: JSON values. If a module cannot render something, the report does not end: a text
//! in its place says so. It does not know what the bytes mean.

use std::fmt::Write;

use serde_json::{Number, Value as Json};
use statehouse_abi::cold::{CommandFacts, EventBytes, EventFacts, RenderItem, Row};
use statehouse_abi::key::split_key;
use statehouse_abi::value::Value;

use crate::ids::Micros;
use crate::machine::entry::EntryCommand;
use crate::machine::logic::Logic;

/// The command to which something belongs, and where and when it was decided.
#[derive(Clone, Copy)]
pub struct CommandContext<'a> {
    pub command: &'a EntryCommand<'a>,
    pub id: [u8; 16],
    pub time: Micros,
    pub position: &'a str,
}

pub fn row(logic: &dyn Logic, key: &[u8], row: Option<&[u8]>) -> Json {
    let Some(row) = row else { return Json::Null };
    one(logic, RenderItem::Row(Row { key: key.to_vec(), row: Some(row.to_vec()) }))
}

pub fn body(logic: &dyn Logic, about: CommandContext<'_>) -> Json {
    one(
        logic,
        RenderItem::Body(CommandFacts {
            command: about.command.name.to_owned(),
            id: about.id,
            body: about.command.body.to_vec(),
            time: about.time.0,
            position: about.position.to_owned(),
            events: Vec::new(),
            rejection: None,
            phases: Vec::new(),
        }),
    )
}

/// `op` is the op that made the event, with its entity.
pub fn event(logic: &dyn Logic, about: CommandContext<'_>, entity: &[u8], op: &[u8], event: &[u8]) -> Json {
    let event = EventBytes { entity: entity.to_vec(), op: op.to_vec(), event: event.to_vec() };
    one(
        logic,
        RenderItem::Event(EventFacts {
            event,
            command: about.command.name.to_owned(),
            id: about.id,
            body: about.command.body.to_vec(),
            time: about.time.0,
            position: about.position.to_owned(),
        }),
    )
}

fn one(logic: &dyn Logic, item: RenderItem) -> Json {
    match logic.render(&[item]) {
        Ok(values) => values.first().map_or(Json::Null, json_of),
        Err(fault) => Json::String(format!("cannot be rendered: {fault}")),
    }
}

/// Integers that JSON readers might round become text.
pub fn json_of(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => match i64::try_from(*value) {
            Ok(value) => Json::Number(Number::from(value)),
            Err(_) => Json::String(value.to_string()),
        },
        Value::Text(text) => Json::String(text.clone()),
        Value::Bytes(bytes) => Json::String(hex(bytes)),
        Value::Array(items) => Json::Array(items.iter().map(json_of).collect()),
        Value::Map(pairs) => Json::Object(pairs.iter().map(|(key, value)| (key.clone(), json_of(value))).collect()),
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to memory cannot fail");
        text
    })
}

/// Entity and suffix of a key, readable.
pub fn key_text(key: &[u8]) -> (String, String) {
    match split_key(key) {
        Some((entity, suffix)) => (text_of(entity), suffix.escape_ascii().to_string()),
        None => (String::new(), hex(key)),
    }
}

pub fn text_of(entity: &[u8]) -> String {
    String::from_utf8_lossy(entity).into_owned()
}
