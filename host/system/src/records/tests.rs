//! The bytes that `system` records: the op of each command, and each rejection, are those of the first release.
//!
//! In: bodies as nodes send them, and many edits of each. Out: what the logic plans for them, compared with golden
//! files. An edited body is accepted, or refused for a reason, as it always was; of these there are only hashes.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use expect_test::expect_file;
use statehouse_guest::abi::cold::Rejection as Recorded;
use statehouse_guest::abi::plan::{PlanInWriter, PlanItem, PlanOut, Planned};
use statehouse_guest::native::{Export, call};
use statehouse_guest::{Commands, Refusal, Rejections, Value, role};

use super::command::{CommandBody, SystemCommand};
use super::logic::System;
use super::rejection::Rejection;

const ROLES: [u32; 4] = [role::ADMIN, role::OPERATOR, role::DEVELOPER, 0];

fn text(text: impl Into<String>) -> Value {
    Value::text(text)
}

fn texts<const N: usize>(texts: [&str; N]) -> Value {
    Value::Array(texts.into_iter().map(text).collect())
}

fn hash(digit: char) -> Value {
    text(digit.to_string().repeat(64))
}

fn ids<const N: usize>(ids: [i128; N]) -> Value {
    Value::Array(ids.into_iter().map(|id| Value::map([("id", Value::Int(id))])).collect())
}

fn node(id: i128, peer: &str) -> [(&'static str, Value); 2] {
    [("id", Value::Int(id)), ("peer", text(peer))]
}

fn of_module<const N: usize>(more: [(&'static str, Value); N]) -> Value {
    Value::map([("machine", text("wallet")), ("module", hash('a'))].into_iter().chain(more))
}

fn of_webhook<const N: usize>(more: [(&'static str, Value); N]) -> Value {
    Value::map([("machine", text("wallet")), ("webhook", text("till"))].into_iter().chain(more))
}

/// Bodies as nodes send them: each command once at least, and each of its forms.
fn sent() -> Vec<(&'static str, Value)> {
    let nodes = vec![Value::map(node(1, "a:7000")), Value::map(node(2, "b:7000"))];
    vec![
        ("found_cluster", Value::map([("nodes", Value::Array(nodes))])),
        ("add_node", Value::map(node(4, "d:7000"))),
        ("remove_node", Value::map([("id", Value::Int(2))])),
        (
            "create_machine",
            Value::map([("name", text("wallet")), ("partitions", Value::Int(4)), ("module", hash('a'))]),
        ),
        ("record_key", Value::map([("node", Value::Int(3)), ("key", hash('c'))])),
        ("raise_level", Value::map([("level", Value::Int(9)), ("nodes", ids([1, 2, 3]))])),
        ("add_supporting_node", Value::map(node(4, "d:7000").into_iter().chain([("level", Value::Int(9))]))),
        ("remove_checked", Value::map([("id", Value::Int(2)), ("others", ids([1, 3]))])),
        ("accept_clock", Value::map([("ahead", Value::Int(-7_200_000_000))])),
        (
            "accept_loss",
            Value::map([
                ("machine", text("wallet")),
                ("partition", Value::Int(3)),
                ("node", Value::Int(2)),
                ("by", text("eve")),
                ("why", text("the disk is gone")),
                ("time", Value::Int(1_790_000_000_000_000)),
                ("refusal", text("its log ends at 40, and node 1 has seen 42")),
            ]),
        ),
    ]
    .into_iter()
    .chain(sent_of_modules())
    .chain(sent_of_views_and_webhooks())
    .collect()
}

fn sent_of_modules() -> Vec<(&'static str, Value)> {
    let (version, engine) = (("version", text("2.0.1")), ("engine", text("wasmtime 30 x86_64")));
    let (node, problem) = (("node", Value::Int(2)), ("problem", text("out of memory")));
    vec![
        ("stage_module", of_module([version, ("schema", Value::Int(3)), ("size", Value::Int(70_000))])),
        ("prepare_module", of_module([])),
        ("module_prepared", of_module([node.clone(), engine.clone()])),
        ("module_prepared", of_module([node.clone(), engine, problem.clone()])),
        (
            "activate_module",
            of_module([("mode", text("proved")), ("current", hash('b')), ("proof", text("certificate 12ab"))]),
        ),
        ("activate_module", of_module([("mode", text("without_proof")), ("current", hash('b'))])),
        ("activate_module", of_module([("mode", text("rollback")), ("current", hash('b'))])),
        ("drain_module", of_module([("current", hash('b'))])),
        ("module_not_drained", of_module([problem.clone()])),
        ("module_not_activated", of_module([("number", Value::Int(5)), ("partition", Value::Int(3)), problem])),
        ("shadow_module", of_module([node])),
        ("shadow_stop", of_module([])),
        ("refuse_module", of_module([("size", Value::Int(12)), ("reason", text("it imports a clock"))])),
    ]
}

fn sent_of_views_and_webhooks() -> Vec<(&'static str, Value)> {
    let of_view = || [("machine", text("wallet")), ("view", text("statements"))];
    let created = |is_default| {
        let more = [("module", hash('a')), ("version", text("1.2.0")), ("is_default", Value::Bool(is_default))];
        Value::map(of_view().into_iter().chain(more))
    };
    let step = |name: &str, positions| of_webhook([("step", text(name)), ("positions", positions)]);
    let lane = |position: &str, since, attempts| {
        Value::map([("position", text(position)), ("since", Value::Int(since)), ("attempts", Value::Int(attempts))])
    };
    let note = |lanes: Vec<Value>, problem: &str, halt: &str| {
        let lanes = ("lanes", Value::Array(lanes));
        let Value::Map(pairs) =
            of_webhook([("epoch", Value::Int(2)), lanes, ("problem", text(problem)), ("halt", text(halt))])
        else {
            unreachable!("it is a map")
        };
        pairs
    };
    let dead = Value::map([
        ("first", text("1.9.0~0000000a")),
        ("last", text("1.9.3~0000000a")),
        ("since", Value::Int(1_790_000_000_000_000)),
        ("attempts", Value::Int(12)),
        ("problem", text("500 Internal Server Error")),
    ]);
    let given_up = note(Vec::new(), "", "").into_iter().chain([("dead".to_owned(), dead)]);
    let rotated = [("step", text("rotate")), ("positions", texts([])), ("secret", hash('e'))];
    vec![
        ("create_view", created(true)),
        ("create_view", created(false)),
        ("rebuild_view", Value::map(of_view())),
        ("drop_view", Value::map(of_view())),
        (
            "create_webhook",
            of_webhook([
                ("url", text("https://till.example/hook")),
                ("keys", texts(["alice", "bob"])),
                ("kinds", texts(["TransferMade"])),
                ("batch", Value::Int(10)),
                ("secret", hash('d')),
                ("begin", texts(["0.12.3~1a2b3c4d", "1.7.0~0a0b0c0d"])),
            ]),
        ),
        ("change_webhook", step("pause", texts([]))),
        ("change_webhook", step("resume", texts([]))),
        ("change_webhook", step("settle", texts([]))),
        ("change_webhook", step("drop", texts([]))),
        ("change_webhook", step("replay", texts(["1.7.0~0a0b0c0d", "0.12.3~1a2b3c4d"]))),
        ("change_webhook", step("redelivered", texts(["1.9.0~0000000a"]))),
        ("change_webhook", of_webhook(rotated)),
        ("note_webhook", Value::map(note(vec![lane("1.9.0~0000000a", 0, 0), lane("0.4.1~0000000b", 17, 3)], "", ""))),
        ("note_webhook", Value::map(note(Vec::new(), "503 Service Unavailable", ""))),
        ("note_webhook", Value::map(given_up)),
        ("note_webhook", Value::map(note(Vec::new(), "", "gone"))),
        ("note_webhook", Value::map(note(Vec::new(), "", "full"))),
    ]
}

/// The bodies that differ from `value` in one place: a member is missing, unknown or another value, or a list has
/// another order.
fn edits(value: &Value) -> Vec<Value> {
    let words = [
        "",
        "zz",
        "a/b",
        "@",
        "1.2.3~00000000",
        "1.2.3",
        "rollback",
        "without_proof",
        "gone",
        "rotate",
        "replay",
        "drop",
    ];
    let numbers = [-1, 0, 1, 4095, 4096, 65_536, 1 << 31, i128::from(i64::MAX), 1 << 63];
    let mut edits = vec![Value::Null, Value::Bool(true), texts([]), texts(["1.2.3~00000000"]), hash('A'), hash('g')];
    edits.extend(words.map(text).into_iter().chain(numbers.map(Value::Int)));
    edits.extend(["x".repeat(32), "x".repeat(130), "https://".repeat(50)].map(text));
    match value {
        Value::Map(members) => {
            for at in 0..members.len() {
                let mut without = members.clone();
                let (name, member) = without.remove(at);
                edits.extend(
                    self::edits(&member)
                        .into_iter()
                        .map(|edited| Value::map(without.iter().cloned().chain([(name.clone(), edited)]))),
                );
                edits.push(Value::Map(without));
            }
            edits.push(Value::map(members.iter().cloned().chain([("unknown".to_owned(), Value::Null)])));
        }
        Value::Array(items) => {
            edits.push(Value::Array(items.iter().rev().cloned().collect()));
            for at in 0..items.len() {
                let with = |item: Value| {
                    let mut items = items.clone();
                    items[at] = item;
                    Value::Array(items)
                };
                edits.extend(self::edits(&items[at]).into_iter().map(with));
                edits.push(Value::Array(items.iter().chain([&items[at]]).cloned().collect()));
            }
        }
        _ => {}
    }
    edits
}

/// What the logic plans for a command: each step with its op and keys, or why it refuses the command.
fn planned(command: &str, body: &Value, roles: u32) -> String {
    let mut items = PlanInWriter::default();
    let number = CommandBody::find(command).expect("it is declared");
    let cbor = body.to_cbor().expect("all numbers fit");
    items.item(PlanItem { command: number, roles, id: [7; 16], caller: b"alice", body: &cbor });
    let out = call::<System>(Export::Plan, &items.finish(Vec::new()));
    let out = PlanOut::parse(&out).expect("it is a plan");
    let (home, body, steps) = match out.item(0) {
        Planned::Plan { home, body, first_step, step_count, .. } => (home, body, first_step..first_step + step_count),
        Planned::Refused(refusal) => {
            let Refusal { code, status, detail, field } = minicbor::decode(refusal).expect("a refusal");
            return format!("refused {status} {code} {}: {detail}\n", field.unwrap_or_default());
        }
    };
    let mut said = format!("home {}, body {}\n", String::from_utf8_lossy(home), hex(body));
    for step in steps.map(|step| out.step(step)) {
        let keys = (step.first_key..step.first_key + step.key_count).map(|key| out.key(key).1);
        let keys: Vec<_> = keys.map(String::from_utf8_lossy).collect();
        writeln!(said, "op {} with {}", hex(step.op), keys.join(" ")).expect("a text takes all");
    }
    said
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn each_command_is_recorded_as_it_always_was() {
    let mut said = String::new();
    for (command, body) in sent() {
        writeln!(said, "{command} {}", hex(&body.to_cbor().expect("small numbers"))).expect("a text takes all");
        said += &planned(command, &body, role::ADMIN);
        let edited = edits(&body);
        let mut hasher = blake3::Hasher::new();
        for body in edited.iter().chain([&body]) {
            for roles in ROLES {
                hasher.update(planned(command, body, roles).as_bytes());
            }
        }
        writeln!(said, "{} edits: {}\n", edited.len(), hasher.finalize()).expect("a text takes all");
    }
    let describe = blake3::hash(&call::<System>(Export::Describe, &[]));
    writeln!(said, "describe: {describe}").expect("a text takes all");
    expect_file!["golden/commands.txt"].assert_eq(&said);
}

#[test]
fn a_body_is_read_and_written_again_byte_for_byte() {
    let names: BTreeSet<_> = sent().into_iter().map(|(name, _)| name.to_owned()).collect();
    let declared: BTreeSet<_> = CommandBody::declare().into_iter().map(|command| command.name).collect();
    assert_eq!(names, declared, "each command is here");
    for (name, body) in sent() {
        let number = CommandBody::find(name).expect("it is declared");
        let read = CommandBody::decode(number, &body).expect("it is declared").expect("it keeps its schema");
        let command = SystemCommand::parse(&read).unwrap_or_else(|refusal| panic!("{name}: {}", refusal.detail));
        assert_eq!(command.to_body(), (name, body), "{command:?}");
    }
}

#[test]
fn each_rejection_is_recorded_as_it_always_was() {
    let (machine, module) = (|| "wallet".to_owned(), "ab".repeat(32));
    let rejections = [
        Rejection::MachineExists,
        Rejection::Founded,
        Rejection::NodeIdUsed,
        Rejection::UnknownNode,
        Rejection::LastNode,
        Rejection::UnknownMachine { machine: machine() },
        Rejection::NotStaged { module },
        Rejection::AlreadyActive,
        Rejection::OtherActive,
        Rejection::NeverActive,
        Rejection::NotPrepared { nodes: "1, 2".to_owned() },
        Rejection::NotProved,
        Rejection::Draining,
        Rejection::NotShadowed,
        Rejection::OutOfDate,
        Rejection::KeyOfOther { node: 3 },
        Rejection::UnknownView { view: "statements".to_owned() },
        Rejection::ViewExists { view: "statements".to_owned() },
        Rejection::TooManyViews,
        Rejection::TooManyKeys,
        Rejection::UnknownWebhook { webhook: "till".to_owned() },
        Rejection::WebhookExists { webhook: "till".to_owned() },
        Rejection::TooManyWebhooks,
        Rejection::NotFollowed { partition: 3 },
        Rejection::UnknownLetter,
        Rejection::DeadLettersFull,
        Rejection::LevelNotSupported { node: 4, level: 9, supported: 8 },
    ];
    let declared = Rejection::declare();
    assert_eq!(rejections.len(), declared.len(), "each is here");
    let mut said = String::new();
    for (rejection, declared) in rejections.iter().zip(declared) {
        assert_eq!(rejection.code(), declared.code, "in the order of their declaration");
        let recorded = Recorded { code: rejection.code().to_owned(), detail: rejection.detail() };
        let bytes = minicbor::to_vec(&recorded).expect("a vector takes all bytes");
        writeln!(said, "{} {} {}\n{}", declared.code, declared.status, recorded.detail, hex(&bytes))
            .expect("a text takes all");
    }
    expect_file!["golden/rejections.txt"].assert_eq(&said);
}
