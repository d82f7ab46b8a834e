//! Decides about one op on its account's row: whether it may pay or receive, and the balance afterwards.
//!
//! ```text
//! op ──▶ subject (its account, as the payer's, the payee's or neither) ──▶ posting · limit · promise · lifecycle ──▶ event
//! ```
//!
//! An undo skips the account's status, because a refund must always come through; it never skips the overdraft rule.
//! Nor has it a daily limit.
//! The partition's own rows decide nothing, so they are not read here, but for one that no plan declares (`promise.rs`).

mod subject;
mod posting;
mod limit;
mod promise;
mod lifecycle;

use statehouse_guest::View;

use crate::event::Event;
use crate::op::Op;
use crate::rejection::{Rejection, Side};
use subject::Subject;

#[inline]
pub fn decide(op: &Op, view: &View<'_>) -> Result<Event, Rejection> {
    let [payer, payee, account] = [Side::Payer, Side::Payee, Side::Account].map(|side| Subject { view, side });
    match op {
        Op::Debit(money) => Ok(Event::Debited(posting::debit(*money, payer)?)),
        Op::Credit(money) => Ok(Event::Credited(posting::credit(*money, payee)?)),
        Op::Deposit { money, settlement } => {
            Ok(Event::Deposited { posting: posting::credit(*money, payee)?, settlement: settlement.clone() })
        }
        Op::Withdraw { money, settlement } => {
            Ok(Event::Withdrawn { posting: posting::debit(*money, payer)?, settlement: settlement.clone() })
        }
        Op::Open { currency } => lifecycle::open(*currency, account),
        Op::Freeze => lifecycle::freeze(account),
        Op::Unfreeze => lifecycle::unfreeze(account),
        Op::Close => lifecycle::close(account),
        Op::SetDailyLimit { currency, limit } => limit::set(*currency, *limit, account),
        Op::Reserve(money) => promise::reserve(*money, payee),
        Op::Release(money) => Ok(promise::release(*money, payee)),
        Op::Settle(money) => promise::settle(*money, payee),
        Op::Suspend { money, was_reserved } => Ok(promise::suspend(*money, *was_reserved, payee)),
    }
}
