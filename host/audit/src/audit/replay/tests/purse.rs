//! A small machine of purses, in variants: the recorded one, and candidates that differ from it in one way each.

use statehouse_abi::key::split_key;
use statehouse_guest::borsh::{BorshDeserialize, BorshSerialize};
use statehouse_guest::*;

/// Numbers of the variants.
pub mod variant {
    pub const RECORDED: u8 = 0;
    /// Differs only in its version.
    pub const ALIKE: u8 = 1;
    /// Takes at most 50 at once.
    pub const LIMIT: u8 = 2;
    /// A balance must not be exactly 0.
    pub const NEVER_EMPTY: u8 = 3;
    /// Plans 14 where 13 was asked for.
    pub const PLAN: u8 = 4;
    /// Panics when 7 are taken.
    pub const TRAP: u8 = 5;
    /// `apply` adds one more where 11 are given.
    pub const ROWS: u8 = 6;
    /// Uses other words in a rejection.
    pub const WORDS: u8 = 7;
    /// Events of 9 say 10.
    pub const EVENTS: u8 = 8;
    /// A purse may owe 100.
    pub const OVERDRAFT: u8 = 9;
    /// Rows of another schema, and one more row that no recorded op has declared.
    pub const SCHEMA: u8 = 10;
    /// Does not read what schema 1 recorded.
    pub const UNREADABLE: u8 = 11;
    /// Refuses to plan 13.
    pub const REFUSES: u8 = 12;
    /// Where 11 are given, only 10 count as arrived.
    pub const LEAK: u8 = 13;
    /// Both [`SCHEMA`] and [`LIMIT`].
    pub const SCHEMA_LIMIT: u8 = 14;

    pub const fn has_second_schema(variant: u8) -> bool {
        matches!(variant, SCHEMA | SCHEMA_LIMIT)
    }
}

const BALANCE: &[u8] = b"balance";
const CLOSED: &[u8] = b"closed";
const HELD: &[u8] = b"held";
const SPENT: &[u8] = b"spent";
const TRANSIT: &[u8] = b"transit";

#[derive(Body)]
pub struct Put {
    /// The purse
    #[body(name, max_chars = 64)]
    pub purse: String,
    /// How much
    #[body(min = 0, max = 1_000_000)]
    pub amount: i64,
    /// Chosen by the client
    pub request_id: Uuid,
}

#[derive(Body)]
pub struct Pay {
    /// The payer
    #[body(name, max_chars = 64)]
    pub from: String,
    /// The payee
    #[body(name, max_chars = 64)]
    pub to: String,
    /// How much
    #[body(min = 0, max = 1_000_000)]
    pub amount: i64,
    /// `tcc`, or `late`, which asks the payee at the confirm alone, or a Saga
    #[body(max_chars = 8)]
    pub by: Option<String>,
    /// Chosen by the client
    pub request_id: Uuid,
}

#[derive(Body)]
pub struct Close {
    /// The purse
    #[body(name, max_chars = 64)]
    pub purse: String,
    /// Chosen by the client
    pub request_id: Uuid,
}

#[derive(Commands)]
pub enum Command {
    /// Puts money into a purse
    #[command(path = "put", id = "request_id", response = Put)]
    Put(Put),
    /// Moves money
    #[command(path = "pay", id = "request_id", response = Pay)]
    Pay(Pay),
    /// Closes a purse
    #[command(path = "close", id = "request_id", response = Close)]
    Close(Close),
}

#[derive(Rejections)]
pub enum Rejection {
    /// There is too little in it
    #[rejection(status = 409, detail = "there are {left}{words}")]
    TooLittle { left: i64, words: &'static str },
    /// It is closed
    #[rejection(status = 409, detail = "it is closed")]
    Closed,
    /// It is more than the limit
    #[rejection(status = 409, detail = "take at most 50")]
    Limit,
}

#[derive(BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub enum Op {
    Put(i64),
    Take(i64),
    Give(i64),
    Close,
    Hold(i64),
    Unhold(i64),
    Settle(i64),
    Boom,
}

#[derive(BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub enum Event {
    Put { amount: i64 },
    Taken { amount: i64 },
    Given { amount: i64 },
    Closed,
    Held { amount: i64 },
    Unheld { amount: i64 },
}

pub struct Purse<const V: u8>;

impl<const V: u8> Purse<V> {
    fn balance(row: Option<&[u8]>) -> i64 {
        let Some(row) = row else { return 0 };
        if variant::has_second_schema(V) {
            return borsh::from_slice::<(i64, u64)>(row).expect("a row of schema 2").0;
        }
        borsh::from_slice(row).expect("a row of schema 1")
    }

    fn add(tx: &mut Tx<'_>, more: i64) {
        let balance = Self::balance(tx.row(BALANCE)) + more;
        if variant::has_second_schema(V) {
            tx.write(BALANCE, &(balance, 0u64));
        } else {
            tx.write(BALANCE, &balance);
        }
    }

    fn take(amount: i64, view: &View<'_>) -> Result<(), Rejection> {
        assert!(V != variant::TRAP || amount != 7, "seven is too much");
        if view.is_undo() {
            return Ok(());
        }
        if matches!(V, variant::LIMIT | variant::SCHEMA_LIMIT) && 50 < amount {
            return Err(Rejection::Limit);
        }
        let left = Self::balance(view.row(BALANCE));
        let floor = match V {
            variant::OVERDRAFT => -100,
            variant::NEVER_EMPTY => 1,
            _ => 0,
        };
        if left - amount < floor {
            let words = if V == variant::WORDS { " coins" } else { "" };
            return Err(Rejection::TooLittle { left, words });
        }
        Ok(())
    }
}

impl<const V: u8> Module for Purse<V> {
    const NAME: &'static str = "purse";
    const VERSION: &'static str = match V {
        0 => "1.0.0",
        1 => "1.1.0",
        2 => "1.2.0",
        3 => "1.3.0",
        4 => "1.4.0",
        5 => "1.5.0",
        6 => "1.6.0",
        7 => "1.7.0",
        8 => "1.8.0",
        9 => "1.9.0",
        10 => "2.0.0",
        11 => "3.0.0",
        14 => "2.1.0",
        _ => "1.12.0",
    };
    const SCHEMA: u32 = match V {
        variant::SCHEMA | variant::SCHEMA_LIMIT => 2,
        variant::UNREADABLE => 3,
        _ => 1,
    };
    const ACCEPTS: &'static [u32] = if variant::has_second_schema(V) { &[1] } else { &[] };
    const EVENTS: &'static [Named] = &[
        Named { name: "Put", summary: "Money came" },
        Named { name: "Taken", summary: "Money went" },
        Named { name: "Given", summary: "Money was received" },
        Named { name: "Closed", summary: "It was closed" },
        Named { name: "Held", summary: "Room was kept" },
        Named { name: "Unheld", summary: "Room was given up" },
    ];

    type Command = Command;
    type Query = NoQueries;
    type Op = Op;
    type Event = Event;
    type Rejection = Rejection;
    type Tally = ();

    fn plan(command: &Command, _: &Caller<'_>, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
        match command {
            Command::Put(Put { purse, amount, .. }) => {
                let op = if *amount == 666 { Op::Boom } else { Op::Put(*amount) };
                planner.step(op, purse).key(BALANCE).key(CLOSED);
            }
            Command::Close(Close { purse, .. }) => {
                planner.step(Op::Close, purse).key(CLOSED);
            }
            Command::Pay(Pay { from, to, amount, by, .. }) => {
                let mut amount = *amount;
                if amount == 13 && V == variant::REFUSES {
                    let detail = "unlucky".to_owned();
                    return Err(Refusal { code: "unlucky".to_owned(), status: 422, detail, field: None });
                }
                if amount == 13 && V == variant::PLAN {
                    amount = 14;
                }
                let take = planner.step(Op::Take(amount), from).key(BALANCE).key(CLOSED).local_key(TRANSIT);
                take.undo(Op::Give(amount)).tcc(TccRole::Try);
                if by.as_deref() == Some("late") {
                    let give = planner.step(Op::Give(amount), to).key(BALANCE).key(CLOSED).local_key(TRANSIT);
                    give.tcc(TccRole::Confirm);
                    planner.coordination(Coordination::TryConfirmCancel);
                } else if by.is_some() {
                    let hold = planner.step(Op::Hold(amount), to).key(CLOSED).key(HELD);
                    hold.undo(Op::Unhold(amount)).tcc(TccRole::Try);
                    let settle = planner.step(Op::Settle(amount), to).key(BALANCE).key(CLOSED).key(HELD);
                    settle.local_key(TRANSIT).tcc(TccRole::Confirm);
                    planner.coordination(Coordination::TryConfirmCancel);
                } else {
                    let give = planner.step(Op::Give(amount), to).key(BALANCE).key(CLOSED).local_key(TRANSIT);
                    give.undo(Op::Take(amount));
                }
            }
        }
        Ok(())
    }

    fn validate(op: &Op, view: &View<'_>, events: &mut Events<'_, Event>) -> Result<(), Rejection> {
        if variant::has_second_schema(V) {
            let _: Option<i64> = view.read(SPENT);
        }
        let is_closed = view.read::<bool>(CLOSED).unwrap_or(false) && !view.is_undo();
        match *op {
            Op::Boom => panic!("asked to"),
            // In any partition where the payee lives.
            Op::Give(66) if !view.is_undo() => panic!("it is said to bring bad luck"),
            Op::Put(_) | Op::Give(_) | Op::Close | Op::Hold(_) if is_closed => return Err(Rejection::Closed),
            Op::Put(amount) => events.emit(Event::Put { amount }),
            Op::Take(amount) => {
                Self::take(amount, view)?;
                let amount = if V == variant::EVENTS && amount == 9 { 10 } else { amount };
                events.emit(Event::Taken { amount });
            }
            Op::Give(amount) | Op::Settle(amount) => {
                if matches!(op, Op::Settle(_)) {
                    events.emit(Event::Unheld { amount });
                }
                events.emit(Event::Given { amount });
            }
            Op::Close => events.emit(Event::Closed),
            Op::Hold(amount) => events.emit(Event::Held { amount }),
            Op::Unhold(amount) => events.emit(Event::Unheld { amount }),
        }
        Ok(())
    }

    fn migrate(_: u32, _: &[u8], rows: &[Row]) -> Result<Vec<Row>, String> {
        let is_balance = |row: &&Row| split_key(&row.key).is_some_and(|(_, suffix)| suffix == BALANCE);
        let mut changed = Vec::new();
        for row in rows.iter().filter(is_balance) {
            let balance: i64 =
                borsh::from_slice(row.row.as_deref().unwrap_or_default()).map_err(|error| error.to_string())?;
            let row_after = borsh::to_vec(&(balance, 0u64)).map_err(|error| error.to_string())?;
            changed.push(Row { key: row.key.clone(), row: Some(row_after) });
        }
        Ok(changed)
    }

    fn apply(event: &Event, tx: &mut Tx<'_>) {
        let transit = |more: i64, tx: &mut Tx<'_>| {
            let before: i64 = tx.read_local(TRANSIT).unwrap_or(0);
            tx.write_local(TRANSIT, &(before + more));
        };
        match *event {
            Event::Put { amount } => Self::add(tx, amount),
            Event::Taken { amount } => {
                Self::add(tx, -amount);
                transit(amount, tx);
                if variant::has_second_schema(V) {
                    let spent: i64 = tx.read(SPENT).unwrap_or(0);
                    tx.write(SPENT, &(spent + amount));
                }
            }
            Event::Given { amount } => {
                let more = i64::from(V == variant::ROWS && amount == 11);
                Self::add(tx, amount + more);
                transit(-amount + i64::from(V == variant::LEAK && amount == 11), tx);
            }
            Event::Closed => tx.write(CLOSED, &true),
            Event::Held { amount } => {
                let held: i64 = tx.read(HELD).unwrap_or(0);
                tx.write(HELD, &(held + amount));
            }
            Event::Unheld { amount } => {
                let held: i64 = tx.read(HELD).unwrap_or(0);
                tx.write(HELD, &(held - amount));
            }
        }
    }

    fn render_response(_: &Done<'_, Self>) -> Value {
        Value::Map(Vec::new())
    }

    fn render_event(event: &Event, _: &EventContext<'_, Self>) -> Value {
        let (kind, amount) = match event {
            Event::Put { amount } => ("put", *amount),
            Event::Taken { amount } => ("taken", *amount),
            Event::Given { amount } => ("given", *amount),
            Event::Closed => ("closed", 0),
            Event::Held { amount } => ("held", *amount),
            Event::Unheld { amount } => ("unheld", *amount),
        };
        Value::map([("type", Value::text(kind)), ("amount", Value::Int(amount.into()))])
    }

    fn render_row(entity: &[u8], suffix: &[u8], row: &[u8]) -> Value {
        if suffix == BALANCE && entity != LOCAL {
            return Value::map([("balance", Value::Int(Self::balance(Some(row)).into()))]);
        }
        if suffix == TRANSIT {
            let balance: i64 = borsh::from_slice(row).unwrap_or_default();
            return Value::map([("transit", Value::text("coins")), ("balance", Value::Text(balance.to_string()))]);
        }
        Value::Null
    }
}
