//! A movement of money, and the steps it takes.
//!
//! | movement | steps: op on entity | home |
//! |---|---|---|
//! | transfer between accounts | `Debit` on the payer, `Credit` on the payee | payer |
//! | the same by `tcc` | Try: `Debit` on the payer, `Reserve` on the payee; Confirm: `Settle` on the payee | payer |
//! | deposit, transfer from a settlement account | `Deposit` on the payee | payee |
//! | withdrawal, transfer to a settlement account | `Withdraw` on the payer | payer |
//!
//! The names were checked before. It does not know bodies.

use statehouse_guest::{Coordination, Planner, TccRole};

use super::fields::is_settlement;
use crate::ledger::{settlement_key, transit_key};
use crate::money::Money;
use crate::op::{ACCOUNT, Op};
use crate::reservation::reserved_key;

#[derive(Clone, Copy)]
pub enum Movement<'n> {
    Transfer { payer: &'n str, payee: &'n str },
    Deposit { settlement: &'n str, account: &'n str },
    Withdrawal { account: &'n str, settlement: &'n str },
}

impl<'n> Movement<'n> {
    /// `None` when no account would be moved from or to.
    pub fn between(from: &'n str, to: &'n str) -> Option<Self> {
        match (is_settlement(from), is_settlement(to)) {
            (false, false) => Some(Self::Transfer { payer: from, payee: to }),
            (true, false) => Some(Self::Deposit { settlement: from, account: to }),
            (false, true) => Some(Self::Withdrawal { account: from, settlement: to }),
            (true, true) => None,
        }
    }

    /// Only a transfer can need two partitions, so only for a transfer is there something to coordinate.
    pub fn plan(self, money: Money, coordination: Coordination, planner: &mut Planner<'_, Op>) {
        match (self, coordination) {
            (Self::Transfer { payer, payee }, Coordination::TryConfirmCancel) => {
                plan_in_phases(money, payer, payee, planner);
            }
            _ => self.plan_in_one(money, planner),
        }
    }

    /// Debit first and in Try, so that money is in transit and never in two places.
    pub fn plan_in_one(self, money: Money, planner: &mut Planner<'_, Op>) {
        match self {
            Self::Transfer { payer, payee } => {
                let transit = transit_key(money.currency);
                plan_debit(money, payer, planner);
                let credit = planner.step(Op::Credit(money), payee).key(ACCOUNT).local_key(transit);
                credit.undo(Op::Debit(money)).tcc(TccRole::Confirm);
            }
            Self::Deposit { settlement, account } => {
                let [op, undo] = [deposit(money, settlement), withdraw(money, settlement)];
                plan_at_settlement(op, undo, money, account, settlement, planner);
            }
            Self::Withdrawal { account, settlement } => {
                let [op, undo] = [withdraw(money, settlement), deposit(money, settlement)];
                plan_at_settlement(op, undo, money, account, settlement, planner);
            }
        }
    }
}

/// Whatever can be in the way of the credit is found in Try, because Confirm cannot be refused any more.
fn plan_in_phases(money: Money, payer: &str, payee: &str, planner: &mut Planner<'_, Op>) {
    let (transit, reserved) = (transit_key(money.currency), reserved_key(money.currency));
    plan_debit(money, payer, planner);
    planner.step(Op::Reserve(money), payee).key(ACCOUNT).key(reserved).undo(Op::Release(money)).tcc(TccRole::Try);
    let settle = planner.step(Op::Settle(money), payee).key(ACCOUNT).key(reserved).local_key(transit);
    settle.tcc(TccRole::Confirm);
}

fn plan_debit(money: Money, payer: &str, planner: &mut Planner<'_, Op>) {
    let debit = planner.step(Op::Debit(money), payer).key(ACCOUNT).local_key(transit_key(money.currency));
    debit.undo(Op::Credit(money)).tcc(TccRole::Try);
}

fn plan_at_settlement(op: Op, undo: Op, money: Money, account: &str, settlement: &str, planner: &mut Planner<'_, Op>) {
    let share = settlement_key(settlement, money.currency);
    planner.step(op, account).key(ACCOUNT).local_key(share).undo(undo);
}

fn deposit(money: Money, settlement: &str) -> Op {
    Op::Deposit { money, settlement: settlement.into() }
}

fn withdraw(money: Money, settlement: &str) -> Op {
    Op::Withdraw { money, settlement: settlement.into() }
}
