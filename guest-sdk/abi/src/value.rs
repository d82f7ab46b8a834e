//! Values: what the host makes of JSON and hands to a guest, as deterministic CBOR (RFC 8949 §4.2.1), and back.
//!
//! There is no float, no tag and no undefined. Integers lie in −2⁶⁴ … 2⁶⁴ − 1. Lengths are definite and shortest, map
//! keys are text, unique, and sorted by their encoded bytes (so shorter ones first). One value has one encoding, and
//! decoding refuses every other spelling. It knows nothing of JSON or of schemas.

use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Ordering;

use minicbor::data::{Int, Type};
use minicbor::decode::Error as DecodeError;
use minicbor::encode::{Error as EncodeError, Write};
use minicbor::{Decode, Decoder, Encode, Encoder};

/// How deep arrays and maps may nest.
pub const DEPTH_MAX: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Null,
    Bool(bool),
    /// In −2⁶⁴ … 2⁶⁴ − 1; encoding a number outside is an error.
    Int(i128),
    Text(String),
    Bytes(Vec<u8>),
    Array(Vec<Value>),
    /// INVARIANT: sorted by [`key_order`], no key twice. [`Value::map`] makes it so.
    Map(Vec<(String, Value)>),
}

impl Value {
    /// A map with its keys in order. A key given twice keeps its last value.
    pub fn map<K: Into<String>>(pairs: impl IntoIterator<Item = (K, Value)>) -> Self {
        let mut sorted: Vec<(String, Value)> = Vec::new();
        for (key, value) in pairs {
            let key = key.into();
            match sorted.binary_search_by(|(other, _)| key_order(other, &key)) {
                Ok(at) => sorted[at].1 = value,
                Err(at) => sorted.insert(at, (key, value)),
            }
        }
        Self::Map(sorted)
    }

    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// The member of a map with this key.
    pub fn find(&self, key: &str) -> Option<&Value> {
        let Self::Map(pairs) = self else { return None };
        pairs.binary_search_by(|(other, _)| key_order(other, key)).ok().map(|at| &pairs[at].1)
    }

    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub fn as_int(&self) -> Option<i128> {
        if let Self::Int(int) = self { Some(*int) } else { None }
    }

    /// The one encoding of this value.
    ///
    /// # Errors
    /// An integer outside −2⁶⁴ … 2⁶⁴ − 1.
    pub fn to_cbor(&self) -> Result<Vec<u8>, ValueError> {
        minicbor::to_vec(self).map_err(|_| ValueError("an integer does not fit 64 bits"))
    }

    /// Decodes one value; refuses anything but its one encoding, and bytes behind it.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, ValueError> {
        let mut decoder = Decoder::new(bytes);
        let value = decode(&mut decoder, DEPTH_MAX).map_err(|_| ValueError("not a deterministic CBOR value"))?;
        if decoder.position() != bytes.len() {
            return Err(ValueError("bytes after the CBOR value"));
        }
        // The decoder accepts lengths and numbers that are not the shortest; the encoder never makes them.
        if value.to_cbor()? != bytes {
            return Err(ValueError("CBOR value is not in its deterministic encoding"));
        }
        Ok(value)
    }
}

/// The order of map keys: by encoded bytes, which is by length and then by bytes.
pub fn key_order(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.as_bytes().cmp(b.as_bytes()))
}

/// Why bytes are no value, or a value has no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueError(pub &'static str);

impl core::fmt::Display for ValueError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.0)
    }
}

impl core::error::Error for ValueError {}

impl<C> Encode<C> for Value {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, ctx: &mut C) -> Result<(), EncodeError<W::Error>> {
        match self {
            Self::Null => e.null()?,
            Self::Bool(value) => e.bool(*value)?,
            Self::Int(value) => {
                e.int(Int::try_from(*value).map_err(|_| EncodeError::message("integer over 64 bits"))?)?
            }
            Self::Text(value) => e.str(value)?,
            Self::Bytes(value) => e.bytes(value)?,
            Self::Array(items) => {
                e.array(items.len() as u64)?;
                for item in items {
                    item.encode(e, ctx)?;
                }
                e
            }
            Self::Map(pairs) => {
                e.map(pairs.len() as u64)?;
                for (key, value) in pairs {
                    e.str(key)?;
                    value.encode(e, ctx)?;
                }
                e
            }
        };
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for Value {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
        decode(d, DEPTH_MAX)
    }
}

fn decode(d: &mut Decoder<'_>, depth: usize) -> Result<Value, DecodeError> {
    if depth == 0 {
        return Err(DecodeError::message("nested too deeply"));
    }
    Ok(match d.datatype()? {
        Type::Null => {
            d.null()?;
            Value::Null
        }
        Type::Bool => Value::Bool(d.bool()?),
        Type::U8 | Type::U16 | Type::U32 | Type::U64 | Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::Int => {
            Value::Int(d.int()?.into())
        }
        Type::String => Value::Text(d.str()?.into()),
        Type::Bytes => Value::Bytes(d.bytes()?.into()),
        Type::Array => {
            let count = d.array()?.ok_or_else(|| DecodeError::message("indefinite length"))?;
            let mut items = Vec::new();
            for _ in 0..count {
                items.push(decode(d, depth - 1)?);
            }
            Value::Array(items)
        }
        Type::Map => Value::Map(decode_pairs(d, depth)?),
        _ => return Err(DecodeError::message("type of CBOR that is no value")),
    })
}

fn decode_pairs(d: &mut Decoder<'_>, depth: usize) -> Result<Vec<(String, Value)>, DecodeError> {
    let count = d.map()?.ok_or_else(|| DecodeError::message("indefinite length"))?;
    let mut pairs: Vec<(String, Value)> = Vec::new();
    for _ in 0..count {
        let key: String = d.str()?.into();
        if pairs.last().is_some_and(|(before, _)| key_order(before, &key) != Ordering::Less) {
            return Err(DecodeError::message("map keys out of order"));
        }
        pairs.push((key, decode(d, depth - 1)?));
    }
    Ok(pairs)
}
