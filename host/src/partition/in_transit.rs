//! What this partition shows on its way to others, at moments that are the same in all partitions of a machine: so their sum is that of a
//! consistent cut.
//!
//! ```text
//! entries ──●───●──────┃──●────●──▶ time        ┃ a moment: what the rows show before the first entry that is not earlier
//! ```
//! In: entries as they are applied, or a moment that has passed without any. Out: sums by unit. It does not know the other partitions.

use statehouse_abi::key::{LOCAL, key};

use crate::ids::Micros;
use crate::limits;
use crate::machine::logic::Logic;
use crate::machine::transit::InTransit;
use crate::partition::handle::Partition;
use crate::partition::run::Executor;
use crate::store::View;

/// How far the moments are from each other, in microseconds of the journals' time.
const ROUND: i64 = 10_000_000;

/// What was on its way at a moment.
#[derive(Clone, Debug)]
pub struct Shown {
    pub at: Micros,
    /// `None`: it cannot be said, because the module shows nothing the host could add up, or too many rows.
    pub in_transit: Option<InTransit>,
}

/// The latest moment up to a time.
pub fn moment_before(time: Micros) -> Micros {
    Micros(time.0.div_euclid(ROUND) * ROUND)
}

impl Executor {
    /// Called before an entry of this time is applied.
    pub(super) fn show_in_transit(&self, time: Micros) {
        let at = moment_before(time);
        if at <= self.journal.time {
            return;
        }
        let Some(logic) = &self.logic else { return };
        let in_transit = show(logic.as_ref(), &self.store.read());
        *self.board.shown.lock() = Some(Shown { at, in_transit });
    }
}

impl Partition {
    /// What was on its way here at a moment, as far as this node has applied. `None`: another moment has come since, or it cannot be said.
    ///
    /// Reads from disk where the moment has passed without an entry.
    pub fn in_transit_at(&self, at: Micros) -> Option<InTransit> {
        let shown = self.parts.board.shown.lock().clone();
        if let Some(shown) = shown.filter(|shown| shown.at == at) {
            return shown.in_transit;
        }
        let now = self.read_stale().ok()?;
        if at <= now.journal.time {
            return None;
        }
        let Some(logic) = self.parts.modules.find_here(now.journal.module) else {
            // Nothing has happened yet.
            return (now.journal.index.0 == 0).then(InTransit::default);
        };
        show(logic.as_ref(), &now.view)
    }
}

fn show(logic: &dyn Logic, view: &View) -> Option<InTransit> {
    let rows = view.scan(&key(LOCAL, b""), None, limits::LOCAL_ROWS_SHOWN_MAX + 1).ok()?;
    if limits::LOCAL_ROWS_SHOWN_MAX < rows.len() {
        return None;
    }
    InTransit::of(logic, rows.iter().map(|(key, row)| (key.as_slice(), row.as_slice()))).ok()
}
