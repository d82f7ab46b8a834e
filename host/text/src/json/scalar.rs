//! Scalars: one integer, text or flag, checked against its shape and appended as CBOR.
//!
//! In: what the reader or the URL gave. Out: bytes after the others, or the fault. It knows nothing of fields, of
//! pointers or of where the scalar is from.

use statehouse_abi::describe::TextFormat;

use super::error::JsonFault;
use super::shape::{Shape, TextShape};

/// Major types of CBOR (RFC 8949 §3.1), already in the upper three bits.
const UNSIGNED: u8 = 0x00;
const NEGATIVE: u8 = 0x20;
const TEXT: u8 = 0x60;
pub const ARRAY: u8 = 0x80;
pub const MAP: u8 = 0xa0;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
pub const NULL: u8 = 0xf6;

/// The longest head of a CBOR item.
pub const HEAD_BYTES_MAX: usize = 9;

/// Appends the shortest head of a CBOR item.
pub fn put_head(cbor: &mut Vec<u8>, major: u8, argument: u64) {
    match argument {
        0..=23 => cbor.push(major | argument as u8),
        24..=0xff => cbor.extend_from_slice(&[major | 24, argument as u8]),
        0x100..=0xffff => {
            cbor.push(major | 25);
            cbor.extend_from_slice(&(argument as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            cbor.push(major | 26);
            cbor.extend_from_slice(&(argument as u32).to_be_bytes());
        }
        _ => {
            cbor.push(major | 27);
            cbor.extend_from_slice(&argument.to_be_bytes());
        }
    }
}

pub fn put_text(cbor: &mut Vec<u8>, text: &str) {
    put_head(cbor, TEXT, text.len() as u64);
    cbor.extend_from_slice(text.as_bytes());
}

pub fn put_bool(cbor: &mut Vec<u8>, value: bool) {
    cbor.push(if value { TRUE } else { FALSE });
}

/// Appends an unsigned integer if the shape allows it.
pub fn check_unsigned(shape: &Shape, value: u64, cbor: &mut Vec<u8>) -> Result<(), JsonFault> {
    match shape {
        Shape::Int { min, max } if i64::try_from(value).is_ok_and(|value| (*min..=*max).contains(&value)) => {}
        Shape::Int { min, max } => return Err(JsonFault::OutOfRange { min: *min, max: *max }),
        Shape::Any => {}
        _ => return Err(JsonFault::WrongType { expected: shape.expected(), found: "a number" }),
    }
    put_head(cbor, UNSIGNED, value);
    Ok(())
}

/// Appends an integer if the shape allows it.
pub fn check_signed(shape: &Shape, value: i64, cbor: &mut Vec<u8>) -> Result<(), JsonFault> {
    if let Ok(value) = u64::try_from(value) {
        return check_unsigned(shape, value, cbor);
    }
    match shape {
        Shape::Int { min, max } if (*min..=*max).contains(&value) => {}
        Shape::Int { min, max } => return Err(JsonFault::OutOfRange { min: *min, max: *max }),
        Shape::Any => {}
        _ => return Err(JsonFault::WrongType { expected: shape.expected(), found: "a number" }),
    }
    // CBOR counts negative integers from −1 downwards: −1 − value, which is the complement.
    put_head(cbor, NEGATIVE, !value as u64);
    Ok(())
}

/// Appends text if the shape allows it. Returns the uuid if the shape asks for one.
pub fn check_text(shape: &Shape, text: &str, cbor: &mut Vec<u8>) -> Result<Option<[u8; 16]>, JsonFault> {
    match shape {
        Shape::Text(TextShape { format: TextFormat::Uuid, .. }) => return put_uuid(text, cbor).map(Some),
        Shape::Text(shape) => check_length_and_format(shape, text)?,
        Shape::Enum { values } if values.iter().any(|value| value == text) => {}
        Shape::Enum { values } => return Err(JsonFault::NotListed { values: values.clone() }),
        Shape::Any => {}
        _ => return Err(JsonFault::WrongType { expected: shape.expected(), found: "text" }),
    }
    put_text(cbor, text);
    Ok(None)
}

/// Appends a scalar that was given as text, in a path or a query string.
pub fn check_parameter(shape: &Shape, text: &str, cbor: &mut Vec<u8>) -> Result<Option<[u8; 16]>, JsonFault> {
    match shape {
        Shape::Text(_) | Shape::Enum { .. } => return check_text(shape, text, cbor),
        Shape::Bool => match text {
            "true" => put_bool(cbor, true),
            "false" => put_bool(cbor, false),
            _ => return Err(JsonFault::WrongType { expected: shape.expected(), found: "text" }),
        },
        Shape::Int { .. } => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse().ok().filter(|_| is_number).ok_or(JsonFault::NotInteger)?;
            check_signed(shape, number, cbor)?;
        }
        Shape::Array { .. } | Shape::Object(_) | Shape::Map { .. } | Shape::Any => return Err(JsonFault::NotText),
    }
    Ok(None)
}

fn put_uuid(text: &str, cbor: &mut Vec<u8>) -> Result<[u8; 16], JsonFault> {
    let uuid =
        uuid::Uuid::try_parse_ascii(text.as_bytes()).ok().filter(|_| text.len() == 36).ok_or(JsonFault::NotUuid)?;
    put_text(cbor, uuid.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()));
    Ok(uuid.into_bytes())
}

fn check_length_and_format(shape: &TextShape, text: &str) -> Result<(), JsonFault> {
    // Counting characters is needed only where the bytes alone do not decide.
    let chars = if text.is_ascii() { text.len() } else { text.chars().count() };
    if chars < shape.chars_min as usize {
        return Err(JsonFault::TooShort { min: shape.chars_min });
    }
    if chars > shape.chars_max as usize {
        return Err(JsonFault::TooLong { max: shape.chars_max });
    }
    if shape.format == TextFormat::Name && !is_name(text) {
        return Err(JsonFault::NotName);
    }
    Ok(())
}

fn is_name(text: &str) -> bool {
    let rest = text.strip_prefix('@').unwrap_or(text);
    rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-'))
}
