//! Events onto rows. Nothing is decided here: the event says what the balance is.
//!
//! Every posting has its other side in `@local`: transit, or a settlement account's share.
//! It does not know which command an event came from.

use statehouse_guest::Tx;

use crate::account::{Account, Status};
use crate::event::{Event, Posting};
use crate::ledger::{add, settlement_key, transit_key};
use crate::op::ACCOUNT;
use crate::reservation::set_reserved;

#[inline]
pub fn apply(event: &Event, tx: &mut Tx<'_>) {
    match event {
        Event::Debited(posting) => {
            post(tx, posting);
            add(tx, &transit_key(posting.money.currency), posting.money.amount.into());
        }
        Event::Credited(posting) => {
            post(tx, posting);
            add(tx, &transit_key(posting.money.currency), -i128::from(posting.money.amount));
        }
        Event::Deposited { posting, settlement } => {
            post(tx, posting);
            let key = settlement_key(settlement, posting.money.currency);
            add(tx, &key, -i128::from(posting.money.amount));
        }
        Event::Withdrawn { posting, settlement } => {
            post(tx, posting);
            let key = settlement_key(settlement, posting.money.currency);
            add(tx, &key, posting.money.amount.into());
        }
        Event::Opened { currency } => {
            let row = match tx.row(ACCOUNT) {
                Some(row) => Account::extended(row, *currency),
                None => Account::opened(*currency),
            };
            tx.put(ACCOUNT, &row);
        }
        Event::Frozen => set_status(tx, Status::Frozen),
        Event::Unfrozen => set_status(tx, Status::Open),
        Event::Closed => set_status(tx, Status::Closed),
        Event::Reserved { money, reserved } | Event::Released { money, reserved } => {
            set_reserved(tx, money.currency, *reserved);
        }
        Event::Settled { posting, reserved } => {
            post(tx, posting);
            set_reserved(tx, posting.money.currency, *reserved);
            add(tx, &transit_key(posting.money.currency), -i128::from(posting.money.amount));
        }
    }
}

#[inline]
fn post(tx: &mut Tx<'_>, posting: &Posting) {
    edit(tx, |row| {
        Account::set_balance(row, posting.money.currency, posting.balance);
        if posting.is_reversal {
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
