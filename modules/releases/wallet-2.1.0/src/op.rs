//! The ops: one step of a command on one account.
//!
//! | byte 0 | op | then |
//! |---|---|---|
//! | 0 | `Debit` | `Money`, 11 B |
//! | 1 | `Credit` | `Money`, 11 B |
//! | 2 | `Deposit` | `Money`, 11 B; `len u32` and the settlement account's name |
//! | 3 | `Withdraw` | the same |
//! | 4 | `Open` | currency code, 3 B |
//! | 5, 6, 7 | `Freeze`, `Unfreeze`, `Close` | – |
//! | 8, 9, 10 | `Reserve`, `Release`, `Settle` | `Money`, 11 B; since schema 2 |
//! | 11 | `SetDailyLimit` | currency code, 3 B; 0, or 1 and the limit (`u64`, minor units); since schema 3 |
//! | 12 | `Suspend` | `Money`, 11 B; 1 B: whether it was reserved; since 2.1.0 |
//!
//! An op says nothing of its account: that is the entity of the step.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::currency::Currency;
use crate::money::Money;

/// Suffix of the account's row. Beside it an account has rows of what is reserved, see `reservation.rs`.
pub const ACCOUNT: &[u8] = b"";

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Op {
    /// Takes from the account and adds to transit. As an undo it takes back a credit.
    Debit(Money),
    /// Adds to the account and takes from transit. As an undo it gives back a debit.
    Credit(Money),
    /// Moves from the partition's share of a settlement account to the account. As an undo it gives back a withdrawal.
    Deposit {
        money: Money,
        settlement: String,
    },
    /// Moves from the account to the partition's share of a settlement account. As an undo it takes back a deposit.
    Withdraw {
        money: Money,
        settlement: String,
    },
    /// Makes the account, or adds a currency to it.
    Open {
        currency: Currency,
    },
    Freeze,
    Unfreeze,
    Close,
    /// Makes sure that the account can receive the amount, whatever happens until it does.
    Reserve(Money),
    /// Gives a reservation back: the undo of `Reserve`.
    Release(Money),
    /// Adds what was reserved to the account and takes it from transit.
    Settle(Money),
    /// Sets what may leave the account on one day, or lets everything leave.
    SetDailyLimit {
        currency: Currency,
        limit: Option<u64>,
    },
    /// The last resort of `Credit` and `Settle`: takes from transit what the account can never receive, and adds it to the partition's share
    /// of `@suspense`.
    Suspend {
        money: Money,
        was_reserved: bool,
    },
}

/// Where money is that its account refuses for ever, until somebody with the role treasury pays it out.
pub const SUSPENSE: &str = "@suspense";

impl Op {
    /// What an operator may order where this op is refused for ever though it must succeed.
    pub fn last_resort(&self) -> Option<Self> {
        match self {
            Self::Credit(money) => Some(Self::Suspend { money: *money, was_reserved: false }),
            Self::Settle(money) => Some(Self::Suspend { money: *money, was_reserved: true }),
            _ => None,
        }
    }
}
