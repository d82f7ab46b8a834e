//! Commands into steps: what of a body must be true whatever the rows say, who may pay, and where each step belongs.
//!
//! ```text
//! body ──fields──▶ names, money, coordination ──movement──▶ steps
//! ```
//!
//! The home is always the first step's entity, and must stay so in later versions. It sees no rows.

mod fields;
mod movement;

use statehouse_guest::{Caller, FieldValue, Planner, Refusal};

use crate::amount::format_amount;
use crate::commands::{BalanceTransfer, Command, Deposit, Open, SetDailyLimit, Withdraw};
use crate::op::{ACCOUNT, Op};
pub use fields::is_settlement;
use fields::{
    check_account, check_name, check_settlement, check_treasury, parse_coordination, parse_currency, parse_minor,
    parse_money, refuse,
};
use movement::Movement;

const SETTLEMENT_DEFAULT: &str = "@bank";

pub fn plan(command: &Command, caller: &Caller<'_>, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
    match command {
        Command::BalanceTransfer(transfer) => plan_transfer(transfer, caller, planner),
        Command::Deposit(deposit) => plan_deposit(deposit, caller, planner),
        Command::Withdraw(withdraw) => plan_withdraw(withdraw, planner),
        Command::Open(Open { account, currency }) => {
            let currency = parse_currency(currency)?;
            plan_on_account(Op::Open { currency }, account, planner)
        }
        Command::Freeze(name) => plan_on_account(Op::Freeze, &name.account, planner),
        Command::Unfreeze(name) => plan_on_account(Op::Unfreeze, &name.account, planner),
        Command::Close(name) => plan_on_account(Op::Close, &name.account, planner),
        Command::SetDailyLimit(command) => plan_daily_limit(command, planner),
    }
}

fn plan_transfer(
    transfer: &BalanceTransfer,
    caller: &Caller<'_>,
    planner: &mut Planner<'_, Op>,
) -> Result<(), Refusal> {
    let BalanceTransfer { from_account: from, to_account: to, transaction_id, .. } = transfer;
    check_name("from_account", from)?;
    check_name("to_account", to)?;
    if from == to {
        return Err(refuse("to_account", "same_account", "to_account is from_account: name two accounts"));
    }
    let money = parse_money(&transfer.amount, &transfer.currency)?;
    let (coordination, coordination_text) = parse_coordination(transfer.coordination.as_deref())?;
    let movement = Movement::between(from, to).ok_or_else(|| {
        let detail = "from_account and to_account are settlement accounts: one of them must be an account";
        refuse("to_account", "two_settlement_accounts", detail)
    })?;
    if let Movement::Deposit { settlement, .. } = movement {
        check_treasury("from_account", settlement, caller)?;
    }
    movement.plan(money, coordination, planner);
    let body = BalanceTransfer {
        from_account: from.clone(),
        to_account: to.clone(),
        amount: format_amount(money.amount.into(), money.currency),
        currency: money.currency.to_string(),
        transaction_id: *transaction_id,
        coordination: coordination_text,
    };
    planner.coordination(coordination);
    planner.body(body.to_value());
    Ok(())
}

fn plan_deposit(deposit: &Deposit, caller: &Caller<'_>, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
    let Deposit { account, amount, currency, transaction_id, settlement } = deposit;
    let settlement = settlement.as_deref().unwrap_or(SETTLEMENT_DEFAULT);
    check_account("account", account)?;
    check_settlement("settlement", settlement)?;
    let money = parse_money(amount, currency)?;
    check_treasury("settlement", settlement, caller)?;
    Movement::Deposit { settlement, account }.plan_in_one(money, planner);
    let body = Deposit {
        account: account.clone(),
        amount: format_amount(money.amount.into(), money.currency),
        currency: money.currency.to_string(),
        transaction_id: *transaction_id,
        settlement: Some(settlement.into()),
    };
    planner.body(body.to_value());
    Ok(())
}

fn plan_withdraw(withdraw: &Withdraw, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
    let Withdraw { account, amount, currency, transaction_id, settlement } = withdraw;
    let settlement = settlement.as_deref().unwrap_or(SETTLEMENT_DEFAULT);
    check_account("account", account)?;
    check_settlement("settlement", settlement)?;
    let money = parse_money(amount, currency)?;
    Movement::Withdrawal { account, settlement }.plan_in_one(money, planner);
    let body = Withdraw {
        account: account.clone(),
        amount: format_amount(money.amount.into(), money.currency),
        currency: money.currency.to_string(),
        transaction_id: *transaction_id,
        settlement: Some(settlement.into()),
    };
    planner.body(body.to_value());
    Ok(())
}

fn plan_daily_limit(command: &SetDailyLimit, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
    let SetDailyLimit { account, currency, limit } = command;
    let currency = parse_currency(currency)?;
    let limit = limit.as_deref().map(|limit| parse_minor("limit", limit, currency)).transpose()?;
    plan_on_account(Op::SetDailyLimit { currency, limit }, account, planner)?;
    let body = SetDailyLimit {
        account: account.clone(),
        currency: currency.to_string(),
        limit: limit.map(|limit| format_amount(limit.into(), currency)),
    };
    planner.body(body.to_value());
    Ok(())
}

fn plan_on_account(op: Op, account: &str, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
    check_account("account", account)?;
    planner.step(op, account).key(ACCOUNT);
    Ok(())
}
