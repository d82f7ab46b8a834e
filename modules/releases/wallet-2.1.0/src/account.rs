//! The row of an account: status, version, a balance per currency it holds, and its daily limits.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | status: 0 open, 1 frozen, 2 closed |
//! | 1 | 8 | version, `u64`: how many events have changed this row |
//! | 9 | 1 | n, `u8`: how many currencies it holds; since schema 3 |
//! | 10 | 19 × n | holdings in rising order of code: currency code (3 B), balance in minor units (`i128`) |
//! | behind | 27 × m | daily limits in rising order of code, see `limit.rs`; since schema 3 |
//!
//! Little-endian. A currency stays once it was opened. It does not know why a balance changes.

use crate::currency::Currency;
use crate::limit::{DailyLimit, LIMIT_SIZE};

const HOLDINGS_AT: usize = 10;
const HOLDING_COUNT_AT: usize = 9;
const HOLDING_SIZE: usize = 19;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Open,
    /// May neither pay nor receive; a reversal still comes through.
    Frozen,
    /// For good, with nothing in it.
    Closed,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Frozen => "frozen",
            Self::Closed => "closed",
        }
    }
}

/// An account's row, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Account<'r> {
    status: Status,
    version: u64,
    holdings: &'r [[u8; HOLDING_SIZE]],
    limits: &'r [[u8; LIMIT_SIZE]],
}

impl<'r> Account<'r> {
    /// `None` when the row is malformed; the order of holdings and limits is not looked at.
    #[inline]
    pub fn parse(row: &'r [u8]) -> Option<Self> {
        let (header, rest) = row.split_first_chunk::<HOLDINGS_AT>()?;
        let [status, version @ .., holding_count] = *header;
        let status = match status {
            0 => Status::Open,
            1 => Status::Frozen,
            2 => Status::Closed,
            _ => return None,
        };
        let (holdings, limits) = rest.split_at_checked(usize::from(holding_count) * HOLDING_SIZE)?;
        let (limits, rest) = limits.as_chunks();
        let holdings = holdings.as_chunks().0;
        rest.is_empty().then_some(Self { status, version: u64::from_le_bytes(version), holdings, limits })
    }

    pub fn status(&self) -> Status {
        self.status
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// Minor units; `None` when the account does not hold the currency.
    #[inline]
    pub fn balance(&self, currency: Currency) -> Option<i128> {
        self.holdings().find(|(held, _)| *held == currency).map(|(_, balance)| balance)
    }

    /// Currencies with their balances in minor units.
    #[inline]
    pub fn holdings(&self) -> impl Iterator<Item = (Currency, i128)> + use<'r> {
        self.holdings.iter().map(|holding| {
            let [a, b, c, balance @ ..] = *holding;
            (Currency([a, b, c]), i128::from_le_bytes(balance))
        })
    }

    /// `None` when as much as there is may leave the account.
    #[inline]
    pub fn limit(&self, currency: Currency) -> Option<DailyLimit> {
        self.limits().find(|(limited, _)| *limited == currency).map(|(_, limit)| limit)
    }

    /// Currencies with their limits.
    #[inline]
    pub fn limits(&self) -> impl Iterator<Item = (Currency, DailyLimit)> + use<'r> {
        self.limits.iter().map(|limit| DailyLimit::from_bytes(*limit))
    }

    /// The row of a new account that holds one currency.
    pub fn opened(currency: Currency) -> Vec<u8> {
        let mut row = vec![0; HOLDINGS_AT];
        row[1] = 1;
        row[HOLDING_COUNT_AT] = 1;
        row.extend(holding(currency, 0));
        row
    }

    /// The row with one more currency.
    pub fn extended(row: &[u8], currency: Currency) -> Vec<u8> {
        let mut row = row.to_vec();
        count_event(&mut row);
        let held = &row[HOLDINGS_AT..limits_at(&row)].as_chunks::<HOLDING_SIZE>().0;
        let before = held.iter().take_while(|held| held[..3] < currency.0[..]).count();
        let at = HOLDINGS_AT + before * HOLDING_SIZE;
        row.splice(at..at, holding(currency, 0));
        row[HOLDING_COUNT_AT] = row[HOLDING_COUNT_AT].checked_add(1).expect("ISO 4217 has fewer than 256 codes");
        row
    }

    /// The row with another limit of a currency, or with none. What has left today stays counted.
    pub fn limited(row: &[u8], currency: Currency, limit: Option<u64>) -> Vec<u8> {
        let mut row = row.to_vec();
        count_event(&mut row);
        let limits_at = limits_at(&row);
        let limits = row[limits_at..].as_chunks::<LIMIT_SIZE>().0;
        let before = limits.iter().take_while(|limit| limit[..3] < currency.0[..]).count();
        let old = limits.get(before).filter(|limit| limit[..3] == currency.0).map(|old| DailyLimit::from_bytes(*old).1);
        let at = limits_at + before * LIMIT_SIZE;
        let end = if old.is_some() { at + LIMIT_SIZE } else { at };
        let new = limit.map(|limit| DailyLimit { limit, ..old.unwrap_or_default() });
        row.splice(at..end, new.into_iter().flat_map(|new| new.to_bytes(currency)));
        row
    }

    /// Changes the row to another status.
    pub fn set_status(row: &mut [u8], status: Status) {
        count_event(row);
        row[0] = status as u8;
    }

    /// Changes the row to another balance of a currency it holds.
    #[inline]
    pub fn set_balance(row: &mut [u8], currency: Currency, balance: i128) {
        count_event(row);
        let limits_at = limits_at(row);
        let held = row[HOLDINGS_AT..limits_at].as_chunks_mut::<HOLDING_SIZE>().0;
        let held = held.iter_mut().find(|held| held[..3] == currency.0);
        held.expect("a posting is of a currency the account holds")[3..].copy_from_slice(&balance.to_le_bytes());
    }

    /// Changes the row's limit of a currency, if it has one; a part of the event that changes the balance.
    #[inline]
    pub fn change_limit(row: &mut [u8], currency: Currency, change: impl FnOnce(&mut DailyLimit)) {
        let limits_at = limits_at(row);
        let limits = row[limits_at..].as_chunks_mut::<LIMIT_SIZE>().0;
        if let Some(bytes) = limits.iter_mut().find(|limit| limit[..3] == currency.0) {
            let (_, mut limit) = DailyLimit::from_bytes(*bytes);
            change(&mut limit);
            *bytes = limit.to_bytes(currency);
        }
    }

    /// The row of schema 1 or 2 in this schema; `None` when it is malformed. Those had no count and no limits.
    pub fn migrated(row: &[u8]) -> Option<Vec<u8>> {
        let (header, holdings) = row.split_at_checked(HOLDING_COUNT_AT)?;
        let count = u8::try_from(holdings.len() / HOLDING_SIZE).ok()?;
        let row = [header, &[count], holdings].concat();
        // A piece of a holding must not be read as a limit.
        let is_whole = holdings.len() == usize::from(count) * HOLDING_SIZE && Account::parse(&row).is_some();
        is_whole.then_some(row)
    }
}

#[inline]
fn limits_at(row: &[u8]) -> usize {
    HOLDINGS_AT + usize::from(row[HOLDING_COUNT_AT]) * HOLDING_SIZE
}

fn holding(currency: Currency, balance: i128) -> impl Iterator<Item = u8> {
    currency.0.into_iter().chain(balance.to_le_bytes())
}

#[inline]
fn count_event(row: &mut [u8]) {
    let version = row[1..HOLDING_COUNT_AT].first_chunk_mut().expect("an account's row has a version");
    *version = (u64::from_le_bytes(*version) + 1).to_le_bytes();
}
