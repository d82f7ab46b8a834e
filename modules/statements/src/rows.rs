//! The rows of an account: its newest state, and a line for everything that happened, each with the state after it.
//!
//! | entity | suffix | row |
//! |---|---|---|
//! | account | `head` | [`State`] |
//! | account | `l ‖` [`TimeKey`](statehouse_projection::TimeKey) | [`Line`] |
//!
//! It does not know what is asked.

use borsh::{BorshDeserialize, BorshSerialize};
use statehouse_guest::Value;
use statehouse_projection::{Decimal, Pending, ViewTx};

use crate::event::{AccountEvent, Change};

pub const HEAD: &[u8] = b"head";
pub const LINE: &[u8] = b"l";

const OPEN: &str = "open";
const FROZEN: &str = "frozen";
const CLOSED: &str = "closed";

/// An account, or one partition's part of a settlement account.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct State {
    pub status: String,
    /// How many events have changed the account.
    pub version: u64,
    /// Currency and balance, in order of currency.
    pub balances: Vec<(String, String)>,
    /// Whether all that happened to the account is known to this view.
    pub is_known: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Line {
    pub position: String,
    /// A value in CBOR.
    pub shown: Vec<u8>,
    /// Of the account.
    pub after: State,
}

impl Line {
    pub fn shown(&self) -> Value {
        minicbor::decode(&self.shown).expect("a line holds the value that was written to it")
    }
}

pub fn add_line(event: &AccountEvent, tx: &mut ViewTx<'_>) -> Result<(), Pending> {
    let before: Option<State> = tx.read(&event.account, HEAD)?;
    let new = || State { status: OPEN.into(), version: 0, balances: Vec::new(), is_known: true };
    let mut after = before.unwrap_or_else(new);
    after.change(&event.change);
    tx.write(&event.account, HEAD, &after);
    let shown = event.shown.to_cbor().expect("it came as CBOR");
    let line = Line { position: event.position.clone(), shown, after };
    tx.write(&event.account, event.key.suffix(LINE), &line);
    Ok(())
}

impl State {
    fn change(&mut self, change: &Change) {
        match change {
            Change::Promised => return,
            Change::Opened { currency } => self.set(currency, nothing(currency)),
            Change::Frozen => self.status = FROZEN.into(),
            Change::Unfrozen => self.status = OPEN.into(),
            Change::Closed => self.status = CLOSED.into(),
            Change::Posted { currency, amount, balance, is_reversal } => {
                let balance = balance.unwrap_or_else(|| {
                    let sum = self.balance(currency).unwrap_or_default().checked_add(*amount);
                    sum.expect("the sum of all postings fits as long as all accounts' sum does")
                });
                self.set(currency, balance);
                // Money that comes back to an account closed meanwhile: the wallet keeps it within reach.
                if *is_reversal && self.status == CLOSED {
                    self.status = FROZEN.into();
                }
            }
            Change::Unknown => self.is_known = false,
        }
        self.version += 1;
    }

    /// Nothing where the account does not hold the currency.
    pub fn balance(&self, currency: &str) -> Option<Decimal> {
        let found = self.balances.iter().find(|(held, _)| held == currency);
        found.map(|(_, balance)| Decimal::parse(balance).expect("a balance is what was written to it"))
    }

    fn set(&mut self, currency: &str, balance: Decimal) {
        match self.balances.binary_search_by(|(held, _)| held.as_str().cmp(currency)) {
            Ok(at) => self.balances[at].1 = balance.to_string(),
            Err(at) => self.balances.insert(at, (currency.to_string(), balance.to_string())),
        }
    }
}

/// As the wallet shows a balance of nothing.
fn nothing(currency: &str) -> Decimal {
    let decimals = iso_currency::Currency::from_code(currency).and_then(|currency| currency.exponent());
    Decimal::zero(decimals.unwrap_or_default().min(9) as u8)
}
