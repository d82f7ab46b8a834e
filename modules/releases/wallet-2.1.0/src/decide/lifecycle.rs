//! Decides about an account itself: opened, frozen, opened again, closed for good.
//!
//! It moves no money.

use super::subject::Subject;
use crate::account::{Account, Status};
use crate::amount::format_amount;
use crate::currency::Currency;
use crate::event::Event;
use crate::rejection::Rejection;
use crate::reservation::reserved;

pub fn open(currency: Currency, subject: Subject<'_, '_>) -> Result<Event, Rejection> {
    match subject.find_account() {
        None => Ok(Event::Opened { currency }),
        Some(account) if account.status() != Status::Open => Err(subject.not_open(account.status())),
        Some(account) if account.balance(currency).is_some() => {
            Err(Rejection::AccountExists { account: subject.name(), currency })
        }
        Some(_) => Ok(Event::Opened { currency }),
    }
}

pub fn freeze(subject: Subject<'_, '_>) -> Result<Event, Rejection> {
    match subject.account()?.status() {
        Status::Open => Ok(Event::Frozen),
        Status::Frozen => Err(Rejection::AlreadyFrozen { account: subject.name() }),
        Status::Closed => Err(subject.not_open(Status::Closed)),
    }
}

pub fn unfreeze(subject: Subject<'_, '_>) -> Result<Event, Rejection> {
    match subject.account()?.status() {
        Status::Open => Err(Rejection::AccountNotFrozen { account: subject.name() }),
        Status::Frozen => Ok(Event::Unfrozen),
        Status::Closed => Err(subject.not_open(Status::Closed)),
    }
}

pub fn close(subject: Subject<'_, '_>) -> Result<Event, Rejection> {
    let account = subject.account()?;
    if account.status() != Status::Open {
        return Err(subject.not_open(account.status()));
    }
    check_empty(&account, subject)?;
    check_nothing_pending(&account, subject)?;
    Ok(Event::Closed)
}

fn check_empty(account: &Account<'_>, subject: Subject<'_, '_>) -> Result<(), Rejection> {
    let Some((currency, balance)) = account.holdings().find(|(_, balance)| *balance != 0) else { return Ok(()) };
    let balance = format_amount(balance, currency);
    Err(Rejection::AccountNotEmpty { account: subject.name(), balance, currency })
}

/// Which currencies there are is not known when the command is planned, so their rows are asked for here.
fn check_nothing_pending(account: &Account<'_>, subject: Subject<'_, '_>) -> Result<(), Rejection> {
    let reserved = account.holdings().map(|(currency, _)| (currency, reserved(currency, subject.view)));
    let Some((currency, reserved)) = reserved.filter(|(_, reserved)| *reserved != 0).last() else { return Ok(()) };
    let reserved = format_amount(reserved, currency);
    Err(Rejection::CreditPending { account: subject.name(), reserved, currency })
}
