//! Which neighbours of a list of runs, oldest first, are worth merging: the one policy for deltas and for id runs.
//!
//! A run of at most one unit has level 0, of at most 4 units level 1, of at most 16 level 2, and so on. The newest runs
//! up to a level are merged when together they reach the next level. So everything is merged about once for each level,
//! and few runs are left to search. This file does not know what a run is.

use std::ops::Range;

const FANOUT: u64 = 4;
/// This many runs of level 0 are merged however small they are.
pub const COUNT_MAX: usize = 8;

pub fn neighbours_to_merge(sizes: &[u64], unit: u64) -> Option<Range<usize>> {
    let level = |size: u64| (size / unit).max(1).ilog(FANOUT);
    let top = sizes.iter().map(|size| level(*size)).max()?;
    (0..=top).find_map(|top| {
        let first = sizes.iter().rposition(|size| top < level(*size)).map_or(0, |larger| larger + 1);
        let newest = &sizes[first..];
        let is_next_level = top < level(newest.iter().sum());
        let are_many_small = top == 0 && COUNT_MAX <= newest.len();
        let is_worth_it = are_many_small || (1 < newest.len() && is_next_level);
        is_worth_it.then_some(first..sizes.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sizes: &[u64], expected: Option<Range<usize>>) {
        assert_eq!(neighbours_to_merge(sizes, 10), expected);
    }

    #[test]
    fn neighbours_are_merged_when_they_reach_the_next_level() {
        check(&[], None);
        check(&[10, 10, 10], None);
        check(&[10, 10, 10, 10], Some(0..4));
        check(&[40, 10, 10, 10], None);
        check(&[40, 10, 10, 10, 10], Some(1..5));
        check(&[40, 40, 40, 40], Some(0..4));
        check(&[1; 7], None);
        check(&[1; 8], Some(0..8));
    }

    #[test]
    fn few_runs_remain_and_everything_is_merged_about_once_per_level() {
        let mut sizes: Vec<u64> = Vec::new();
        let mut merged = 0;
        let mut count_max = 0;
        for _ in 0..1_000 {
            sizes.push(10);
            while let Some(range) = neighbours_to_merge(&sizes, 10) {
                let sum = sizes[range.clone()].iter().sum();
                merged += sum;
                sizes.splice(range, [sum]);
            }
            count_max = count_max.max(sizes.len());
        }
        assert_eq!(sizes.iter().sum::<u64>(), 10_000);
        assert!(count_max <= 15, "{count_max} runs");
        assert!(merged <= 5 * 10_000, "{merged} units moved");
    }
}
