//! The account an op is about, and the side of a movement it is on: what is common to all decisions.
//!
//! It reads the account's row and words the rejections that any op can meet. It decides about no amount.

use statehouse_guest::View;

use crate::account::{Account, Status};
use crate::currency::Currency;
use crate::money::Money;
use crate::op::ACCOUNT;
use crate::rejection::{Rejection, Side};

#[derive(Clone, Copy)]
pub struct Subject<'v, 'b> {
    pub view: &'v View<'b>,
    pub side: Side,
}

impl<'v> Subject<'v, '_> {
    #[inline]
    pub fn find_account(self) -> Option<Account<'v>> {
        let row = self.view.row(ACCOUNT)?;
        Some(Account::parse(row).expect("an account's row is one that apply wrote"))
    }

    #[inline]
    pub fn account(self) -> Result<Account<'v>, Rejection> {
        self.find_account().ok_or_else(|| Rejection::AccountNotFound { side: self.side, account: self.name() })
    }

    /// The balance of an account that must be one that may be posted to.
    #[inline]
    pub fn balance(self, currency: Currency) -> Result<i128, Rejection> {
        self.open_account(currency).map(|(_, balance)| balance)
    }

    /// An account that may be posted to, with its balance.
    #[inline]
    pub fn open_account(self, currency: Currency) -> Result<(Account<'v>, i128), Rejection> {
        let account = self.account()?;
        if account.status() != Status::Open && !self.view.is_undo() {
            return Err(self.not_open(account.status()));
        }
        match account.balance(currency) {
            Some(balance) => Ok((account, balance)),
            None => Err(Rejection::CurrencyNotHeld { side: self.side, account: self.name(), currency }),
        }
    }

    #[cold]
    pub fn not_open(self, status: Status) -> Rejection {
        let (side, account) = (self.side, self.name());
        match status {
            Status::Closed => Rejection::AccountClosed { side, account },
            Status::Open | Status::Frozen => Rejection::AccountFrozen { side, account },
        }
    }

    #[cold]
    pub fn balance_overflow(self, money: Money) -> Rejection {
        Rejection::BalanceOverflow { account: self.name(), currency: money.currency, money }
    }

    #[cold]
    pub fn name(self) -> String {
        self.view.entity_text().into()
    }
}
