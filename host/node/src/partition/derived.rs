//! State and ids of a partition on disk. Both are derived from its log, so a damaged one is set aside and made again.
//!
//! In: the partition's folder and its log, which is sound. Out: an open store and an open id index. The caller feeds
//! them the entries that they lack. The damaged folder stays as `state.damaged` or `ids.damaged`; only the last one is
//! kept. If state, ids or anything else know more than the log, then the log has lost entries, and nothing is opened
//! until somebody has repaired it or given the entries up.
//!
//! This file does not know how entries are applied, nor from where a log could get its beginning back.

use std::path::Path;
use std::sync::Arc;

use crate::consensus::check_state_within_log;
use crate::disk::RealDisk;
use crate::durable;
use crate::ids::{JournalIndex, LogIndex};
use crate::log::{EntryId, Log};
use crate::machine::journal::Journal;
use crate::partition::error::{Held, PartitionError};
use crate::partition::journal_state::journal_of;
use crate::partition::lost::{self, Loss, Remembered, Witness};
use crate::partition::saga_table::read_table;
use crate::store::{IdIndex, IdOptions, Store, StoreError, StoreOptions};

const STATE: &str = "state";
const IDS: &str = "ids";

/// What is known about a partition beside its files.
pub struct Known {
    pub genesis: Journal,
    /// The node's own record says that this replica had entries: an empty folder is a loss, not a new replica.
    pub had_entries: bool,
    /// What other nodes remember of this replica.
    pub remembered: Remembered,
    /// An operator has given up what the log has lost.
    pub is_given_up: bool,
}

/// Opens both. A damaged one is replaced by a new, empty one.
///
/// # Errors
/// An operator must look: a folder cannot be used, files are of a later program, the log cannot make good the damage
/// because its beginning is gone, or it has lost entries that are not given up. In these cases nothing was changed.
pub fn open(
    folder: &Path,
    log: &Log,
    options: &StoreOptions,
    known: &Known,
) -> Result<(Store, IdIndex), PartitionError> {
    let mut store = match open_state(folder, options) {
        Err(PartitionError::Store(error)) if error.is_damage() => {
            set_aside(folder, STATE, log, &reason(&error))?;
            Store::open(&folder.join(STATE), options.clone())?
        }
        store => store?,
    };
    let mut ids = match open_ids(folder) {
        Err(error) if error.is_damage() => {
            set_aside(folder, IDS, log, &reason(&error))?;
            open_ids(folder)?
        }
        ids => ids?,
    };
    if let Some(loss) = find_loss(folder, log, &store, &ids, known)? {
        if !known.is_given_up {
            return Err(PartitionError::Forgot(loss));
        }
        // The id index also knows ids of commands that the log no longer records.
        if held(log) != Held::Nothing {
            check_beginning(STATE, log, &loss.to_string())?;
        }
        drop((store, ids));
        move_aside(folder, STATE, &loss.to_string())?;
        move_aside(folder, IDS, &loss.to_string())?;
        store = Store::open(&folder.join(STATE), options.clone())?;
        ids = open_ids(folder)?;
        if let Some(end) = lost::journal_end(log, known.genesis, None)? {
            let snapshots = lost::snapshots_after(folder, end)?;
            let moved = lost::set_snapshots_aside(&snapshots);
            moved.map_err(|source| PartitionError::Folder { path: folder.to_owned(), source })?;
        }
    }
    if let Some(purged) = log.last_purged()
        && applied(&store).is_none_or(|applied| applied.index < purged.index)
    {
        let held = Held::From(purged.index.next());
        return Err(PartitionError::CannotRebuild { what: STATE, reason: "it lacks entries".to_owned(), held });
    }
    // The ids to be recorded again are all in the log.
    ids.allow_write_up_to(log.durable().map_or(LogIndex(0), |durable| durable.index));
    Ok((store, ids))
}

/// Everything that knows more than the log.
fn find_loss(
    folder: &Path,
    log: &Log,
    store: &Store,
    ids: &IdIndex,
    known: &Known,
) -> Result<Option<Loss>, PartitionError> {
    let found = log.last().or(log.last_purged());
    let mut witnesses = known.remembered.witnesses(found, log.vote());
    if known.had_entries && found.is_none() {
        witnesses.push(Witness::Record);
    }
    let meta = store.meta_written();
    let state = meta.as_ref().map(|meta| (meta.applied, journal_of(meta)));
    let is_ahead = check_state_within_log(state.map(|(applied, _)| applied), log).is_err();
    let end = if let Some((applied, _)) = state.filter(|_| is_ahead) {
        witnesses.push(Witness::State(applied));
        None
    } else {
        let (applied, from) = state.map_or((None, known.genesis), |(applied, journal)| (Some(applied), journal));
        let furthest = lost::snapshots_after(folder, from.index)?.into_iter().map(|(index, _)| index);
        // The log is read only if something is ahead of the state.
        let is_settled = furthest.chain([ids.applied()]).all(|index| index <= from.index);
        if is_settled { None } else { lost::journal_end(log, from, applied)? }
    };
    if let Some(end) = end {
        witnesses.extend(Some(ids.applied()).filter(|applied| end < *applied).map(Witness::Ids));
        witnesses.extend(lost::witnesses_of(&lost::snapshots_after(folder, end)?));
    }
    Ok((!witnesses.is_empty()).then_some(Loss { found, witnesses }))
}

/// Rows are read on demand, except the phase status table: it is needed at once.
fn open_state(folder: &Path, options: &StoreOptions) -> Result<Store, PartitionError> {
    let store = Store::open(&folder.join(STATE), options.clone())?;
    read_table(&store.read())?;
    Ok(store)
}

fn open_ids(folder: &Path) -> Result<IdIndex, StoreError> {
    // Snapshots hard-link its files beside those of the state, which is always on the real disk.
    IdIndex::open(Arc::new(RealDisk), &folder.join(IDS), IdOptions::default())
}

/// Checks whether the walk back through the journal has reached what is there already: `oldest` must follow `last`.
pub fn check_reaches(
    what: &'static str,
    last: JournalIndex,
    oldest: JournalIndex,
    log: &Log,
) -> Result<(), PartitionError> {
    if oldest == last.next() {
        return Ok(());
    }
    let reason = format!("it lacks journal entries {} to {oldest}", last.next());
    Err(PartitionError::CannotRebuild { what, reason, held: held(log) })
}

fn applied(store: &Store) -> Option<EntryId> {
    store.meta_written().map(|meta| meta.applied)
}

/// The error and the message of RocksDB, on one line.
fn reason(error: &StoreError) -> String {
    std::error::Error::source(error).map_or(error.to_string(), |source| format!("{error}: {source}"))
}

/// Moves a damaged folder out of the way, if the log can make its content again.
fn set_aside(folder: &Path, what: &'static str, log: &Log, reason: &str) -> Result<(), PartitionError> {
    check_beginning(what, log, reason)?;
    move_aside(folder, what, reason)
}

/// Moves the folder out of the way. It replaces the one that was moved the last time.
fn move_aside(folder: &Path, what: &'static str, reason: &str) -> Result<(), PartitionError> {
    let path = folder.join(what);
    tracing::warn!(path = %path.display(), reason, "damaged files were set aside, and are made again from the log");
    metrics::counter!("statehouse_rebuilds_total", "what" => what).increment(1);
    durable::set_aside(&path).map(drop).map_err(|source| PartitionError::Folder { path, source })
}

/// Checks that everything that was ever applied is still in the log. An empty log is refused: the state made from it
/// would be empty.
fn check_beginning(what: &'static str, log: &Log, reason: &str) -> Result<(), PartitionError> {
    match held(log) {
        Held::From(LogIndex(0)) => Ok(()),
        held => Err(PartitionError::CannotRebuild { what, reason: reason.to_owned(), held }),
    }
}

fn held(log: &Log) -> Held {
    let first = log.term_starts().first().map(|first| first.index);
    let first = log.last_purged().map(|purged| purged.index.next()).or(first);
    first.map_or(Held::Nothing, Held::From)
}
