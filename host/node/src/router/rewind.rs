//! The rows of a partition at a past moment, replayed from the nearest canonical snapshot before it, or from genesis.
//!
//! ```text
//! canonical snapshots ─▶ the last ≤ the moment, all bytes checked ─▶ rows ─┐
//! none: genesis, no rows ──────────────────────────────────────────────────┴▶ entries of log or archive ─▶ rows then
//! ```
//! In: a moment. Out: the rows and the journal at that moment, the same from every starting point. It costs a replay
//! from there, whereas a view answers at once. It does not know who asks.

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::ids::{Micros, Position};
use crate::machine::beginning::is_whole;
use crate::machine::journal::{Journal, Moment};
use crate::machine::modules::Modules;
use crate::machine::replay::{Replay, ReplayError, Rows};
use crate::partition::tail::{Bound, Place};
use crate::partition::{Partition, PartitionError};
use crate::snapshot::canonical::{CanonicalError, Facts, ListedFile};

/// How much is read and replayed at a time.
const READ: Bound = Bound { bytes: 8 << 20, entries: u64::MAX };

/// Why a moment cannot be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    #[error(transparent)]
    Partition(#[from] PartitionError),
    #[error("the journal cannot be replayed: {0}")]
    Replay(#[from] ReplayError),
    #[error("the position is not one of this journal")]
    Gone,
    #[error("the caller no longer waits")]
    Cancelled,
}

/// Why a replay cannot start from a snapshot.
#[derive(Debug, thiserror::Error)]
enum UnfitSnapshot {
    #[error(transparent)]
    File(#[from] CanonicalError),
    #[error("module {0} cannot be loaded: {1}")]
    Module(crate::ids::ModuleId, String),
    #[error("it is of another partition or history")]
    Foreign,
}

/// Replays up to the moment, from the nearest snapshot. It must run on a thread of the runtime that may wait.
///
/// # Errors
/// See [`RewindError`]; [`PartitionError::Released`] if what is needed is neither in the log nor in an archive.
pub fn rewind(
    partition: &Partition,
    modules: &dyn Modules,
    moment: Moment,
    deadline: Instant,
) -> Result<Replay, RewindError> {
    let moment = whole(partition, moment)?;
    let mut snapshots = partition.canonical_snapshots();
    snapshots.retain(|listed| !is_too_late(moment, listed.facts.journal.index.0, listed.facts.journal.time));
    for listed in snapshots.iter().rev() {
        let begun = match begin(partition, modules, listed, deadline) {
            Ok(begun) => begun,
            Err(UnfitSnapshot::File(CanonicalError::GivenUp)) => return Err(RewindError::Cancelled),
            Err(error) => {
                tracing::warn!(
                    file = listed.name, %error,
                    "a canonical snapshot is skipped, and the replay starts from an earlier one"
                );
                continue;
            }
        };
        match replay(partition, modules, begun, moment, deadline) {
            // The snapshot is older than this history: the folder was copied from elsewhere.
            Err(RewindError::Partition(PartitionError::OtherHistory(place))) => {
                tracing::warn!(
                    file = listed.name, %place,
                    "a canonical snapshot is of another history, and is skipped"
                );
            }
            replayed => {
                metrics::counter!("statehouse_rewinds_total", "from" => "snapshot").increment(1);
                return replayed;
            }
        }
    }
    metrics::counter!("statehouse_rewinds_total", "from" => "genesis").increment(1);
    rewind_from_genesis(partition, modules, moment, deadline)
}

/// A position after all of its entry means the same as the whole entry, so a snapshot of the state after that entry
/// serves it.
fn whole(partition: &Partition, moment: Moment) -> Result<Moment, RewindError> {
    let Moment::Position(position) = moment else { return Ok(moment) };
    // An entry that is not here is looked for with the rest, in log or archive.
    let Ok(recorded) = partition.find_entry(position.index) else { return Ok(moment) };
    if recorded.position(partition.id(), 0) != (Position { n: 0, ..position }) {
        return Err(RewindError::Gone);
    }
    let is_whole = is_whole(&recorded.entry, position.n);
    Ok(if is_whole { Moment::Position(Position { n: Position::WHOLE, ..position }) } else { moment })
}

/// Replays up to the moment from genesis, without any snapshot.
///
/// # Errors
/// As for [`rewind`].
pub fn rewind_from_genesis(
    partition: &Partition,
    modules: &dyn Modules,
    moment: Moment,
    deadline: Instant,
) -> Result<Replay, RewindError> {
    replay(partition, modules, Replay::new(partition.genesis()), moment, deadline)
}

/// Loads the rows of a snapshot as the start of a replay.
fn begin(
    partition: &Partition,
    modules: &dyn Modules,
    listed: &ListedFile,
    deadline: Instant,
) -> Result<Replay, UnfitSnapshot> {
    let mut file = partition.open_canonical(listed)?;
    let Facts { cluster, machine, partition: of, journal, .. } = file.listed().facts.clone();
    if Journal::genesis(&cluster.0, &machine, of) != partition.genesis() || journal != listed.facts.journal {
        return Err(UnfitSnapshot::Foreign);
    }
    let mut rows = Rows::new();
    file.visit_while(|| Instant::now() < deadline, |key, row| drop(rows.insert(key.to_vec(), row.to_vec())))?;
    let id = journal.module;
    let load = || modules.load(id).map_err(|reason| UnfitSnapshot::Module(id, reason));
    let logic = if id == crate::ids::ModuleId::ZERO { None } else { Some(load()?) };
    Ok(Replay { journal, rows, logic, n: Position::WHOLE })
}

fn replay(
    partition: &Partition,
    modules: &dyn Modules,
    mut replay: Replay,
    moment: Moment,
    deadline: Instant,
) -> Result<Replay, RewindError> {
    let (reader, end) = (partition.reader(), partition.progress());
    let begun = replay.journal;
    if end.journal.index < begun.index || end.journal.index == begun.index && end.journal.head != begun.head {
        return Err(PartitionError::OtherHistory(begun.position(partition.id(), 0)).into());
    }
    let mut place = Place::behind(replay.journal.index, replay.journal.head, None);
    while place.index < end.journal.index {
        let (next, entries) = reader.read_waiting(place, &end, READ, |reading| {
            let read = async { tokio::time::timeout_at(deadline, reading).await };
            Handle::current().block_on(read).unwrap_or(Err(PartitionError::Deadline))
        })?;
        for recorded in entries {
            let header = recorded.entry.header();
            if deadline <= Instant::now() {
                return Err(RewindError::Cancelled);
            }
            if is_after(moment, header.index.0, header.time) {
                return check(replay, moment);
            }
            if header.parent != replay.journal.head {
                return Err(PartitionError::OtherHistory(replay.journal.position(partition.id(), 0)).into());
            }
            let n = match moment {
                Moment::Position(position) if position.index == header.index => position.n,
                _ => Position::WHOLE,
            };
            replay.apply_until(&recorded.entry, n, &|id| modules.load(id))?;
        }
        if next == place {
            return Err(PartitionError::NoEntry(place.index.next()).into());
        }
        place = next;
    }
    check(replay, moment)
}

/// Whether the rows after the entry with this number and time may include more than those of the moment.
fn is_too_late(moment: Moment, index: u64, time: Micros) -> bool {
    match moment {
        Moment::Position(position) if position.n != Position::WHOLE => position.index.0 <= index,
        _ => is_after(moment, index, time),
    }
}

/// Whether an entry with this number and time lies after the moment.
fn is_after(moment: Moment, index: u64, time: Micros) -> bool {
    match moment {
        Moment::Time(at) => at < time,
        Moment::Position(position) => position.index.0 < index,
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
