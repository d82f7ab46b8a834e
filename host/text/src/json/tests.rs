//! Reading and printing: a table of bodies and what becomes of them, and random values there and back.

mod fuzz;

use proptest::prelude::*;
use statehouse_abi::describe::{Field, Schema, TextFormat};
use statehouse_abi::value::Value;

use super::*;

fn text(max_chars: u32, format: TextFormat) -> Schema {
    Schema::Text { min_chars: 1, max_chars, format }
}

fn field(name: &str, schema: Schema, required: bool) -> Field {
    Field { name: name.into(), schema, required, summary: String::new() }
}

/// An object with a field of every kind.
fn every_kind() -> Schema {
    let point = vec![field("x", Schema::Int { min: 0, max: 9 }, true), field("y/z", Schema::Bool, false)];
    Schema::Object {
        fields: vec![
            field("id", text(36, TextFormat::Uuid), false),
            field("account", text(8, TextFormat::Name), true),
            field("note", text(4, TextFormat::Plain), false),
            field("count", Schema::Int { min: -5, max: i64::MAX }, false),
            field("side", Schema::Enum { values: vec!["left".into(), "right".into()] }, false),
            field("points", Schema::Array { items: Box::new(Schema::Object { fields: point }), max_items: 2 }, false),
            field("tags", Schema::Map { values: Box::new(Schema::Bool), max_entries: 2 }, false),
            field("any", Schema::Any, false),
        ],
    }
}

/// Reads a body and gives the result: the value printed again, or the error.
fn outcome(given: &[(&str, &str)], body: &str) -> String {
    let shape = ObjectShape::new(&every_kind(), Some("id"));
    let given: Vec<_> =
        given.iter().map(|(name, text)| (shape.find(name).expect("a field"), text.to_string())).collect();
    match read_json(&shape, &given, body.as_bytes()) {
        Ok(body) => printed(&Value::from_cbor(&body.cbor).expect("bodies are deterministic")),
        Err(error) => error.to_string(),
    }
}

fn printed(value: &Value) -> String {
    String::from_utf8(print(&Json(value))).expect("JSON is text")
}

#[track_caller]
fn check(body: &str, expected: &str) {
    assert_eq!(outcome(&[], body), expected, "{body}");
}

#[test]
fn good_bodies_come_out_in_order() {
    check(r#" {"account":"a"} "#, r#"{"account":"a"}"#);
    check(
        r#"{"note":"né\u00e9\n","account":"@a.b_:-","id":"018F0000-0000-7000-8000-00000000000A"}"#,
        r#"{"id":"018f0000-0000-7000-8000-00000000000a","note":"néé\n","account":"@a.b_:-"}"#,
    );
    check(
        r#"{"tags":{"bb":true,"a":false},"side":"left","points":[{"x":1},{"y/z":true,"x":9}],"account":"a","count":-5}"#,
        r#"{"side":"left","tags":{"a":false,"bb":true},"count":-5,"points":[{"x":1},{"x":9,"y/z":true}],"account":"a"}"#,
    );
    check(
        r#"{"account":"a","any":[null,true,18446744073709551615,-9223372036854775808,"\u0001\"\\",{"b":{},"a":[]}]}"#,
        r#"{"any":[null,true,18446744073709551615,-9223372036854775808,"\u0001\"\\",{"a":[],"b":{}}],"account":"a"}"#,
    );
    check(r#"{"account":"a","count":9007199254740993}"#, r#"{"count":9007199254740993,"account":"a"}"#);
}

#[test]
fn bad_bodies_say_what_and_where() {
    check("", "`/account`: this field is required");
    check("{}", "`/account`: this field is required");
    check("[]", "expected an object, found something else");
    check("{", "the JSON ends too early, at line 1, column 1");
    check("{\"account\":\n a}", "this is not JSON, at line 2, column 2");
    check("{\"account\":\"a\"} {}", "this is not JSON, at line 1, column 17");
    check("{\"account\":\"a\",}", "this is not JSON, at line 1, column 16");
    check("{\"account\":\"\u{1}\"}", "this is not JSON, at line 1, column 13");
    check(r#"{"account":"a","b/~":1}"#, "`/b~1~0`: this field is unknown; leave it out");
    check(r#"{"account":"a","account":"a"}"#, "`/account`: this field is given twice");
    check(r#"{"account":"a","tags":{"x":true,"x":true}}"#, "`/tags/x`: this field is given twice");
    check(r#"{"account":"a","any":{"x":1,"y":2,"x":3}}"#, "`/any/x`: this field is given twice");
    check(r#"{"account":7}"#, "`/account`: expected text, found a number");
    check(r#"{"account":1.5}"#, "`/account`: expected text, found a number");
    check(r#"{"account":null}"#, "`/account`: expected text, found null");
    check(r#"{"account":["a"]}"#, "`/account`: expected text, found an array");
    check(r#"{"account":{}}"#, "`/account`: expected text, found an object");
    check(r#"{"account":true}"#, "`/account`: expected text, found a flag");
    check(r#"{"account":"a","count":"1"}"#, "`/count`: expected an integer, found text");
    let not_integer = "`/count`: expected an integer of at most 64 bits, without fraction or exponent";
    for number in ["1.0", "1e3", "0.5", "-0.0", "99999999999999999999"] {
        check(&format!(r#"{{"account":"a","count":{number}}}"#), not_integer);
    }
    check(r#"{"account":"a","any":[1.0]}"#, &not_integer.replace("/count", "/any/0"));
    check(r#"{"account":"a","count":-6}"#, "`/count`: expected an integer from -5 to 9223372036854775807");
    check(
        r#"{"account":"a","count":9223372036854775808}"#,
        "`/count`: expected an integer from -5 to 9223372036854775807",
    );
    check(r#"{"account":""}"#, "`/account`: expected at least 1 characters");
    check(r#"{"account":"123456789"}"#, "`/account`: expected at most 8 characters");
    check(r#"{"account":"a","note":"ééééé"}"#, "`/note`: expected at most 4 characters");
    let not_name = "`/account`: expected letters, digits and . _ : - only, and @ at most as the first character";
    for name in ["a b", "a@", "é", "a/b", "@@"] {
        check(&format!(r#"{{"account":"{name}"}}"#), not_name);
    }
    let not_uuid = "`/id`: expected a hyphenated uuid, like 018f0000-0000-7000-8000-000000000001";
    for id in ["", "x", "018f0000000070008000000000000001", "{018f0000-0000-7000-8000-000000000001}"] {
        check(&format!(r#"{{"account":"a","id":"{id}"}}"#), not_uuid);
    }
    check(r#"{"account":"a","side":"up"}"#, "`/side`: expected one of left, right");
    check(r#"{"account":"a","points":[{"x":1},{"x":10}]}"#, "`/points/1/x`: expected an integer from 0 to 9");
    check(r#"{"account":"a","points":[{"x":1},{}]}"#, "`/points/1/x`: this field is required");
    check(r#"{"account":"a","points":[{"x":1},{"x":1},{"x":1}]}"#, "`/points`: expected at most 2 items");
    check(r#"{"account":"a","tags":{"a":true,"b":true,"c":true}}"#, "`/tags`: expected at most 2 items");
    check(r#"{"account":"a","points":[{"y/z":3}]}"#, "`/points/0/y~1z`: expected true or false, found a number");
    let deep = format!(r#"{{"account":"a","any":{}{}}}"#, "[".repeat(32), "]".repeat(32));
    check(&deep, &format!("`/any{}`: nested more than 32 deep", "/0".repeat(31)));
}

#[test]
fn the_path_gives_fields_and_the_body_may_not() {
    assert_eq!(outcome(&[("account", "a"), ("count", "-5")], ""), r#"{"count":-5,"account":"a"}"#);
    assert_eq!(outcome(&[("account", "a")], r#"{"count":1}"#), r#"{"count":1,"account":"a"}"#);
    assert_eq!(
        outcome(&[("account", "a")], r#"{"account":"a"}"#),
        "`/account`: this field is taken from the path; leave it out of the body"
    );
    for number in ["+1", "", "-", "1.0", "0x1", "9223372036854775808"] {
        assert_eq!(
            outcome(&[("account", "a"), ("count", number)], "{}"),
            "`/count`: expected an integer of at most 64 bits, without fraction or exponent"
        );
    }
    assert_eq!(
        outcome(&[("account", "a"), ("any", "1")], "{}"),
        "`/any`: a value of this kind cannot be given as text"
    );
    assert_eq!(outcome(&[("account", "a"), ("account", "a")], ""), "`/account`: this field is given twice");
}

#[test]
fn the_id_is_read_along() {
    let shape = ObjectShape::new(&every_kind(), Some("id"));
    let body = br#"{"id":"018F0000-0000-7000-8000-000000000001","account":"a"}"#;
    let id = read_json(&shape, &[], body).expect("a good body").id;
    assert_eq!(id, Some([0x01, 0x8f, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 1]));
    assert_eq!(read_json(&shape, &[], br#"{"account":"a"}"#).expect("a good body").id, None);
}

#[test]
fn cbor_is_read_like_json() {
    let shape = ObjectShape::new(&every_kind(), Some("id"));
    let value = Value::map([("account", Value::text("a")), ("count", Value::Int(3))]);
    let cbor = value.to_cbor().expect("a small value");
    assert_eq!(read_cbor(&shape, &cbor).expect("a good body").cbor, cbor);
    let unsorted = [0xa2, 0x67, b'a', b'c', b'c', b'o', b'u', b'n', b't', 0x61, b'a', 0x62, b'i', b'd', 0x61, b'x'];
    assert_eq!(read_cbor(&shape, &unsorted).expect_err("x is no uuid").pointer, "/id");
    let with_bytes = Value::map([("account", Value::Bytes(vec![1]))]).to_cbor().expect("a small value");
    let error = read_cbor(&shape, &with_bytes).expect_err("bytes are no text");
    assert_eq!(error.to_string(), "`/account`: expected text, found bytes");
    let trailing = [cbor.as_slice(), &[0]].concat();
    let error = read_cbor(&shape, &trailing).expect_err("a byte too many");
    assert_eq!(error.to_string(), "something follows the CBOR value");
    assert!(read_cbor(&shape, &cbor[..cbor.len() - 1]).is_err());
}

fn any_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        ".{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::vec((".{0,30}", inner), 0..6)
                .prop_map(|pairs| serde_json::Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn json_to_cbor_to_value_to_json(any in any_value()) {
        let shape = ObjectShape::new(&every_kind(), None);
        let json = serde_json::json!({"any": any, "account": "a"});
        let body = read_json(&shape, &[], json.to_string().as_bytes()).expect("any value is allowed");
        let value = Value::from_cbor(&body.cbor).expect("bodies are deterministic");
        let back: serde_json::Value = serde_json::from_str(&printed(&value)).expect("the printer prints JSON");
        prop_assert_eq!(&back, &json);
        prop_assert_eq!(read_cbor(&shape, &body.cbor).expect("CBOR is read alike"), body);
    }
}
