//! What `system` knows of wall clocks that leapt and are right all the same: an operator's word.
//!
//! | row | content |
//! |---|---|
//! | `#clock` | how often that was said, and by whom, when and of what leap the last time |
//!
//! In: how far a clock has leapt. Out: the row. A node that reads it believes its own clock where that has leapt as far. It is written against the SDK
//! like any module, and knows no clock.

use statehouse_guest::borsh::{BorshDeserialize, BorshSerialize};
use statehouse_guest::{Body, Caller, Value};

use crate::ids::Micros;

/// Suffix of the row. A machine's name never begins so.
pub const CLOCK: &[u8] = b"#clock";
/// Characters kept of the name of who said it.
const BY_CHARS_MAX: usize = 100;

#[derive(Body)]
pub struct AcceptClock {
    /// How many microseconds the clock is ahead of where it should be
    pub ahead: i64,
}

/// The last time that it was said.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct ClockRow {
    /// How often it was said; this is the last of them.
    pub number: u64,
    /// Microseconds; negative where the clock went back.
    pub ahead: i64,
    /// When, microseconds since 1970.
    pub time: i64,
    pub by: String,
}

impl ClockRow {
    /// The row after it.
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

pub fn by_of(caller: &Caller<'_>) -> String {
    caller.name.chars().take(BY_CHARS_MAX).collect()
}
