//! The view `double_charges`: payments that look as if they were made twice, with the same payer, payee, amount and currency.
//!
//! In: payments of accounts, and payments that were given back. Out: pairs of one payment and the next like it, where at most a day lies
//! between them; which of them count is asked for as a window. A retry under the same id is no second payment and never gets here.

use borsh::{BorshDeserialize, BorshSerialize};
use statehouse_guest::{Body, FieldValue, Queries, QueryStop, Uuid, Value, role};
use statehouse_projection::{
    Decision, FromDecision, Keys, Order, Pending, Projection, Range, Reader, TimeKey, ViewTx, params,
};

/// The entity that has all pairs, in order of time.
const PAIRS: &str = "pairs";
const MICROS: i64 = 1_000_000;
/// Payments further apart are no pair.
const WINDOW_SECONDS_MAX: u32 = 86_400;
const WINDOW_SECONDS_DEFAULT: u32 = 60;
const READERS: u32 = role::AUDITOR | role::DEVELOPER | role::OPERATOR | role::ADMIN;

#[derive(Body)]
pub struct Asked {
    /// Seconds between the two payments at most, 1 to 86400; default 60
    #[body(max_chars = 5)]
    pub window: Option<String>,
    /// Only pairs whose second payment is not before this moment: RFC 3339, or a date
    #[body(max_chars = 40)]
    pub from: Option<String>,
    /// Only pairs whose second payment is before this moment
    #[body(max_chars = 40)]
    pub to: Option<String>,
    /// Continue behind an earlier page: its `next_cursor`
    #[body(max_chars = 64)]
    pub cursor: Option<String>,
    /// Look at this many pairs, 1 to 1000; default 100
    #[body(max_chars = 4)]
    pub limit: Option<String>,
}

#[derive(Body)]
pub struct Page {
    /// Newest first
    pub items: Vec<Value>,
    /// Absent on the last page
    pub next_cursor: Option<String>,
}

#[derive(Queries)]
pub enum Query {
    /// Payments with the same payer, payee, amount and currency within a window
    #[query(path = "audit/double_charges", response = Page)]
    DoubleCharges(Asked),
}

/// A payment, or its undoing.
pub struct Payment {
    payer: String,
    /// Payee, currency and amount: what is the same in a pair.
    like: Vec<u8>,
    payee: String,
    amount: String,
    currency: String,
    made: Made,
    is_undone: bool,
}

/// Which payment, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Made {
    time: i64,
    n: u32,
    partition: u32,
    position: String,
    id: [u8; 16],
}

/// The newest payment of its like, and the one before it.
#[derive(BorshSerialize, BorshDeserialize)]
struct Newest {
    made: Made,
    before: Option<Made>,
}

#[derive(BorshSerialize, BorshDeserialize)]
struct Pair {
    payer: String,
    payee: String,
    amount: String,
    currency: String,
    first: Made,
    second: Made,
}

impl FromDecision for Payment {
    fn read(decision: &Decision) -> Vec<Self> {
        if !decision.part.happens_here() {
            return Vec::new();
        }
        let events = decision.events.iter().enumerate();
        events
            .filter_map(|(at, happened)| {
                let text = |name| happened.value.find(name).and_then(Value::as_text);
                let is_undone = match text("type")? {
                    "debit" | "withdrawal" => false,
                    "debit_reversal" | "withdrawal_reversal" => true,
                    _ => return None,
                };
                let (payee, currency) = (text("counterparty")?, text("currency")?);
                // What is paid is shown below zero, what is given back above.
                let amount = text("amount")?.trim_start_matches('-');
                let like = [payee.as_bytes(), b"\0", currency.as_bytes(), b"\0", amount.as_bytes()].concat();
                Some(Self {
                    payer: happened.entity.clone(),
                    like,
                    payee: payee.into(),
                    amount: amount.into(),
                    currency: currency.into(),
                    made: Made {
                        time: decision.time,
                        n: decision.n + at as u32,
                        partition: decision.partition,
                        position: decision.position(at),
                        id: decision.id,
                    },
                    is_undone,
                })
            })
            .collect()
    }
}

pub struct DoubleCharges;

impl Projection for DoubleCharges {
    const NAME: &'static str = "double_charges";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SOURCE: &'static str = "wallet";
    const SCHEMA: u32 = 1;

    type Event = Payment;
    type Query = Query;

    fn keys(payment: &Payment, keys: &mut Keys) {
        keys.key(payer(payment), &payment.like);
    }

    fn project(payment: &Payment, tx: &mut ViewTx<'_>) -> Result<(), Pending> {
        let newest: Option<Newest> = tx.read(payer(payment), &payment.like)?;
        match newest {
            Some(newest) if payment.is_undone && newest.made.id == payment.made.id => {
                tx.remove(PAIRS, newest.made.key());
                match newest.before {
                    Some(made) => tx.write(payer(payment), &payment.like, &Newest { made, before: None }),
                    None => tx.remove(payer(payment), &payment.like),
                }
            }
            // A later payment like it was made meanwhile: the pair of the two stands, for both were asked for.
            _ if payment.is_undone => {}
            newest => {
                let before = newest.map(|newest| newest.made);
                let is_near = |first: &&Made| payment.made.time - first.time <= i64::from(WINDOW_SECONDS_MAX) * MICROS;
                if let Some(first) = before.as_ref().filter(is_near) {
                    let Payment { payer, payee, amount, currency, .. } = payment;
                    let pair = Pair {
                        payer: payer.clone(),
                        payee: payee.clone(),
                        amount: amount.clone(),
                        currency: currency.clone(),
                        first: first.clone(),
                        second: payment.made.clone(),
                    };
                    tx.write(PAIRS, payment.made.key(), &pair);
                }
                tx.write(payer(payment), &payment.like, &Newest { made: payment.made.clone(), before });
            }
        }
        Ok(())
    }

    fn query(Query::DoubleCharges(asked): &Query, reader: &Reader<'_>) -> Result<Value, QueryStop> {
        if !reader.has_role(READERS) {
            let detail = "only an auditor, developer, operator or admin looks for double charges";
            return Err(QueryStop::refused(403, "forbidden", detail));
        }
        double_charges(asked, reader)
    }
}

statehouse_projection::export!(DoubleCharges);

fn payer(payment: &Payment) -> String {
    format!("p:{}", payment.payer)
}

impl Made {
    fn at(&self) -> TimeKey {
        TimeKey { time: self.time, n: self.n, partition: self.partition }
    }

    fn key(&self) -> Vec<u8> {
        self.at().suffix(b"")
    }

    fn shown(&self) -> Value {
        Value::map([
            ("transaction_id", Value::Text(Uuid(self.id).to_string())),
            ("time", Value::Int(self.time.into())),
            ("position", Value::text(&self.position)),
        ])
    }
}

fn double_charges(asked: &Asked, reader: &Reader<'_>) -> Result<Value, QueryStop> {
    let window = params::number("window", asked.window.as_deref(), WINDOW_SECONDS_DEFAULT, WINDOW_SECONDS_MAX)?;
    let limit = params::number("limit", asked.limit.as_deref(), 100, 1000)?;
    let (from, to) = (params::moment("from", asked.from.as_deref())?, params::moment("to", asked.to.as_deref())?);
    let cursor = params::cursor(asked.cursor.as_deref())?;
    let behind = cursor.unwrap_or(TimeKey::begin(to.unwrap_or(i64::MAX))).suffix(b"");
    let page = reader.scan(&Range {
        partition: None,
        entity: PAIRS.as_bytes(),
        prefix: b"",
        after: Some(&behind),
        limit,
        order: Order::Falling,
    })?;
    let rows =
        page.rows().map(|(_, _, row)| borsh::from_slice::<Pair>(row).expect("a pair is one that this view wrote"));
    let pairs: Vec<Pair> = rows.collect();
    let is_late = |pair: &&Pair| from.is_none_or(|from| from <= pair.second.time);
    let late: Vec<&Pair> = pairs.iter().filter(is_late).collect();
    let is_near = |pair: &&&Pair| pair.second.time - pair.first.time <= i64::from(window) * MICROS;
    let items = late.iter().filter(is_near).map(|pair| shown(pair)).collect();
    let is_over = !page.has_more() || late.len() < pairs.len();
    let cursor = |pair: &&Pair| pair.second.at().to_string();
    Ok(Page { items, next_cursor: late.last().filter(|_| !is_over).map(cursor) }.to_value())
}

fn shown(pair: &Pair) -> Value {
    Value::map([
        ("payer", Value::text(&pair.payer)),
        ("payee", Value::text(&pair.payee)),
        ("amount", Value::text(&pair.amount)),
        ("currency", Value::text(&pair.currency)),
        ("first", pair.first.shown()),
        ("second", pair.second.shown()),
        ("micros_between", Value::Int((pair.second.time - pair.first.time).into())),
    ])
}
