//! What this partition shows as in transit to other partitions, at moments that are the same in all partitions of a
//! machine. The sum over the partitions is therefore that of a consistent cut.
//!
//! ```text
//! entries ──●───●──────┃──●────●──▶ time      ┃ a moment: what the rows show before the first entry not earlier
//! ```
//! In: entries as they are applied, or a moment that has passed without an entry. Out: sums by unit. This file does not
//! know the other partitions.

use std::sync::Arc;

use statehouse_abi::key::{LOCAL, key};

use crate::ids::{Head, Micros};
use crate::limits;
use crate::machine::logic::Logic;
use crate::machine::transit::InTransit;
use crate::partition::base::Base;
use crate::partition::handle::Partition;
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

impl Base {
    /// Must be called before an entry with this time is applied.
    pub(super) fn show_in_transit(&self, time: Micros) {
        let at = moment_before(time);
        if at <= self.at.journal().time {
            return;
        }
        let Some(logic) = self.at.logic() else { return };
        let view = self.store.read();
        let rows = view.scan(&key(LOCAL, b""), None, limits::LOCAL_ROWS_SHOWN_MAX + 1);
        let kept = match rows {
            Ok(rows) if limits::LOCAL_ROWS_SHOWN_MAX < rows.len() => {
                InTransitCache::Rows(logic.clone(), Arc::new(view))
            }
            Ok(rows) => InTransitCache::Sum(add_up(logic.as_ref(), &rows)),
            Err(_) => InTransitCache::Sum(None),
        };
        *self.board.shown.lock() = Some(Shown { at, kept });
    }
}

impl Partition {
    /// What was in transit here at a moment, as far as this node has applied. `None`: a later moment has replaced it,
    /// or it is unknown.
    ///
    /// Reads from disk if the moment has passed without an entry, or if there are many rows.
    pub fn in_transit_at(&self, at: Micros) -> Option<InTransit> {
        let shown = self.parts.board.shown.lock().clone();
        if let Some(shown) = shown.filter(|shown| shown.at == at) {
            let (logic, view) = match shown.kept {
                InTransitCache::Sum(sum) => return sum,
                InTransitCache::Rows(logic, view) => (logic, view),
            };
            let sum = count(logic.as_ref(), &view);
            // The rows are not needed any more.
            if let Some(now) = self.parts.board.shown.lock().as_mut().filter(|now| now.at == at) {
                now.kept = InTransitCache::Sum(sum.clone());
            }
            return sum;
        }
        let now = self.read_stale().ok()?;
        if at <= now.journal.time {
            return None;
        }
        let Some(logic) = self.parts.modules.find_here(now.journal.module) else {
            // Nothing has happened in this partition yet.
            return (now.journal.index.0 == 0).then(InTransit::default);
        };
        let head = now.journal.head;
        let known = self.parts.board.counted.lock().clone();
        if let Some((_, sum)) = known.filter(|(at, _)| *at == head) {
            return Some(sum);
        }
        let sum = count(logic.as_ref(), &now.view)?;
        *self.parts.board.counted.lock() = Some((head, sum.clone()));
        Some(sum)
    }
}

/// Adds up all rows of `@local`, in pieces of the size that a guest may be asked about.
fn count(logic: &dyn Logic, view: &View) -> Option<InTransit> {
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
