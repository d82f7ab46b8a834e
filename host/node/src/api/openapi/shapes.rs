//! Schemas of OpenAPI from the schemas that modules declare, with examples made from them.
//!
//! In: a declared schema. Out: JSON Schema 2020-12 as OpenAPI 3.1 has it. It knows nothing of routes.

use serde_json::{Value, json};
use statehouse_abi::describe::{Field, Schema as Declared, TextFormat};
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, KnownFormat, ObjectBuilder, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::{RefOr, Schema};

pub fn schema(declared: &Declared) -> RefOr<Schema> {
    match declared {
        Declared::Bool => ObjectBuilder::new().schema_type(Type::Boolean).into(),
        Declared::Int { min, max } => {
            ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(*min)).maximum(Some(*max)).into()
        }
        Declared::Text { min_chars, max_chars, format } => {
            let (format, pattern) = text_format(*format);
            ObjectBuilder::new()
                .schema_type(Type::String)
                .min_length(Some(*min_chars as usize))
                .max_length(Some(*max_chars as usize))
                .format(format)
                .pattern(pattern)
                .into()
        }
        Declared::Enum { values } => {
            ObjectBuilder::new().schema_type(Type::String).enum_values(Some(values.clone())).into()
        }
        Declared::Array { items, max_items } => {
            ArrayBuilder::new().items(schema(items)).max_items(Some(*max_items as usize)).into()
        }
        Declared::Object { fields } => object(fields).into(),
        Declared::Map { values, max_entries } => ObjectBuilder::new()
            .schema_type(Type::Object)
            .additional_properties(Some(AdditionalProperties::RefOr(schema(values))))
            .max_properties(Some(*max_entries as usize))
            .into(),
        Declared::Any => ObjectBuilder::new().schema_type(SchemaType::AnyValue).into(),
    }
}

pub fn text() -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::String).into()
}

/// A problem, as RFC 9457 and the host define it.
pub fn problem_schema() -> RefOr<Schema> {
    let described = |text: &str| ObjectBuilder::new().schema_type(Type::String).description(Some(text));
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("type", described("`urn:statehouse:problem:<code>`, stable"))
        .property("title", described("What the problem is, for people"))
        .property("status", ObjectBuilder::new().schema_type(Type::Integer))
        .property("detail", described("What is wrong in this case, and what to do"))
        .property("instance", described("The request id"))
        .property("code", described("The last part of `type`"))
        .property("Status", described("`rejected` if the refusal is recorded, so that the id keeps it for ever"))
        .property("Transaction_id", described("The id of the command"))
        .property("field", described("The field of the request that is wrong"))
        .property(
            "fields",
            ArrayBuilder::new().items(text()).description(Some("For a reused id: the fields that differ")),
        )
        .property(
            "homes",
            ArrayBuilder::new()
                .items(text())
                .description(Some("For an ambiguous id: the homes of the commands that have it")),
        )
        .property("pointer", described("The JSON pointer of that field"))
        .property("position", described("The position of the rejection in the journal"))
        .property("resolve", described("Where to ask what became of the command"))
        .required("type")
        .required("title")
        .required("status")
        .required("detail")
        .required("instance")
        .required("code")
        .into()
}

/// An example of a value of this shape.
pub fn example(declared: &Declared) -> Option<Value> {
    Some(match declared {
        Declared::Bool => json!(true),
        Declared::Int { min, max } => json!(1.clamp(*min, *max)),
        Declared::Text { format, .. } => match format {
            TextFormat::Plain => json!("text"),
            TextFormat::Uuid => json!("018f0000-0000-7000-8000-000000000001"),
            TextFormat::Name => json!("alice"),
            TextFormat::Decimal => json!("1.00"),
            TextFormat::Currency => json!("USD"),
            TextFormat::DateTime => json!("2026-01-31T00:00:00Z"),
        },
        Declared::Enum { values } => json!(values.first()?),
        Declared::Array { items, .. } => json!([example(items)?]),
        Declared::Object { fields } => Value::Object(
            fields.iter().filter_map(|field| Some((field.name.clone(), example(&field.schema)?))).collect(),
        ),
        Declared::Map { values, .. } => json!({"key": example(values)?}),
        Declared::Any => return None,
    })
}

fn object(fields: &[Field]) -> ObjectBuilder {
    let closed = ObjectBuilder::new()
        .schema_type(Type::Object)
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)));
    fields.iter().fold(closed, |object, field| {
        let object = object.property(&field.name, described(schema(&field.schema), &field.summary));
        if field.required { object.required(&field.name) } else { object }
    })
}

/// The schema of a field, with what the field means if its declaration says so.
fn described(schema: RefOr<Schema>, summary: &str) -> RefOr<Schema> {
    let description = Some(summary).filter(|summary| !summary.is_empty()).map(str::to_owned);
    match schema {
        RefOr::T(Schema::Object(mut object)) => {
            object.description = description;
            RefOr::T(Schema::Object(object))
        }
        RefOr::T(Schema::Array(mut array)) => {
            array.description = description;
            RefOr::T(Schema::Array(array))
        }
        other => other,
    }
}

fn text_format(format: TextFormat) -> (Option<SchemaFormat>, Option<&'static str>) {
    match format {
        TextFormat::Plain => (None, None),
        TextFormat::Uuid => (Some(SchemaFormat::Custom("uuid".to_owned())), None),
        TextFormat::Name => (None, Some("^@?[A-Za-z0-9._:-]*$")),
        TextFormat::Decimal => (None, Some("^[0-9]+(\\.[0-9]+)?$")),
        TextFormat::Currency => (None, Some("^[A-Z]{3}$")),
        TextFormat::DateTime => (Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_field_means_is_its_description() {
        let field = |name: &str, schema, summary: &str| Field {
            name: name.to_owned(),
            schema,
            required: false,
            summary: summary.to_owned(),
        };
        let text = || Declared::Text { min_chars: 0, max_chars: 9, format: TextFormat::Plain };
        let inner = Declared::Object { fields: vec![field("inner", Declared::Bool, "Within")] };
        let declared = Declared::Object {
            fields: vec![
                field("text", text(), "A text"),
                field("list", Declared::Array { items: Box::new(text()), max_items: 3 }, "A list"),
                field("object", inner, "An object"),
                field("any", Declared::Any, "Anything"),
                field("silent", text(), ""),
            ],
        };
        let shown = serde_json::to_value(schema(&declared)).expect("a schema is JSON");
        let description = |name: &str| shown["properties"][name]["description"].as_str();
        assert_eq!(description("text"), Some("A text"));
        assert_eq!(description("list"), Some("A list"));
        assert_eq!(description("object"), Some("An object"));
        assert_eq!(description("any"), Some("Anything"));
        assert_eq!(description("silent"), None);
        assert_eq!(shown["properties"]["object"]["properties"]["inner"]["description"], "Within");
        assert_eq!(shown["properties"]["list"]["items"]["description"], Value::Null);
    }
}
