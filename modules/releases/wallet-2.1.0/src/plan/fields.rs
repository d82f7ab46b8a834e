//! The fields of bodies: names, amounts, currencies, coordination, and the refusal that says which field is wrong.
//!
//! In: text that fits the schema. Out: money and checked names. It does not know which command a field belongs to.

use statehouse_guest::{Caller, Coordination, Refusal, role};

use crate::amount::parse_amount;
use crate::currency::Currency;
use crate::money::Money;

pub fn parse_money(amount: &str, currency: &str) -> Result<Money, Refusal> {
    let currency = parse_currency(currency)?;
    Ok(Money { currency, amount: parse_minor("amount", amount, currency)? })
}

/// Minor units.
pub fn parse_minor(field: &str, amount: &str, currency: Currency) -> Result<u64, Refusal> {
    let amount = parse_amount(amount, currency);
    amount.map_err(|problem| refuse(field, "malformed_amount", &format!("{field} {problem}")))
}

pub fn parse_currency(code: &str) -> Result<Currency, Refusal> {
    Currency::parse(code).ok_or_else(|| {
        let detail = "currency must be an ISO 4217 code in upper case whose number of decimals is defined, like USD";
        refuse("currency", "unknown_currency", detail)
    })
}

/// The canonical body says it only where it is not the default.
pub fn parse_coordination(text: Option<&str>) -> Result<(Coordination, Option<String>), Refusal> {
    match text {
        None | Some("saga") => Ok((Coordination::Saga, None)),
        Some("tcc") => Ok((Coordination::TryConfirmCancel, Some("tcc".into()))),
        Some(_) => Err(refuse("coordination", "unknown_coordination", "coordination must be saga or tcc")),
    }
}

pub fn is_settlement(name: &str) -> bool {
    name.starts_with('@')
}

pub fn check_account(field: &str, name: &str) -> Result<(), Refusal> {
    if is_settlement(name) {
        let detail = format!("{field} must not start with @: {name} is no ordinary account");
        return Err(refuse(field, "not_an_account", &detail));
    }
    Ok(())
}

pub fn check_settlement(field: &str, name: &str) -> Result<(), Refusal> {
    check_name(field, name)?;
    if !is_settlement(name) {
        let detail = format!("{field} must be a settlement account: a name that starts with @, like @bank");
        return Err(refuse(field, "not_a_settlement_account", &detail));
    }
    Ok(())
}

pub fn check_name(field: &str, name: &str) -> Result<(), Refusal> {
    if name.starts_with("@local") {
        let detail = format!("{field} must not start with @local: those names are the partition's own");
        return Err(refuse(field, "reserved_name", &detail));
    }
    Ok(())
}

pub fn check_treasury(field: &str, settlement: &str, caller: &Caller<'_>) -> Result<(), Refusal> {
    if !caller.has_role(role::TREASURY) {
        let detail = format!("only a caller with the role treasury may let {settlement} pay");
        return Err(Refusal { status: 403, ..refuse(field, "treasury_only", &detail) });
    }
    Ok(())
}

pub fn refuse(field: &str, code: &str, detail: &str) -> Refusal {
    Refusal { code: code.into(), status: 422, detail: detail.into(), field: Some(field.into()) }
}
