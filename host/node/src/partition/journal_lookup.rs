//! Finds entries in the partition's own log: by journal index, and backwards from the newest.
//!
//! In: a journal index. Out: the effective entry. Raft's index is ahead of the journal's by the number of blank,
//! membership and void entries before it. The search therefore begins where both are known and moves down. It does not
//! know which entries are kept in memory.

use crate::ids::{CommandId, Fingerprint, Head, JournalIndex, LogIndex, Micros, PartitionId};
use crate::log::{EntryId, Log, LogEntry, Payload};
use crate::machine::entry::{Entry, EntryCommand, Part};
use crate::machine::journal::Journal;
use crate::partition::error::PartitionError;
use crate::sequencer::submission::RecordedEntry;

/// How many bytes of entries one read of a walk takes from the log.
const READ_BYTES: usize = 4 << 20;

/// An id, the content that it came with, and the number of its command in the entry.
pub type Id = (CommandId, Fingerprint, u32);

/// The ids of an entry's commands, and those that its calls claim. The end of a command has an id of its own.
pub fn ids_of(entry: &Entry, here: PartitionId) -> Vec<Id> {
    let Some(batch) = entry.batch() else { return Vec::new() };
    let id = |(n, command): (u32, EntryCommand<'_>)| {
        let end = entry.identity(n, here).filter(|_| entry.part(n) == Part::End);
        (end.map_or(command.id, |identity| identity.end()), command.fingerprint(), n)
    };
    let mut ids: Vec<Id> = (0..).zip(batch.commands()).map(id).collect();
    ids.extend(claims_of(entry));
    ids
}

/// The client ids that an entry's calls claim, each with the claim in place of its content.
pub fn claims_of(entry: &Entry) -> impl Iterator<Item = Id> {
    let batch = entry.batch();
    entry.records().origins.iter().filter(|origin| origin.is_claim()).filter_map(move |origin| {
        let fingerprint = batch?.command(origin.command as usize).fingerprint();
        Some((origin.parent(), origin.identity(fingerprint).claim(), origin.command))
    })
}

/// The effective entry with this journal index; `applied` and `journal` say where the partition stands. It reads at
/// least two entries, so it is used only where [`crate::partition::recorded`] knows no place.
pub fn find_entry(
    log: &Log,
    wanted: JournalIndex,
    applied: Option<LogIndex>,
    journal: &Journal,
) -> Result<RecordedEntry, PartitionError> {
    let missing = || PartitionError::NoEntry(wanted);
    let applied = applied.ok_or_else(missing)?;
    if wanted.0 == 0 || journal.index < wanted {
        return Err(missing());
    }
    // Every effective entry between it and the newest takes at least one index of the log.
    let mut at = applied.0 - (journal.index.0 - wanted.0);
    let begin = begin(log);
    loop {
        if LogIndex(at) < begin {
            let first = first_recorded(log, applied, journal)?;
            return Err(released(first.map_or(journal.index.next(), |first| first.entry.header().index)));
        }
        if let Some(entry) = read_one(log, LogIndex(at))? {
            let found = entry.header().index;
            if found == wanted && is_effective(log, &entry, LogIndex(at), applied, journal.head)? {
                return Ok(RecordedEntry::new(entry, LogIndex(at)));
            }
            if wanted < found {
                at = at.checked_sub(found.0 - wanted.0).ok_or_else(missing)?;
                continue;
            }
        }
        at = at.checked_sub(1).ok_or_else(missing)?;
    }
}

fn released(first: JournalIndex) -> PartitionError {
    PartitionError::Released { first, position: None }
}

/// Where the log begins.
pub(super) fn begin(log: &Log) -> LogIndex {
    log.last_purged().map_or(LogIndex(0), |purged| purged.index.next())
}

/// The first effective entry that the log still has.
fn first_recorded(log: &Log, applied: LogIndex, journal: &Journal) -> Result<Option<RecordedEntry>, PartitionError> {
    let mut index = begin(log);
    while index <= applied {
        if let Some(entry) = read_one(log, index)?
            && is_effective(log, &entry, index, applied, journal.head)?
        {
            return Ok(Some(RecordedEntry::new(entry, index)));
        }
        index = index.next();
    }
    Ok(None)
}

/// Whether the journal's chain continues from this entry.
fn is_effective(log: &Log, entry: &Entry, at: LogIndex, applied: LogIndex, head: Head) -> Result<bool, PartitionError> {
    let after = entry.head_after();
    let next = entry.header().index.next();
    let mut index = at.next();
    while index <= applied {
        if let Some(later) = read_one(log, index)? {
            if later.header().parent == after {
                return Ok(true);
            }
            if next < later.header().index {
                return Ok(false);
            }
        }
        index = index.next();
    }
    Ok(after == head)
}

/// The entry at an index of the log; `None` if consensus itself wrote that record, or there is none.
pub(super) fn read_one(log: &Log, index: LogIndex) -> Result<Option<Entry>, PartitionError> {
    let found = log.read(index..index.next(), 1)?;
    match found.into_iter().next() {
        Some(LogEntry { payload: Payload::Entry(bytes), .. }) => Ok(Entry::parse(bytes).ok()),
        _ => Ok(None),
    }
}

/// The last index up to `upto` such that neither it nor any entry before it has this time or a later one.
///
/// Times rise along the log, except for void entries, which were computed on a journal that ran ahead. A void entry can
/// only make the result smaller.
pub fn find_last_before(log: &Log, upto: LogIndex, time: Micros) -> Result<Option<LogIndex>, PartitionError> {
    let (mut low, mut high) = (begin(log).0, upto.0 + 1);
    // INVARIANT: what lies below `low` is earlier; what lies at `high` or above, up to `upto`, is not.
    while low < high {
        let middle = low + (high - low) / 2;
        let mut at = middle;
        let found = loop {
            match read_one(log, LogIndex(at))? {
                Some(entry) => break Some(entry.header().time),
                None if at + 1 < high => at += 1,
                None => break None,
            }
        };
        match found {
            Some(found) if time <= found => high = middle,
            // A record of consensus itself has no time.
            Some(_) | None => low = at + 1,
        }
    }
    Ok(low.checked_sub(1).map(LogIndex).filter(|last| begin(log) <= *last))
}

/// Walks the effective entries from the newest to the oldest, until `each` breaks.
///
/// `each` gets an entry with its place. [`PartitionError::Released`] if the log ends before the journal's first entry.
pub fn walk_back(
    log: &Log,
    applied: Option<EntryId>,
    journal: &Journal,
    mut each: impl FnMut(RecordedEntry) -> std::ops::ControlFlow<()>,
) -> Result<(), PartitionError> {
    let Some(applied) = applied else { return Ok(()) };
    let mut head = journal.head;
    let mut end = applied.index.0 + 1;
    let mut oldest = journal.index.next();
    let (mut step, begin) = (1, begin(log).0);
    while end > begin {
        let start = end.saturating_sub(step).max(begin);
        let mut chunk = read_all(log, LogIndex(start), LogIndex(end))?;
        while let Some(LogEntry { id, payload }) = chunk.pop() {
            let Payload::Entry(bytes) = payload else { continue };
            let Ok(entry) = Entry::parse(bytes) else { continue };
            let recorded = RecordedEntry::new(entry, id.index);
            if recorded.head() != head {
                continue;
            }
            head = recorded.entry.header().parent;
            oldest = recorded.entry.header().index;
            if each(recorded).is_break() {
                return Ok(());
            }
        }
        end = start;
        step = (step * 2).min(256);
    }
    if 1 < oldest.0 { Err(released(oldest)) } else { Ok(()) }
}

fn read_all(log: &Log, start: LogIndex, end: LogIndex) -> Result<Vec<LogEntry>, PartitionError> {
    let mut found: Vec<LogEntry> = Vec::new();
    let mut from = start;
    while from < end {
        let more = log.read(from..end, READ_BYTES)?;
        let Some(last) = more.last() else { break };
        from = last.id.index.next();
        found.extend(more);
    }
    Ok(found)
}

/// The entry at an index of the log that is known to hold one.
pub fn read_recorded(log: &Log, index: LogIndex) -> Result<RecordedEntry, PartitionError> {
    let entry = read_one(log, index)?.ok_or(PartitionError::NoEntry(JournalIndex(0)))?;
    Ok(RecordedEntry::new(entry, index))
}
