//! Hostile modules: what a developer's token can send to a host. Each is made by a few lines here, or is a text in
//! `tests/hostile/`.
//!
//! In: nothing, or the wallet of a release. Out: the modules' bytes, by name. Most of them are the wallet with one
//! export replaced. A host tries a module on the history that it has, and before that it refuses what is no wallet.
//! This file does not know what a host does with the modules.

use statehouse_abi::plan::PlanOutWriter;

use crate::wasm::{I32, I64, Locals, Wasm, signed, unsigned};

/// A hostile module.
pub struct HostileModule {
    pub name: &'static str,
    pub wasm: Vec<u8>,
    /// Cheap enough, and different enough from the others, to be in every run.
    pub is_usual: bool,
}

/// Code: pieces of the binary format with names.
mod code {
    use super::{signed, unsigned};

    pub const LOOP: &[u8] = &[0x03, 0x40, 0x0c, 0x00, 0x0b, 0x00, 0x0b];
    pub const TRAP: &[u8] = &[0x00, 0x0b];
    pub const END: &[u8] = &[0x0b];
    pub const DROP: u8 = 0x1a;

    pub fn i32(number: i64) -> Vec<u8> {
        [vec![0x41], signed(number)].concat()
    }

    pub fn i64(number: i64) -> Vec<u8> {
        [vec![0x42], signed(number)].concat()
    }

    pub fn get(local: u64) -> Vec<u8> {
        [vec![0x20], unsigned(local)].concat()
    }

    /// Stores one byte at an address.
    fn store(address: i64, byte: u8) -> Vec<u8> {
        [i32(address), i32(i64::from(byte)), vec![0x3a, 0x00, 0x00]].concat()
    }

    /// Returns these bytes, stored where the module no longer needs anything.
    pub fn answer(bytes: &[u8]) -> Vec<u8> {
        const AT: i64 = 64;
        let stores: Vec<u8> = (AT..).zip(bytes).flat_map(|(address, byte)| store(address, *byte)).collect();
        [stores, i64(AT << 32 | bytes.len() as i64), vec![0x0b]].concat()
    }

    /// Counts down in the third local and then continues: some work that ends.
    pub fn spin(count: i64) -> Vec<u8> {
        let step = [get(2), i32(1), vec![0x6b, 0x22, 0x02, 0x0d, 0x00, 0x0b]].concat();
        [i32(count), vec![0x21, 0x02, 0x03, 0x40], step].concat()
    }

    /// Returns what a function returns for the two parameters.
    pub fn call(function: u64) -> Vec<u8> {
        [get(0), get(1), vec![0x10], unsigned(function), vec![0x0b]].concat()
    }

    /// Returns a head and then one byte many times, in memory that is added for this.
    pub fn flood(head: &[u8], byte: u8, count: i64) -> Vec<u8> {
        let pages = (count + head.len() as i64) / 65_536 + 1;
        // Where the added memory begins is known only at run time: a module of the corpus has two pages, the wallet
        // some more.
        let grow = [i32(pages), vec![0x40, 0x00], i32(16), vec![0x74, 0x22, 0x02, 0x1a]].concat();
        let at = |offset: usize| [get(2), i32(offset as i64), vec![0x6a]].concat();
        let stores: Vec<u8> = (0..)
            .zip(head)
            .flat_map(|(offset, byte)| [at(offset), i32(i64::from(*byte)), vec![0x3a, 0x00, 0x00]].concat())
            .collect();
        let fill = [at(head.len()), i32(i64::from(byte)), i32(count), vec![0xfc, 0x0b, 0x00]].concat();
        let packed =
            [get(2), vec![0xad], i64(32), vec![0x86], i64(count + head.len() as i64), vec![0x84, 0x0b]].concat();
        [grow, stores, fill, packed].concat()
    }
}

const CALL: (&[u8], &[u8]) = (&[I32, I32], &[I64]);
/// Clears the screen, sets the title, writes the clipboard, and reverses the text that follows.
pub const ESCAPES: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{1b}]52;c;AAAA\u{7}\u{9b}31m\u{202e}live si ti";

fn wallet() -> Wasm {
    Wasm::of(include_bytes!("../../modules/releases/wallet-1.1.0.wasm"))
}

/// A wallet with another schema.
fn wallet_next() -> Wasm {
    Wasm::of(include_bytes!("../../modules/releases/wallet-2.0.0.wasm"))
}

/// A counter whose every `apply` fails, also where there is nothing to apply.
pub fn counter_that_cannot_apply() -> Vec<u8> {
    let mut wasm = Wasm::of(include_bytes!("../../modules/releases/counter-0.1.0.wasm"));
    wasm.turn("sh1_apply", wasm.exported("sh1_query"));
    wasm.bytes()
}

/// The wallet with one of its exports in the place of another.
fn turned(export: &str, other: &str) -> Vec<u8> {
    let mut wasm = wallet();
    wasm.turn(export, wasm.exported(other));
    wasm.bytes()
}

/// The wallet with one export that runs this code.
fn doing(export: &str, code: &[u8]) -> Vec<u8> {
    of(wallet(), export, Locals::NONE, code)
}

fn of(mut wasm: Wasm, export: &str, locals: Locals, code: &[u8]) -> Vec<u8> {
    let (params, results): (&[u8], &[u8]) = match export {
        "sh1_alloc" => (&[I32], &[I32]),
        "sh1_describe" | "sh1_panic" => (&[], &[I64]),
        _ => CALL,
    };
    let ty = wasm.add_type(params, results);
    let function = wasm.add_function(ty, locals, code);
    wasm.turn(export, function);
    wasm.bytes()
}

/// A module whose export does the right thing after this much work.
fn slowed(wasm: Wasm, export: &str, count: i64) -> Vec<u8> {
    let right = code::call(wasm.exported(export));
    of(wasm, export, Locals::count(1), &[code::spin(count), right].concat())
}

/// A wallet that returns a plan for no command, however many it is asked about.
fn without_plans() -> Vec<u8> {
    doing("sh1_plan", &code::answer(&PlanOutWriter::default().finish(Vec::new())))
}

/// A wallet with one local of its own after two parameters, as `code::flood` needs it.
fn flooding(export: &str, head: &[u8], byte: u8, count: i64) -> Vec<u8> {
    let code = code::flood(head, byte, count);
    if export == "sh1_describe" {
        // This export has no parameters, so all three are locals.
        return of(wallet(), export, Locals::count(3), &code);
    }
    of(wallet(), export, Locals::count(1), &code)
}

/// A module that keeps the contract and does nothing. The bombs for compilers are put into it.
pub fn conforming() -> Wasm {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/hostile/conforming.wat");
    let text = std::fs::read_to_string(path).expect("it lies beside the tests");
    Wasm::of(&wat::parse_str(text).expect("it is the text of a module"))
}

/// The conforming module with functions that nobody calls. They take nothing and return nothing.
fn bomb(locals: Locals, code: &[u8], count: usize) -> Vec<u8> {
    let mut wasm = conforming();
    let ty = wasm.add_type(&[], &[]);
    wasm.add_functions(ty, locals, code, count);
    wasm.bytes()
}

/// All hostile modules.
pub fn corpus() -> Vec<HostileModule> {
    let usual = |name, wasm| HostileModule { name, wasm, is_usual: true };
    let rare = |name, wasm| HostileModule { name, wasm, is_usual: false };
    let mut all = vec![
        usual("apply is query", turned("sh1_apply", "sh1_query")),
        rare("apply is execute", turned("sh1_apply", "sh1_execute")),
        rare("apply is render", turned("sh1_apply", "sh1_render")),
        rare("execute is apply", turned("sh1_execute", "sh1_apply")),
        rare("plan is execute", turned("sh1_plan", "sh1_execute")),
        rare("check is migrate", turned("sh1_check", "sh1_migrate")),
        usual("execute answers its input", doing("sh1_execute", &echo())),
        rare("apply answers its input", doing("sh1_apply", &echo())),
        rare("plan answers its input", doing("sh1_plan", &echo())),
        usual("apply traps", doing("sh1_apply", code::TRAP)),
        rare("execute traps", doing("sh1_execute", code::TRAP)),
        rare("render traps", doing("sh1_render", code::TRAP)),
        usual("execute loops", doing("sh1_execute", code::LOOP)),
        rare("apply loops", doing("sh1_apply", code::LOOP)),
        rare("plan loops", doing("sh1_plan", code::LOOP)),
        rare("query loops", doing("sh1_query", code::LOOP)),
        rare("render loops", doing("sh1_render", code::LOOP)),
        rare("check loops", doing("sh1_check", code::LOOP)),
        rare("describe loops", doing("sh1_describe", code::LOOP)),
        rare("alloc loops", doing("sh1_alloc", code::LOOP)),
        rare("migrate loops", of(wallet_next(), "sh1_migrate", Locals::NONE, code::LOOP)),
        usual("plan answers no plans", without_plans()),
        usual("execute takes all of its budget", slowed(wallet(), "sh1_execute", 3_000_000)),
        rare("apply takes all of its budget", slowed(wallet(), "sh1_apply", 3_000_000)),
        rare("plan takes its time", slowed(wallet(), "sh1_plan", 100_000_000)),
        rare("query takes its time", slowed(wallet(), "sh1_query", 100_000_000)),
        rare("render takes its time", slowed(wallet(), "sh1_render", 100_000_000)),
        rare("check takes its time", slowed(wallet(), "sh1_check", 100_000_000)),
        rare("migrate takes its time", slowed(wallet_next(), "sh1_migrate", 100_000_000)),
        rare("migrate traps", of(wallet_next(), "sh1_migrate", Locals::NONE, code::TRAP)),
        rare("migrate answers its input", of(wallet_next(), "sh1_migrate", Locals::NONE, &echo())),
        rare("alloc is out of range", doing("sh1_alloc", &[code::i32(-1), vec![0x0b]].concat())),
        rare("alloc is nowhere", doing("sh1_alloc", &[code::i32(0), vec![0x0b]].concat())),
        usual("render answers escapes", doing("sh1_render", &escapes())),
        rare("query answers escapes", doing("sh1_query", &escapes())),
        usual("panics with escapes", panicking()),
        rare("panics without an end", panicking_in_a_loop()),
        rare("query answers a flood of nulls", flooding("sh1_query", &array_of(16_000_000), 0xf6, 16_000_000)),
        rare("render answers a flood of nulls", flooding("sh1_render", &array_of(16_000_000), 0xf6, 16_000_000)),
        rare("render answers a depth", flooding("sh1_render", &[], 0x81, 16_000_000)),
        rare("execute answers 16 MiB", flooding("sh1_execute", &[], 0x00, 16 << 20)),
        rare("plan answers 16 MiB", flooding("sh1_plan", &[], 0x00, 16 << 20)),
        rare("execute fills its memory", flooding("sh1_execute", &[], 0x01, 60 << 20)),
        usual("describe nests", describing(&[], 0x81, 100_000)),
        rare("describe nests to the limit", describing(&[], 0x81, 15_000_000)),
        usual("describe accepts millions", describing(&accepting(15_000_000), 0x01, 15_000_000)),
    ];
    all.extend(bombs());
    all
}

/// Modules that are expensive to compile, to check or to keep.
fn bombs() -> Vec<HostileModule> {
    let usual = |name, wasm| HostileModule { name, wasm, is_usual: true };
    let rare = |name, wasm| HostileModule { name, wasm, is_usual: false };
    let branches = |count: usize| [code::get(0), vec![0x0d, 0x00]].concat().repeat(count);
    let nested =
        |count: usize, inner: &[u8]| [[0x02, 0x40].repeat(count), inner.to_vec(), vec![0x0b; count + 1]].concat();
    let diamond =
        [code::get(0), vec![0x04, 0x40], code::get(0), vec![0x21, 0x00, 0x05], code::get(0), vec![0x21, 0x00, 0x0b]];
    let looped = |depth: usize, locals: u64| {
        let step = (0..locals).flat_map(|at| [code::get(at), code::i32(1), vec![0x6a, 0x21], unsigned(at)].concat());
        let step: Vec<u8> = step.collect();
        let once = [vec![0x03, 0x40], step, code::get(0), vec![0x0d, 0x00]].concat();
        [once.repeat(depth), vec![0x0b; depth + 1]].concat()
    };
    vec![
        usual("locals", bomb(Locals::count(49_990), code::END, 2_000)),
        rare("locals, many", bomb(Locals::count(49_990), code::END, 300_000)),
        rare("locals in groups", bomb(Locals { groups: 49_000, count: 1 }, code::END, 20)),
        rare("functions", bomb(Locals::NONE, code::END, 900_000)),
        rare("blocks", bomb(Locals::NONE, &nested(300_000, &[]), 1)),
        rare("blocks with branches", bomb(Locals::count(1), &nested(30_000, &branches(200_000)), 1)),
        rare("branches", bomb(Locals::count(1), &[vec![0x02, 0x40], branches(900_000), vec![0x0b, 0x0b]].concat(), 1)),
        rare("diamonds", bomb(Locals::count(1), &[diamond.concat().repeat(200_000), vec![0x0b]].concat(), 1)),
        rare("loops and locals", bomb(Locals::count(1_000), &looped(60, 100), 1)),
        rare("loops and locals, many", bomb(Locals::count(1_000), &looped(700, 100), 1)),
        rare("a table of branches", bomb(Locals::NONE, &branch_table(1, 1_000_000), 1)),
        rare("a table of branches with values", branch_table_of_values()),
        rare("branches with values", branches_with_values()),
        usual("calls with a thousand values", calls_with_values(7_000)),
        rare("calls with a thousand values, many", calls_with_values(400_000)),
        usual("data to the end of memory", image()),
        rare("data segments", segments(100_000)),
        rare("types", types(100_000)),
        rare("exports", exports(100_000)),
        rare("a table of millions", tables()),
        rare("a memory of 4 GiB", memory()),
        rare("a section of names", named("\u{1b}]0;owned\u{7}".repeat(1_000).as_bytes())),
        rare("a long section", named(&vec![b'x'; 3_900_000])),
        usual("a name with escapes", describing_escapes()),
        rare("cut short", cut()),
        usual("more than 4 MiB", named(&vec![b'x'; 4 << 20])),
    ]
}

/// Code that returns what it is given.
fn echo() -> Vec<u8> {
    [code::get(0), vec![0xad], code::i64(32), vec![0x86], code::get(1), vec![0xad, 0x84, 0x0b]].concat()
}

fn text(text: &str) -> Vec<u8> {
    assert!((24..256).contains(&text.len()), "its length takes a byte of its own");
    [&[0x78, text.len() as u8], text.as_bytes()].concat()
}

/// Code that returns one value, a text.
fn escapes() -> Vec<u8> {
    code::answer(&[&[0x81][..], &text(ESCAPES)].concat())
}

/// The head of a CBOR array.
fn array_of(count: u32) -> Vec<u8> {
    [&[0x9a][..], &count.to_be_bytes()].concat()
}

fn panicking() -> Vec<u8> {
    let wasm = Wasm::of(&doing("sh1_execute", code::TRAP));
    of(wasm, "sh1_panic", Locals::NONE, &code::answer(ESCAPES.as_bytes()))
}

fn panicking_in_a_loop() -> Vec<u8> {
    let wasm = Wasm::of(&doing("sh1_execute", code::TRAP));
    of(wasm, "sh1_panic", Locals::NONE, code::LOOP)
}

fn describing(head: &[u8], byte: u8, count: i64) -> Vec<u8> {
    // These bytes end at the schema of a command's body, which nests as deep as it gets: an array of arrays of arrays.
    const COMMANDS: &[u8] = &[
        0xa9, 0x00, 0x67, b'h', b'o', b's', b't', b'i', b'l', b'e', 0x01, 0x65, b'1', b'.', b'0', b'.', b'0', 0x02,
        0x01, 0x03, 0x80, 0x04, 0x81, 0xa1, 0x03,
    ];
    let head = if head.is_empty() { COMMANDS } else { head };
    flooding("sh1_describe", head, byte, count)
}

/// A description up to the schemas that are accepted, of which there are this many.
fn accepting(count: u32) -> Vec<u8> {
    let before = [0xa9, 0x00, 0x61, b'h', 0x01, 0x65, b'1', b'.', b'0', b'.', b'0', 0x02, 0x01, 0x03];
    [&before[..], &array_of(count)].concat()
}

/// A name that would be refused, and that the refusal would show.
fn describing_escapes() -> Vec<u8> {
    let describe = [
        &[0xa9, 0x00][..],
        &text(ESCAPES),
        &[
            0x01, 0x65, b'1', b'.', b'0', b'.', b'0', 0x02, 0x01, 0x03, 0x80, 0x04, 0x80, 0x05, 0x80, 0x06, 0x80, 0x07,
            0x80,
        ],
        &[0x08, 0x80],
    ];
    doing("sh1_describe", &code::answer(&describe.concat()))
}

fn branch_table(blocks: usize, targets: usize) -> Vec<u8> {
    let table = [code::i32(0), vec![0x0e], unsigned(targets as u64), vec![0; targets + 1]].concat();
    [[0x02, 0x40].repeat(blocks), table, vec![0x0b; blocks + 1]].concat()
}

const VALUES: usize = 1_000;

/// A function with a block that has a thousand results.
fn with_values(inner: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut wasm = conforming();
    let block = wasm.add_type(&[], &[I32; VALUES]);
    let ty = wasm.add_type(&[], &[]);
    let values = code::i32(0).repeat(VALUES);
    let begin = [vec![0x02], signed(block as i64)].concat();
    let code = [begin, inner(&values), vec![0x0b], vec![code::DROP; VALUES], vec![0x0b]].concat();
    wasm.add_function(ty, Locals::NONE, &code);
    wasm.bytes()
}

fn branch_table_of_values() -> Vec<u8> {
    let table = [code::i32(0), vec![0x0e], unsigned(1_000_000), vec![0; 1_000_001]].concat();
    with_values(|values| [values, &table].concat())
}

fn branches_with_values() -> Vec<u8> {
    let branch = [code::i32(0), vec![0x0d, 0x00]].concat();
    with_values(|values| [values, &branch.repeat(200_000)].concat())
}

fn calls_with_values(count: usize) -> Vec<u8> {
    let mut wasm = conforming();
    let ty = wasm.add_type(&[I32; VALUES], &[I32; VALUES]);
    let same: Vec<u8> = (0..VALUES as u64).flat_map(code::get).collect();
    let called = wasm.add_function(ty, Locals::NONE, &[same.clone(), vec![0x0b]].concat());
    let calls = [vec![0x10], unsigned(called)].concat().repeat(count);
    wasm.add_function(ty, Locals::NONE, &[same, calls, vec![0x0b]].concat());
    wasm.bytes()
}

/// A module with a byte at the very end of 16 MiB: its image has all 16 MiB.
fn image() -> Vec<u8> {
    let mut wasm = conforming();
    wasm.set_memory(256, 1024);
    wasm.add_data((16 << 20) - 1, b"x");
    wasm.bytes()
}

fn segments(count: usize) -> Vec<u8> {
    let mut wasm = conforming();
    wasm.add(11, count, &[0x00, 0x41, 0x00, 0x0b, 0x01, b'x'].repeat(count));
    wasm.bytes()
}

fn types(count: usize) -> Vec<u8> {
    let mut wasm = conforming();
    wasm.add(1, count, &[0x60, 0x02, I32, I64, 0x00].repeat(count));
    wasm.bytes()
}

fn exports(count: usize) -> Vec<u8> {
    let mut wasm = conforming();
    let export = |at: usize| {
        let name = format!("x{at}");
        [unsigned(name.len() as u64), name.into_bytes(), vec![0, 0]].concat()
    };
    let entries: Vec<u8> = (0..count).flat_map(export).collect();
    wasm.add(7, count, &entries);
    wasm.bytes()
}

fn tables() -> Vec<u8> {
    let mut wasm = conforming();
    wasm.add(4, 1, &[vec![0x70, 0x00], unsigned(10_000_000)].concat());
    wasm.bytes()
}

fn memory() -> Vec<u8> {
    let mut wasm = conforming();
    wasm.set_memory(65_536, 65_536);
    wasm.bytes()
}

fn named(content: &[u8]) -> Vec<u8> {
    let mut wasm = conforming();
    wasm.add_section(0, [&[0x04][..], b"name", content].concat());
    wasm.bytes()
}

fn cut() -> Vec<u8> {
    let mut bytes = wallet().bytes();
    bytes.truncate(bytes.len() / 2);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_changed_stays_and_names_are_unique() {
        let released = include_bytes!("../../modules/releases/wallet-1.1.0.wasm");
        assert!(Wasm::of(released).bytes() == released, "reading and writing changes nothing");
        let all = corpus();
        assert!(40 <= all.len(), "{}", all.len());
        let mut names: Vec<&str> = all.iter().map(|one| one.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
        for hostile in &all {
            assert!(hostile.wasm.len() <= 5 << 20, "{}: {} bytes", hostile.name, hostile.wasm.len());
        }
    }
}
