//! Decides about one op on its account's row: whether it may pay or receive, and the balance afterwards.
//!
//! An undo skips the account's status, because a refund must always come through; it never skips the overdraft rule.
//! `Settle` skips it too: `Reserve` has looked, and nothing may be in the way since.
//! The partition's own rows decide nothing, so they are not read here.

use statehouse_guest::View;

use crate::account::{Account, Status};
use crate::amount::format_amount;
use crate::currency::Currency;
use crate::event::{Event, Posting};
use crate::money::Money;
use crate::op::{ACCOUNT, Op};
use crate::rejection::{Rejection, Side};
use crate::reservation::{RESERVED_BALANCE_MAX, reserved};

#[inline]
pub fn validate(op: &Op, view: &View<'_>) -> Result<Event, Rejection> {
    match op {
        Op::Debit(money) => Ok(Event::Debited(debit(*money, view)?)),
        Op::Credit(money) => Ok(Event::Credited(credit(*money, view)?)),
        Op::Deposit { money, settlement } => {
            Ok(Event::Deposited { posting: credit(*money, view)?, settlement: settlement.clone() })
        }
        Op::Withdraw { money, settlement } => {
            Ok(Event::Withdrawn { posting: debit(*money, view)?, settlement: settlement.clone() })
        }
        Op::Open { currency } => open(*currency, view),
        Op::Freeze => freeze(view),
        Op::Unfreeze => unfreeze(view),
        Op::Close => close(view),
        Op::Reserve(money) => reserve(*money, view),
        Op::Release(money) => Ok(Event::Released { money: *money, reserved: unreserved(*money, view) }),
        Op::Settle(money) => settle(*money, view),
    }
}

#[inline]
fn debit(money: Money, view: &View<'_>) -> Result<Posting, Rejection> {
    let before = balance(money.currency, Side::Payer, view)?;
    // INVARIANT: a balance is never below 0.
    match before.checked_sub(money.amount.into()).filter(|balance| *balance >= 0) {
        Some(balance) => Ok(Posting { money, balance, is_reversal: view.is_undo() }),
        None => Err(insufficient_funds(money, before, view)),
    }
}

#[cold]
fn insufficient_funds(money: Money, balance: i128, view: &View<'_>) -> Rejection {
    let currency = money.currency;
    Rejection::InsufficientFunds { account: name(view), balance: format_amount(balance, currency), currency, money }
}

#[inline]
fn credit(money: Money, view: &View<'_>) -> Result<Posting, Rejection> {
    let before = balance(money.currency, Side::Payee, view)?;
    match before.checked_add(money.amount.into()) {
        Some(balance) => Ok(Posting { money, balance, is_reversal: view.is_undo() }),
        None => Err(balance_overflow(money, view)),
    }
}

#[cold]
fn balance_overflow(money: Money, view: &View<'_>) -> Rejection {
    Rejection::BalanceOverflow { account: name(view), currency: money.currency, money }
}

/// Whatever a credit can be rejected for is looked for here.
fn reserve(money: Money, view: &View<'_>) -> Result<Event, Rejection> {
    let balance = balance(money.currency, Side::Payee, view)?;
    let reserved = reserved(money.currency, view).checked_add(money.amount.into());
    let expected = reserved.and_then(|reserved| reserved.checked_add(balance));
    match reserved.filter(|_| expected.is_some_and(|balance| balance <= RESERVED_BALANCE_MAX)) {
        Some(reserved) => Ok(Event::Reserved { money, reserved }),
        None => Err(balance_overflow(money, view)),
    }
}

fn settle(money: Money, view: &View<'_>) -> Result<Event, Rejection> {
    let reserved = unreserved(money, view);
    // INVARIANT: an account with reservations holds their currency and is not closed.
    let before = account(Side::Payee, view)?.balance(money.currency).expect("a reserved currency is held");
    match before.checked_add(money.amount.into()) {
        Some(balance) => Ok(Event::Settled { posting: Posting { money, balance, is_reversal: false }, reserved }),
        None => Err(balance_overflow(money, view)),
    }
}

/// What stays reserved without this amount.
fn unreserved(money: Money, view: &View<'_>) -> i128 {
    let rest = reserved(money.currency, view).checked_sub(money.amount.into()).filter(|rest| 0 <= *rest);
    rest.expect("the host settles or releases a reservation once, and only one that was made")
}

/// The balance of the op's account, which must be one that may be posted to.
#[inline]
fn balance(currency: Currency, side: Side, view: &View<'_>) -> Result<i128, Rejection> {
    let account = account(side, view)?;
    if account.status() != Status::Open && !view.is_undo() {
        return Err(not_open(account.status(), side, view));
    }
    account.balance(currency).ok_or_else(|| Rejection::CurrencyNotHeld { side, account: name(view), currency })
}

fn open(currency: Currency, view: &View<'_>) -> Result<Event, Rejection> {
    let Some(row) = view.row(ACCOUNT) else { return Ok(Event::Opened { currency }) };
    let account = parse(row);
    match account.status() {
        Status::Open if account.balance(currency).is_some() => {
            Err(Rejection::AccountExists { account: name(view), currency })
        }
        Status::Open => Ok(Event::Opened { currency }),
        status => Err(not_open(status, Side::Account, view)),
    }
}

fn freeze(view: &View<'_>) -> Result<Event, Rejection> {
    match account(Side::Account, view)?.status() {
        Status::Open => Ok(Event::Frozen),
        Status::Frozen => Err(Rejection::AlreadyFrozen { account: name(view) }),
        Status::Closed => Err(not_open(Status::Closed, Side::Account, view)),
    }
}

fn unfreeze(view: &View<'_>) -> Result<Event, Rejection> {
    match account(Side::Account, view)?.status() {
        Status::Open => Err(Rejection::AccountNotFrozen { account: name(view) }),
        Status::Frozen => Ok(Event::Unfrozen),
        Status::Closed => Err(not_open(Status::Closed, Side::Account, view)),
    }
}

fn close(view: &View<'_>) -> Result<Event, Rejection> {
    let account = account(Side::Account, view)?;
    if account.status() != Status::Open {
        return Err(not_open(account.status(), Side::Account, view));
    }
    if let Some((currency, balance)) = account.holdings().find(|(_, balance)| *balance != 0) {
        let balance = format_amount(balance, currency);
        return Err(Rejection::AccountNotEmpty { account: name(view), balance, currency });
    }
    // Which currencies there are is not known when the command is planned, so their rows are asked for here.
    let reserved = account.holdings().map(|(currency, _)| (currency, reserved(currency, view)));
    match reserved.filter(|(_, reserved)| *reserved != 0).last() {
        None => Ok(Event::Closed),
        Some((currency, reserved)) => {
            let reserved = format_amount(reserved, currency);
            Err(Rejection::CreditPending { account: name(view), reserved, currency })
        }
    }
}

#[inline]
fn account<'v>(side: Side, view: &'v View<'_>) -> Result<Account<'v>, Rejection> {
    match view.row(ACCOUNT) {
        Some(row) => Ok(parse(row)),
        None => Err(Rejection::AccountNotFound { side, account: name(view) }),
    }
}

#[inline]
fn parse(row: &[u8]) -> Account<'_> {
    Account::parse(row).expect("an account's row is one that apply wrote")
}

#[cold]
fn not_open(status: Status, side: Side, view: &View<'_>) -> Rejection {
    let account = name(view);
    match status {
        Status::Closed => Rejection::AccountClosed { side, account },
        Status::Open | Status::Frozen => Rejection::AccountFrozen { side, account },
    }
}

#[cold]
fn name(view: &View<'_>) -> String {
    view.entity_text().into()
}
