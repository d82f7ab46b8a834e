//! One value: what the deserializer finds is checked against the shape and appended.
//!
//! In: a shape and the next value of the input. Out: CBOR after what is there, or the fault with its place. It does not
//! know whether the input is JSON or CBOR.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use statehouse_abi::value::DEPTH_MAX;

use super::error::JsonFault;
use super::object::visit_object;
use super::read::Output;
use super::scalar::{
    ARRAY, HEAD_BYTES_MAX, MAP, NULL, check_signed, check_text, check_unsigned, put_bool, put_head, put_text,
};
use super::shape::Shape;

/// Reads one value; returns the uuid if the shape is one.
pub struct ShapeSeed<'a> {
    pub shape: &'a Shape,
    /// How many containers are around it.
    pub depth: usize,
    pub out: &'a mut Output,
}

type Uuid = Option<[u8; 16]>;

impl ShapeSeed<'_> {
    fn refuse<E: Error>(self, fault: JsonFault) -> E {
        self.out.refuse(fault.at_whole())
    }

    fn wrong_type<T, E: Error>(self, found: &'static str) -> Result<T, E> {
        let expected = self.shape.expected();
        Err(self.refuse(JsonFault::WrongType { expected, found }))
    }
}

impl<'de> DeserializeSeed<'de> for ShapeSeed<'_> {
    type Value = Uuid;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Uuid, D::Error> {
        if self.depth >= DEPTH_MAX {
            return Err(self.refuse(JsonFault::TooDeep { max: DEPTH_MAX }));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ShapeSeed<'_> {
    type Value = Uuid;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shape.expected())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Uuid, E> {
        if !matches!(self.shape, Shape::Bool | Shape::Any) {
            return self.wrong_type("a flag");
        }
        put_bool(&mut self.out.cbor, value);
        Ok(None)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Uuid, E> {
        check_unsigned(self.shape, value, &mut self.out.cbor).map_err(|fault| self.refuse(fault))?;
        Ok(None)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Uuid, E> {
        check_signed(self.shape, value, &mut self.out.cbor).map_err(|fault| self.refuse(fault))?;
        Ok(None)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Uuid, E> {
        match self.shape {
            Shape::Int { .. } | Shape::Any => Err(self.refuse(JsonFault::NotInteger)),
            _ => self.wrong_type("a number"),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Uuid, E> {
        check_text(self.shape, text, &mut self.out.cbor).map_err(|fault| self.refuse(fault))
    }

    fn visit_bytes<E: Error>(self, _: &[u8]) -> Result<Uuid, E> {
        self.wrong_type("bytes")
    }

    fn visit_unit<E: Error>(self) -> Result<Uuid, E> {
        if !matches!(self.shape, Shape::Any) {
            return self.wrong_type("null");
        }
        self.out.cbor.push(NULL);
        Ok(None)
    }

    fn visit_none<E: Error>(self) -> Result<Uuid, E> {
        self.visit_unit()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Uuid, A::Error> {
        match self.shape {
            Shape::Array { items, count_max } => visit_array(items, *count_max, self.depth, self.out, seq)?,
            Shape::Any => visit_array(&Shape::Any, u32::MAX, self.depth, self.out, seq)?,
            _ => return self.wrong_type("an array"),
        }
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Uuid, A::Error> {
        match self.shape {
            Shape::Object(object) => visit_object(object, &[], self.depth, self.out, map)?,
            Shape::Map { values, count_max } => visit_entries(values, *count_max, self.depth, self.out, map)?,
            Shape::Any => visit_entries(&Shape::Any, u32::MAX, self.depth, self.out, map)?,
            _ => return self.wrong_type("an object"),
        }
        Ok(None)
    }
}

fn visit_array<'de, A: SeqAccess<'de>>(
    items: &Shape,
    count_max: u32,
    depth: usize,
    out: &mut Output,
    mut seq: A,
) -> Result<(), A::Error> {
    let start = out.cbor.len();
    let mut count = 0;
    loop {
        match seq.next_element_seed(ShapeSeed { shape: items, depth: depth + 1, out: &mut *out }) {
            Ok(Some(_)) if count == count_max => {
                return Err(out.refuse(JsonFault::TooMany { max: count_max }.at_whole()));
            }
            Ok(Some(_)) => count += 1,
            Ok(None) => break,
            Err(error) => return Err(out.below(&count.to_string(), error)),
        }
    }
    let mut head = Vec::with_capacity(HEAD_BYTES_MAX);
    put_head(&mut head, ARRAY, u64::from(count));
    out.cbor.splice(start..start, head);
    Ok(())
}

/// Reads an object whose keys are data, and puts its entries in the order of their encoded keys.
fn visit_entries<'de, A: MapAccess<'de>>(
    values: &Shape,
    count_max: u32,
    depth: usize,
    out: &mut Output,
    mut map: A,
) -> Result<(), A::Error> {
    let start = out.cbor.len();
    // Start of key, start of value, end.
    let mut entries: Vec<(usize, usize, usize)> = Vec::new();
    loop {
        let key_start = out.cbor.len();
        let Some(key) = map.next_key_seed(KeySeed { out: &mut *out })? else { break };
        if entries.len() == count_max as usize {
            return Err(out.refuse(JsonFault::TooMany { max: count_max }.at_whole()));
        }
        let value_start = out.cbor.len();
        let encoded = &out.cbor[key_start..value_start];
        let place = entries.binary_search_by(|(start, end, _)| out.cbor[*start..*end].cmp(encoded));
        let Err(place) = place else { return Err(out.refuse(JsonFault::DuplicateField.at(&key))) };
        map.next_value_seed(ShapeSeed { shape: values, depth: depth + 1, out: &mut *out })
            .map_err(|error| out.below(&key, error))?;
        entries.insert(place, (key_start, value_start, out.cbor.len()));
    }
    let assembled = out.cbor.len();
    put_head(&mut out.cbor, MAP, entries.len() as u64);
    for (key_start, _, end) in entries {
        out.cbor.extend_from_within(key_start..end);
    }
    out.cbor.drain(start..assembled);
    Ok(())
}

/// Reads a key that is data, and appends it.
struct KeySeed<'a> {
    out: &'a mut Output,
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        put_text(&mut self.out.cbor, key);
        Ok(key.to_owned())
    }
}
