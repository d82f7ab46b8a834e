//! Midnights: the days of UTC that begin between two moments.
//!
//! A snapshot of 00:00 is the state before the first entry of the later day, by the journal's time. If nothing happened
//! for days, one state stands for all midnights that have passed. This file knows no clock.

use std::fmt;

use jiff::Timestamp;
use minicbor::{Decode, Encode};

use crate::ids::Micros;

const DAY_SECONDS: i64 = 86_400;
const DAY_MICROS: i64 = DAY_SECONDS * 1_000_000;

/// Consecutive days of UTC, each standing for 00:00 at its beginning. They are counted since 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Days {
    /// The first of the days.
    #[n(0)]
    pub first: i64,
    /// The last of the days, not before the first.
    #[n(1)]
    pub last: i64,
}

impl Days {
    /// The days that begin after `before` and no later than `after`.
    pub fn between(before: Micros, after: Micros) -> Option<Self> {
        let (first, last) = (Self::day_of(before) + 1, Self::day_of(after));
        (first <= last).then_some(Self { first, last })
    }

    /// The day that contains a moment.
    pub fn day_of(time: Micros) -> i64 {
        time.0.div_euclid(DAY_MICROS)
    }

    /// The moment at which the next day begins.
    pub fn next_midnight(time: Micros) -> Micros {
        Micros((Self::day_of(time) + 1).saturating_mul(DAY_MICROS))
    }

    pub fn is_midnight(time: Micros) -> bool {
        time.0.rem_euclid(DAY_MICROS) == 0
    }

    pub fn is_in_order(&self) -> bool {
        self.first <= self.last
    }

    /// The dates of the days: the last ones, at most `limit` of them.
    pub fn dates(&self, limit: i64) -> impl Iterator<Item = String> {
        (self.first.max(self.last.saturating_sub(limit - 1))..=self.last).map(date)
    }

    /// The date of the last day.
    pub fn last_date(&self) -> String {
        date(self.last)
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return f.write_str(&date(self.last));
        }
        write!(f, "{} to {}", date(self.first), date(self.last))
    }
}

/// `2026-01-31`; days beyond the year 9999 are printed as numbers.
fn date(day: i64) -> String {
    let midnight = day.checked_mul(DAY_SECONDS).and_then(|seconds| Timestamp::from_second(seconds).ok());
    midnight.map_or_else(|| format!("day{day}"), |midnight| midnight.to_string()[..10].to_owned())
}
