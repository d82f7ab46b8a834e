//! State and ids of a partition on disk. Both are derived from its log, so what is damaged is put aside and made again.
//!
//! In: the partition's folder and its log, which is sound. Out: an open store and an open id index; what they lack is fed to
//! them by whoever opens the partition. The damaged folder stays as `state.damaged` or `ids.damaged`, one generation.
//!
//! It does not know how entries are applied, nor where a log could get its beginning from.

use std::path::Path;

use crate::consensus::check_state_within_log;
use crate::durable;
use crate::ids::{JournalIndex, LogIndex};
use crate::log::{EntryId, Log};
use crate::partition::coordinate::read_table;
use crate::partition::error::{Held, PartitionError};
use crate::store::{AppliedId, IdIndex, IdOptions, Store, StoreError, StoreOptions};

const STATE: &str = "state";
const IDS: &str = "ids";

/// Opens both, or new empty ones in place of what is damaged or contradicts the log.
///
/// # Errors
/// What an operator must look at: a folder that cannot be used, files of a later program, or damage that this log cannot
/// make good, because its beginning is not there. Then nothing was changed.
pub fn open(folder: &Path, log: &Log, options: &StoreOptions) -> Result<(Store, IdIndex), PartitionError> {
    let mut store = match open_state(folder, options) {
        Err(PartitionError::Store(error)) if error.is_damage() => {
            set_aside(folder, STATE, log, &reason(&error))?;
            Store::open(&folder.join(STATE), options.clone())?
        }
        store => store?,
    };
    if let Err(error) = check_state_within_log(applied(&store), log) {
        // The log has lost entries, so ids of commands that are no longer recorded may be known as well.
        check_beginning(STATE, log, &error.to_string())?;
        drop(store);
        set_aside(folder, STATE, log, &error.to_string())?;
        set_aside(folder, IDS, log, &error.to_string())?;
        store = Store::open(&folder.join(STATE), options.clone())?;
    }
    if let Some(purged) = log.last_purged()
        && applied(&store).is_none_or(|applied| applied.index < purged.index)
    {
        let held = Held::From(purged.index.next());
        return Err(PartitionError::CannotRebuild { what: STATE, reason: "it lacks entries".to_owned(), held });
    }
    let ids = match IdIndex::open(&folder.join(IDS), IdOptions::default()) {
        Err(error) if error.is_damage() => {
            set_aside(folder, IDS, log, &reason(&error))?;
            IdIndex::open(&folder.join(IDS), IdOptions::default())?
        }
        ids => ids?,
    };
    Ok((store, ids))
}

/// Rows are read when somebody asks for them, but for the phase status table: what it is needed for begins at once.
fn open_state(folder: &Path, options: &StoreOptions) -> Result<Store, PartitionError> {
    let store = Store::open(&folder.join(STATE), options.clone())?;
    read_table(&store.read())?;
    Ok(store)
}

/// Whether what was found going back through the journal reaches down to what is there: `oldest` follows `last`.
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
    let AppliedId { term, node, index } = store.meta_written()?.applied;
    Some(EntryId { term, node, index })
}

/// The error and what RocksDB says, in one line.
fn reason(error: &StoreError) -> String {
    std::error::Error::source(error).map_or(error.to_string(), |source| format!("{error}: {source}"))
}

/// Moves the folder out of the way, in place of what was there from the last time.
fn set_aside(folder: &Path, what: &'static str, log: &Log, reason: &str) -> Result<(), PartitionError> {
    check_beginning(what, log, reason)?;
    let (path, aside) = (folder.join(what), folder.join(format!("{what}.damaged")));
    tracing::warn!(path = %path.display(), aside = %aside.display(), reason, "made again from the log");
    metrics::counter!("statehouse_rebuilds_total", "what" => what).increment(1);
    let moved = || {
        match std::fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match std::fs::rename(&path, &aside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        durable::sync_dir(folder)
    };
    moved().map_err(|source| PartitionError::Folder { path: aside.clone(), source })
}

/// Everything that was ever applied is still in the log. An empty log is no beginning: it would make a state of nothing.
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
