//! What may leave an account in a currency on one UTC day, and what has left it.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 3 | currency code |
//! | 3 | 8 | the limit in minor units, `u64`, greater than 0 |
//! | 11 | 8 | the day that is counted, `i64`, days since 1970-01-01 UTC |
//! | 19 | 8 | what has left on that day in minor units, `u64` |
//!
//! The day is that of the entry's time. What is given back on a day is taken off that day's count. It does not know accounts.

use crate::currency::Currency;

pub const LIMIT_SIZE: usize = 27;
const DAY_MICROS: i64 = 86_400_000_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DailyLimit {
    /// Minor units; so is `outgoing`.
    pub limit: u64,
    pub day: i64,
    pub outgoing: u64,
}

impl DailyLimit {
    /// What has left on the day of this time (microseconds since 1970 UTC).
    pub fn outgoing_at(&self, time: i64) -> u64 {
        if self.day == day_of(time) { self.outgoing } else { 0 }
    }

    /// What may still leave on the day of this time.
    pub fn left_at(&self, time: i64) -> u64 {
        self.limit.saturating_sub(self.outgoing_at(time))
    }

    /// Counts an amount that leaves. A limit that was lowered, or set when much had left, may be exceeded already.
    pub fn count(&mut self, time: i64, amount: u64) {
        self.outgoing = self.outgoing_at(time).saturating_add(amount);
        self.day = day_of(time);
    }

    /// Takes an amount that is given back off the count, which is never below 0. When it left is not known.
    pub fn give_back(&mut self, time: i64, amount: u64) {
        if self.day == day_of(time) {
            self.outgoing = self.outgoing.saturating_sub(amount);
        }
    }

    #[inline]
    pub fn to_bytes(self, currency: Currency) -> [u8; LIMIT_SIZE] {
        let mut bytes = [0; LIMIT_SIZE];
        bytes[..3].copy_from_slice(&currency.0);
        bytes[3..11].copy_from_slice(&self.limit.to_le_bytes());
        bytes[11..19].copy_from_slice(&self.day.to_le_bytes());
        bytes[19..].copy_from_slice(&self.outgoing.to_le_bytes());
        bytes
    }

    #[inline]
    pub fn from_bytes(bytes: [u8; LIMIT_SIZE]) -> (Currency, Self) {
        let [a, b, c, words @ ..] = bytes;
        let [limit, day, outgoing] = [0, 8, 16].map(|at| {
            let mut word = [0; 8];
            word.copy_from_slice(&words[at..at + 8]);
            word
        });
        let limit = u64::from_le_bytes(limit);
        (Currency([a, b, c]), Self { limit, day: i64::from_le_bytes(day), outgoing: u64::from_le_bytes(outgoing) })
    }
}

/// Days since 1970-01-01 UTC.
fn day_of(time: i64) -> i64 {
    time.div_euclid(DAY_MICROS)
}
