//! Commands into steps: what of a body must be true whatever the rows say, who may pay, and where each step belongs.
//!
//! | command | steps: op on entity | home |
//! |---|---|---|
//! | transfer between accounts | `Debit` on the payer, `Credit` on the payee | payer |
//! | the same by `tcc` | Try: `Debit` on the payer, `Reserve` on the payee; Confirm: `Settle` on the payee | payer |
//! | transfer from a settlement account, deposit | `Deposit` on the payee | payee |
//! | transfer to a settlement account, withdraw | `Withdraw` on the payer | payer |
//! | open, freeze, unfreeze, close | the like-named op on the account | account |
//!
//! The home is always the first step's entity, and must stay so in later versions. It sees no rows.

use statehouse_guest::{Caller, Coordination, FieldValue, Planner, Refusal, TccRole, role};

use crate::amount::{format_amount, parse_amount};
use crate::commands::{BalanceTransfer, Command, Deposit, Open, Withdraw};
use crate::currency::Currency;
use crate::ledger::{settlement_key, transit_key};
use crate::money::Money;
use crate::op::{ACCOUNT, Op};
use crate::reservation::reserved_key;

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
    match (is_settlement(from), is_settlement(to)) {
        (false, false) => match coordination {
            Coordination::Saga => step_transfer(money, from, to, planner),
            Coordination::TryConfirmCancel => step_transfer_in_phases(money, from, to, planner),
        },
        (true, false) => {
            check_treasury("from_account", from, caller)?;
            step_deposit(money, from, to, planner);
        }
        (false, true) => step_withdraw(money, from, to, planner),
        (true, true) => {
            let detail = "from_account and to_account are settlement accounts: one of them must be an account";
            return Err(refuse("to_account", "two_settlement_accounts", detail));
        }
    }
    planner.coordination(coordination);
    planner.body(
        BalanceTransfer {
            from_account: from.clone(),
            to_account: to.clone(),
            amount: format_amount(money.amount.into(), money.currency),
            currency: money.currency.to_string(),
            transaction_id: *transaction_id,
            coordination: coordination_text,
        }
        .to_value(),
    );
    Ok(())
}

fn plan_deposit(deposit: &Deposit, caller: &Caller<'_>, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
    let settlement = deposit.settlement.as_deref().unwrap_or(SETTLEMENT_DEFAULT);
    check_account("account", &deposit.account)?;
    check_settlement("settlement", settlement)?;
    let money = parse_money(&deposit.amount, &deposit.currency)?;
    check_treasury("settlement", settlement, caller)?;
    step_deposit(money, settlement, &deposit.account, planner);
    planner.body(
        Deposit {
            account: deposit.account.clone(),
            amount: format_amount(money.amount.into(), money.currency),
            currency: money.currency.to_string(),
            transaction_id: deposit.transaction_id,
            settlement: Some(settlement.into()),
        }
        .to_value(),
    );
    Ok(())
}

fn plan_withdraw(withdraw: &Withdraw, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
    let settlement = withdraw.settlement.as_deref().unwrap_or(SETTLEMENT_DEFAULT);
    check_account("account", &withdraw.account)?;
    check_settlement("settlement", settlement)?;
    let money = parse_money(&withdraw.amount, &withdraw.currency)?;
    step_withdraw(money, &withdraw.account, settlement, planner);
    planner.body(
        Withdraw {
            account: withdraw.account.clone(),
            amount: format_amount(money.amount.into(), money.currency),
            currency: money.currency.to_string(),
            transaction_id: withdraw.transaction_id,
            settlement: Some(settlement.into()),
        }
        .to_value(),
    );
    Ok(())
}

fn plan_on_account(op: Op, account: &str, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
    check_account("account", account)?;
    planner.step(op, account).key(ACCOUNT);
    Ok(())
}

/// Debit first and in Try, so that money is in transit and never in two places.
fn step_transfer(money: Money, payer: &str, payee: &str, planner: &mut Planner<'_, Op>) {
    let transit = transit_key(money.currency);
    planner.step(Op::Debit(money), payer).key(ACCOUNT).local_key(transit).undo(Op::Credit(money)).tcc(TccRole::Try);
    planner.step(Op::Credit(money), payee).key(ACCOUNT).local_key(transit).undo(Op::Debit(money)).tcc(TccRole::Confirm);
}

/// Whatever can be in the way of the credit is found in Try, because Confirm cannot be refused any more.
fn step_transfer_in_phases(money: Money, payer: &str, payee: &str, planner: &mut Planner<'_, Op>) {
    let (transit, reserved) = (transit_key(money.currency), reserved_key(money.currency));
    planner.step(Op::Debit(money), payer).key(ACCOUNT).local_key(transit).undo(Op::Credit(money)).tcc(TccRole::Try);
    planner.step(Op::Reserve(money), payee).key(ACCOUNT).key(reserved).undo(Op::Release(money)).tcc(TccRole::Try);
    let settle = planner.step(Op::Settle(money), payee).key(ACCOUNT).key(reserved).local_key(transit);
    settle.tcc(TccRole::Confirm);
}

fn step_deposit(money: Money, settlement: &str, account: &str, planner: &mut Planner<'_, Op>) {
    let key = settlement_key(settlement, money.currency);
    let settlement = settlement.to_string();
    let undo = Op::Withdraw { money, settlement: settlement.clone() };
    planner.step(Op::Deposit { money, settlement }, account).key(ACCOUNT).local_key(key).undo(undo);
}

fn step_withdraw(money: Money, account: &str, settlement: &str, planner: &mut Planner<'_, Op>) {
    let key = settlement_key(settlement, money.currency);
    let settlement = settlement.to_string();
    let undo = Op::Deposit { money, settlement: settlement.clone() };
    planner.step(Op::Withdraw { money, settlement }, account).key(ACCOUNT).local_key(key).undo(undo);
}

fn parse_money(amount: &str, currency: &str) -> Result<Money, Refusal> {
    let currency = parse_currency(currency)?;
    let amount = parse_amount(amount, currency)
        .map_err(|problem| refuse("amount", "malformed_amount", &format!("amount {problem}")))?;
    Ok(Money { currency, amount })
}

fn parse_currency(code: &str) -> Result<Currency, Refusal> {
    Currency::parse(code).ok_or_else(|| {
        let detail = "currency must be an ISO 4217 code in upper case whose number of decimals is defined, like USD";
        refuse("currency", "unknown_currency", detail)
    })
}

/// The canonical body says it only where it is not the default.
fn parse_coordination(text: Option<&str>) -> Result<(Coordination, Option<String>), Refusal> {
    match text {
        None | Some("saga") => Ok((Coordination::Saga, None)),
        Some("tcc") => Ok((Coordination::TryConfirmCancel, Some("tcc".into()))),
        Some(_) => Err(refuse("coordination", "unknown_coordination", "coordination must be saga or tcc")),
    }
}

pub fn is_settlement(name: &str) -> bool {
    name.starts_with('@')
}

fn check_account(field: &str, name: &str) -> Result<(), Refusal> {
    if is_settlement(name) {
        let detail = format!("{field} must not start with @: {name} is no ordinary account");
        return Err(refuse(field, "not_an_account", &detail));
    }
    Ok(())
}

fn check_settlement(field: &str, name: &str) -> Result<(), Refusal> {
    check_name(field, name)?;
    if !is_settlement(name) {
        let detail = format!("{field} must be a settlement account: a name that starts with @, like @bank");
        return Err(refuse(field, "not_a_settlement_account", &detail));
    }
    Ok(())
}

fn check_name(field: &str, name: &str) -> Result<(), Refusal> {
    if name.starts_with("@local") {
        let detail = format!("{field} must not start with @local: those names are the partition's own");
        return Err(refuse(field, "reserved_name", &detail));
    }
    Ok(())
}

fn check_treasury(field: &str, settlement: &str, caller: &Caller<'_>) -> Result<(), Refusal> {
    if !caller.has_role(role::TREASURY) {
        let detail = format!("only a caller with the role treasury may let {settlement} pay");
        return Err(Refusal { status: 403, ..refuse(field, "treasury_only", &detail) });
    }
    Ok(())
}

fn refuse(field: &str, code: &str, detail: &str) -> Refusal {
    Refusal { code: code.into(), status: 422, detail: detail.into(), field: Some(field.into()) }
}
