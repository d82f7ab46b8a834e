//! The partition's own rows in `@local`: the other side of every posting, so that its books balance at every event.
//!
//! | suffix | row |
//! |---|---|
//! | `transit/` and a currency code | money that left an account here and has not reached one here (`i128`, 16 B, minor units) |
//! | `settlement/`, the account's name, `/` and a currency code | this partition's share of a settlement account, the same |
//!
//! Accounts, settlement shares and transit of a currency add up to 0. `/` cannot stand in a name. Inside one partition
//! transit is back at 0 after every command. It knows no account but those.

use statehouse_guest::Tx;

use crate::currency::Currency;

pub const BALANCE_SIZE: usize = 16;
const TRANSIT: &[u8] = b"transit/";
const SETTLEMENT: &[u8] = b"settlement/";

/// Suffix of the transit row of a currency.
#[inline]
pub fn transit_key(currency: Currency) -> [u8; 11] {
    let mut key = *b"transit/???";
    key[8..].copy_from_slice(&currency.0);
    key
}

/// What the suffixes of a settlement account's shares start with.
pub fn settlement_prefix(account: &str) -> Vec<u8> {
    [SETTLEMENT, account.as_bytes(), b"/"].concat()
}

/// Suffix of the share of a settlement account.
pub fn settlement_key(account: &str, currency: Currency) -> Vec<u8> {
    [settlement_prefix(account).as_slice(), &currency.0].concat()
}

/// What a suffix in `@local` stands for.
pub enum LocalRow<'a> {
    Transit(Currency),
    Settlement(&'a str, Currency),
}

/// `None` when the suffix is none of this module's.
pub fn parse_key(suffix: &[u8]) -> Option<LocalRow<'_>> {
    if let Some(currency) = suffix.strip_prefix(TRANSIT) {
        return Some(LocalRow::Transit(Currency(currency.try_into().ok()?)));
    }
    let (rest, currency) = suffix.strip_prefix(SETTLEMENT)?.split_last_chunk()?;
    let account = core::str::from_utf8(rest.strip_suffix(b"/")?).ok()?;
    Some(LocalRow::Settlement(account, Currency(*currency)))
}

/// Minor units; `None` when the row is malformed.
pub fn parse_balance(row: &[u8]) -> Option<i128> {
    Some(i128::from_le_bytes(row.try_into().ok()?))
}

/// Where the other side of a posting is.
#[derive(Clone, Copy)]
pub enum OtherSide<'a> {
    Transit,
    Settlement(&'a str),
}

/// Adds to the other side's row, which starts at 0.
#[inline]
pub fn add(tx: &mut Tx<'_>, other_side: OtherSide<'_>, currency: Currency, minor: i128) {
    match other_side {
        OtherSide::Transit => add_at(tx, &transit_key(currency), minor),
        OtherSide::Settlement(account) => add_at(tx, &settlement_key(account, currency), minor),
    }
}

#[inline]
fn add_at(tx: &mut Tx<'_>, key: &[u8], minor: i128) {
    let is_there = tx.edit_local(key, |row| {
        let balance = parse_balance(row).expect("a row of @local is a balance");
        // Amounts have 64 bits, so only after 2⁶³ commands could this overflow.
        let balance = balance.checked_add(minor).expect("a balance of @local fits 128 bits");
        row.copy_from_slice(&balance.to_le_bytes());
    });
    if !is_there {
        tx.put_local(key, &minor.to_le_bytes());
    }
}
