//! The events: what happened to one account, kept for ever.
//!
//! | byte 0 | event | then |
//! |---|---|---|
//! | 0 | `Debited` | `Posting`, 28 B |
//! | 1 | `Credited` | `Posting`, 28 B |
//! | 2 | `Deposited` | `Posting`, 28 B; `len u32` and the settlement account's name |
//! | 3 | `Withdrawn` | the same |
//! | 4 | `Opened` | currency code, 3 B |
//! | 5, 6, 7 | `Frozen`, `Unfrozen`, `Closed` | – |
//! | 8 | `Reserved` | `Money`, 11 B; all that is reserved afterwards (`i128`, 16 B); since schema 2 |
//! | 9 | `Released` | the same |
//! | 10 | `Settled` | `Posting`, 28 B; all that is reserved afterwards (`i128`, 16 B); since schema 2 |
//! | 11 | `DailyLimitSet` | currency code, 3 B; 0, or 1 and the limit (`u64`, minor units); since schema 3 |
//! | 12 | `Suspended` | `Money`, 11 B; 0, or 1 and all that is reserved afterwards (`i128`, 16 B); since 2.1.0 |
//!
//! A posting is `Money` (11 B), the balance after it (`i128`), and whether it reverses an earlier one (1 B).
//! An event carries all that the answer and the history show, so neither needs a row.

use borsh::io::{Error, ErrorKind, Read, Result, Write};
use borsh::{BorshDeserialize, BorshSerialize};
use statehouse_guest::Named;

use crate::currency::Currency;
use crate::money::{MONEY_SIZE, Money};

const POSTING_SIZE: usize = 28;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posting {
    pub money: Money,
    /// Of the account in this currency, afterwards; minor units.
    pub balance: i128,
    /// It undoes a posting of the same command whose later steps were refused.
    pub is_reversal: bool,
}

/// In one piece, because field by field takes longer than deciding about a transfer.
impl BorshSerialize for Posting {
    #[inline]
    fn serialize<W: Write>(&self, writer: &mut W) -> Result<()> {
        let mut bytes = [0; POSTING_SIZE];
        bytes[..MONEY_SIZE].copy_from_slice(&self.money.to_bytes());
        bytes[MONEY_SIZE..POSTING_SIZE - 1].copy_from_slice(&self.balance.to_le_bytes());
        bytes[POSTING_SIZE - 1] = self.is_reversal.into();
        writer.write_all(&bytes)
    }
}

impl BorshDeserialize for Posting {
    #[inline]
    fn deserialize_reader<R: Read>(reader: &mut R) -> Result<Self> {
        let mut bytes = [0; POSTING_SIZE];
        reader.read_exact(&mut bytes)?;
        let (mut money, mut balance) = ([0; MONEY_SIZE], [0; 16]);
        money.copy_from_slice(&bytes[..MONEY_SIZE]);
        balance.copy_from_slice(&bytes[MONEY_SIZE..POSTING_SIZE - 1]);
        let is_reversal = match bytes[POSTING_SIZE - 1] {
            0 => false,
            1 => true,
            _ => return Err(Error::new(ErrorKind::InvalidData, "a posting is a reversal or is not")),
        };
        Ok(Self { money: Money::from_bytes(money), balance: i128::from_le_bytes(balance), is_reversal })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Event {
    Debited(Posting),
    Credited(Posting),
    Deposited {
        posting: Posting,
        settlement: String,
    },
    Withdrawn {
        posting: Posting,
        settlement: String,
    },
    Opened {
        currency: Currency,
    },
    Frozen,
    Unfrozen,
    Closed,
    /// `reserved` is of the account in this currency, afterwards; minor units. So in the next two.
    Reserved {
        money: Money,
        reserved: i128,
    },
    Released {
        money: Money,
        reserved: i128,
    },
    Settled {
        posting: Posting,
        reserved: i128,
    },
    /// Without a limit everything may leave.
    DailyLimitSet {
        currency: Currency,
        limit: Option<u64>,
    },
    /// With what stays reserved where the money was.
    Suspended {
        money: Money,
        reserved: Option<i128>,
    },
}

pub(crate) const EVENTS: &[Named] = &[
    Named { name: "Debited", summary: "An account paid into transit" },
    Named { name: "Credited", summary: "An account received from transit" },
    Named { name: "Deposited", summary: "An account received from a settlement account" },
    Named { name: "Withdrawn", summary: "An account paid to a settlement account" },
    Named { name: "Opened", summary: "An account was opened, or can hold one more currency" },
    Named { name: "Frozen", summary: "An account may neither pay nor receive for now" },
    Named { name: "Unfrozen", summary: "A frozen account is open again" },
    Named { name: "Closed", summary: "An account was closed for good" },
    Named { name: "Reserved", summary: "An account is sure to be able to receive an amount" },
    Named { name: "Released", summary: "An account will not receive an amount that was reserved" },
    Named { name: "Settled", summary: "An account received from transit what was reserved" },
    Named {
        name: "DailyLimitSet",
        summary: "No more than an amount may leave an account on one day, or everything may",
    },
    Named { name: "Suspended", summary: "Money that an account refuses for ever went to @suspense" },
];

impl Event {
    /// What it moved, for events that move money.
    pub fn posting(&self) -> Option<&Posting> {
        match self {
            Self::Debited(posting)
            | Self::Credited(posting)
            | Self::Deposited { posting, .. }
            | Self::Withdrawn { posting, .. }
            | Self::Settled { posting, .. } => Some(posting),
            Self::Opened { .. } | Self::Frozen | Self::Unfrozen | Self::Closed => None,
            Self::Reserved { .. } | Self::Released { .. } | Self::DailyLimitSet { .. } => None,
            Self::Suspended { .. } => None,
        }
    }
}
