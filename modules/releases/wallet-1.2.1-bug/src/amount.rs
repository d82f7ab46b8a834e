//! Amounts as text and as minor units: `"10.00"` in USD is 1000 cents.
//!
//! An amount in a body has digits and at most one point, no more decimals than its currency (zeros at the end are not
//! counted), and nothing else: no sign, exponent, space, separator or leading zero. It is never rounded. It knows nothing of accounts.

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
    // Zeros at the end say nothing, so that "1.500" USD is as good as "1.50".
    let fraction = fraction.unwrap_or_default().trim_end_matches('0');
    if fraction.len() > decimals as usize {
        return Err(format!("has too many decimals: {currency} has {decimals}, and amounts are never rounded"));
    }
    match minor_units(whole, fraction, decimals) {
        Some(0) => Err("must be greater than 0".into()),
        Some(minor) => Ok(minor),
        None => Err(format!("is too large: one command moves at most {}", format_amount(u64::MAX.into(), currency))),
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `None` when it is too large.
fn minor_units(whole: &str, fraction: &str, decimals: u32) -> Option<u64> {
    let whole = whole.parse::<u64>().ok()?.checked_mul(10u64.checked_pow(decimals)?)?;
    let fraction = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    whole.checked_add(fraction)
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
