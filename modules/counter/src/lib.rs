//! A complete module on one screen: counters that can be added to, up to 1,000 each.
//!
//! In: the command `add`. Out: the event `Added`, one row per counter, and one total per partition.
//! It does not know where or how often it runs.

use statehouse_guest::borsh::{BorshDeserialize, BorshSerialize};
use statehouse_guest::*;

const VALUE_MAX: u64 = 1_000;
/// Suffix of the row with a counter's value, and of the partition's total.
const VALUE: &[u8] = b"value";

#[derive(Body)]
pub struct Add {
    /// The counter to add to
    #[body(name, max_chars = 64)]
    pub name: String,
    /// How much to add
    #[body(min = 1, max = 1_000)]
    pub by: u64,
    /// Chosen by the client; the same id is never counted twice
    pub request_id: Uuid,
}

#[derive(Body)]
pub struct Counter {
    #[body(name, max_chars = 64)]
    pub name: String,
    pub value: u64,
}

#[derive(Body)]
pub struct CounterName {
    #[body(name, max_chars = 64)]
    pub name: String,
}

#[derive(Commands)]
pub enum Command {
    /// Adds to a counter
    #[command(path = "counters/{name}/add", id = "request_id", response = Counter)]
    Add(Add),
}

#[derive(Queries)]
pub enum Query {
    /// The value of a counter
    #[query(path = "counters/{name}", entity = "name", response = Counter)]
    Counter(CounterName),
}

#[derive(Rejections)]
pub enum Rejection {
    /// The counter would pass its maximum
    #[rejection(status = 409, detail = "the counter stands at {value}; it may not pass 1000")]
    Overflow { value: u64 },
}

#[derive(BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub enum Op {
    Add { by: u64 },
}

#[derive(BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub enum Event {
    Added { by: u64, value: u64 },
}

pub struct CounterModule;

#[module]
impl Module for CounterModule {
    const NAME: &'static str = "counter";
    const SCHEMA: u32 = 1;
    const EVENTS: &'static [Named] = &[Named { name: "Added", summary: "A counter went up" }];
    const INVARIANTS: &'static [Named] =
        &[Named { name: "total", summary: "The partition's total is the sum of its counters" }];

    type Command = Command;
    type Query = Query;
    type Op = Op;
    type Event = Event;
    type Rejection = Rejection;
    /// The sum of the counters, and the total that was stored.
    type Tally = (u64, u64);

    fn plan(command: &Command, _: &Caller<'_>, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
        let Command::Add(add) = command;
        planner.step(Op::Add { by: add.by }, &add.name).key(VALUE).local_key(VALUE);
        Ok(())
    }

    fn validate(op: &Op, view: &View<'_>, events: &mut Events<'_, Event>) -> Result<(), Rejection> {
        let Op::Add { by } = *op;
        let value: u64 = view.read(VALUE).unwrap_or(0);
        if VALUE_MAX < value + by {
            return Err(Rejection::Overflow { value });
        }
        events.emit(Event::Added { by, value: value + by });
        Ok(())
    }

    fn apply(event: &Event, tx: &mut Tx<'_>) {
        let Event::Added { by, value } = event;
        let total: u64 = tx.read_local(VALUE).unwrap_or(0);
        tx.write(VALUE, value);
        tx.write_local(VALUE, &(total + by));
    }

    fn query(query: &Query, reader: &Reader<'_>) -> Result<Value, QueryStop> {
        let Query::Counter(CounterName { name }) = query;
        match reader.read(name, VALUE)? {
            Some(value) => Ok(Counter { name: name.clone(), value }.to_value()),
            None => Err(QueryStop::not_found("no_such_counter", format!("there is no counter {name}"))),
        }
    }

    fn render_response(done: &Done<'_, Self>) -> Value {
        let Some(Occurred { entity, event: Event::Added { value, .. }, .. }) = done.events.last() else {
            return Value::Null;
        };
        Counter { name: String::from_utf8_lossy(entity).into(), value: *value }.to_value()
    }

    fn render_event(event: &Event, context: &EventContext<'_, Self>) -> Value {
        let Event::Added { by, value } = event;
        let name = String::from_utf8_lossy(context.entity);
        Value::map([
            ("event", Value::text("Added")),
            ("name", Value::text(name)),
            ("by", by.to_value()),
            ("value", value.to_value()),
        ])
    }

    fn render_row(_: &[u8], _: &[u8], row: &[u8]) -> Value {
        borsh::from_slice::<u64>(row).map_or(Value::Null, |value| value.to_value())
    }

    fn check_row(tally: &mut (u64, u64), entity: &[u8], _: &[u8], row: &[u8], violations: &mut Violations) {
        match borsh::from_slice::<u64>(row) {
            Ok(total) if entity == LOCAL => tally.1 = total,
            Ok(value) => tally.0 += value,
            Err(_) => violations.report("total", format!("the row of {} is malformed", entity.escape_ascii())),
        }
    }

    fn check_end((sum, total): &(u64, u64), violations: &mut Violations) {
        if sum != total {
            violations.report("total", format!("the counters add up to {sum}, the total says {total}"));
        }
    }
}
