//! Bodies: how a struct is declared as a schema, read from a value, and written back as the canonical value.
//!
//! `#[derive(Body)]` writes the impls; a field is any [`FieldValue`], its attribute narrows the [`Rule`] it must keep.
//! Reading checks everything the schema says again and never panics. It knows nothing of commands or JSON.

use core::fmt;

use statehouse_abi::describe::{Schema, TextFormat};
use statehouse_abi::key::ENTITY_BYTES_MAX;
use statehouse_abi::value::Value;

use crate::uuid::Uuid;

/// A struct that is an object of the API: the body of a command, the parameters of a query, or a response.
pub trait Body: FieldValue {
    /// Always a [`Schema::Object`].
    fn schema() -> Schema;
    /// Reads the object; unknown members are refused.
    fn from_value(value: &Value) -> Result<Self, BodyError>;
}

/// A type that can stand in a field of a [`Body`].
pub trait FieldValue: Sized {
    /// The rule where the field's attribute gives none.
    const RULE: Rule;
    /// Reads the value, which must keep `rule`.
    fn read(value: &Value, rule: &Rule) -> Result<Self, BodyError>;
    fn to_value(&self) -> Value;
}

/// What a field's value must be like.
#[derive(Clone, Copy)]
pub enum Rule {
    Bool,
    Int { min: i64, max: i64 },
    Text { min_chars: u32, max_chars: u32, format: TextFormat },
    List { items: &'static Rule, max_items: u32 },
    Object(fn() -> Schema),
    Any,
}

/// What a field's attribute says; `None` leaves the type's own rule.
pub struct Narrow {
    pub min: Option<i64>,
    pub max: Option<i64>,
    pub min_chars: Option<u32>,
    pub max_chars: Option<u32>,
    pub max_items: Option<u32>,
    pub format: Option<TextFormat>,
}

impl Rule {
    /// The rule with its bounds replaced; a bound that the type does not have does not compile.
    pub const fn narrow(self, by: &Narrow) -> Self {
        let has_range = by.min.is_some() || by.max.is_some();
        let has_text = by.min_chars.is_some() || by.max_chars.is_some() || by.format.is_some();
        match self {
            Self::Int { min, max } if !has_text && by.max_items.is_none() => {
                Self::Int { min: or_i64(by.min, min), max: or_i64(by.max, max) }
            }
            Self::Text { min_chars, max_chars, format } if !has_range && by.max_items.is_none() => Self::Text {
                min_chars: or_u32(by.min_chars, or_u32(format_chars(by.format, 0), min_chars)),
                max_chars: or_u32(by.max_chars, or_u32(format_chars(by.format, 1), max_chars)),
                format: if let Some(format) = by.format { format } else { format },
            },
            Self::List { items, max_items } if !has_range && !has_text => {
                Self::List { items, max_items: or_u32(by.max_items, max_items) }
            }
            rule => {
                assert!(!has_range && !has_text && by.max_items.is_none(), "the field's type has no such bound");
                rule
            }
        }
    }

    pub fn schema(&self) -> Schema {
        match *self {
            Self::Bool => Schema::Bool,
            Self::Int { min, max } => Schema::Int { min, max },
            Self::Text { min_chars, max_chars, format } => Schema::Text { min_chars, max_chars, format },
            Self::List { items, max_items } => Schema::Array { items: Box::new(items.schema()), max_items },
            Self::Object(schema) => schema(),
            Self::Any => Schema::Any,
        }
    }
}

const fn or_i64(narrow: Option<i64>, own: i64) -> i64 {
    if let Some(bound) = narrow { bound } else { own }
}

const fn or_u32(narrow: Option<u32>, own: u32) -> u32 {
    if let Some(bound) = narrow { bound } else { own }
}

/// The least (0) or greatest (1) number of characters that a format has by itself.
const fn format_chars(format: Option<TextFormat>, end: usize) -> Option<u32> {
    let bounds = match format {
        Some(TextFormat::Name) => [1, ENTITY_BYTES_MAX as u32],
        Some(TextFormat::Uuid) => [36, 36],
        Some(TextFormat::Currency) => [3, 3],
        Some(TextFormat::Decimal | TextFormat::DateTime) => [1, 64],
        Some(TextFormat::Plain) | None => return None,
    };
    Some(bounds[end])
}

/// Which member of a body is wrong, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyError {
    /// Empty for the body itself.
    pub field: String,
    pub problem: String,
}

impl BodyError {
    pub fn new(problem: impl Into<String>) -> Self {
        Self { field: String::new(), problem: problem.into() }
    }

    /// Says in which member the error lies.
    pub fn inside(mut self, member: &str) -> Self {
        self.field = if self.field.is_empty() { member.into() } else { format!("{member}.{}", self.field) };
        self
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            write!(f, "the body {}", self.problem)
        } else {
            write!(f, "{} {}", self.field, self.problem)
        }
    }
}

impl core::error::Error for BodyError {}

/// The members of an object, or an error; and refuses members that are not in `known`.
pub fn members<'v>(value: &'v Value, known: &[&str]) -> Result<&'v [(String, Value)], BodyError> {
    let Value::Map(pairs) = value else { return Err(BodyError::new("is not an object")) };
    match pairs.iter().find(|(key, _)| !known.contains(&key.as_str())) {
        Some((key, _)) => Err(BodyError::new("is not a known field").inside(key)),
        None => Ok(pairs),
    }
}

/// Reads a member that must be there.
pub fn required<T: FieldValue>(value: &Value, name: &str, rule: &Rule) -> Result<T, BodyError> {
    let member = value.find(name).ok_or_else(|| BodyError::new("is missing").inside(name))?;
    T::read(member, rule).map_err(|error| error.inside(name))
}

/// Reads a member that may be absent or null.
pub fn optional<T: FieldValue>(value: &Value, name: &str, rule: &Rule) -> Result<Option<T>, BodyError> {
    match value.find(name) {
        None | Some(Value::Null) => Ok(None),
        Some(member) => T::read(member, rule).map(Some).map_err(|error| error.inside(name)),
    }
}

impl FieldValue for bool {
    const RULE: Rule = Rule::Bool;

    fn read(value: &Value, _: &Rule) -> Result<Self, BodyError> {
        if let Value::Bool(bool) = value { Ok(*bool) } else { Err(BodyError::new("is not true or false")) }
    }

    fn to_value(&self) -> Value {
        Value::Bool(*self)
    }
}

macro_rules! integers {
    ($($int:ident: $min:expr, $max:expr;)+) => {$(
        impl FieldValue for $int {
            const RULE: Rule = Rule::Int { min: $min, max: $max };

            fn read(value: &Value, rule: &Rule) -> Result<Self, BodyError> {
                let int = value.as_int().ok_or_else(|| BodyError::new("is not an integer"))?;
                let (min, max) = if let Rule::Int { min, max } = *rule { (min, max) } else { ($min, $max) };
                match Self::try_from(int) {
                    Ok(own) if (i128::from(min)..=i128::from(max)).contains(&int) => Ok(own),
                    _ => Err(BodyError::new(format!("is not within {min} and {max}"))),
                }
            }

            fn to_value(&self) -> Value {
                Value::Int(i128::from(*self))
            }
        }
    )+};
}

integers! {
    u8: 0, u8::MAX as i64;
    u16: 0, u16::MAX as i64;
    u32: 0, u32::MAX as i64;
    u64: 0, i64::MAX;
    i32: i32::MIN as i64, i32::MAX as i64;
    i64: i64::MIN, i64::MAX;
}

impl FieldValue for String {
    const RULE: Rule = Rule::Text { min_chars: 0, max_chars: 1024, format: TextFormat::Plain };

    fn read(value: &Value, rule: &Rule) -> Result<Self, BodyError> {
        let text = value.as_text().ok_or_else(|| BodyError::new("is not text"))?;
        let Rule::Text { min_chars, max_chars, format } = *rule else { return Ok(text.into()) };
        if !(min_chars as usize..=max_chars as usize).contains(&text.chars().count()) {
            return Err(BodyError::new(format!("is not {min_chars} to {max_chars} characters long")));
        }
        match format {
            TextFormat::Name if !is_name(text) => {
                Err(BodyError::new("may hold letters, digits, '.', '_', ':', '-' and a leading '@' only"))
            }
            TextFormat::Uuid if Uuid::parse(text).is_none() => Err(BodyError::new("is not a uuid")),
            _ => Ok(text.into()),
        }
    }

    fn to_value(&self) -> Value {
        Value::Text(self.clone())
    }
}

/// Whether `text` can name an entity.
fn is_name(text: &str) -> bool {
    let name = text.strip_prefix('@').unwrap_or(text).as_bytes();
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._:-".contains(byte);
    !name.is_empty() && name.iter().all(is_allowed)
}

impl FieldValue for Uuid {
    const RULE: Rule = Rule::Text { min_chars: 36, max_chars: 36, format: TextFormat::Uuid };

    fn read(value: &Value, _: &Rule) -> Result<Self, BodyError> {
        value.as_text().and_then(Uuid::parse).ok_or_else(|| BodyError::new("is not a uuid"))
    }

    fn to_value(&self) -> Value {
        Value::Text(self.to_string())
    }
}

impl<T: FieldValue> FieldValue for Vec<T> {
    const RULE: Rule = Rule::List { items: &T::RULE, max_items: 1024 };

    fn read(value: &Value, rule: &Rule) -> Result<Self, BodyError> {
        let Value::Array(items) = value else { return Err(BodyError::new("is not an array")) };
        let (rule, max_items) =
            if let Rule::List { items, max_items } = rule { (*items, *max_items) } else { (&T::RULE, 1024) };
        if items.len() > max_items as usize {
            return Err(BodyError::new(format!("has more than {max_items} items")));
        }
        items
            .iter()
            .enumerate()
            .map(|(at, item)| T::read(item, rule).map_err(|error| error.inside(&at.to_string())))
            .collect()
    }

    fn to_value(&self) -> Value {
        Value::Array(self.iter().map(T::to_value).collect())
    }
}

/// Any value; for responses.
impl FieldValue for Value {
    const RULE: Rule = Rule::Any;

    fn read(value: &Value, _: &Rule) -> Result<Self, BodyError> {
        Ok(value.clone())
    }

    fn to_value(&self) -> Value {
        self.clone()
    }
}
