//! A fuzz target: bodies of clients in JSON.
//!
//! In: any bytes. Out: nothing, if a body that is accepted is one deterministic value, is read as the same value when
//! it is printed, and needs memory in proportion to its bytes. It does not know how inputs are made.

use statehouse_fuzz::{Target, fuzz, within};

use super::*;

/// Memory for reading: values are held twice, keys of maps besides, and a fault names its place and what was allowed.
fn bound(input: &[u8]) -> usize {
    (16 << 10) + 64 * input.len()
}

const BODIES: [&str; 5] = [
    r#"{"account":"@a.b_:-","id":"018f0000-0000-7000-8000-00000000000a","note":"né\u00e9\n","count":-5}"#,
    r#"{"tags":{"bb":true,"a":false},"side":"left","points":[{"x":1},{"y/z":true,"x":9}],"account":"a"}"#,
    r#"{"account":"a","any":[null,true,18446744073709551615,-9223372036854775808,"\u0001\"\\",{"b":{},"a":[]}]}"#,
    r#"{"account":"a","any":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}"#,
    r#"{"account":"a","count":9007199254740993,"any":{"x":1,"y":{"z":"😀\ud83d\ude00"}}}"#,
];

fn shape() -> ObjectShape {
    ObjectShape::new(&every_kind(), Some("id"))
}

#[test]
fn a_json_body_that_is_accepted_is_printed_as_it_was_read() {
    let target = Target::new("json_body").seeds(BODIES.map(|body| body.as_bytes().to_vec()));
    fuzz!(target, |input| {
        let shape = shape();
        let given = [(shape.find("count").expect("a field"), "7".to_owned())];
        let _ = within(bound(input), || read_json(&shape, &given, input));
        let Ok(body) = within(bound(input), || read_json(&shape, &[], input)) else { return };
        let value = Value::from_cbor(&body.cbor).expect("bodies are deterministic");
        assert_eq!(read_json(&shape, &[], printed(&value).as_bytes()), Ok(body));
    });
}
