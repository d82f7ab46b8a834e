//! Amounts as text and as minor units: `"10.00"` in USD is 1000 cents.
//!
//! An amount in a body has digits and at most one point, no more decimals than its currency, and nothing else: no sign,
//! exponent, space, separator or leading zero. It is never rounded. It knows nothing of accounts.

use rust_decimal::Decimal;

use crate::currency::Currency;

/// Reads the amount of a body, in minor units, greater than 0.
///
/// # Errors
/// What is wrong with the text, to be read behind the name of the field.
pub fn parse_amount(text: &str, currency: Currency) -> Result<u64, String> {
    let decimals = currency.exponent().unwrap_or_default();
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (text, None),
    };
    if !is_digits(whole) || fraction.is_some_and(|fraction| !is_digits(fraction)) {
        return Err("must be digits with at most one decimal point between them, like 10 or 10.00".into());
    }
    if whole.len() > 1 && whole.starts_with('0') {
        return Err("must not start with a zero that says nothing".into());
    }
    if fraction.is_some_and(|fraction| fraction.len() > decimals as usize) {
        return Err(format!("has too many decimals: {currency} has {decimals}, and amounts are never rounded"));
    }
    match minor_units(text, decimals) {
        Some(0) => Err("must be greater than 0".into()),
        Some(minor) => Ok(minor),
        None => Err(format!("is too large: one command moves at most {}", format_amount(u64::MAX.into(), currency))),
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `None` when it is too large.
fn minor_units(text: &str, decimals: u32) -> Option<u64> {
    let amount = Decimal::from_str_exact(text).ok()?;
    let factor = 10i128.checked_pow(decimals.checked_sub(amount.scale())?)?;
    u64::try_from(amount.mantissa().checked_mul(factor)?).ok()
}

/// The canonical spelling: all decimals of the currency, a `-` before what is below zero.
pub fn format_amount(minor: i128, currency: Currency) -> String {
    let decimals = currency.exponent().unwrap_or_default() as usize;
    let sign = if minor < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", minor.unsigned_abs(), width = decimals + 1);
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    let point = if decimals == 0 { "" } else { "." };
    format!("{sign}{whole}{point}{fraction}")
}
