//! What an account is sure to receive: amounts reserved in Try of TC/C, so that nothing can be in the way of Confirm.
//!
//! | suffix of the account | row |
//! |---|---|
//! | `reserved/` and a currency code | all that is reserved (`i128`, 16 B, minor units), greater than 0 |
//!
//! A reservation is a promise and no money: until it is settled the money is in transit where the payer is. A row is there
//! only while something is reserved. It knows no single reservation, only their sum: the host settles or releases each once.

use statehouse_guest::{Tx, View};

use crate::currency::Currency;
use crate::ledger::parse_balance;

const RESERVED: &[u8] = b"reserved/";

/// A balance with all that is reserved stays below this. Credits without a reservation do not look at reservations, so
/// that they need no second row; it would take 2⁶² of the greatest of them to bring the balance from here to its limit.
pub const RESERVED_BALANCE_MAX: i128 = i128::MAX / 2;

/// Suffix of the row of a currency.
#[inline]
pub fn reserved_key(currency: Currency) -> [u8; 12] {
    let mut key = *b"reserved/???";
    key[9..].copy_from_slice(&currency.0);
    key
}

/// `None` when the suffix is none of these.
pub fn parse_reserved_key(suffix: &[u8]) -> Option<Currency> {
    Some(Currency(suffix.strip_prefix(RESERVED)?.try_into().ok()?))
}

/// All that is reserved for the op's account, minor units.
pub fn reserved(currency: Currency, view: &View<'_>) -> i128 {
    let row = view.row(reserved_key(currency));
    row.map_or(0, |row| parse_balance(row).expect("a row of reservations is one that apply wrote"))
}

/// Sets all that is reserved for the op's account.
pub fn set_reserved(tx: &mut Tx<'_>, currency: Currency, reserved: i128) {
    if reserved == 0 {
        tx.delete(reserved_key(currency));
    } else {
        tx.put(reserved_key(currency), &reserved.to_le_bytes());
    }
}
