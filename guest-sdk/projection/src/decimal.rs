//! Decimal numbers as modules show them: an exact integer and how many decimals it has.
//!
//! In: text like `-12.50`. Out: the same text again, and sums. It does not know currencies.

use core::fmt;

/// More decimals than any currency has.
const DECIMALS_MAX: usize = 18;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decimal {
    units: i128,
    decimals: u8,
}

impl Decimal {
    /// Nothing, with so many decimals.
    pub const fn zero(decimals: u8) -> Self {
        Self { units: 0, decimals }
    }

    /// Digits, with a sign or a point or without; nothing where it is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (is_negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !is_number(whole) || !is_number(decimals) || DECIMALS_MAX < decimals.len() {
            return None;
        }
        let digit = |units: i128, byte: u8| units.checked_mul(10)?.checked_add(i128::from(byte - b'0'));
        let units = whole.bytes().chain(decimals.bytes()).try_fold(0, digit)?;
        Some(Self { units: if is_negative { -units } else { units }, decimals: decimals.len() as u8 })
    }

    /// Nothing where the sum does not fit.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let decimals = self.decimals.max(other.decimals);
        let units = self.scaled(decimals)?.checked_add(other.scaled(decimals)?)?;
        Some(Self { units, decimals })
    }

    pub fn negated(self) -> Self {
        Self { units: -self.units, ..self }
    }

    fn scaled(self, decimals: u8) -> Option<i128> {
        self.units.checked_mul(10i128.checked_pow(u32::from(decimals - self.decimals))?)
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = usize::from(self.decimals);
        let digits = format!("{:0width$}", self.units.unsigned_abs(), width = decimals + 1);
        let (whole, rest) = digits.split_at(digits.len() - decimals);
        let sign = if self.units < 0 { "-" } else { "" };
        if rest.is_empty() { write!(f, "{sign}{whole}") } else { write!(f, "{sign}{whole}.{rest}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_printed_again() {
        for text in ["0", "0.00", "-0.01", "12.50", "-7", "170141183460469231731687303715884105727"] {
            assert_eq!(Decimal::parse(text).map(|decimal| decimal.to_string()).as_deref(), Some(text));
        }
        for text in ["", "-", ".5", "1e3", "+1", "1 000", "1.2.3", "170141183460469231731687303715884105728"] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    #[test]
    fn sums_are_exact() {
        let sum = |a: &str, b: &str| {
            let (a, b) = (Decimal::parse(a).expect("a number"), Decimal::parse(b).expect("a number"));
            a.checked_add(b).map(|sum| sum.to_string())
        };
        assert_eq!(sum("0.10", "0.20").as_deref(), Some("0.30"));
        assert_eq!(sum("1", "-1.00").as_deref(), Some("0.00"));
        assert_eq!(sum("-0.05", "0.004").as_deref(), Some("-0.046"));
        assert_eq!(sum("170141183460469231731687303715884105727", "1"), None);
    }
}
