//! What a partition's own files know of its journal, compared with its log. What they know and the log lacks was
//! acknowledged and is lost, because neither state nor ids nor a snapshot is ever written ahead of a durable log.
//!
//! In: the log, and how far the other files reach. Out: a [`Loss`] that names each [`Witness`]. This file does not know
//! where else the entries may be, nor who decides to continue without them.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::disk::RealDisk;
use crate::ids::{JournalIndex, LogIndex};
use crate::log::{EntryId, Log, Payload, Vote};
use crate::machine::entry::Entry;
use crate::machine::journal::{Journal, Verdict};
use crate::partition::error::PartitionError;
use crate::snapshot::canonical::{CanonicalError, indexes_in};

/// Bytes of entries that are judged at once.
const PIECE_BYTES: usize = 4 << 20;
/// The suffix of what was set aside because it knows more than the log.
const GIVEN_UP: &str = "given-up";

/// Acknowledged entries that are no longer in the log of this replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Where the log ends.
    pub found: Option<EntryId>,
    pub witnesses: Vec<Witness>,
}

/// Something that knows more than the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Witness {
    #[error("the state is at log entry {0}")]
    State(EntryId),
    #[error("the id index goes up to journal entry {0}")]
    Ids(JournalIndex),
    #[error("`{name}` is of journal entry {index}")]
    Snapshot { index: JournalIndex, name: String },
    #[error("the node's record says that this replica had entries")]
    Record,
    #[error("other nodes have seen it hold log entry {0}")]
    Peers(EntryId),
    #[error("other nodes have seen it vote in term {}", .0.term)]
    Vote(Vote),
    #[error("other nodes have heard this node's counter at {heard}, and on its disk it is {own}")]
    Counter { heard: u64, own: u64 },
}

/// What other nodes remember of a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// The highest entry that they have seen it hold.
    pub held: Option<EntryId>,
    /// The highest vote of it that they have heard of.
    pub voted: Option<Vote>,
    /// The node's counter as they have heard it, and as it is on disk, if the latter is lower.
    pub counter: Option<(u64, u64)>,
}

impl Remembered {
    /// What others remember and a log with this end and this vote no longer has.
    pub fn witnesses(&self, found: Option<EntryId>, vote: Option<Vote>) -> Vec<Witness> {
        let order = |vote: Option<Vote>| vote.map(|vote| vote.order());
        let held = self.held.filter(|held| found.is_none_or(|found| found < *held)).map(Witness::Peers);
        let voted = self.voted.filter(|voted| order(vote) < order(Some(*voted))).map(Witness::Vote);
        let counter = self.counter.map(|(heard, own)| Witness::Counter { heard, own });
        held.into_iter().chain(voted).chain(counter).collect()
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.found.map_or_else(|| "is empty".to_owned(), |found| format!("ends at {found}"));
        let witnesses: Vec<String> = self.witnesses.iter().map(Witness::to_string).collect();
        write!(f, "its log has lost acknowledged entries: it {end}, but {}", witnesses.join(", and "))
    }
}

/// How far the journal reaches by the entries of the log after a state; `None` if the log cannot tell.
pub fn journal_end(log: &Log, from: Journal, applied: Option<EntryId>) -> Result<Option<JournalIndex>, PartitionError> {
    let first = applied.map_or(LogIndex(0), |applied| applied.index.next());
    if log.last_purged().is_some_and(|purged| first <= purged.index) {
        return Ok(None);
    }
    let (mut journal, mut next) = (from, first);
    loop {
        let entries = log.read(next..LogIndex(u64::MAX), PIECE_BYTES)?;
        let Some(last) = entries.last() else { return Ok(Some(journal.index)) };
        next = last.id.index.next();
        for entry in entries {
            let Payload::Entry(bytes) = entry.payload else { continue };
            // The replica that applies the entry will report what is wrong with it.
            let Some(verdict) = Entry::parse(bytes).ok().and_then(|entry| journal.judge(&entry).ok()) else {
                return Ok(None);
            };
            if let Verdict::Effective(after) = verdict {
                journal = after;
            }
        }
    }
}

/// The canonical snapshots, and the states kept for making them, that belong to entries after `end`.
pub fn snapshots_after(folder: &Path, end: JournalIndex) -> Result<Vec<(JournalIndex, PathBuf)>, CanonicalError> {
    let mut found = indexes_in(&RealDisk, folder)?;
    found.retain(|(index, _)| end < *index);
    Ok(found)
}

/// Moves them out of the way: they belong to a history that was given up.
pub fn set_snapshots_aside(found: &[(JournalIndex, PathBuf)]) -> std::io::Result<()> {
    for (_, path) in found {
        let aside = path.with_added_extension(GIVEN_UP);
        tracing::warn!(
            path = %path.display(), aside = %aside.display(), "a snapshot of entries that were given up is set aside"
        );
        std::fs::rename(path, aside)?;
    }
    Ok(())
}

pub fn witnesses_of(found: &[(JournalIndex, PathBuf)]) -> impl Iterator<Item = Witness> {
    found.iter().map(|(index, path)| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Witness::Snapshot { index: *index, name }
    })
}
