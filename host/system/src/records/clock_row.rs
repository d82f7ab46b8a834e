//! What `system` knows about wall clocks that leapt and are right all the same, by an operator's word.
//!
//! | row | content |
//! |---|---|
//! | `#clock` | how often an operator said so; of the last time: who said it, when, and for what leap |
//!
//! In: how far a clock has leapt. Out: the row. A node that reads the row believes its own clock if that clock has
//! leapt as far. It is written against the SDK like any module, and knows no clock.

use statehouse_guest::Value;
use statehouse_guest::borsh::{BorshDeserialize, BorshSerialize};

use crate::ids::Micros;

/// Suffix of the row. A machine's name never begins with `#`.
pub const CLOCK: &[u8] = b"#clock";
/// How many characters of the operator's name are kept.
pub const CLOCK_BY_CHARS_MAX: usize = 100;

/// The last leap that an operator accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct ClockRow {
    /// How many leaps were accepted, this one included.
    pub number: u64,
    /// In microseconds; negative if the clock went back.
    pub ahead: i64,
    /// When, microseconds since 1970.
    pub time: i64,
    pub by: String,
}

impl ClockRow {
    /// The row after one more leap was accepted.
    pub fn with(self, ahead: i64, by: &str, time: Micros) -> Self {
        Self { number: self.number + 1, ahead, time: time.0, by: by.to_owned() }
    }

    pub fn value(&self) -> Value {
        Value::map([
            ("number", Value::Int(self.number.into())),
            ("ahead_us", Value::Int(self.ahead.into())),
            ("time_us", Value::Int(self.time.into())),
            ("by", Value::text(self.by.as_str())),
        ])
    }
}
