//! Answers, recorded outcomes, events and rows as values. Everything comes from the recorded bytes, nothing from rows.
//!
//! Amounts are in their canonical spelling, times in microseconds since 1970 UTC. It does not know JSON or HTTP.

use statehouse_guest::{Done, EventContext, FieldValue, LOCAL, Phase, Value};

use crate::WalletModule;
use crate::account::{Account, Status};
use crate::amount::format_amount;
use crate::commands::{Command, LifecycleAnswer, LimitAnswer, MoneyAnswer};
use crate::currency::Currency;
use crate::event::{Event, Posting};
use crate::ledger::{LocalRow, parse_balance, parse_key};
use crate::money::Money;
use crate::queries;
use crate::reservation::parse_reserved_key;

/// The body of the answer to a command that succeeded.
pub fn response(done: &Done<'_, WalletModule>) -> Value {
    let Some(last) = done.events.last() else { return Value::Null };
    let account = text_of(last.entity);
    let lifecycle = |status: Status, currency: Option<String>| {
        LifecycleAnswer { account: account.clone(), status: status.name().into(), currency }.to_value()
    };
    match &last.event {
        Event::Opened { currency } => lifecycle(Status::Open, Some(currency.to_string())),
        Event::Unfrozen => lifecycle(Status::Open, None),
        Event::Frozen => lifecycle(Status::Frozen, None),
        Event::Closed => lifecycle(Status::Closed, None),
        Event::DailyLimitSet { currency, limit } => {
            let limit = limit.map(|limit| format_amount(limit.into(), *currency));
            LimitAnswer { account, currency: currency.to_string(), limit }.to_value()
        }
        Event::Debited(_)
        | Event::Credited(_)
        | Event::Deposited { .. }
        | Event::Withdrawn { .. }
        | Event::Reserved { .. }
        | Event::Released { .. }
        | Event::Settled { .. }
        | Event::Suspended { .. } => {
            let status = "success".into();
            MoneyAnswer { status, transaction_id: done.id(), balances: balances_after(done) }.to_value()
        }
    }
}

/// Account, then currency, then balance: of every account that was posted to.
fn balances_after(done: &Done<'_, WalletModule>) -> Value {
    let balances = done.events.iter().filter_map(|occurred| {
        let posting = occurred.event.posting()?;
        let currency = posting.money.currency;
        let balance = Value::Text(format_amount(posting.balance, currency));
        Some((text_of(occurred.entity), Value::map([(currency.to_string(), balance)])))
    });
    Value::map(balances)
}

/// Members beside the code and the detail of a command that was rejected.
pub fn rejected(done: &Done<'_, WalletModule>) -> Value {
    match done.command {
        Some(Command::BalanceTransfer(_) | Command::Deposit(_) | Command::Withdraw(_)) => {
            Value::map([("Status", Value::text("rejected")), ("Transaction_id", done.id().to_value())])
        }
        _ => Value::map([("Status", Value::text("rejected"))]),
    }
}

/// The recorded outcome of a command.
pub fn status(done: &Done<'_, WalletModule>) -> Value {
    let facts = done.facts;
    let mut members = vec![
        ("Status", Value::text(if facts.rejection.is_some() { "rejected" } else { "success" })),
        ("Transaction_id", done.id().to_value()),
        ("command", Value::text(&facts.command)),
        ("time", Value::Int(facts.time.into())),
        ("position", Value::text(&facts.position)),
        ("phases", Value::Array(facts.phases.iter().map(phase).collect())),
    ];
    if let Some(command) = &done.command {
        members.push(("body", statehouse_guest::Commands::to_value(command)));
    }
    match &facts.rejection {
        None => members.push(("balances", balances_after(done))),
        Some(rejection) => {
            members.push(("code", Value::text(&rejection.code)));
            members.push(("detail", Value::text(&rejection.detail)));
        }
    }
    Value::map(members)
}

fn phase(phase: &Phase) -> Value {
    let mut members = vec![
        ("phase", Value::text(&phase.name)),
        ("time", Value::Int(phase.time.into())),
        ("position", Value::text(&phase.position)),
    ];
    members.extend(phase.detail.as_ref().map(|detail| ("detail", Value::text(detail))));
    Value::map(members)
}

/// One event, as the history of its account and the event stream show it.
pub fn event(event: &Event, context: &EventContext<'_, WalletModule>) -> Value {
    let mut members =
        vec![("account", Value::text(text_of(context.entity))), ("time", Value::Int(context.time.into()))];
    let kind = match event {
        Event::Debited(posting) => {
            post(&mut members, posting, -1, context);
            if posting.is_reversal { "credit_reversal" } else { "debit" }
        }
        Event::Credited(posting) => {
            post(&mut members, posting, 1, context);
            if posting.is_reversal { "debit_reversal" } else { "credit" }
        }
        Event::Deposited { posting, .. } => {
            post(&mut members, posting, 1, context);
            if posting.is_reversal { "withdrawal_reversal" } else { "deposit" }
        }
        Event::Withdrawn { posting, .. } => {
            post(&mut members, posting, -1, context);
            if posting.is_reversal { "deposit_reversal" } else { "withdrawal" }
        }
        Event::Opened { currency } => {
            members.push(("currency", Value::text(currency.to_string())));
            "opened"
        }
        Event::DailyLimitSet { currency, limit } => {
            members.push(("currency", Value::text(currency.to_string())));
            members.extend(limit.map(|limit| ("limit", Value::Text(format_amount(limit.into(), *currency)))));
            "daily_limit"
        }
        Event::Frozen => "frozen",
        Event::Unfrozen => "unfrozen",
        Event::Closed => "closed",
        Event::Settled { posting, .. } => {
            post(&mut members, posting, 1, context);
            "credit"
        }
        Event::Reserved { money, reserved } => {
            reservation(&mut members, *money, *reserved, context);
            "reservation"
        }
        Event::Released { money, reserved } => {
            reservation(&mut members, *money, *reserved, context);
            "release"
        }
        Event::Suspended { money, .. } => {
            members.push(("suspended", Value::Text(format_amount(money.amount.into(), money.currency))));
            transaction(&mut members, money.currency, context);
            "suspension"
        }
    };
    members.push(("type", Value::text(kind)));
    Value::map(members)
}

/// `sign` is −1 where the account paid.
fn post(
    members: &mut Vec<(&'static str, Value)>,
    posting: &Posting,
    sign: i128,
    context: &EventContext<'_, WalletModule>,
) {
    let currency = posting.money.currency;
    members.extend([
        ("amount", Value::Text(format_amount(sign * i128::from(posting.money.amount), currency))),
        ("balance", Value::Text(format_amount(posting.balance, currency))),
    ]);
    transaction(members, currency, context);
}

/// Without `amount` and `balance`: no money moves, and whoever adds up amounts must get the balance.
fn reservation(
    members: &mut Vec<(&'static str, Value)>,
    money: Money,
    reserved: i128,
    context: &EventContext<'_, WalletModule>,
) {
    let currency = money.currency;
    members.extend([
        ("pending", Value::Text(format_amount(money.amount.into(), currency))),
        ("reserved", Value::Text(format_amount(reserved, currency))),
    ]);
    transaction(members, currency, context);
}

fn transaction(members: &mut Vec<(&'static str, Value)>, currency: Currency, context: &EventContext<'_, WalletModule>) {
    members.extend([("currency", Value::text(currency.to_string())), ("transaction_id", context.id.to_value())]);
    members.extend(counterparty(context).map(|counterparty| ("counterparty", Value::text(counterparty))));
}

/// The other account of the command.
fn counterparty<'c>(context: &'c EventContext<'_, WalletModule>) -> Option<&'c str> {
    match context.command.as_ref()? {
        Command::BalanceTransfer(transfer) if transfer.from_account.as_bytes() == context.entity => {
            Some(&transfer.to_account)
        }
        Command::BalanceTransfer(transfer) => Some(&transfer.from_account),
        Command::Deposit(deposit) => deposit.settlement.as_deref(),
        Command::Withdraw(withdraw) => withdraw.settlement.as_deref(),
        Command::Open(_) | Command::Freeze(_) | Command::Unfreeze(_) | Command::Close(_) => None,
        Command::SetDailyLimit(_) => None,
    }
}

/// One row, for audit reports; null when it is malformed.
pub fn row(entity: &[u8], suffix: &[u8], row: &[u8]) -> Value {
    if entity != LOCAL {
        return match parse_reserved_key(suffix) {
            Some(currency) => parse_balance(row).map_or(Value::Null, |reserved| reserved_row(reserved, currency)),
            None => Account::parse(row).map_or(Value::Null, |account| account_row(entity, &account)),
        };
    }
    match (parse_key(suffix), parse_balance(row)) {
        (Some(LocalRow::Transit(currency)), Some(balance)) => Value::map([
            ("transit", Value::text(currency.to_string())),
            ("balance", Value::Text(format_amount(balance, currency))),
        ]),
        (Some(LocalRow::Settlement(account, currency)), Some(balance)) => Value::map([
            ("settlement", Value::text(account)),
            ("currency", Value::text(currency.to_string())),
            ("balance", Value::Text(format_amount(balance, currency))),
        ]),
        _ => Value::Null,
    }
}

/// What has left is of the day that was counted last: a row does not know the time.
fn account_row(entity: &[u8], account: &Account<'_>) -> Value {
    queries::state(&text_of(entity), account, |limit| ("outgoing", limit.outgoing))
}

fn reserved_row(reserved: i128, currency: Currency) -> Value {
    Value::map([
        ("reserved", Value::Text(format_amount(reserved, currency))),
        ("currency", Value::text(currency.to_string())),
    ])
}

fn text_of(entity: &[u8]) -> String {
    String::from_utf8_lossy(entity).into()
}
