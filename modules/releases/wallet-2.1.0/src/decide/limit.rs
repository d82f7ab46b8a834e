//! Decides about daily limits: whether one may be set, and whether an amount may still leave today.
//!
//! It does not know what has left: that is in the account's row.

use super::subject::Subject;
use crate::account::{Account, Status};
use crate::amount::format_amount;
use crate::currency::Currency;
use crate::event::Event;
use crate::limit::DailyLimit;
use crate::money::Money;
use crate::rejection::Rejection;

pub fn set(currency: Currency, limit: Option<u64>, subject: Subject<'_, '_>) -> Result<Event, Rejection> {
    let account = subject.account()?;
    if account.status() == Status::Closed {
        return Err(subject.not_open(Status::Closed));
    }
    match account.balance(currency) {
        Some(_) => Ok(Event::DailyLimitSet { currency, limit }),
        None => Err(Rejection::CurrencyNotHeld { side: subject.side, account: subject.name(), currency }),
    }
}

/// Without a limit, whatever there is may leave.
#[inline]
pub fn check(money: Money, account: &Account<'_>, payer: Subject<'_, '_>) -> Result<(), Rejection> {
    match account.limit(money.currency) {
        Some(limit) if limit.left_at(payer.view.time()) < money.amount => Err(exceeded(money, &limit, payer)),
        _ => Ok(()),
    }
}

#[cold]
fn exceeded(money: Money, limit: &DailyLimit, payer: Subject<'_, '_>) -> Rejection {
    let currency = money.currency;
    let [limit, left] =
        [limit.limit, limit.left_at(payer.view.time())].map(|minor| format_amount(minor.into(), currency));
    Rejection::DailyLimitExceeded { account: payer.name(), limit, left, currency, money }
}
