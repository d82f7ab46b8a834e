//! Why a command was decided against: recorded, and stuck to the command's id.
//!
//! Codes are the variants in snake case and never change their meaning. Every detail says what to do.
//! It does not know how an answer looks.

use core::fmt;

use statehouse_guest::Rejections;

use crate::currency::Currency;
use crate::money::Money;

/// Which side of a movement an account is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Payer,
    Payee,
    /// Nothing is moved.
    Account,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Payer => "payer",
            Self::Payee => "payee",
            Self::Account => "account",
        })
    }
}

#[derive(Debug, Rejections)]
pub enum Rejection {
    /// The payer does not have that much
    #[rejection(
        status = 409,
        detail = "the payer {account} holds {balance} {currency}, {money} are needed: send less, or add money and send it under a new id"
    )]
    InsufficientFunds { account: String, balance: String, currency: Currency, money: Money },
    /// There is no such account
    #[rejection(status = 404, detail = "the {side} {account} does not exist: open it first")]
    AccountNotFound { side: Side, account: String },
    /// The account is frozen
    #[rejection(status = 409, detail = "the {side} {account} is frozen: unfreeze it first")]
    AccountFrozen { side: Side, account: String },
    /// The account is closed
    #[rejection(status = 409, detail = "the {side} {account} is closed for good: use another account")]
    AccountClosed { side: Side, account: String },
    /// The account does not hold that currency
    #[rejection(
        status = 409,
        detail = "the {side} {account} does not hold {currency}: open it in {currency} first, nothing is exchanged"
    )]
    CurrencyNotHeld { side: Side, account: String, currency: Currency },
    /// The account holds that currency already
    #[rejection(status = 409, detail = "{account} holds {currency} already: there is nothing to do")]
    AccountExists { account: String, currency: Currency },
    /// The account still has money
    #[rejection(status = 409, detail = "{account} still holds {balance} {currency}: move it away first")]
    AccountNotEmpty { account: String, balance: String, currency: Currency },
    /// A transfer to the account is on its way
    #[rejection(
        status = 409,
        detail = "{account} is about to receive {reserved} {currency} from transfers on their way: wait until they are finished, then empty and close it"
    )]
    CreditPending { account: String, reserved: String, currency: Currency },
    /// The account is frozen already
    #[rejection(status = 409, detail = "{account} is frozen already: there is nothing to do")]
    AlreadyFrozen { account: String },
    /// The account is not frozen
    #[rejection(status = 409, detail = "{account} is not frozen: there is nothing to do")]
    AccountNotFrozen { account: String },
    /// The balance would be greater than any balance can be
    #[rejection(status = 409, detail = "the balance of {account} in {currency} cannot take {money} more")]
    BalanceOverflow { account: String, currency: Currency, money: Money },
    /// The payer may not pay that much on one day
    #[rejection(
        status = 409,
        detail = "the payer {account} may pay {limit} {currency} a day (UTC), and {left} of it are left today, {money} are needed: send less, send it tomorrow under a new id, or raise the limit"
    )]
    DailyLimitExceeded { account: String, limit: String, left: String, currency: Currency, money: Money },
}
