//! Decisions by class over time, in a bounded number of slices that widen as the history grows.
//!
//! In: times and classes, in any order. Out: slices of equal width. Widths are powers of two of a second, so timelines
//! of several partitions can be added. It does not know what a class means.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::audit::replay::class::Class;
use crate::ids::Micros;

const SLICES_MAX: usize = 120;
const WIDTH_MIN: i64 = 1_000_000;

/// Counts by slice of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// Microseconds that a slice covers.
    pub width: i64,
    /// By the time at which the slice begins, divided by the width.
    pub slices: BTreeMap<i64, BTreeMap<Class, u64>>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { width: WIDTH_MIN, slices: BTreeMap::new() }
    }
}

impl Timeline {
    pub fn count(&mut self, time: Micros, class: Class, count: u64) {
        if count == 0 {
            return;
        }
        let slice = self.slices.entry(time.0.div_euclid(self.width)).or_default();
        *slice.entry(class).or_default() += count;
        while !self.is_short() {
            self.widen();
        }
    }

    pub fn merge(&mut self, mut other: Self) {
        while self.width < other.width {
            self.widen();
        }
        while other.width < self.width {
            other.widen();
        }
        for (at, counts) in other.slices {
            let slice = self.slices.entry(at).or_default();
            for (class, count) in counts {
                *slice.entry(class).or_default() += count;
            }
        }
        while !self.is_short() {
            self.widen();
        }
    }

    /// Whether the first and the last slice are close enough; empty slices between them count.
    fn is_short(&self) -> bool {
        let (first, last) = (self.slices.first_key_value(), self.slices.last_key_value());
        first.zip(last).is_none_or(|((first, _), (last, _))| last - first < SLICES_MAX as i64)
    }

    fn widen(&mut self) {
        self.width *= 2;
        for (at, counts) in std::mem::take(&mut self.slices) {
            let slice = self.slices.entry(at.div_euclid(2)).or_default();
            for (class, count) in counts {
                *slice.entry(class).or_default() += count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{SLICES_MAX, Timeline};
    use crate::audit::replay::class::Class;
    use crate::ids::Micros;

    #[test]
    fn it_stays_short_and_loses_nothing() {
        let mut all = Timeline::default();
        let mut other = Timeline::default();
        for second in 0..10_000 {
            let timeline = if second % 3 == 0 { &mut all } else { &mut other };
            timeline.count(Micros(second * 1_000_000), Class::Same, 2);
        }
        all.merge(other);
        let (first, last) = (all.slices.keys().next().copied(), all.slices.keys().last().copied());
        assert!(last.zip(first).is_some_and(|(last, first)| last - first < SLICES_MAX as i64));
        assert_eq!(all.slices.values().flat_map(|slice| slice.values()).sum::<u64>(), 20_000);
        assert_eq!(all.width, 128_000_000);
    }
}
