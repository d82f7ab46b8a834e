//! Payments with a toll: what leaves one purse arrives in two others, so a payment may have three participants. A module for tests.
//!
//! ```text
//! Saga                      Take from payer ─▶ Give to keeper of the toll ─▶ Give to payee
//! Try-Confirm/Cancel   Try: Take · Expect · Expect                Confirm: Settle · Settle
//! ```
//! A purse that is sealed takes nothing in any more, neither a settlement nor what is given back, so an operator can see what a refusal for ever
//! is, and what the last resort makes of it: coins that are parked with the partition. The payee comes last, since a name that nobody has is what is refused most. Each op posts its other side to `@local`, so every
//! partition's books balance. It does not know which purses lie together.

use statehouse_guest::borsh::{BorshDeserialize, BorshSerialize};
use statehouse_guest::*;

const BALANCE: &[u8] = b"balance";
/// What is expected to arrive; such a purse is there, and stays.
const EXPECTED: &[u8] = b"expected";
/// Suffixes of `@local`: what has left a purse here and reached none, and the other side of what purses were opened with.
const TRANSIT: &[u8] = b"transit";
const ISSUED: &[u8] = b"issued";
/// Of a purse that takes nothing in; and what could not be taken in, here.
const SEALED: &[u8] = b"sealed";
const PARKED: &[u8] = b"parked";

#[derive(Body)]
pub struct Open {
    /// The purse to open
    #[body(name, max_chars = 64)]
    pub purse: String,
    /// Coins in it
    #[body(max = 1_000_000_000)]
    pub coins: u64,
    /// Chosen by the client
    pub request_id: Uuid,
}

#[derive(Body)]
pub struct Pay {
    /// The purse that pays amount and toll
    #[body(name, max_chars = 64)]
    pub from: String,
    /// The purse that gets the amount
    #[body(name, max_chars = 64)]
    pub to: String,
    #[body(min = 1, max = 1_000_000)]
    pub amount: u64,
    /// The purse that gets the toll
    #[body(name, max_chars = 64)]
    pub keeper: String,
    #[body(min = 1, max = 1_000_000)]
    pub toll: u64,
    /// `tcc`; otherwise a Saga
    #[body(max_chars = 4)]
    pub coordination: Option<String>,
    /// Chosen by the client
    pub request_id: Uuid,
}

#[derive(Body)]
pub struct PurseName {
    #[body(name, max_chars = 64)]
    pub purse: String,
}

#[derive(Body)]
pub struct Purse {
    #[body(name, max_chars = 64)]
    pub purse: String,
    pub coins: u64,
}

#[derive(Commands)]
pub enum Command {
    /// Opens a purse
    #[command(path = "purses", id = "request_id", success = 201, response = Open)]
    Open(Open),
    /// Pays, and pays the toll
    #[command(path = "payments", id = "request_id", response = Pay)]
    Pay(Pay),
    /// Lets nothing into a purse any more, whatever was agreed before
    #[command(path = "purses/{purse}/seal", response = PurseName)]
    Seal(PurseName),
}

#[derive(Queries)]
pub enum Query {
    /// What is in a purse
    #[query(path = "purses/{purse}", entity = "purse", response = Purse)]
    Purse(PurseName),
}

#[derive(Rejections)]
pub enum Rejection {
    /// A purse of this name is there
    #[rejection(status = 409, detail = "{purse} is there")]
    Exists { purse: String },
    /// There is no such purse
    #[rejection(status = 409, detail = "there is no purse {purse}")]
    NoSuchPurse { purse: String },
    /// There is too little in the purse
    #[rejection(status = 409, detail = "{purse} has {coins}")]
    TooLittle { purse: String, coins: u64 },
    /// The purse is sealed
    #[rejection(status = 409, detail = "{purse} is sealed")]
    Sealed { purse: String },
}

#[derive(BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub enum Op {
    Open(u64),
    Take(u64),
    Give(u64),
    Expect(u64),
    /// The undo of `Expect`.
    Forget(u64),
    Settle(u64),
    Seal,
    /// The last resort of `Give` and `Settle`.
    Park {
        coins: u64,
        was_expected: bool,
    },
}

#[derive(BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub enum Event {
    Opened { coins: u64 },
    Taken { coins: u64, left: u64 },
    Given { coins: u64, now: u64 },
    Expected { coins: u64 },
    Forgotten { coins: u64 },
    Settled { coins: u64, now: u64 },
    Sealed,
    Parked { coins: u64, was_expected: bool },
}

pub struct Toll;

#[module]
impl Module for Toll {
    const NAME: &'static str = "toll";
    const SCHEMA: u32 = 1;
    const EVENTS: &'static [Named] = &[
        Named { name: "Opened", summary: "A purse was opened" },
        Named { name: "Taken", summary: "Coins left a purse" },
        Named { name: "Given", summary: "Coins came into a purse" },
        Named { name: "Expected", summary: "Coins will come, if all goes well" },
        Named { name: "Forgotten", summary: "They will not" },
        Named { name: "Settled", summary: "What was expected came" },
        Named { name: "Sealed", summary: "A purse takes nothing in any more" },
        Named { name: "Parked", summary: "Coins that a purse refuses were parked with the partition" },
    ];
    const INVARIANTS: &'static [Named] =
        &[Named { name: "balanced", summary: "Purses, transit, what was issued and what is parked add up to 0" }];

    type Command = Command;
    type Query = Query;
    type Op = Op;
    type Event = Event;
    type Rejection = Rejection;
    type Tally = i64;

    fn plan(command: &Command, _: &Caller<'_>, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
        match command {
            Command::Open(open) => {
                planner.step(Op::Open(open.coins), &open.purse).key(BALANCE).local_key(ISSUED);
            }
            Command::Pay(pay) => plan_pay(pay, planner),
            Command::Seal(name) => drop(planner.step(Op::Seal, &name.purse).key(BALANCE).key(SEALED)),
        }
        Ok(())
    }

    fn validate(op: &Op, view: &View<'_>, events: &mut Events<'_, Event>) -> Result<(), Rejection> {
        let purse = || view.entity_text().into();
        let balance: Option<u64> = view.read(BALANCE);
        let Some(balance) = balance else {
            let Op::Open(coins) = *op else { return Err(Rejection::NoSuchPurse { purse: purse() }) };
            events.emit(Event::Opened { coins });
            return Ok(());
        };
        let takes_in = matches!(op, Op::Give(_) | Op::Settle(_));
        if takes_in && view.read::<bool>(SEALED) == Some(true) {
            return Err(Rejection::Sealed { purse: purse() });
        }
        match *op {
            Op::Open(_) => return Err(Rejection::Exists { purse: purse() }),
            Op::Take(coins) => match balance.checked_sub(coins) {
                Some(left) => events.emit(Event::Taken { coins, left }),
                None => return Err(Rejection::TooLittle { purse: purse(), coins: balance }),
            },
            Op::Give(coins) => events.emit(Event::Given { coins, now: balance + coins }),
            Op::Expect(coins) => events.emit(Event::Expected { coins }),
            Op::Forget(coins) => events.emit(Event::Forgotten { coins }),
            Op::Settle(coins) => events.emit(Event::Settled { coins, now: balance + coins }),
            Op::Seal => events.emit(Event::Sealed),
            Op::Park { coins, was_expected } => events.emit(Event::Parked { coins, was_expected }),
        }
        Ok(())
    }

    fn last_resort(op: &Op) -> Option<Op> {
        match op {
            Op::Give(coins) => Some(Op::Park { coins: *coins, was_expected: false }),
            Op::Settle(coins) => Some(Op::Park { coins: *coins, was_expected: true }),
            _ => None,
        }
    }

    fn apply(event: &Event, tx: &mut Tx<'_>) {
        match *event {
            Event::Opened { coins } => {
                tx.write(BALANCE, &coins);
                add(tx, ISSUED, -signed(coins));
            }
            Event::Taken { coins, left } => {
                tx.write(BALANCE, &left);
                add(tx, TRANSIT, signed(coins));
            }
            Event::Given { coins, now } => {
                tx.write(BALANCE, &now);
                add(tx, TRANSIT, -signed(coins));
            }
            Event::Expected { coins } => expect(tx, signed(coins)),
            Event::Forgotten { coins } => expect(tx, -signed(coins)),
            Event::Settled { coins, now } => {
                tx.write(BALANCE, &now);
                expect(tx, -signed(coins));
                add(tx, TRANSIT, -signed(coins));
            }
            Event::Sealed => tx.write(SEALED, &true),
            Event::Parked { coins, was_expected } => {
                if was_expected {
                    expect(tx, -signed(coins));
                }
                add(tx, PARKED, signed(coins));
                add(tx, TRANSIT, -signed(coins));
            }
        }
    }

    fn query(query: &Query, reader: &Reader<'_>) -> Result<Value, QueryStop> {
        let Query::Purse(PurseName { purse }) = query;
        match reader.read(purse, BALANCE)? {
            Some(coins) => Ok(Purse { purse: purse.clone(), coins }.to_value()),
            None => Err(QueryStop::not_found("no_such_purse", format!("there is no purse {purse}"))),
        }
    }

    fn render_response(_: &Done<'_, Self>) -> Value {
        Value::map([("status", Value::text("done"))])
    }

    fn render_event(event: &Event, context: &EventContext<'_, Self>) -> Value {
        let (name, coins) = match event {
            Event::Opened { coins } => ("Opened", coins),
            Event::Taken { coins, .. } => ("Taken", coins),
            Event::Given { coins, .. } => ("Given", coins),
            Event::Expected { coins } => ("Expected", coins),
            Event::Forgotten { coins } => ("Forgotten", coins),
            Event::Settled { coins, .. } => ("Settled", coins),
            Event::Parked { coins, .. } => ("Parked", coins),
            Event::Sealed => ("Sealed", &0),
        };
        let purse = String::from_utf8_lossy(context.entity);
        Value::map([("event", Value::text(name)), ("purse", Value::text(purse)), ("coins", coins.to_value())])
    }

    fn render_row(entity: &[u8], suffix: &[u8], row: &[u8]) -> Value {
        if entity != LOCAL {
            return borsh::from_slice::<u64>(row).map_or(Value::Null, |coins| coins.to_value());
        }
        let Ok(coins) = borsh::from_slice::<i64>(row) else { return Value::Null };
        let balance = ("balance", Value::Text(coins.to_string()));
        if suffix == TRANSIT {
            // What the host adds up over all partitions.
            Value::map([("transit", Value::text("coins")), balance])
        } else if suffix == PARKED {
            Value::map([("parked", Value::text("coins")), balance])
        } else {
            Value::map([("issued", Value::text("coins")), balance])
        }
    }

    fn check_row(tally: &mut i64, entity: &[u8], suffix: &[u8], row: &[u8], violations: &mut Violations) {
        if suffix == EXPECTED || suffix == SEALED {
            return;
        }
        let coins = if entity == LOCAL { borsh::from_slice(row) } else { borsh::from_slice(row).map(signed) };
        match coins {
            Ok(coins) => *tally += coins,
            Err(_) => violations.report("balanced", format!("a row of {} is malformed", entity.escape_ascii())),
        }
    }

    fn check_end(tally: &i64, violations: &mut Violations) {
        if *tally != 0 {
            violations
                .report("balanced", format!("purses, transit, what was issued and what is parked add up to {tally}"));
        }
    }
}

fn plan_pay(pay: &Pay, planner: &mut Planner<'_, Op>) {
    let all = pay.amount + pay.toll;
    let take = planner.step(Op::Take(all), &pay.from).key(BALANCE).key(SEALED).local_key(TRANSIT).local_key(PARKED);
    take.undo(Op::Give(all)).tcc(TccRole::Try);
    let parts = [(&pay.keeper, pay.toll), (&pay.to, pay.amount)];
    if pay.coordination.as_deref() != Some("tcc") {
        for (purse, coins) in parts {
            let give = planner.step(Op::Give(coins), purse).key(BALANCE).key(SEALED);
            give.local_key(TRANSIT).local_key(PARKED).undo(Op::Take(coins));
        }
        return;
    }
    planner.coordination(Coordination::TryConfirmCancel);
    for (purse, coins) in parts {
        let expect = planner.step(Op::Expect(coins), purse).key(BALANCE).key(EXPECTED);
        expect.undo(Op::Forget(coins)).tcc(TccRole::Try);
    }
    for (purse, coins) in parts {
        let settle = planner.step(Op::Settle(coins), purse).key(BALANCE).key(EXPECTED).key(SEALED);
        settle.local_key(TRANSIT).local_key(PARKED).tcc(TccRole::Confirm);
    }
}

fn signed(coins: u64) -> i64 {
    i64::try_from(coins).expect("there are few coins")
}

/// Adds to a row of `@local`, which starts at 0.
fn add(tx: &mut Tx<'_>, suffix: &[u8], more: i64) {
    let before: i64 = tx.read_local(suffix).unwrap_or(0);
    tx.write_local(suffix, &(before + more));
}

fn expect(tx: &mut Tx<'_>, more: i64) {
    let before: u64 = tx.read(EXPECTED).unwrap_or(0);
    let after = before.checked_add_signed(more).expect("what is settled or forgotten was expected");
    tx.write(EXPECTED, &after);
}
