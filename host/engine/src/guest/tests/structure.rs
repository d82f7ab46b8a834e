//! What a module may consist of, and what it may say about itself. Released modules are far below every limit. One
//! slightly beyond a limit is refused with the name of the limit, before anything is compiled.

use std::fmt::Write;
use std::fs;

use expect_test::{Expect, expect};

use super::*;
use crate::guest::validate::validate_within;

/// The text of the conforming module without its end.
fn conforming() -> String {
    let path = format!("{}/../../tests/hostile/conforming.wat", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).expect("it is there");
    text.trim_end().strip_suffix(')').expect("it ends as a module does").to_owned()
}

/// The conforming module with additions.
fn with(more: &str) -> Vec<u8> {
    wat::parse_str(format!("{}{more})", conforming())).expect("valid text")
}

/// A module whose description is these bytes.
fn describing(bytes: &[u8]) -> Vec<u8> {
    let mut data = String::new();
    for byte in bytes {
        write!(data, "\\{byte:02x}").expect("text grows");
    }
    let pages = bytes.len() / 65_536 + 2;
    let size = bytes.len();
    wat::parse_str(format!(
        r#"(module
            (memory (export "memory") {pages} 1024)
            (data (i32.const 16) "{data}")
            (func (export "sh1_alloc") (param i32) (result i32) (i32.const 65536))
            (func (export "sh1_describe") (result i64) (i64.const {}))
            (func (export "sh1_panic") (result i64) (i64.const 0))
            (func (export "sh1_plan") (export "sh1_execute") (export "sh1_apply") (export "sh1_query") (export "sh1_render")
                (export "sh1_check") (export "sh1_migrate") (param i32 i32) (result i64) (i64.const 0)))"#,
        (16_u64 << 32) | size as u64
    ))
    .expect("valid text")
}

fn check_excess(more: &str, expected: Expect) {
    let wasm = with(more);
    let problems = validate(&wasm).expect_err("it is refused");
    let lines: Vec<String> = problems.iter().map(|problem| format!("{problem}\n")).collect();
    expected.assert_eq(&lines.concat());
    let recorded = validate_within(&wasm, Allowance::Recorded);
    assert!(recorded.is_ok(), "one that is recorded has ten times the limits: {recorded:?}");
}

#[test]
fn released_modules_are_far_below_every_limit() {
    let folder = format!("{}/../../modules/releases", env!("CARGO_MANIFEST_DIR"));
    let mut most = Structure::default();
    let mut count = 0;
    for entry in fs::read_dir(folder).expect("the released modules are there") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            let found = validate(&fs::read(&path).expect("it can be read")).expect("it was released");
            for (part, number) in found.structure.parts() {
                most.most(part, number, 1);
            }
            count += 1;
        }
    }
    assert!(12 <= count, "{count} released modules");
    for (part, number) in most.parts() {
        println!("{number} {}, of {}", part.name(), part.limit());
        assert!(number * 3 <= part.limit(), "{number} {} are too near to {}", part.name(), part.limit());
    }
}

#[test]
fn too_much_of_one_part_is_refused_by_its_name() {
    check_excess(
        &"(type (func))".repeat(2_000),
        expect![[r#"
        2001 types, over the limit of 2000 at byte 0x177d; split it up, or generate less code: no compiler of modules makes so much
    "#]],
    );
    check_excess(
        &"(func)".repeat(20_000),
        expect![[r#"
        20005 functions, over the limit of 20000 at byte 0x21; split it up, or generate less code: no compiler of modules makes so much
    "#]],
    );
    check_excess(
        &"(global i32 (i32.const 0))".repeat(1_001),
        expect![[r#"
        1001 globals, over the limit of 1000 at byte 0x2c; split it up, or generate less code: no compiler of modules makes so much
    "#]],
    );
    let exports: String = (0..1_000).map(|n| format!("(export \"e{n}\" (func 0))")).collect();
    check_excess(
        &exports,
        expect![[r#"
        1011 exports, over the limit of 1000 at byte 0x2c; split it up, or generate less code: no compiler of modules makes so much
    "#]],
    );
    check_excess(
        &"(data (i32.const 0) \"\")".repeat(1_000),
        expect![[r#"
        1001 data and element segments, over the limit of 1000 at byte 0xf4; split it up, or generate less code: no compiler of modules makes so much
    "#]],
    );
}

#[test]
fn too_much_in_one_function_is_refused_by_its_name() {
    let body = "i32.const 0 drop ".repeat(100_000);
    check_excess(
        &format!("(func $long {body})"),
        expect![[r#"
        300002 bytes of one function, over the limit of 262144 in `long` at byte 0xfa; split it up, or generate less code: no compiler of modules makes so much
    "#]],
    );
    check_excess(
        &format!("(func $many (local{}))", " i64".repeat(2_001)),
        expect![[r#"
            2001 locals and parameters of one function, over the limit of 2000 in `many` at byte 0xf6; split it up, or generate less code: no compiler of modules makes so much
        "#]],
    );
    check_excess(
        &format!("(func (local{}))", " i64".repeat(2_000)).repeat(51),
        expect![[r#"
            102000 locals in all functions together, over the limit of 100000 at byte 0x255; split it up, or generate less code: no compiler of modules makes so much
        "#]],
    );
    check_excess(
        &format!("(type (func (param{})))", " i64".repeat(65)),
        expect![[r#"
        65 parameters and results of one type, over the limit of 64 at byte 0xb; split it up, or generate less code: no compiler of modules makes so much
    "#]],
    );
    check_excess(
        &format!("(func $table i32.const 0 br_table{})", " 0".repeat(10_002)),
        expect![[r#"
        10001 targets of one `br_table`, over the limit of 10000 in `table` at byte 0xfb; split it up, or generate less code: no compiler of modules makes so much
    "#]],
    );
    check_excess(
        &format!("(func $deep {} {})", "block ".repeat(1_001), "end ".repeat(1_001)),
        expect![[r#"
        1001 blocks within each other, over the limit of 1000 in `deep` at byte 0x8c9; split it up, or generate less code: no compiler of modules makes so much
    "#]],
    );
    let blocks = "block end ".repeat(520);
    check_excess(
        &format!("(func $wide (local{}) {blocks})", " i64".repeat(2_000)),
        expect![[r#"
            1042000 locals times blocks of one function, over the limit of 1000000 in `wide` at byte 0xf8; split it up, or generate less code: no compiler of modules makes so much
        "#]],
    );
}

/// Schemas within each other: `[4, [inner, 1]]`, in the body of a command.
fn nested(levels: usize) -> Vec<u8> {
    let mut schema = vec![0x82, 0x00, 0x80];
    for _ in 0..levels {
        schema = [&[0x82, 0x04, 0x82][..], &schema, &[0x01]].concat();
    }
    let body =
        [&[0x82, 0x05, 0x81, 0x81, 0xa4, 0x00, 0x61, b'f', 0x01][..], &schema, &[0x02, 0xf5, 0x03, 0x60]].concat();
    let command = [
        &[0xa7, 0x00, 0x61, b'c', 0x01, 0x64, b'P', b'O', b'S', b'T', 0x02, 0x61, b'c', 0x03][..],
        &body,
        &[0x05, 0x18, 200, 0x06, 0x82, 0x07, 0x80, 0x07, 0x60],
    ];
    described(&[0x81], &command.concat(), &[0x80])
}

/// A description with these commands and accepted schemas.
fn described(commands: &[u8], command: &[u8], accepts: &[u8]) -> Vec<u8> {
    let begin = b"\xa9\x00\x67hostile\x01\x651.0.0\x02\x01\x03";
    [&begin[..], accepts, &[0x04], commands, command, b"\x05\x80\x06\x80\x07\x80\x08\x80"].concat()
}

fn load_error(bytes: &[u8]) -> String {
    let loaded = engine().load(&describing(bytes), Allowance::Foreign);
    loaded.err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn a_description_has_a_depth_a_size_and_a_number_of_items() {
    assert_eq!(load_error(&nested(14)), "");
    let prefix = "module has no usable description: sh1_describe failed: module broke the contract: ";
    let check = |bytes: &[u8], expected: &str| assert_eq!(load_error(bytes), format!("{prefix}{expected}"));
    check(&nested(16), "command `c`: a schema nests too deeply");
    check(&nested(10_000), "`sh1_describe` returned CBOR that nests more than 128 levels deep");
    let list = |count: u32| [&[0x9a][..], &count.to_be_bytes(), &vec![0x00; count as usize]].concat();
    check(&described(&[0x80], &[], &list(1_025)), "1025 accepted schemas, over the limit of 1024");
    check(&described(&[0x80], &[], &list(300_000)), "`sh1_describe` returned 300035 bytes, over the limit of 262144");
}

#[test]
fn what_a_guest_returns_is_decoded_within_bounds() {
    // This holds not only for descriptions: values in values, 10,000 deep, as the answer to a query.
    let answer = [vec![0x82, 0x00, 0x81], vec![0x81; 10_000], vec![0x00]].concat();
    let mut data = String::new();
    for byte in &answer {
        write!(data, "\\{byte:02x}").expect("text grows");
    }
    let text = fs::read_to_string(format!("{}/../../tests/hostile/bad_describe.wat", env!("CARGO_MANIFEST_DIR")));
    let text = text.expect("it is there").replace("0x10_00000004", "0x10_0000001f");
    let text = text.replace(
        "(i64.const 0))\n)",
        &format!("(i64.const {}))\n(data (i32.const 1024) \"{data}\"))", (1_024_u64 << 32) | answer.len() as u64),
    );
    let module = engine().load(&wat::parse_str(text).expect("valid text"), Allowance::Foreign).expect("it is accepted");
    let fault = module.render(&[]).expect_err("it is too deep").to_string();
    assert_eq!(fault, "module broke the contract: `sh1_render` returned CBOR that nests more than 128 levels deep");
}

#[test]
fn a_sparse_image_is_not_laid_ready() {
    // Two bytes sixteen megabytes apart used to take 16 MiB of machine code for each engine, and as much memory.
    let wasm = with("(data (i32.const 0) \"a\") (data (i32.const 65520) \"b\")");
    let sparse = conforming().replace("(export \"memory\") 2 1024", "(export \"memory\") 256 1024");
    let sparse = wat::parse_str(format!("{sparse}(data (i32.const 16700000) \"b\"))")).expect("valid text");
    let size = |wasm: &[u8]| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cache = Some(CacheOptions { folder: folder.path().to_owned(), key: [1; 32] });
        let engine = Engine::new(EngineOptions { cache, instances_max: 1, ..Default::default() }).expect("it starts");
        let module = engine.load(wasm, Allowance::Foreign).expect("it is accepted");
        assert!(module.apply(Pace::Fast, CONTEXT, &one_op(), &[], &[]).is_ok(), "it runs");
        let files = fs::read_dir(folder.path()).expect("it is there");
        files.map(|file| file.expect("an entry").metadata().expect("its size").len()).sum::<u64>()
    };
    assert!(size(&sparse) < size(&wasm) + (128 << 10), "{} bytes", size(&sparse));
}
