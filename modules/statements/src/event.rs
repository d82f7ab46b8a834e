//! What a decision of the wallet means to accounts: events as the wallet shows them, and the other side of those that only show one.
//!
//! In: decisions. Out: one event per account that it was about. It does not know what was before.

use statehouse_guest::{Uuid, Value};
use statehouse_projection::{Decimal, Decision, FromDecision, Happened, TimeKey};

/// The settlement account of a deposit or a withdrawal that names none.
const SETTLEMENT_DEFAULT: &str = "@bank";
/// Movements between an account and a settlement account.
const SETTLED: [&str; 4] = ["deposit", "withdrawal", "withdrawal_reversal", "deposit_reversal"];

/// Something that happened to an account.
pub struct AccountEvent {
    pub account: String,
    pub key: TimeKey,
    pub position: String,
    pub change: Change,
    /// As it is shown.
    pub shown: Value,
}

pub enum Change {
    Opened {
        currency: String,
    },
    Frozen,
    Unfrozen,
    Closed,
    Posted {
        currency: String,
        amount: Decimal,
        /// Afterwards; settlement accounts add up.
        balance: Option<Decimal>,
        is_reversal: bool,
    },
    /// Reserved, or not any more: no balance moves, and the account's row does not change.
    Promised,
    /// Of a later wallet than this view knows.
    Unknown,
}

impl FromDecision for AccountEvent {
    fn read(decision: &Decision) -> Vec<Self> {
        if !decision.part.happens_here() {
            return Vec::new();
        }
        let events = decision.events.iter().enumerate();
        events
            .flat_map(|(at, happened)| [Some(own(decision, at, happened)), other_side(decision, at, happened)])
            .flatten()
            .collect()
    }
}

fn own(decision: &Decision, at: usize, happened: &Happened) -> AccountEvent {
    AccountEvent {
        change: change(&happened.value),
        ..new(decision, at, happened.entity.clone(), happened.value.clone())
    }
}

/// What a settlement account paid or received, where one did.
fn other_side(decision: &Decision, at: usize, happened: &Happened) -> Option<AccountEvent> {
    let kind = text(&happened.value, "type")?;
    if !SETTLED.contains(&kind) {
        return None;
    }
    let Change::Posted { currency, amount, is_reversal, .. } = change(&happened.value) else { return None };
    let named = text(&happened.value, "counterparty").filter(|name| name.starts_with('@'));
    let account = named.unwrap_or(SETTLEMENT_DEFAULT).to_string();
    let amount = amount.negated();
    let shown = Value::map([
        ("account", Value::text(account.as_str())),
        ("amount", Value::Text(amount.to_string())),
        ("counterparty", Value::text(happened.entity.as_str())),
        ("currency", Value::text(currency.as_str())),
        ("time", Value::Int(decision.time.into())),
        ("transaction_id", Value::Text(Uuid(decision.id).to_string())),
        ("type", Value::text(kind)),
    ]);
    let change = Change::Posted { currency, amount, balance: None, is_reversal };
    Some(AccountEvent { change, ..new(decision, at, account, shown) })
}

fn new(decision: &Decision, at: usize, account: String, shown: Value) -> AccountEvent {
    AccountEvent {
        account,
        key: TimeKey::of(decision, at),
        position: decision.position(at),
        change: Change::Unknown,
        shown,
    }
}

fn change(shown: &Value) -> Change {
    let kind = text(shown, "type").unwrap_or_default();
    let currency = text(shown, "currency").map(str::to_string);
    let number = |name| text(shown, name).and_then(Decimal::parse);
    match (kind, currency, number("amount"), number("balance")) {
        ("opened", Some(currency), ..) => Change::Opened { currency },
        ("frozen", ..) => Change::Frozen,
        ("unfrozen", ..) => Change::Unfrozen,
        ("closed", ..) => Change::Closed,
        ("reservation" | "release", ..) => Change::Promised,
        (kind, Some(currency), Some(amount), balance @ Some(_)) => {
            Change::Posted { currency, amount, balance, is_reversal: kind.ends_with("_reversal") }
        }
        _ => Change::Unknown,
    }
}

pub fn text<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    value.find(name).and_then(Value::as_text)
}
