//! What this partition shows as in transit to other partitions, at moments that are the same in all partitions of a
//! machine. The sum over the partitions is therefore that of a consistent cut.
//!
//! ```text
//! entries ──●───●──────┃──●────●──▶ time      ┃ a moment: what the rows show before the first entry not earlier
//! ```
//! In: the rows of a moment. Out: sums by unit. This file does not know when a moment has passed, nor the other
//! partitions.

use std::sync::Arc;

use statehouse_abi::key::{LOCAL, key};

use crate::ids::{Head, Micros};
use crate::limits;
use crate::machine::logic::Logic;
use crate::machine::transit::InTransit;
use crate::store::{KeyRow, View};

/// The distance between two moments, in microseconds of the journals' time.
const ROUND: i64 = 10_000_000;

/// What was in transit at a moment.
#[derive(Clone)]
pub struct Shown {
    at: Micros,
    kept: InTransitCache,
}

#[derive(Clone)]
enum InTransitCache {
    /// `None`: unknown, because the module shows nothing that the host can add up, or because there are too many rows.
    Sum(Option<InTransit>),
    /// The rows of that moment, which are too many to add up while entries wait.
    Rows(Arc<dyn Logic>, Arc<View>),
}

/// What was in transit after the entry with this head, which was the last one then.
pub type Counted = (Head, InTransit);

/// The latest moment up to a time.
pub fn moment_before(time: Micros) -> Micros {
    Micros(time.0.div_euclid(ROUND) * ROUND)
}

impl Shown {
    /// What the rows of `view` have in transit, which are those of the moment `at`.
    pub fn of(at: Micros, logic: Arc<dyn Logic>, view: Arc<View>) -> Self {
        let rows = view.scan(&key(LOCAL, b""), None, limits::LOCAL_ROWS_SHOWN_MAX + 1);
        let kept = match rows {
            Ok(rows) if limits::LOCAL_ROWS_SHOWN_MAX < rows.len() => InTransitCache::Rows(logic, view),
            Ok(rows) => InTransitCache::Sum(add_up(logic.as_ref(), &rows)),
            Err(_) => InTransitCache::Sum(None),
        };
        Self { at, kept }
    }

    pub fn at(&self) -> Micros {
        self.at
    }

    /// The sum; `None` if it is unknown. May read from disk.
    pub fn sum(&self) -> Option<InTransit> {
        match &self.kept {
            InTransitCache::Sum(sum) => sum.clone(),
            InTransitCache::Rows(logic, view) => count(logic.as_ref(), view),
        }
    }

    /// The sum is known, so the rows are not needed any more.
    pub fn keep_sum(&mut self, sum: Option<InTransit>) {
        self.kept = InTransitCache::Sum(sum);
    }
}

/// Adds up all rows of `@local`, in pieces of the size that a guest may be asked about.
pub fn count(logic: &dyn Logic, view: &View) -> Option<InTransit> {
    let prefix = key(LOCAL, b"");
    let (mut sum, mut after, mut counted) = (InTransit::default(), None::<Vec<u8>>, 0);
    loop {
        let rows = view.scan(&prefix, after.as_deref(), limits::LOCAL_ROWS_SHOWN_MAX).ok()?;
        sum = sum.plus(&add_up(logic, &rows)?).ok()?;
        counted += rows.len();
        if rows.len() < limits::LOCAL_ROWS_SHOWN_MAX {
            return Some(sum);
        }
        if limits::LOCAL_ROWS_COUNTED_MAX <= counted {
            tracing::warn!(
                counted,
                "what is in transit between partitions is not shown: there are too many rows of `@local`"
            );
            return None;
        }
        after = rows.into_iter().next_back().map(|(key, _)| key);
    }
}

fn add_up(logic: &dyn Logic, rows: &[KeyRow]) -> Option<InTransit> {
    InTransit::of(logic, rows.iter().map(|(key, row)| (key.as_slice(), row.as_slice()))).ok()
}
