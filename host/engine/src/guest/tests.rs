//! Hostile modules against the validator and the calls. After each of them the host is alive and other calls are
//! unharmed.

use std::sync::Arc;
use std::time::Duration;

use expect_test::{Expect, expect};
use statehouse_abi::call::{CallIn, Context, write_execute_out};
use statehouse_abi::cold::{QueryIn, RenderItem, Row};
use statehouse_abi::export;
use statehouse_abi::ops::{OpRole, OpsWriter};
use statehouse_abi::plan::{PlanInWriter, PlanItem};
use statehouse_abi::value::Value;

use super::engine::WATCHDOG_TICKS;
use super::*;
use crate::ids::ModuleId;
use crate::limits;
use crate::machine::logic::Logic;

mod artefacts;
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

/// The watchdog used to measure the time of the wall clock, and refused commands whose module only had to wait for a
/// processor.
#[test]
fn a_call_that_waits_for_a_processor_is_not_stopped() {
    let engine = engine();
    let module = engine.load(&wasm("conforming"), Allowance::Recorded).expect("the module is accepted");
    let (ops, rows, outcome) = (one_op(), [1; 40], [2; 16]);
    let parts = CallIn { context: CONTEXT, ops: &ops, rows: &rows, outcome: Some(&outcome) };
    let call = module.start(Pace::Fast, 0).expect("an instance is free");
    // So much time passes while the thread of the call does not run.
    let wait = |input: &mut [u8]| {
        parts.write_to(input);
        (0..2 * WATCHDOG_TICKS).for_each(|_| engine.fast.engine.increment_epoch());
    };
    assert!(call.call_with(export::APPLY, parts.size(), wait).is_ok());
}

/// A node that stops ends calls at once, and its clients were told that the module had trapped.
#[test]
fn a_plan_that_the_host_ends_is_no_fault_of_the_module() {
    let endless =
        std::fs::read_to_string(format!("{}/../../tests/hostile/endless_loop.wat", env!("CARGO_MANIFEST_DIR")));
    let swapped =
        endless.expect("it is there").replace("\"sh1_plan\"", "\"x\"").replace("\"sh1_execute\"", "\"sh1_plan\"");
    let text = swapped.replace("\"x\"", "\"sh1_execute\"");
    let engine = engine_with_watchdog(Duration::from_millis(20));
    let module = engine.load(&wat::parse_str(text).expect("valid text"), Allowance::Recorded).expect("it is accepted");
    assert_eq!(module.plan(&[0; 16]), Err(GuestFault::Watchdog));
    engine.hurry();
    assert!(matches!(module.plan(&[0; 16]), Err(GuestFault::Host { what }) if what.contains("about to end")));
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
