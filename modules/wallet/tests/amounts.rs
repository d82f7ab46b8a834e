//! Amounts against two judges: `rust_decimal`, and a model that knows digits only.
//!
//! Every currency of ISO 4217 that has decimals is tried. It knows nothing of commands.

use proptest::prelude::*;
use rust_decimal::Decimal;
use wallet::{Currency, format_amount, parse_amount};

const CODES: [&str; 8] = ["JPY", "USD", "EUR", "KWD", "CLF", "UYW", "XAF", "TND"];

fn currency(code: &str) -> Currency {
    Currency::parse(code).unwrap_or_else(|| panic!("{code} is a currency"))
}

/// The minor units of a text by its digits alone; `None` where it must be refused.
fn by_digits(text: &str, decimals: usize) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let fraction = if text.contains('.') { fraction } else { "" };
    let is_bare = !text.contains('.');
    let digits = whole.bytes().chain(fraction.bytes());
    let is_well_spelled = !whole.is_empty()
        && (is_bare || !fraction.is_empty())
        && digits.clone().all(|digit| digit.is_ascii_digit())
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.len() <= decimals;
    if !is_well_spelled {
        return None;
    }
    let padding = std::iter::repeat_n(b'0', decimals - fraction.len());
    let mut minor = 0u64;
    for digit in digits.chain(padding) {
        minor = minor.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    (minor > 0).then_some(minor)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4096) })]

    #[test]
    fn any_text_is_read_by_its_digits(text in r"[0-9]{0,22}\.?[0-9]{0,6}|[0-9.eE+\- ]{0,6}", code in 0..CODES.len()) {
        let currency = currency(CODES[code]);
        let decimals = currency.exponent().expect("it has decimals") as usize;
        prop_assert_eq!(parse_amount(&text, currency).ok(), by_digits(&text, decimals));
    }

    #[test]
    fn a_decimal_of_minor_units_is_read_back(minor in 1u64.., code in 0..CODES.len()) {
        let currency = currency(CODES[code]);
        let decimals = currency.exponent().expect("it has decimals");
        let decimal = Decimal::from_i128_with_scale(minor.into(), decimals);
        prop_assert_eq!(parse_amount(&decimal.to_string(), currency), Ok(minor));
        prop_assert_eq!(format_amount(minor.into(), currency), decimal.to_string());
        prop_assert_eq!(format_amount(-i128::from(minor), currency), (-decimal).to_string());
        let shorter = decimal.normalize().to_string();
        prop_assert_eq!(parse_amount(&shorter, currency), Ok(minor));
    }
}

#[test]
fn the_greatest_balances_can_be_written() {
    let usd = currency("USD");
    assert_eq!(format_amount(i128::MAX, usd), "1701411834604692317316873037158841057.27");
    assert_eq!(format_amount(i128::MIN, usd), "-1701411834604692317316873037158841057.28");
    assert_eq!(format_amount(0, usd), "0.00");
    assert_eq!(format_amount(-5, usd), "-0.05");
    assert_eq!(format_amount(0, currency("JPY")), "0");
}

#[test]
fn decimals_are_those_of_iso_4217() {
    for (code, decimals) in [("JPY", 0), ("USD", 2), ("KWD", 3), ("CLF", 4), ("XAF", 0), ("MRU", 2)] {
        assert_eq!(currency(code).exponent(), Some(decimals), "{code}");
    }
    for code in ["XAU", "XXX", "XTS", "XDR", "usd", "Usd", "US", "USDX", "", "ÄÖ", "ZZZ"] {
        assert_eq!(Currency::parse(code), None, "{code}");
    }
}
