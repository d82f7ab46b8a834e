//! Reads what follows a place in a partition's journal: from this node's log, or from the archive what the log has
//! released.
//!
//! ```text
//! Place ─▶ log ─▶ effective entries ─▶ the Place after them
//!           └─ released ─▶ archive ─▶ entries, and a place that is then located in the log by its head
//! ```
//! In: a place and a bound. Out: effective entries in order, none left out and none twice. It keeps nothing between two
//! reads, knows neither who reads nor how they wait, and never asks the executor for anything.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::archive::ArchivedJournal;
use crate::ids::{Head, JournalIndex, LogIndex, PartitionId, Position};
use crate::log::{Log, LogEntry, Payload};
use crate::machine::entry::Entry;
use crate::machine::journal::Journal;
use crate::partition::error::{HaltReason, PartitionError};
use crate::partition::handle::Partition;
use crate::partition::recorded::RecordedEntries;
use crate::partition::status::Progress;
use crate::sequencer::submission::RecordedEntry;

/// No place in a log: the entry is from the archive.
const NOWHERE: LogIndex = LogIndex(u64::MAX);

/// What entries are read from.
pub struct Reader {
    pub(super) partition: PartitionId,
    pub(super) log: Log,
    pub(super) entries: Arc<RecordedEntries>,
    /// The archive of what the log has released.
    pub(super) past: Option<Arc<ArchivedJournal>>,
}

/// A place between two entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The entry before it, and the first bytes of the head there.
    pub index: JournalIndex,
    pub(super) head8: [u8; 4],
    /// Where in the log to look for what follows, and the head on which that must have been computed. `None`: not known
    /// yet.
    pub(super) log: Option<(LogIndex, Head)>,
}

/// About how much is read at once; at least one entry.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    pub bytes: usize,
    /// Entries of the log, including void ones.
    pub entries: u64,
}

/// The place after what was read, and the entries. No entries do not mean the end if the place has changed.
pub type Read = (Place, Vec<RecordedEntry>);

impl Place {
    pub fn after(journal: &Journal) -> Self {
        Self { index: journal.index, head8: head8(journal.head), log: None }
    }

    /// The place after the entry `index`, where the head is `head`. What follows is looked for in the log from `next`
    /// on; if `next` is `None`, it is located first.
    pub fn behind(index: JournalIndex, head: Head, next: Option<LogIndex>) -> Self {
        Self { index, head8: head8(head), log: next.map(|next| (next, head)) }
    }

    /// Where in the log the next entry is looked for; `None` if that is not known.
    pub fn log_next(&self) -> Option<LogIndex> {
        self.log.map(|(next, _)| next)
    }

    fn position(&self, partition: PartitionId) -> Position {
        Position { partition, index: self.index, n: 0, head8: self.head8 }
    }
}

pub(super) fn head8(head: Head) -> [u8; 4] {
    let [a, b, c, d, ..] = head.0;
    [a, b, c, d]
}

/// An entry from elsewhere than the log.
pub(super) fn from_elsewhere(entry: Entry) -> RecordedEntry {
    RecordedEntry::new(entry, NOWHERE)
}

/// Where in the log an entry lies; `None` if it is from the archive.
pub fn log_index_of(recorded: &RecordedEntry) -> Option<LogIndex> {
    Some(recorded.log_index).filter(|index| *index != NOWHERE)
}

impl Partition {
    /// A reader of this partition's journal, from any place.
    pub fn reader(&self) -> Reader {
        let parts = &self.parts;
        Reader { partition: parts.id, log: parts.log.clone(), entries: parts.entries.clone(), past: parts.past.clone() }
    }
}

impl Partition {
    /// The effective entry with this journal index, from the log or from the archive. If it is from the archive, only
    /// its head can prove that it belongs to this history.
    ///
    /// # Errors
    /// As for [`Reader::read_waiting`]; [`PartitionError::NoEntry`] if the journal does not reach that far.
    pub async fn find_entry_anywhere(&self, index: JournalIndex) -> Result<Arc<RecordedEntry>, PartitionError> {
        match (self.find_entry(index), &self.parts.past) {
            (Err(error @ PartitionError::Released { .. }), Some(past)) => {
                let found = past.entries_after(JournalIndex(index.0.saturating_sub(1)), 0).await?;
                Ok(Arc::new(from_elsewhere(found.into_iter().next().ok_or(error)?)))
            }
            (found, _) => found,
        }
    }

    /// The last position of an entry, given any of its positions: the rows after the entry are the state at that
    /// position. May read from disk. If the entry is no longer here, its number of positions is unknown, and
    /// [`Position::WHOLE`] means the same.
    pub fn last_position(&self, of: Position) -> Position {
        let (id, genesis) = (self.id(), self.genesis());
        if of.index == genesis.index {
            return genesis.position(id, 0);
        }
        let found = self.parts.entries.find_kept(of.index).or_else(|| self.find_entry(of.index).ok());
        let last = found.map(|recorded| recorded.last_position(id)).filter(|last| last.head8 == of.head8);
        last.unwrap_or(Position { n: Position::WHOLE, ..of })
    }
}

/// A gap of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    pub url: String,
    /// Whether the archive is a folder into which only this node writes.
    pub is_own: bool,
    /// The first entry after the gap that is there, if there is any.
    pub next: Option<JournalIndex>,
}

impl Reader {
    /// What is known of the archive if [`Self::read_waiting`] has not found this entry in it; `None` if there is no
    /// archive.
    pub fn gap_at(&self, index: JournalIndex) -> Option<Gap> {
        let past = self.past.as_ref()?;
        let archive = past.archive();
        Some(Gap { url: archive.url().to_owned(), is_own: archive.folder().is_some(), next: past.first_behind(index) })
    }

    /// Whether there is an archive that has what the log has released.
    fn has_archive(&self) -> bool {
        self.past.is_some()
    }

    /// What follows a place, and where it ends, from the log or from the archive; for threads that may wait. `wait`
    /// waits for the archive.
    ///
    /// # Errors
    /// * [`PartitionError::OtherHistory`]: the place is not in this journal.
    /// * [`PartitionError::Released`]: what follows is neither in the log nor in an archive.
    /// * [`PartitionError::Archive`]: it can only be in the archive, which cannot be read now.
    pub fn read_waiting(
        &self,
        place: Place,
        applied: &Progress,
        bound: Bound,
        wait: impl FnOnce(BoxFuture<'_, Result<Read, PartitionError>>) -> Result<Read, PartitionError>,
    ) -> Result<Read, PartitionError> {
        match self.read(place, applied, bound) {
            Err(error @ PartitionError::Released { .. }) if self.has_archive() => {
                wait(self.read_elsewhere(place, error, bound).boxed())
            }
            read => read,
        }
    }

    /// What follows a place, and where it ends, as far as the log has it.
    pub(super) fn read(&self, place: Place, applied: &Progress, bound: Bound) -> Result<Read, PartitionError> {
        let located = place.log.map_or_else(|| self.locate(&place, applied), Ok);
        let (next, head) = located?;
        let end = LogIndex(next.0.saturating_add(bound.entries)).min(applied.log_index.next());
        let found = self.log.read(next..end, bound.bytes)?;
        let is_released = match found.first() {
            Some(first) => first.id.index != next,
            None => next < end && self.log.last_purged().is_some_and(|purged| next <= purged.index),
        };
        if is_released {
            let following = self.find(place.index.next(), applied).map(|found| (found.log_index, head));
            return match following {
                // Nothing of what was released has an effect.
                Err(PartitionError::NoEntry(_)) => {
                    Ok((Place { log: Some((applied.log_index.next(), head)), ..place }, Vec::new()))
                }
                following => Ok((Place { log: Some(following?), ..place }, Vec::new())),
            };
        }
        pick_effective(Place { log: Some((next, head)), ..place }, found)
    }

    /// Locates a place in the log, after it has proved to be in this journal.
    fn locate(&self, place: &Place, applied: &Progress) -> Result<(LogIndex, Head), PartitionError> {
        let found = if place.index == applied.journal.index {
            (applied.log_index.next(), applied.journal.head)
        } else {
            let following = self.find(place.index.next(), applied)?;
            (following.log_index, following.entry.header().parent)
        };
        if head8(found.1) != place.head8 {
            return Err(PartitionError::OtherHistory(place.position(self.partition)));
        }
        Ok(found)
    }

    pub(super) fn find(&self, index: JournalIndex, applied: &Progress) -> Result<Arc<RecordedEntry>, PartitionError> {
        let find = |index| self.entries.find(index, Some(applied.log_index), &applied.journal);
        match find(index) {
            Err(PartitionError::Released { first, .. }) => {
                let position = find(first).ok().map(|found| found.position(self.partition, 0));
                Err(PartitionError::Released { first, position })
            }
            found => found,
        }
    }

    /// What follows a place that this node's log has released, from the archive if there is one; otherwise `released`.
    pub(super) async fn read_elsewhere(
        &self,
        place: Place,
        released: PartitionError,
        bound: Bound,
    ) -> Result<Read, PartitionError> {
        let Some(past) = &self.past else { return Err(released) };
        let found = past.entries_after(place.index, bound.bytes).await?;
        let Some(first) = found.first() else { return Err(released) };
        if head8(first.header().parent) != place.head8 {
            return Err(PartitionError::OtherHistory(place.position(self.partition)));
        }
        let entries: Vec<RecordedEntry> = found.into_iter().map(from_elsewhere).collect();
        // The log's continuation is located again, by the head.
        let mut place = Place { log: None, ..place };
        if let Some(last) = entries.last() {
            (place.index, place.head8) = (last.entry.header().index, head8(last.head()));
        }
        Ok((place, entries))
    }
}

fn pick_effective(mut place: Place, found: Vec<LogEntry>) -> Result<Read, PartitionError> {
    let (mut next, mut head) = place.log.expect("it was located");
    let mut entries = Vec::with_capacity(found.len());
    for LogEntry { id, payload } in found {
        assert!(id.index == next, "a log has no gaps");
        next = id.index.next();
        let Payload::Entry(bytes) = payload else { continue };
        let damaged = |source| HaltReason::Entry { index: id.index.0, source };
        let entry = Entry::parse(bytes).map_err(damaged)?;
        if entry.header().parent != head {
            continue;
        }
        assert!(entry.header().index == place.index.next(), "an applied entry has the number after its parent's");
        let recorded = RecordedEntry::new(entry, id.index);
        (place.index, head) = (recorded.entry.header().index, recorded.head());
        entries.push(recorded);
    }
    place.head8 = head8(head);
    place.log = Some((next, head));
    Ok((place, entries))
}
