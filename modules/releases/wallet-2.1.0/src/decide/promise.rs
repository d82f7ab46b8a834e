//! Decides about reservations: amounts promised in Try, settled in Confirm or released in Cancel.
//!
//! `Settle` and `Release` skip the account's status: `Reserve` has looked, and nothing may be in the way since.

use super::subject::Subject;
use crate::event::{Event, Posting};
use crate::ledger::settlement_key;
use crate::money::Money;
use crate::op::SUSPENSE;
use crate::rejection::Rejection;
use crate::reservation::{RESERVED_BALANCE_MAX, reserved};

/// Whatever a credit can be rejected for is looked for here.
pub fn reserve(money: Money, payee: Subject<'_, '_>) -> Result<Event, Rejection> {
    let balance = payee.balance(money.currency)?;
    let reserved = reserved(money.currency, payee.view).checked_add(money.amount.into());
    let expected = reserved.and_then(|reserved| reserved.checked_add(balance));
    match reserved.filter(|_| expected.is_some_and(|balance| balance <= RESERVED_BALANCE_MAX)) {
        Some(reserved) => Ok(Event::Reserved { money, reserved }),
        None => Err(payee.balance_overflow(money)),
    }
}

pub fn release(money: Money, payee: Subject<'_, '_>) -> Event {
    Event::Released { money, reserved: unreserved(money, payee) }
}

pub fn settle(money: Money, payee: Subject<'_, '_>) -> Result<Event, Rejection> {
    let reserved = unreserved(money, payee);
    // INVARIANT: an account with reservations holds their currency and is not closed.
    let before = payee.account()?.balance(money.currency).expect("a reserved currency is held");
    match before.checked_add(money.amount.into()) {
        Some(balance) => Ok(Event::Settled { posting: Posting { money, balance, is_reversal: false }, reserved }),
        None => Err(payee.balance_overflow(money)),
    }
}

/// Whatever the account is, for it is the account that refuses. Ordered once in a long while, so no plan declares the row of `@suspense`, which
/// is touched here: the host adds it then.
pub fn suspend(money: Money, was_reserved: bool, payee: Subject<'_, '_>) -> Event {
    let _ = payee.view.local_row(settlement_key(SUSPENSE, money.currency));
    Event::Suspended { money, reserved: was_reserved.then(|| unreserved(money, payee)) }
}

/// What stays reserved without this amount.
fn unreserved(money: Money, payee: Subject<'_, '_>) -> i128 {
    let rest = reserved(money.currency, payee.view).checked_sub(money.amount.into()).filter(|rest| 0 <= *rest);
    rest.expect("the host settles or releases a reservation once, and only one that was made")
}
