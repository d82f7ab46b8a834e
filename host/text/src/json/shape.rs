//! Shapes: a module's schema prepared for reading, once per module, so that reading a body looks nothing up twice.
//!
//! In: a [`Schema`]. Out: the same with the fields of objects in CBOR order and their keys encoded. It knows nothing of
//! JSON.

use statehouse_abi::describe::{Schema, TextFormat};
use statehouse_abi::value::key_order;

use super::scalar::put_text;

pub enum Shape {
    Bool,
    Int { min: i64, max: i64 },
    Text(TextShape),
    Enum { values: Vec<String> },
    Array { items: Box<Shape>, count_max: u32 },
    Object(ObjectShape),
    Map { values: Box<Shape>, count_max: u32 },
    Any,
}

#[derive(Clone, Copy)]
pub struct TextShape {
    pub chars_min: u32,
    pub chars_max: u32,
    pub format: TextFormat,
}

pub struct ObjectShape {
    /// INVARIANT: in the order of their CBOR keys.
    fields: Vec<FieldShape>,
    id_field: Option<usize>,
}

pub struct FieldShape {
    pub name: String,
    /// The name as a CBOR text.
    pub key: Vec<u8>,
    pub shape: Shape,
    pub is_required: bool,
}

impl ObjectShape {
    /// Prepares the schema of a body or of parameters, which is an object by the module contract; any other schema
    /// gives an object without fields. `id_field` is read as a uuid, whatever the schema says.
    pub fn new(schema: &Schema, id_field: Option<&str>) -> Self {
        let declared = if let Schema::Object { fields } = schema { fields.as_slice() } else { &[] };
        let mut fields: Vec<FieldShape> = declared
            .iter()
            .map(|field| {
                let mut key = Vec::new();
                put_text(&mut key, &field.name);
                let is_id = id_field == Some(field.name.as_str());
                let shape = if is_id { Shape::uuid() } else { Shape::new(&field.schema) };
                FieldShape { name: field.name.clone(), key, shape, is_required: field.required }
            })
            .collect();
        fields.sort_by(|a, b| key_order(&a.name, &b.name));
        let id_field = id_field.and_then(|name| fields.iter().position(|field| field.name == name));
        Self { fields, id_field }
    }

    pub fn fields(&self) -> &[FieldShape] {
        &self.fields
    }

    pub fn find(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.name == name)
    }

    /// Whether this field carries the command's id.
    pub fn is_id(&self, field: usize) -> bool {
        self.id_field == Some(field)
    }
}

impl Shape {
    fn new(schema: &Schema) -> Self {
        match schema {
            Schema::Bool => Self::Bool,
            Schema::Int { min, max } => Self::Int { min: *min, max: *max },
            Schema::Text { min_chars, max_chars, format } => {
                Self::Text(TextShape { chars_min: *min_chars, chars_max: *max_chars, format: *format })
            }
            Schema::Enum { values } => Self::Enum { values: values.clone() },
            Schema::Array { items, max_items } => {
                Self::Array { items: Box::new(Self::new(items)), count_max: *max_items }
            }
            Schema::Object { .. } => Self::Object(ObjectShape::new(schema, None)),
            Schema::Map { values, max_entries } => {
                Self::Map { values: Box::new(Self::new(values)), count_max: *max_entries }
            }
            Schema::Any => Self::Any,
        }
    }

    fn uuid() -> Self {
        Self::Text(TextShape { chars_min: 36, chars_max: 36, format: TextFormat::Uuid })
    }

    /// What a value of this shape is called in an error.
    pub fn expected(&self) -> &'static str {
        match self {
            Self::Bool => "true or false",
            Self::Int { .. } => "an integer",
            Self::Text(_) | Self::Enum { .. } => "text",
            Self::Array { .. } => "an array",
            Self::Object(_) | Self::Map { .. } => "an object",
            Self::Any => "a value without floats",
        }
    }
}
