//! Decides about money that leaves or reaches an account: the balance afterwards.
//!
//! It does not know where the money goes or comes from.

use super::limit;
use super::subject::Subject;
use crate::amount::format_amount;
use crate::event::Posting;
use crate::money::Money;
use crate::rejection::Rejection;

#[inline]
pub fn debit(money: Money, payer: Subject<'_, '_>) -> Result<Posting, Rejection> {
    let (account, before) = payer.open_account(money.currency)?;
    // INVARIANT: a balance is never below 0.
    let balance = before.checked_sub(money.amount.into()).filter(|balance| *balance >= 0);
    let balance = balance.ok_or_else(|| insufficient_funds(money, before, payer))?;
    let is_reversal = payer.view.is_undo();
    // What takes a credit back is no payment of the account's.
    if !is_reversal {
        limit::check(money, &account, payer)?;
    }
    Ok(Posting { money, balance, is_reversal })
}

#[inline]
pub fn credit(money: Money, payee: Subject<'_, '_>) -> Result<Posting, Rejection> {
    match payee.balance(money.currency)?.checked_add(money.amount.into()) {
        Some(balance) => Ok(Posting { money, balance, is_reversal: payee.view.is_undo() }),
        None => Err(payee.balance_overflow(money)),
    }
}

#[cold]
fn insufficient_funds(money: Money, balance: i128, payer: Subject<'_, '_>) -> Rejection {
    let currency = money.currency;
    Rejection::InsufficientFunds { account: payer.name(), balance: format_amount(balance, currency), currency, money }
}
