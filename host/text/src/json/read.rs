//! The reader: JSON, CBOR or the texts of a URL become deterministic CBOR in one pass, guided by a shape.
//!
//! Values are appended in the order they arrive; when an object ends, its fields are put into CBOR order after them and
//! moved down. There is one buffer, and no tree in between. Pointers are only built while an error travels up. It knows
//! nothing of what the fields mean, except which one is the command's id.

use serde::Deserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde_json::error::Category;

use super::error::{BodyError, JsonFault, pointer};
use super::object::{read_given, visit_object};
use super::shape::ObjectShape;

/// A body that satisfies its shape.
#[derive(Debug, PartialEq, Eq)]
pub struct Body {
    /// Deterministic CBOR of an object.
    pub cbor: Vec<u8>,
    /// The command's id, from the field that carries it.
    pub id: Option<[u8; 16]>,
}

/// Reads a body in JSON. `given` are fields that the path provides, by index into the shape. An empty body counts as
/// `{}`.
///
/// # Errors
/// The first fault, with its place.
pub fn read_json(object: &ObjectShape, given: &[(usize, String)], json: &[u8]) -> Result<Body, BodyError> {
    if json.is_empty() {
        return read_texts(object, given);
    }
    let mut out = Output::new(json.len());
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let read = deserializer.deserialize_map(BodyVisitor { object, given, out: &mut out });
    match read.and_then(|()| deserializer.end()) {
        Ok(()) => Ok(out.into_body()),
        Err(error) => Err(out.into_error(|| match error.classify() {
            Category::Data => JsonFault::WrongType { expected: "an object", found: "something else" },
            Category::Eof => JsonFault::Malformed(format!("the JSON ends too early, at {}", place(&error))),
            Category::Syntax | Category::Io => JsonFault::Malformed(format!("this is not JSON, at {}", place(&error))),
        })),
    }
}

fn place(error: &serde_json::Error) -> String {
    format!("line {}, column {}", error.line(), error.column())
}

/// Reads a body in CBOR, deterministic or not.
///
/// # Errors
/// The first fault, with its place.
pub fn read_cbor(object: &ObjectShape, cbor: &[u8]) -> Result<Body, BodyError> {
    let mut out = Output::new(cbor.len());
    let mut deserializer = minicbor_serde::Deserializer::new(cbor);
    let read = deserializer.deserialize_map(BodyVisitor { object, given: &[], out: &mut out });
    match read {
        Ok(()) if deserializer.decoder().position() == cbor.len() => Ok(out.into_body()),
        Ok(()) => Err(out.into_error(|| JsonFault::Malformed("something follows the CBOR value".to_owned()))),
        Err(error) => Err(out.into_error(|| JsonFault::Malformed(format!("this is not a CBOR map: {error}")))),
    }
}

/// Reads an object all of whose fields are given as text, by index into the shape.
///
/// # Errors
/// The first fault, with its place.
pub fn read_texts(object: &ObjectShape, given: &[(usize, String)]) -> Result<Body, BodyError> {
    let mut out = Output::new(0);
    read_given(object, given, &mut out)?;
    Ok(out.into_body())
}

/// What has been read so far, and what went wrong.
pub struct Output {
    pub cbor: Vec<u8>,
    pub id: Option<[u8; 16]>,
    error: Option<BodyError>,
}

impl Output {
    fn new(input_bytes: usize) -> Self {
        // Values are held twice while an object is assembled.
        Self { cbor: Vec::with_capacity(2 * input_bytes), id: None, error: None }
    }

    fn into_body(self) -> Body {
        Body { cbor: self.cbor, id: self.id }
    }

    fn into_error(self, otherwise: impl FnOnce() -> JsonFault) -> BodyError {
        self.error.unwrap_or_else(|| BodyError { pointer: String::new(), fault: otherwise() })
    }

    /// Notes the error; the deserializer's own only has to stop it.
    pub fn refuse<E: Error>(&mut self, error: BodyError) -> E {
        self.error = Some(error);
        E::custom("refused")
    }

    /// Notes that the fault, if it is one of ours, lies below this key.
    pub fn below<E>(&mut self, key: &str, error: E) -> E {
        if let Some(noted) = &mut self.error {
            noted.pointer.insert_str(0, &pointer(key));
        }
        error
    }
}

/// The outermost object, some of whose fields the path has given.
struct BodyVisitor<'a> {
    object: &'a ObjectShape,
    given: &'a [(usize, String)],
    out: &'a mut Output,
}

impl<'de> Visitor<'de> for BodyVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        visit_object(self.object, self.given, 0, self.out, map)
    }
}
