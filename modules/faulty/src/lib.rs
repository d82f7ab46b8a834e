//! A module that misbehaves on demand, so that tests can see that only it is harmed.
//!
//! In: the command `act` with what to do. It panics, loops, hoards memory, recurses without end, touches keys it has not
//! declared, lets `apply` disagree with `execute` through a global, or decides by what no module may see: how the batch was
//! cut (`count`), how deep the engine's stack is (`deep`), what was migrated before (`grow`). Never use it for anything else.
//!
//! Compiled with the variable `FAULTY_NEXT` it is its own successor: another schema, and a migration that a poisoned row traps (`poison`).

use core::sync::atomic::{AtomicU64, Ordering};

use statehouse_guest::borsh::{BorshDeserialize, BorshSerialize};
use statehouse_guest::*;

/// What no module may keep: `validate` leaves something behind that only the `apply` of the same call sees.
static CALLS: AtomicU64 = AtomicU64::new(0);

/// A frame per call, until the stack is gone.
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let frame = core::hint::black_box([depth; 32]);
    if core::hint::black_box(false) {
        return depth;
    }
    recurse(depth + 1) + frame[31]
}

/// Frames that are too many for one engine and few for another; they need little of the module's own stack.
const DEEP: u64 = 40_000;

#[inline(never)]
fn descend(depth: u64) -> u64 {
    if depth == 0 {
        return core::hint::black_box(0);
    }
    descend(depth - 1).wrapping_mul(3) ^ depth
}

const VALUE: &[u8] = b"value";

/// What cannot be migrated.
const POISON: u64 = u64::MAX;
/// From here on a value is more by what this instance has migrated before it.
const MANY: u64 = 1_000;

const IS_NEXT: bool = option_env!("FAULTY_NEXT").is_some();

#[derive(Body)]
pub struct Act {
    /// The account
    #[body(name, max_chars = 64)]
    pub account: String,
    /// What to do: `add`, `reject`, `panic`, `drift`, `wander`, `count`, `deep`, `loop`, `bomb`, `recurse`, `poison` or `grow`
    #[body(max_chars = 16)]
    pub what: String,
    /// Chosen by the client
    pub request_id: Uuid,
}

#[derive(Commands)]
pub enum Command {
    /// Does something
    #[command(path = "acts", id = "request_id", response = Act)]
    Act(Act),
}

#[derive(Rejections)]
pub enum Rejection {
    /// It asked for it
    #[rejection(status = 409, detail = "as asked")]
    Asked,
}

#[derive(BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct Op(String);

#[derive(BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub enum Event {
    Added,
    Drifted,
    Wandered,
    /// How many acts of this call there were before it, by a global.
    Counted(u64),
    Poisoned,
    Grown,
}

pub struct Faulty;

#[module]
impl Module for Faulty {
    const NAME: &'static str = "faulty";
    const VERSION: &'static str = if IS_NEXT { "0.2.0" } else { "0.1.0" };
    const SCHEMA: u32 = if IS_NEXT { 2 } else { 1 };
    const ACCEPTS: &'static [u32] = if IS_NEXT { &[1] } else { &[] };

    type Command = Command;
    type Query = NoQueries;
    type Op = Op;
    type Event = Event;
    type Rejection = Rejection;
    type Tally = ();

    fn plan(command: &Command, _: &Caller<'_>, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
        let Command::Act(act) = command;
        planner.step(Op(act.what.clone()), &act.account).key(VALUE);
        Ok(())
    }

    fn validate(Op(what): &Op, view: &View<'_>, events: &mut Events<'_, Event>) -> Result<(), Rejection> {
        match what.as_str() {
            "panic" => panic!("asked to panic"),
            "reject" => return Err(Rejection::Asked),
            "loop" => loop {
                core::hint::black_box(());
            },
            "bomb" => {
                let mut hoard = Vec::new();
                while core::hint::black_box(true) {
                    hoard.push(vec![1u8; 1 << 20]);
                }
                core::hint::black_box(hoard);
            }
            "recurse" => drop(core::hint::black_box(recurse(0))),
            "drift" => {
                CALLS.fetch_add(1, Ordering::Relaxed);
                events.emit(Event::Drifted);
            }
            "count" => events.emit(Event::Counted(CALLS.fetch_add(1, Ordering::Relaxed))),
            "poison" => events.emit(Event::Poisoned),
            "grow" => events.emit(Event::Grown),
            "deep" => events.emit(Event::Counted(descend(DEEP))),
            "wander" => {
                let _: Option<u64> = view.read(b"elsewhere");
                events.emit(Event::Wandered);
            }
            _ => events.emit(Event::Added),
        }
        Ok(())
    }

    fn apply(event: &Event, tx: &mut Tx<'_>) {
        let value: u64 = tx.read(VALUE).unwrap_or(0);
        match event {
            Event::Added => tx.write(VALUE, &(value + 1)),
            Event::Drifted => {
                let calls = CALLS.fetch_add(1, Ordering::Relaxed);
                tx.write(VALUE, &(value + 1000 + calls));
            }
            Event::Counted(count) => tx.write(VALUE, &value.wrapping_add(*count)),
            Event::Poisoned => tx.write(VALUE, &POISON),
            Event::Grown => tx.write(VALUE, &MANY),
            Event::Wandered => {
                let seen: u64 = tx.read(b"elsewhere").unwrap_or(0);
                tx.write(b"elsewhere", &(seen + 1));
            }
        }
    }

    /// Every row is one more.
    fn migrate(_: u32, _: &[u8], rows: &[Row]) -> Result<Vec<Row>, String> {
        let migrated = rows.iter().filter_map(|row| {
            let bytes: [u8; 8] = row.row.as_deref()?.try_into().ok()?;
            let value = u64::from_le_bytes(bytes);
            assert!(value != POISON, "a poisoned row cannot be migrated");
            let more = if value < MANY { 1 } else { 1 + CALLS.fetch_add(1, Ordering::Relaxed) };
            Some(Row { key: row.key.clone(), row: Some((value + more).to_le_bytes().to_vec()) })
        });
        Ok(migrated.collect())
    }

    fn render_response(_: &Done<'_, Self>) -> Value {
        Value::Map(Vec::new())
    }

    fn render_event(_: &Event, _: &EventContext<'_, Self>) -> Value {
        Value::Null
    }

    fn render_row(_: &[u8], _: &[u8], _: &[u8]) -> Value {
        Value::Null
    }
}
