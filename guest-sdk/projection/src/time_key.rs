//! Keys that rise with time, and the cursors that clients see of them.
//!
//! | bytes | |
//! |---|---|
//! | 0 … 7 | time, microseconds since 1970 UTC, with its sign turned |
//! | 8 … 11 | number within the entry |
//! | 12 … 15 | partition |
//!
//! Numbers are big-endian, so no two decisions of a machine have the same key, and the order of keys is that of time.

use core::fmt;

use crate::abi::Decision;

/// A place in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeKey {
    pub time: i64,
    pub n: u32,
    pub partition: u32,
}

impl TimeKey {
    /// Before everything that has this time.
    pub const fn begin(time: i64) -> Self {
        Self { time, n: 0, partition: 0 }
    }

    /// Of an event of a decision.
    pub fn of(decision: &Decision, event: usize) -> Self {
        Self { time: decision.time, n: decision.n + event as u32, partition: decision.partition }
    }

    /// As the suffix of a key, behind `prefix`.
    pub fn suffix(self, prefix: &[u8]) -> Vec<u8> {
        let time = (self.time as u64) ^ (1 << 63);
        [prefix, &time.to_be_bytes(), &self.n.to_be_bytes(), &self.partition.to_be_bytes()].concat()
    }

    /// Reads [`suffix`](Self::suffix).
    pub fn parse(prefix: &[u8], suffix: &[u8]) -> Option<Self> {
        let (time, rest) = suffix.strip_prefix(prefix)?.split_first_chunk::<8>()?;
        let (n, rest) = rest.split_first_chunk::<4>()?;
        let time = (u64::from_be_bytes(*time) ^ (1 << 63)) as i64;
        Some(Self { time, n: u32::from_be_bytes(*n), partition: u32::from_be_bytes(rest.try_into().ok()?) })
    }

    /// Reads what [`Display`](fmt::Display) writes: the cursor of a page.
    pub fn parse_cursor(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let time = parts.next()?.parse().ok()?;
        let (n, partition) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        parts.next().is_none().then_some(Self { time, n, partition })
    }
}

impl fmt::Display for TimeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.time, self.n, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_rise_with_time_and_are_read_again() {
        let times = [i64::MIN, -1, 0, 1, 1_772_361_000_250_000, i64::MAX];
        let keys = times.map(|time| TimeKey { time, n: 7, partition: 3 });
        let suffixes = keys.map(|key| key.suffix(b"l"));
        assert!(suffixes.is_sorted());
        for (key, suffix) in keys.iter().zip(&suffixes) {
            assert_eq!(TimeKey::parse(b"l", suffix), Some(*key));
            assert_eq!(TimeKey::parse_cursor(&key.to_string()), Some(*key));
        }
        for bad in ["", "1.2", "1.2.3.4", "x.2.3", "1.-2.3"] {
            assert_eq!(TimeKey::parse_cursor(bad), None, "{bad}");
        }
    }
}
