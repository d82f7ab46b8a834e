//! What of the journals the views of this node have still to read, for whoever would release it.
//!
//! ```text
//! each view that there should be ─▶ its builds that go on ─▶ cursor as it is on disk ─▶ the earliest
//! ```
//! In: a partition. Out: a time; nothing where no view needs anything. A view that stands still for good needs nothing, for it is made again from
//! wherever that is possible then; one that is not there yet needs everything. It does not know how much of a log is kept.

use std::sync::Arc;

use crate::ids::{Micros, PartitionId};
use crate::views::build::Build;
use crate::views::error::ViewError;
use crate::views::{View, Views};

/// Before the first entry of any journal.
const ALL: Micros = Micros(0);

impl Views {
    /// From when on the entries of a partition are needed by a view of the machine; `names` are those of all that there should be. It writes
    /// to disk what they have made, so it may take a moment.
    pub fn needed_since(&self, machine: &str, names: &[String], partition: PartitionId) -> Option<Micros> {
        let needed = |name: &String| match self.find(machine, name) {
            Some(view) => view.needed_since(partition),
            // Its module may be on its way.
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
                tracing::warn!(view = self.name(), %error, "what a view has made is not all on disk, so the log it was made of stays");
                ALL
            })
        });
        needed.chain((!is_complete).then_some(ALL)).min()
    }
}

impl Build {
    /// Whether it does not go on until it is made again.
    pub fn is_standing(self: &Arc<Self>) -> bool {
        self.problem.lock().as_ref().is_some_and(|problem| problem.is_final)
    }

    /// From when on entries would have to be followed after a crash.
    fn followed_durably(&self, partition: PartitionId) -> Result<Micros, ViewError> {
        // What is behind this cursor may be written meanwhile, and is none of what is promised.
        let Some(cursor) = self.cursor(partition) else { return Ok(ALL) };
        self.store.flush()?;
        Ok(Micros(cursor.time.0 + 1))
    }
}
