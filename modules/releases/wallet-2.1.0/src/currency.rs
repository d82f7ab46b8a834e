//! A currency: its upper-case ISO 4217 code as three bytes, in ops, events and rows alike.
//!
//! In: text of a body. Out: the code and the number of decimals its amounts have. It knows no amounts.

use core::fmt;

use borsh::{BorshDeserialize, BorshSerialize};

/// Three bytes, read from ops, events and rows without a look at the table: `plan` has let in known codes only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub struct Currency(pub [u8; 3]);

impl Currency {
    /// The currency with this code, upper case; `None` when ISO 4217 has no such code or gives it no decimals (gold,
    /// say, or `XXX`), so that no amount of it could be written.
    pub fn parse(code: &str) -> Option<Self> {
        exponent(code)?;
        Some(Self(code.as_bytes().try_into().ok()?))
    }

    /// Number of decimals; `None` for bytes that [`parse`](Self::parse) would not have let in.
    pub fn exponent(self) -> Option<u32> {
        exponent(core::str::from_utf8(&self.0).ok()?)
    }
}

fn exponent(code: &str) -> Option<u32> {
    Some(iso_currency::Currency::from_code(code)?.exponent()?.into())
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}
