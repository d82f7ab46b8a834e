//! The row of an account: status, version, and a balance per currency it holds.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | status: 0 open, 1 frozen, 2 closed |
//! | 1 | 8 | version, `u64`: how many events have changed this row |
//! | 9 | 19 × n | holdings in rising order of code: currency code (3 B), balance in minor units (`i128`) |
//!
//! Little-endian. A currency stays once it was opened. It does not know why a balance changes.

use crate::currency::Currency;

const HEADER_SIZE: usize = 9;
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
}

impl<'r> Account<'r> {
    /// `None` when the row is malformed; the order of holdings is not looked at.
    #[inline]
    pub fn parse(row: &'r [u8]) -> Option<Self> {
        let (header, holdings) = row.split_first_chunk::<HEADER_SIZE>()?;
        let [status, version @ ..] = *header;
        let status = match status {
            0 => Status::Open,
            1 => Status::Frozen,
            2 => Status::Closed,
            _ => return None,
        };
        let (holdings, rest) = holdings.as_chunks();
        rest.is_empty().then_some(Self { status, version: u64::from_le_bytes(version), holdings })
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

    /// The row of a new account that holds one currency.
    pub fn opened(currency: Currency) -> Vec<u8> {
        let mut row = vec![0; HEADER_SIZE];
        row[1] = 1;
        row.extend(holding(currency, 0));
        row
    }

    /// The row with one more currency.
    pub fn extended(row: &[u8], currency: Currency) -> Vec<u8> {
        let mut row = row.to_vec();
        count_event(&mut row);
        let held = row[HEADER_SIZE..].as_chunks::<HOLDING_SIZE>().0;
        let before = held.iter().take_while(|held| held[..3] < currency.0[..]).count();
        let at = HEADER_SIZE + before * HOLDING_SIZE;
        row.splice(at..at, holding(currency, 0));
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
        let held = row[HEADER_SIZE..].as_chunks_mut::<HOLDING_SIZE>().0;
        let held = held.iter_mut().find(|held| held[..3] == currency.0);
        held.expect("a posting is of a currency the account holds")[3..].copy_from_slice(&balance.to_le_bytes());
    }
}

fn holding(currency: Currency, balance: i128) -> impl Iterator<Item = u8> {
    currency.0.into_iter().chain(balance.to_le_bytes())
}

#[inline]
fn count_event(row: &mut [u8]) {
    let version = row[1..HEADER_SIZE].first_chunk_mut().expect("an account's row has a version");
    *version = (u64::from_le_bytes(*version) + 1).to_le_bytes();
}
