//! Objects: fields in the order they arrive become a CBOR map in its one order.
//!
//! In: keys and values of a JSON object, or texts of a URL. Out: the values where they were read, then the map after
//! them, then the map moved down to where they began. It knows nothing of what the fields mean.

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, Visitor};

use super::error::{BodyError, JsonFault};
use super::read::Output;
use super::scalar::{MAP, check_parameter, put_head};
use super::shape::{FieldShape, ObjectShape};
use super::value::ShapeSeed;

/// Objects of at most this many fields are assembled without allocating.
const FIELDS_INLINE: usize = 16;

/// Reads an object all of whose fields the URL gives.
pub fn read_given(object: &ObjectShape, given: &[(usize, String)], out: &mut Output) -> Result<(), BodyError> {
    with_places(object.fields().len(), |places| {
        let mut assembly = Assembly::new(object, places, out);
        assembly.take(given, out)?;
        assembly.finish(out)
    })
}

/// Reads an object, some of whose fields the path may have given.
pub fn visit_object<'de, A: MapAccess<'de>>(
    object: &ObjectShape,
    given: &[(usize, String)],
    depth: usize,
    out: &mut Output,
    mut map: A,
) -> Result<(), A::Error> {
    with_places(object.fields().len(), |places| {
        let mut assembly = Assembly::new(object, places, out);
        assembly.take(given, out).map_err(|error| out.refuse(error))?;
        while let Some(field) = map.next_key_seed(FieldSeed { object, out })? {
            let FieldShape { name, shape, .. } = &object.fields()[field];
            if assembly.places[field].is_present() {
                let by_path = given.iter().any(|(other, _)| *other == field);
                let fault = if by_path { JsonFault::GivenByPath } else { JsonFault::DuplicateField };
                return Err(out.refuse(fault.at(name)));
            }
            let start = out.cbor.len();
            let uuid = map
                .next_value_seed(ShapeSeed { shape, depth: depth + 1, out: &mut *out })
                .map_err(|error| out.below(name, error))?;
            assembly.note(field, start, uuid, out);
        }
        assembly.finish(out).map_err(|error| out.refuse(error))
    })
}

/// Where a field's value lies in the buffer.
#[derive(Clone, Copy)]
struct MemberSpan {
    start: usize,
    end: usize,
}

const ABSENT: MemberSpan = MemberSpan { start: 0, end: 0 };

impl MemberSpan {
    fn is_present(&self) -> bool {
        self.end > self.start
    }
}

fn with_places<R>(count: usize, work: impl FnOnce(&mut [MemberSpan]) -> R) -> R {
    if count <= FIELDS_INLINE { work(&mut [ABSENT; FIELDS_INLINE][..count]) } else { work(&mut vec![ABSENT; count]) }
}

/// The fields of one object on their way into CBOR order.
struct Assembly<'a> {
    object: &'a ObjectShape,
    /// One per field of the shape.
    places: &'a mut [MemberSpan],
    start: usize,
}

impl<'a> Assembly<'a> {
    fn new(object: &'a ObjectShape, places: &'a mut [MemberSpan], out: &Output) -> Self {
        Self { object, places, start: out.cbor.len() }
    }

    /// Takes fields from texts of the URL.
    fn take(&mut self, given: &[(usize, String)], out: &mut Output) -> Result<(), BodyError> {
        for (field, text) in given {
            let shape = &self.object.fields()[*field];
            if self.places[*field].is_present() {
                return Err(JsonFault::DuplicateField.at(&shape.name));
            }
            let start = out.cbor.len();
            let uuid = check_parameter(&shape.shape, text, &mut out.cbor).map_err(|fault| fault.at(&shape.name))?;
            self.note(*field, start, uuid, out);
        }
        Ok(())
    }

    fn note(&mut self, field: usize, start: usize, uuid: Option<[u8; 16]>, out: &mut Output) {
        self.places[field] = MemberSpan { start, end: out.cbor.len() };
        if self.object.is_id(field) {
            out.id = uuid;
        }
    }

    /// Writes the object after its values, and moves it to where they began.
    fn finish(self, out: &mut Output) -> Result<(), BodyError> {
        let mut present = 0;
        for (field, place) in self.object.fields().iter().zip(&*self.places) {
            if place.is_present() {
                present += 1;
            } else if field.is_required {
                return Err(JsonFault::MissingField.at(&field.name));
            }
        }
        let assembled = out.cbor.len();
        put_head(&mut out.cbor, MAP, present);
        for (field, place) in self.object.fields().iter().zip(&*self.places) {
            if place.is_present() {
                out.cbor.extend_from_slice(&field.key);
                out.cbor.extend_from_within(place.start..place.end);
            }
        }
        out.cbor.drain(self.start..assembled);
        Ok(())
    }
}

/// Reads a key and finds its field.
struct FieldSeed<'a> {
    object: &'a ObjectShape,
    out: &'a mut Output,
}

impl<'de> DeserializeSeed<'de> for FieldSeed<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldSeed<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<usize, E> {
        self.object.find(name).ok_or_else(|| self.out.refuse(JsonFault::UnknownField.at(name)))
    }
}
