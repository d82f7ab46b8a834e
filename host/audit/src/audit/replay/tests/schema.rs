//! The schema that `--schema` prints describes reports: every member is described, and no described member is missing.
//!
//! The validator here knows only as much of JSON Schema as that document uses, and refuses everything else.

use serde_json::Value;

use crate::audit::replay::report::SCHEMA;
use crate::audit::replay::tests::purse::variant;
use crate::audit::replay::tests::{busy, purse, replay};
use crate::audit::replay::{ReplayMode, Report};

/// What in the value is not as the schema says.
fn check(root: &Value, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    let Value::Object(words) = schema else { panic!("{at}: a schema is an object") };
    for (word, said) in words {
        match word.as_str() {
            "$ref" => {
                let name = said.as_str().and_then(|name| name.strip_prefix("#/$defs/")).expect("a local reference");
                check(root, &root["$defs"][name], value, at, faults);
            }
            "type" => {
                let is = |kind: &Value| kind_of(value) == kind.as_str().expect("a name");
                if !said.as_array().map_or_else(|| is(said), |kinds| kinds.iter().any(is)) {
                    faults.push(format!("{at}: {value} is not {said}"));
                }
            }
            "enum" if !said.as_array().expect("a list").contains(value) => faults.push(format!("{at}: {value}")),
            "const" if said != value => faults.push(format!("{at}: {value}")),
            "minimum" if value.as_i64() < said.as_i64() => faults.push(format!("{at}: {value}")),
            "items" => {
                for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, said, item, &format!("{at}[{number}]"), faults);
                }
            }
            "required" => {
                let names = said.as_array().expect("a list").iter().filter_map(Value::as_str);
                faults.extend(names.filter(|name| value.get(name).is_none()).map(|name| format!("{at}: no {name}")));
            }
            "additionalProperties" => {
                for (name, member) in value.as_object().into_iter().flatten() {
                    let place = format!("{at}.{name}");
                    match words.get("properties").and_then(|known| known.get(name)) {
                        Some(known) => check(root, known, member, &place, faults),
                        None if said == &Value::Bool(false) => faults.push(format!("{place} is not described")),
                        None => check(root, said, member, &place, faults),
                    }
                }
            }
            "oneOf" => {
                let fits = |one: &&Value| {
                    let mut own = Vec::new();
                    check(root, one, value, at, &mut own);
                    own.is_empty()
                };
                if said.as_array().expect("a list").iter().filter(fits).count() != 1 {
                    faults.push(format!("{at}: {value}"));
                }
            }
            "enum" | "const" | "minimum" | "properties" | "description" | "title" | "$schema" | "$defs" => {}
            other => panic!("{at}: the validator does not know `{other}`"),
        }
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn faults(report: &Value) -> Vec<String> {
    let schema: Value = serde_json::from_str(SCHEMA).expect("it is JSON");
    let mut faults = Vec::new();
    check(&schema, &schema, report, "report", &mut faults);
    faults
}

#[test]
fn reports_are_as_their_schema_says_and_read_back() {
    let candidates = [
        purse::<{ variant::ALIKE }>(),
        purse::<{ variant::LIMIT }>(),
        purse::<{ variant::TRAP }>(),
        purse::<{ variant::REFUSES }>(),
    ];
    for (seed, candidate) in (0..).zip(candidates) {
        let maker = busy(seed, 200);
        for mode in [ReplayMode::Isolated, ReplayMode::Cumulative] {
            let report = replay(&maker, candidate.clone(), mode);
            let json = serde_json::to_value(&report).expect("texts and integers only");
            assert_eq!(faults(&json), Vec::<String>::new());
            let read: Report = serde_json::from_value(json.clone()).expect("it reads back");
            assert_eq!(serde_json::to_value(&read).expect("texts and integers only"), json);
        }
    }
}

#[test]
fn what_the_schema_does_not_say_is_noticed() {
    let report = replay(&busy(1, 120), purse::<{ variant::LIMIT }>(), ReplayMode::Cumulative);
    let good = serde_json::to_value(&report).expect("texts and integers only");
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut json = good.clone();
        change(&mut json);
        faults(&json)
    };
    assert_eq!(changed(&|json| json["new"] = Value::Null), ["report.new is not described"]);
    assert_eq!(
        changed(&|json| drop(json.as_object_mut().map(|members| members.remove("notes")))),
        ["report: no notes"]
    );
    assert_eq!(changed(&|json| json["mode"] = Value::from("both")), ["report.mode: \"both\""]);
    assert!(!changed(&|json| json["counts"]["decisions"] = Value::from("1")).is_empty());
    assert!(!changed(&|json| json["rows"]["count"] = Value::Null).is_empty());
    assert!(!changed(&|json| json["first"][0]["recorded"]["outcome"] = Value::from("lost")).is_empty());
}
