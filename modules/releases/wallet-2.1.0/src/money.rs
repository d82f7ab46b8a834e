//! An amount of a currency, as ops and events carry it.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 3 | currency code |
//! | 3 | 8 | amount in minor units, `u64`, greater than 0 |
//!
//! Balances are `i128`, so that 2⁶³ commands of the greatest amount cannot overflow one, nor a sum of them.

use core::fmt;

use borsh::io::{Read, Result, Write};
use borsh::{BorshDeserialize, BorshSerialize};

use crate::amount::format_amount;
use crate::currency::Currency;

pub const MONEY_SIZE: usize = 11;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Money {
    pub currency: Currency,
    /// Minor units.
    pub amount: u64,
}

impl Money {
    #[inline]
    pub fn to_bytes(self) -> [u8; MONEY_SIZE] {
        let mut bytes = [0; MONEY_SIZE];
        bytes[..3].copy_from_slice(&self.currency.0);
        bytes[3..].copy_from_slice(&self.amount.to_le_bytes());
        bytes
    }

    #[inline]
    pub fn from_bytes(bytes: [u8; MONEY_SIZE]) -> Self {
        let [a, b, c, amount @ ..] = bytes;
        Self { currency: Currency([a, b, c]), amount: u64::from_le_bytes(amount) }
    }
}

/// In one piece, because field by field takes longer than deciding about a transfer.
impl BorshSerialize for Money {
    #[inline]
    fn serialize<W: Write>(&self, writer: &mut W) -> Result<()> {
        writer.write_all(&self.to_bytes())
    }
}

impl BorshDeserialize for Money {
    #[inline]
    fn deserialize_reader<R: Read>(reader: &mut R) -> Result<Self> {
        let mut bytes = [0; MONEY_SIZE];
        reader.read_exact(&mut bytes)?;
        Ok(Self::from_bytes(bytes))
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", format_amount(self.amount.into(), self.currency), self.currency)
    }
}
