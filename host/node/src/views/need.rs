//! What the views of this node still have to read of the journals, for those who would release it.
//!
//! ```text
//! each view that should exist ─▶ its builds that still follow ─▶ their cursors on disk ─▶ the earliest
//! ```
//! In: a partition. Out: a time; `None` if no view needs anything. A view that has stopped for good needs nothing,
//! because it will be made again from what is available then. A view that does not exist yet needs everything. It does
//! not know how much of a log is kept.

use std::sync::Arc;

use crate::ids::{Micros, PartitionId};
use crate::views::build::Build;
use crate::views::error::ViewError;
use crate::views::{View, Views};

/// Before the first entry of any journal.
const ALL: Micros = Micros(0);

impl Views {
    /// The time from which a view of the machine needs the entries of a partition; `names` lists all views that should
    /// exist. It flushes the views' rows to disk, so it may take a moment.
    pub fn needed_since(&self, machine: &str, names: &[String], partition: PartitionId) -> Option<Micros> {
        let needed = |name: &String| match self.find(machine, name) {
            Some(view) => view.needed_since(partition),
            // Its module may still be on its way.
            None => Some(ALL),
        };
        names.iter().filter_map(needed).min()
    }
}

impl View {
    fn needed_since(&self, partition: PartitionId) -> Option<Micros> {
        let (builds, is_complete) = self.builds();
        let needed = builds.iter().filter(|build| !build.is_standing()).map(|build| {
            build.followed_durably(partition).unwrap_or_else(|error| {
                tracing::warn!(
                    view = self.name(), %error,
                    "the rows of a view are not all on disk, so the log that they were made from stays"
                );
                ALL
            })
        });
        needed.chain((!is_complete).then_some(ALL)).min()
    }
}

impl Build {
    /// Whether it has stopped until it is made again.
    pub fn is_standing(self: &Arc<Self>) -> bool {
        self.problem.lock().as_ref().is_some_and(|problem| problem.is_final)
    }

    /// The time from which entries would have to be followed again after a crash.
    fn followed_durably(&self, partition: PartitionId) -> Result<Micros, ViewError> {
        // Rows after this cursor may be written meanwhile; they are no part of the promise.
        let Some(cursor) = self.cursor(partition) else { return Ok(ALL) };
        self.store.flush()?;
        Ok(Micros(cursor.time.0 + 1))
    }
}
