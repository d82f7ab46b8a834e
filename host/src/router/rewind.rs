//! The rows of a partition at a moment of the past, by replaying its journal from genesis.
//!
//! In: a moment. Out: rows and the journal then. It costs what a replay costs; views will answer at once later.

use crate::ids::LogIndex;
use crate::log::{LogEntry, Payload};
use crate::machine::entry::{Entry, EntryError};
use crate::machine::replay::{Replay, ReplayError};
use crate::partition::{Modules, Partition, PartitionError};
use crate::router::answer::Moment;

/// Bytes of entries read from the log at once.
const READ_BYTES: usize = 8 << 20;

/// Why a moment cannot be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    #[error(transparent)]
    Partition(#[from] PartitionError),
    #[error("the journal cannot be replayed: {0}")]
    Replay(#[from] ReplayError),
    #[error("the position is not one of this journal")]
    Gone,
    #[error("the caller does not wait any more")]
    Cancelled,
}

/// Replays until the moment; `is_cancelled` is asked between entries.
pub fn rewind(
    partition: &Partition,
    modules: &dyn Modules,
    moment: Moment,
    is_cancelled: impl Fn() -> bool,
) -> Result<Replay, RewindError> {
    partition.check_beginning()?;
    let end = partition.progress().log_index;
    let mut replay = Replay::new(partition.genesis());
    let mut from = LogIndex(0);
    while from <= end {
        let entries = partition.log().read(from..end.next(), READ_BYTES).map_err(PartitionError::from)?;
        let Some(last) = entries.last() else { break };
        from = last.id.index.next();
        for LogEntry { payload, .. } in entries {
            if is_cancelled() {
                return Err(RewindError::Cancelled);
            }
            let Payload::Entry(bytes) = payload else { continue };
            let entry = Entry::parse(bytes).map_err(|error: EntryError| ReplayError::from(error))?;
            if is_after(&entry, moment) {
                return check(replay, moment);
            }
            replay.apply(&entry, &|id| modules.load(id))?;
        }
    }
    check(replay, moment)
}

/// Whether an entry lies behind the moment. A void entry may say so too early by nothing: it has no effect either way.
fn is_after(entry: &Entry, moment: Moment) -> bool {
    match moment {
        Moment::Time(time) => time < entry.header().time,
        Moment::Position(position) => position.index < entry.header().index,
    }
}

fn check(replay: Replay, moment: Moment) -> Result<Replay, RewindError> {
    match moment {
        Moment::Time(_) => Ok(replay),
        Moment::Position(position) => {
            let here = replay.journal.position(position.partition, position.n);
            if here == position { Ok(replay) } else { Err(RewindError::Gone) }
        }
    }
}
