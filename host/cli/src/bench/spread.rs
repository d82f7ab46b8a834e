//! How long things took, as the few numbers that are printed: median, 90th and 99th percentile, longest.
//!
//! In: durations in any order. Out: milliseconds. Percentiles are of the nearest rank, so each is a duration that was
//! measured. It does not know what was measured.

use std::time::Duration;

use serde::Serialize;

/// All are zero if nothing was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LatencySpread {
    pub count: usize,
    pub ms_p50: f64,
    pub ms_p90: f64,
    pub ms_p99: f64,
    pub ms_max: f64,
}

impl LatencySpread {
    pub fn of(mut took: Vec<Duration>) -> Self {
        took.sort_unstable();
        let ms = |percent: usize| rank(took.len(), percent).map_or(0.0, |at| took[at].as_secs_f64() * 1e3);
        Self { count: took.len(), ms_p50: ms(50), ms_p90: ms(90), ms_p99: ms(99), ms_max: ms(100) }
    }
}

/// The index of the nearest rank: that of the smallest value that is not below `percent` percent of all. `None` if
/// there are no values.
fn rank(count: usize, percent: usize) -> Option<usize> {
    assert!(percent <= 100);
    (count * percent).div_ceil(100).max(1).checked_sub(1).filter(|at| *at < count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let ranks = |count| [50, 99, 100].map(|percent| rank(count, percent));
        assert_eq!(ranks(0), [None; 3]);
        assert_eq!(ranks(1), [Some(0); 3]);
        assert_eq!(ranks(2), [Some(0), Some(1), Some(1)]);
        assert_eq!(ranks(20), [Some(9), Some(19), Some(19)]);
        assert_eq!(ranks(100), [Some(49), Some(98), Some(99)]);
        assert_eq!(ranks(1000), [Some(499), Some(989), Some(999)]);
        assert_eq!(rank(7, 0), Some(0));
    }

    #[test]
    fn a_spread_does_not_depend_on_the_order() {
        let took = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(
            LatencySpread::of(took),
            LatencySpread { count: 200, ms_p50: 100.0, ms_p90: 180.0, ms_p99: 198.0, ms_max: 200.0 }
        );
        assert_eq!(LatencySpread::of(Vec::new()), LatencySpread::default());
    }
}
