//! Events onto rows. Nothing is decided here: the event says what the balance is.
//!
//! An event is taken apart first: what it posts to the account, what stays reserved, where the other side of the posting
//! is in `@local`. It does not know which command an event came from.

use statehouse_guest::Tx;

use crate::account::{Account, Status};
use crate::currency::Currency;
use crate::event::{Event, Posting};
use crate::ledger::{OtherSide, add};
use crate::limit::DailyLimit;
use crate::op::{ACCOUNT, SUSPENSE};
use crate::reservation::set_reserved;

#[inline]
pub fn apply(event: &Event, tx: &mut Tx<'_>) {
    match event {
        Event::Debited(posting) => paid(posting, OtherSide::Transit, tx),
        Event::Credited(posting) => received(posting, OtherSide::Transit, tx),
        Event::Deposited { posting, settlement } => received(posting, OtherSide::Settlement(settlement), tx),
        Event::Withdrawn { posting, settlement } => paid(posting, OtherSide::Settlement(settlement), tx),
        Event::Opened { currency } => opened(*currency, tx),
        Event::DailyLimitSet { currency, limit } => limited(*currency, *limit, tx),
        Event::Frozen => set_status(tx, Status::Frozen),
        Event::Unfrozen => set_status(tx, Status::Open),
        Event::Closed => set_status(tx, Status::Closed),
        Event::Reserved { money, reserved } | Event::Released { money, reserved } => {
            set_reserved(tx, money.currency, *reserved);
        }
        Event::Settled { posting, reserved } => {
            set_reserved(tx, posting.money.currency, *reserved);
            received(posting, OtherSide::Transit, tx);
        }
        Event::Suspended { money, reserved } => {
            if let Some(reserved) = reserved {
                set_reserved(tx, money.currency, *reserved);
            }
            add(tx, OtherSide::Settlement(SUSPENSE), money.currency, money.amount.into());
            add(tx, OtherSide::Transit, money.currency, -i128::from(money.amount));
        }
    }
}

#[inline]
fn paid(posting: &Posting, other_side: OtherSide<'_>, tx: &mut Tx<'_>) {
    post(posting, tx, |limit, time, amount, is_reversal| {
        if !is_reversal {
            limit.count(time, amount);
        }
    });
    add(tx, other_side, posting.money.currency, posting.money.amount.into());
}

#[inline]
fn received(posting: &Posting, other_side: OtherSide<'_>, tx: &mut Tx<'_>) {
    post(posting, tx, |limit, time, amount, is_reversal| {
        if is_reversal {
            limit.give_back(time, amount);
        }
    });
    add(tx, other_side, posting.money.currency, -i128::from(posting.money.amount));
}

fn opened(currency: Currency, tx: &mut Tx<'_>) {
    let row = match tx.row(ACCOUNT) {
        Some(row) => Account::extended(row, currency),
        None => Account::opened(currency),
    };
    tx.put(ACCOUNT, &row);
}

fn limited(currency: Currency, limit: Option<u64>, tx: &mut Tx<'_>) {
    let row = Account::limited(tx.row(ACCOUNT).expect("only an account that exists has a limit"), currency, limit);
    tx.put(ACCOUNT, &row);
}

/// `count` is told of every posting of a currency with a limit: the limit, time, amount, and whether it is a reversal.
#[inline]
fn post(posting: &Posting, tx: &mut Tx<'_>, count: impl FnOnce(&mut DailyLimit, i64, u64, bool)) {
    let time = tx.time();
    let Posting { money, balance, is_reversal } = *posting;
    edit(tx, |row| {
        Account::set_balance(row, money.currency, balance);
        Account::change_limit(row, money.currency, |limit| count(limit, time, money.amount, is_reversal));
        if is_reversal {
            reopen(row);
        }
    });
}

/// Money that comes back to an account closed meanwhile must not be out of reach: it is frozen, for somebody to look at.
#[cold]
fn reopen(row: &mut [u8]) {
    if row[0] == Status::Closed as u8 {
        row[0] = Status::Frozen as u8;
    }
}

fn set_status(tx: &mut Tx<'_>, status: Status) {
    edit(tx, |row| Account::set_status(row, status));
}

#[inline]
fn edit(tx: &mut Tx<'_>, change: impl FnOnce(&mut [u8])) {
    let is_there = tx.edit(ACCOUNT, change);
    assert!(is_there, "only an account that exists has events other than Opened");
}
