//! Hostile modules against the validator and the calls. After each of them the host is alive and other calls are
//! unharmed.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use expect_test::{Expect, expect};
use statehouse_abi::call::{CallIn, Context, write_execute_out};
use statehouse_abi::cold::{QueryIn, RenderItem, Row};
use statehouse_abi::ops::{OpRole, OpsWriter};
use statehouse_abi::plan::{PlanInWriter, PlanItem};
use statehouse_abi::value::Value;

use super::*;
use crate::ids::ModuleId;
use crate::limits;
use crate::machine::logic::Logic;

mod fuzz;
mod structure;

const CONTEXT: Context = Context { time: 7, seed: [9; 32] };

fn wasm(name: &str) -> Vec<u8> {
    let path = format!("{}/../../tests/hostile/{name}.wat", env!("CARGO_MANIFEST_DIR"));
    wat::parse_file(&path).expect("the hostile modules are valid text")
}

/// An engine whose watchdog never stops a call, however busy the machine is.
fn engine() -> Arc<Engine> {
    engine_with_watchdog(Duration::from_secs(600))
}

fn engine_with_watchdog(watchdog: Duration) -> Arc<Engine> {
    Engine::new(EngineOptions { instances_max: 2, watchdog, ..Default::default() }).expect("the engine starts")
}

fn load(name: &str) -> Arc<Module> {
    engine().load(&wasm(name), Allowance::Recorded).expect("the module is accepted")
}

fn one_op() -> Vec<u8> {
    let mut ops = OpsWriter::default();
    ops.group(0);
    ops.op(b"alice", b"", [], OpRole::Step);
    ops.finish(Vec::new())
}

fn execute(module: &Module, pace: Pace) -> GuestFault {
    module.execute(pace, CONTEXT, &one_op(), &[]).expect_err("a hostile module has no outcome")
}

/// Checks that both artefacts fail alike, and that the engine keeps running.
fn check_fault(name: &str, expected: Expect) {
    let engine = engine();
    let module = engine.load(&wasm(name), Allowance::Recorded).expect("the module is accepted");
    let fault = execute(&module, Pace::Fast);
    assert_eq!(fault, execute(&module, Pace::Metered));
    expected.assert_eq(&format!("{fault:?}"));
    let other = engine.load(&wasm("conforming"), Allowance::Recorded).expect("the engine still loads");
    let outcome = other.apply(Pace::Fast, CONTEXT, &one_op(), &[], &[]);
    assert!(outcome.is_ok(), "the engine still calls");
}

fn check_refused(name: &str, expected: Expect) {
    let problems = validate(&wasm(name)).expect_err("the module is refused");
    let lines: Vec<String> = problems.iter().map(|problem| format!("{problem}\n")).collect();
    expected.assert_eq(&lines.concat());
    let refused = engine().load(&wasm(name), Allowance::Recorded);
    assert!(matches!(refused, Err(GuestError::Refused { problems: again }) if again == problems));
}

#[test]
fn a_conforming_module_gets_its_input_and_is_heard() {
    let module = load("conforming");
    assert_eq!(module.describe().name, "hostile");
    assert_eq!(module.id(), ModuleId::of(&wasm("conforming")));
    assert_eq!(validate(module.wasm()).map(|found| found.memory_bytes_min), Ok(2 * 65_536));
    let (ops, rows, outcome) = (one_op(), [1; 40], [2; 16]);
    let parts = CallIn { context: CONTEXT, ops: &ops, rows: &rows, outcome: Some(&outcome) };
    let mut expected = vec![0; parts.size()];
    parts.write_to(&mut expected);
    let answer = write_execute_out(Vec::new(), &[3; 8], &[4; 8], []);
    for pace in [Pace::Fast, Pace::Metered] {
        assert_eq!(module.apply(pace, CONTEXT, &ops, &rows, &outcome), Ok(expected.clone()));
        assert_eq!(module.execute(pace, CONTEXT, &answer, &rows), Ok(answer.clone()));
    }
}

#[test]
fn an_endless_loop_meets_the_watchdog_or_its_budget() {
    let engine = engine_with_watchdog(Duration::from_millis(20));
    let module = engine.load(&wasm("endless_loop"), Allowance::Recorded).expect("the module is accepted");
    assert_eq!(execute(&module, Pace::Fast), GuestFault::Watchdog);
    assert_eq!(execute(&module, Pace::Metered), GuestFault::Budget);
}

/// Each trap used to take the full time that the watchdog allows, and was not counted.
#[test]
fn words_without_an_end_are_the_watchdogs_or_none() {
    let engine = engine_with_watchdog(Duration::from_millis(20));
    let module = engine.load(&wasm("endless_words"), Allowance::Recorded).expect("the module is accepted");
    assert_eq!(execute(&module, Pace::Fast), GuestFault::Watchdog);
    assert!(matches!(execute(&module, Pace::Metered), GuestFault::Trap { text, .. } if text.contains("out of bounds")));
}

#[test]
fn memory_grows_to_the_limit_and_no_further() {
    let module = load("memory_bomb");
    let pages = (limits::GUEST_MEMORY_BYTES_MAX / 65_536) as u64;
    for pace in [Pace::Fast, Pace::Metered, Pace::Fast] {
        assert_eq!(module.apply(pace, CONTEXT, &one_op(), &[], &[]), Ok(pages.to_le_bytes().to_vec()));
    }
}

#[test]
fn nothing_a_guest_keeps_survives_the_call() {
    let module = load("state_in_globals");
    let first = module.apply(Pace::Fast, CONTEXT, &one_op(), &[], &[]);
    let counts: Vec<u8> = [1u64, 1, 2].iter().flat_map(|count| count.to_le_bytes()).collect();
    assert_eq!(first, Ok(counts));
    for pace in [Pace::Fast, Pace::Fast, Pace::Metered, Pace::Metered] {
        assert_eq!(module.apply(pace, CONTEXT, &one_op(), &[], &[]), first);
    }
}

#[test]
fn faults_are_told_apart() {
    check_fault(
        "deep_recursion",
        expect![[
            r#"Trap { text: "wasm trap: call stack exhausted in `deeper`", backtrace: ["deeper", "deeper", "deeper", "deeper", "deeper", "deeper", "deeper", "deeper", "deeper", "deeper", "deeper", "deeper", "deeper", "deeper", "deeper", "deeper"] }"#
        ]],
    );
    check_fault(
        "huge_output",
        expect![[r#"Output { what: "`sh1_execute` returned 67108848 bytes, over the limit" }"#]],
    );
    check_fault(
        "output_out_of_range",
        expect![[r#"Output { what: "`sh1_execute` returned 8 bytes at 131068, outside of the memory" }"#]],
    );
    check_fault(
        "output_wraps",
        expect![[r#"Output { what: "`sh1_execute` returned 16 bytes at 4294967288, outside of the memory" }"#]],
    );
    check_fault(
        "input_out_of_range",
        expect![[r#"Output { what: "sh1_alloc(256) returned 4294967280, outside of the memory" }"#]],
    );
    check_fault(
        "no_block",
        expect![[r#"Output { what: "`sh1_execute` returned no valid block: ABI version 169 is not 1" }"#]],
    );
    check_fault(
        "trap",
        expect![[r#"Trap { text: "no such account, src/lib.rs:7:5", backtrace: ["pay", "execute"] }"#]],
    );
    check_fault(
        "silent_trap",
        expect![[r#"Trap { text: "wasm trap: out of bounds memory access in `execute`", backtrace: ["execute"] }"#]],
    );
}

#[test]
fn an_input_over_the_limit_is_the_hosts_fault() {
    let module = load("conforming");
    let rows = vec![0; limits::GUEST_INPUT_BYTES_MAX];
    let fault = module.execute(Pace::Fast, CONTEXT, &one_op(), &rows);
    assert!(matches!(fault, Err(GuestFault::Host { .. })), "{fault:?}");
}

#[test]
fn cold_answers_are_checked() {
    let query = QueryIn {
        name: "balance".to_owned(),
        params: Value::Null,
        roles: 0,
        time: 0,
        position: String::new(),
        rows: Vec::new(),
        scans: Vec::new(),
    };
    let fault = load("no_block").query(&query);
    assert!(matches!(fault, Err(GuestFault::Output { .. })), "{fault:?}");
    // It echoes one item, which is not a value, and certainly not two.
    let row = || RenderItem::Row(Row { key: Vec::new(), row: None });
    let fault = load("conforming").render(&[row(), row()]);
    assert!(matches!(fault, Err(GuestFault::Output { .. })), "{fault:?}");
    let mut plan_in = PlanInWriter::default();
    plan_in.item(PlanItem { command: 0, roles: 0, id: [0; 16], caller: b"", body: b"" });
    let fault = load("conforming").plan(&plan_in.finish(Vec::new()));
    assert!(matches!(fault, Err(GuestFault::Output { .. })), "{fault:?}");
    let fault = engine().load(&wasm("bad_describe"), Allowance::Recorded).map(|module| module.id());
    assert!(matches!(fault, Err(GuestError::Describe(GuestFault::Output { .. }))), "{fault:?}");
}

#[test]
fn more_calls_than_instances_wait_for_each_other() {
    let module = load("conforming");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let outcome = module.apply(Pace::Fast, CONTEXT, &one_op(), &[], &[]);
                    assert!(outcome.is_ok(), "{outcome:?}");
                }
            });
        }
    });
}

#[test]
fn what_is_no_module_is_refused_with_its_place() {
    check_refused(
        "refused_start",
        expect![[r#"
        start function at byte 0xba; do at first use what it does at start
    "#]],
    );
    check_refused(
        "refused_import",
        expect![[r#"
        import `env.now` at byte 0x1d; a module is a pure function: remove the dependency that asks its environment for time, chance, files or a JavaScript host
    "#]],
    );
    check_refused(
        "refused_float",
        expect![[r#"
        float type: f64 as type of a global at byte 0x32; use integers, or rust_decimal without its float features
        float type: f32 as type of a local in `fee::apply` at byte 0xea; use integers, or rust_decimal without its float features
        float instruction f64.const in `fee::apply` at byte 0xee; use integers, or rust_decimal without its float features
        float type: f64 as type of a parameter or result in `convert`; use integers, or rust_decimal without its float features
    "#]],
    );
    check_refused(
        "refused_simd",
        expect![[r#"
        SIMD: v128.const in `sum` at byte 0xd5; build without -C target-feature=+simd128 and without SIMD intrinsics
    "#]],
    );
    check_refused(
        "refused_memories",
        expect![[r#"
        more than one memory at byte 0x26; use one memory
    "#]],
    );
    check_refused(
        "refused_memory64",
        expect![[r#"
        64-bit memory or table at byte 0x24; build for wasm32, not wasm64
    "#]],
    );
    check_refused(
        "refused_memory_size",
        expect![[r#"
        memory starts with 67174400 bytes, over the limit of 67108864 at byte 0x24; move large statics into rows, or compute them when needed
    "#]],
    );
}

#[test]
fn what_no_module_may_contain_is_refused_with_its_place() {
    check_refused(
        "refused_threads",
        expect![[r#"
        threads: shared memory at byte 0x25; build without -C target-feature=+atomics
        threads: i64.atomic.load in `peek` at byte 0xd6; build without -C target-feature=+atomics
    "#]],
    );
    check_refused(
        "refused_table",
        expect![[r#"
        table starts with 65537 elements, over the limit of 65536 at byte 0x24; use fewer function pointers
        more than one table at byte 0x29; use one table
    "#]],
    );
    check_refused(
        "refused_references",
        expect![[r#"
        references: ref.null in `swap` at byte 0xdd; references to functions and host objects have no place in a module
    "#]],
    );
    check_refused(
        "refused_tail_call",
        expect![[r#"
        tail call: return_call in `execute` at byte 0xda; build without -C target-feature=+tail-call
    "#]],
    );
    check_refused(
        "refused_exceptions",
        expect![[r#"
        exceptions: tag section at byte 0x2e; build with panic = "abort"
        exceptions: throw in `execute` at byte 0xdd; build with panic = "abort"
    "#]],
    );
    check_refused(
        "refused_exports",
        expect![[r#"
        no export `memory`; let the SDK's attribute `#[module]` generate the exports
        export `sh1_alloc` has type () -> (i32), not (i32) -> (i32); let the SDK's attribute `#[module]` generate the exports
        no export `sh1_migrate`; let the SDK's attribute `#[module]` generate the exports
    "#]],
    );
}

#[test]
fn bytes_that_are_no_wasm_are_refused() {
    let kinds = |wasm: &[u8]| -> Vec<ProblemKind> {
        validate(wasm).expect_err("no module").into_iter().map(|problem| problem.kind).collect()
    };
    let size = limits::MODULE_BYTES_MAX + 1;
    assert_eq!(kinds(&vec![0; size]), [ProblemKind::ModuleTooLarge { size }]);
    assert_eq!(kinds(b"\0asm\x0d\0\x01\0"), [ProblemKind::Component]);
    let whole = wasm("conforming");
    assert!(matches!(kinds(&whole[..whole.len() / 2])[..], [ProblemKind::Malformed { .. }]));
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        // Some damage, in a name or a constant, leaves a valid module. The validator must not fail in any case.
        drop(validate(&damaged));
        drop(validate(&whole[..at]));
    }
}

/// A cache in a folder, and its files.
struct Shelf(tempfile::TempDir);

impl Shelf {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn engine(&self, key: u8) -> Arc<Engine> {
        let cache = Some(CacheOptions { folder: self.0.path().to_owned(), key: [key; 32] });
        Engine::new(EngineOptions { cache, instances_max: 1, ..Default::default() }).expect("the engine starts")
    }

    /// Loads the conforming module, which must work.
    fn load(&self, key: u8) {
        let module = self.engine(key).load(&wasm("conforming"), Allowance::Recorded).expect("it is loaded");
        assert!(module.apply(Pace::Fast, CONTEXT, &one_op(), &[], &[]).is_ok(), "it works");
    }

    fn files(&self) -> Vec<std::path::PathBuf> {
        let entries = fs::read_dir(self.0.path()).expect("the folder is there");
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        paths.sort();
        paths
    }
}

#[test]
fn artefacts_are_cached_and_damage_is_mended() {
    let shelf = Shelf::new();
    shelf.load(1);
    let paths = shelf.files();
    assert_eq!(paths.len(), 2, "{paths:?}");
    let whole = fs::read(&paths[0]).expect("an artefact");
    shelf.load(1);
    assert_eq!(fs::read(&paths[0]).expect("it is there"), whole, "it came from the cache");
    for cut in [0, 7, 39, 40, whole.len() - 1] {
        fs::write(&paths[0], &whole[..cut]).expect("damage");
        shelf.load(1);
        assert_eq!(fs::read(&paths[0]).expect("mended").len(), whole.len());
    }
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&paths[0], &flipped).expect("damage");
    shelf.load(1);
    assert_ne!(fs::read(&paths[0]).expect("mended"), flipped);
    assert_eq!(shelf.files(), paths);
}

#[test]
fn what_another_key_has_made_is_compiled_again() {
    use std::os::unix::fs::PermissionsExt;
    let shelf = Shelf::new();
    shelf.load(1);
    let paths = shelf.files();
    let of_one: Vec<_> = paths.iter().map(|path| fs::read(path).expect("an artefact")).collect();
    shelf.load(2);
    let of_other: Vec<_> = paths.iter().map(|path| fs::read(path).expect("an artefact")).collect();
    for (one, other) in of_one.iter().zip(&of_other) {
        assert_ne!(one[..40], other[..40], "it was written again, with the other key");
    }
    // Nor is a file accepted that belongs to the other engine or another module, under a name that is not its own.
    fs::write(&paths[0], &of_other[1]).expect("a file is swapped");
    shelf.load(2);
    assert_eq!(fs::read(&paths[0]).expect("mended")[..40], of_other[0][..40]);
    for path in &paths {
        let mode = fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }
    assert_eq!(fs::metadata(shelf.0.path()).expect("it is there").permissions().mode() & 0o777, 0o700);
}

#[test]
fn no_link_and_no_giant_is_read_as_an_artefact() {
    let shelf = Shelf::new();
    shelf.load(1);
    let paths = shelf.files();
    fs::remove_file(&paths[0]).expect("it is ours");
    std::os::unix::fs::symlink("/dev/zero", &paths[0]).expect("a link");
    fs::File::create(&paths[1]).and_then(|file| file.set_len(1 << 40)).expect("a file with a hole");
    shelf.load(1);
    for path in paths {
        let facts = fs::symlink_metadata(path).expect("it is there");
        assert!(facts.is_file() && facts.len() < 1 << 20, "{facts:?}");
    }
}

#[test]
fn an_artefact_that_is_whole_and_foreign_stops_the_load() {
    let shelf = Shelf::new();
    shelf.load(1);
    for path in shelf.files() {
        let (name, foreign) = (path.file_name().expect("a file").to_owned(), b"not what wasmtime wrote");
        let mut mac = blake3::Hasher::new_keyed(&[1; 32]);
        mac.update(name.as_encoded_bytes()).update(&[0]).update(foreign);
        let file = [b"SHCWASM2", &mac.finalize().as_bytes()[..], foreign].concat();
        fs::write(path, file).expect("an artefact of a broken host");
    }
    let outcome = shelf.engine(1).load(&wasm("conforming"), Allowance::Recorded).map(|module| module.id());
    assert!(matches!(outcome, Err(GuestError::Artefact { .. })), "{outcome:?}");
}

#[test]
fn what_is_examined_is_kept_only_when_asked() {
    let shelf = Shelf::new();
    let engine = shelf.engine(1);
    let is_stopped = Arc::new(AtomicBool::new(false));
    let stop = is_stopped.clone();
    let stop = StopSignal::when(move || stop.load(Ordering::Acquire));
    let bounds = Bounds { allowance: Allowance::Foreign, until: None, stop };
    let examined = engine.examine(&wasm("conforming"), &bounds).expect("it is accepted");
    assert!(examined.module.apply(Pace::Metered, CONTEXT, &one_op(), &[], &[]).is_ok(), "it works");
    assert_eq!(shelf.files(), Vec::<std::path::PathBuf>::new());
    engine.keep(&examined).expect("the folder is ours");
    assert_eq!(shelf.files().len(), 2);
    engine.forget(ModuleId::of(b"another")).expect("the folder is ours");
    assert_eq!(shelf.files().len(), 2);
    engine.forget(examined.module.id()).expect("the folder is ours");
    assert_eq!(shelf.files(), Vec::<std::path::PathBuf>::new());
    is_stopped.store(true, Ordering::Release);
    let given_up = engine.examine(&wasm("conforming"), &bounds).map(|examined| examined.module.id());
    assert!(matches!(given_up, Err(GuestError::GivenUp { .. })), "{given_up:?}");
    engine.stop_compiling();
    let stopped = engine.load(&wasm("trap"), Allowance::Recorded).map(|module| module.id());
    assert!(matches!(stopped, Err(GuestError::GivenUp { .. })), "{stopped:?}");
}

#[test]
fn engines_of_one_build_have_one_fingerprint() {
    assert_eq!(engine().fingerprint(), engine().fingerprint());
}

/// What both engines say about a call, without the wording and the backtrace of a trap that is not a panic.
fn fault_kind(fault: GuestFault) -> GuestFault {
    match fault {
        GuestFault::Trap { text, .. } if text.starts_with("wasm trap: ") => {
            GuestFault::Trap { text: "wasm trap".to_owned(), backtrace: Vec::new() }
        }
        GuestFault::Trap { text, .. } => GuestFault::Trap { text, backtrace: Vec::new() },
        other => other,
    }
}

#[test]
fn the_second_engine_meets_hostile_modules_as_the_first_does() {
    let engine = engine();
    for name in [
        "deep_recursion",
        "huge_output",
        "output_out_of_range",
        "output_wraps",
        "input_out_of_range",
        "no_block",
        "trap",
        "silent_trap",
        "endless_loop",
    ] {
        let second = SecondModule::load(&wasm(name)).expect("the module is accepted");
        let first = engine.load(&wasm(name), Allowance::Recorded).expect("the module is accepted");
        let expected = fault_kind(execute(&first, Pace::Metered));
        let found = second.execute(Pace::Fast, CONTEXT, &one_op(), &[]).expect_err("a hostile module has no outcome");
        assert_eq!(fault_kind(found), expected, "{name}");
    }
    for name in ["conforming", "state_in_globals", "memory_bomb"] {
        let second = SecondModule::load(&wasm(name)).expect("the module is accepted");
        let first = engine.load(&wasm(name), Allowance::Recorded).expect("the module is accepted");
        for _ in 0..2 {
            let expected = first.apply(Pace::Fast, CONTEXT, &one_op(), &[1; 40], &[2; 16]);
            assert_eq!(second.apply(Pace::Fast, CONTEXT, &one_op(), &[1; 40], &[2; 16]), expected, "{name}");
        }
    }
    for name in ["refused_import", "refused_float", "refused_start", "refused_memory64"] {
        let refused = SecondModule::load(&wasm(name)).map(|module| module.id());
        assert!(matches!(refused, Err(GuestError::Refused { .. })), "{name}");
    }
}
