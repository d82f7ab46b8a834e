//! Reading a log: entries from memory, from the tail's segments and from sealed ones; and how many bytes follow an
//! entry.
//!
//! Reads from disk run without the log's lock, and check that they return what was appended. Damage in a sealed segment
//! is announced, and only the caller that asked for it gets an error. Damage in the tail, which holds the vote, ends
//! the log. When the log is opened again, it is repaired, or the error says what is missing.

use std::ops::Range;
use std::sync::Arc;

use crate::ids::{LogIndex, Lsn};
use crate::log::book::{EntryPlace, EntrySlot, FoundEntry, FoundRange};
use crate::log::frame::{Hash, NO_HASH};
use crate::log::scan::read_slot;
use crate::log::seal::Seal;
use crate::log::{EntryId, Log, LogEntry, LogError};

impl Log {
    /// The entries in `range` that are there, in order, until their payloads exceed `bytes_max`. It returns at least
    /// one entry if there is any.
    ///
    /// This may read from disk. Returns [`LogError::Corrupt`] if what it reads is not what was appended.
    pub fn read(&self, range: Range<LogIndex>, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
        let mut entries: Vec<LogEntry> = Vec::new();
        let (mut next, mut left) = (range.start, Some(bytes_max));
        // An entry larger than what is left ends the read, unless it is the first.
        while let Some(bytes) = left {
            let found = self.threads.shared.state.lock().book.find(next..range.end, bytes);
            match found {
                FoundRange::Sealed(seal, range) => {
                    let Some(more) = self.read_sealed(&seal, range)? else { continue };
                    for entry in more {
                        next = entry.id.index.next();
                        left = left.and_then(|left| left.checked_sub(entry.payload.size()));
                        if left.is_none() && !entries.is_empty() {
                            break;
                        }
                        entries.push(entry);
                    }
                }
                FoundRange::Tail(found) => {
                    for found in found {
                        let entry = match found {
                            FoundEntry::InMemory(entry) => entry,
                            FoundEntry::OnDisk(slot) => self.read_tail(&slot)?,
                        };
                        // The book was asked for as much as is left, and returns at least one entry.
                        left = left.and_then(|left| left.checked_sub(entry.payload.size()));
                        if left.is_none() && !entries.is_empty() {
                            break;
                        }
                        entries.push(entry);
                    }
                    return Ok(entries);
                }
            }
        }
        Ok(entries)
    }

    /// The first of these entries; `None` if they were released meanwhile.
    fn read_sealed(&self, seal: &Arc<Seal>, range: Range<LogIndex>) -> Result<Option<Vec<LogEntry>>, LogError> {
        let shared = &self.threads.shared;
        match shared.sealed.read(seal, range.clone()) {
            Ok(read) => Ok(Some(read.into_iter().map(|read| read.entry).collect())),
            Err(_) if self.last_purged().is_some_and(|purged| range.start <= purged.index) => Ok(None),
            Err(error) => {
                shared.on_rot(seal.first_lsn(), &error);
                Err(error)
            }
        }
    }

    fn read_tail(&self, slot: &EntrySlot) -> Result<LogEntry, LogError> {
        read_slot(slot).inspect_err(|error| {
            if matches!(error, LogError::Corrupt { .. }) {
                self.threads.shared.fail(error.clone());
            }
        })
    }

    /// The id of the entry at `index`, if the log has it.
    pub fn find_id(&self, index: LogIndex) -> Option<EntryId> {
        self.threads.shared.state.lock().book.find_id(index)
    }

    /// The chain hash of an entry in the log, or of the last purged one; zeros for any other. This may read from disk.
    pub fn hash_of(&self, id: EntryId) -> Result<Hash, LogError> {
        let shared = &self.threads.shared;
        let found = shared.state.lock().book.hash_of(id);
        let seal = match found {
            Ok(hash) => return Ok(hash),
            Err(seal) => seal,
        };
        let read = shared.sealed.read(&seal, id.index..id.index.next());
        let read = read.inspect_err(|error| shared.on_rot(seal.first_lsn(), error))?;
        Ok(read.first().map_or(NO_HASH, |read| read.hash))
    }

    /// Bytes of the stream from the first entry after `id` to its end. Without an `id` it counts all that is not
    /// purged. The number is approximate if the range begins in a sealed segment.
    pub fn bytes_after(&self, id: Option<EntryId>) -> u64 {
        let shared = &self.threads.shared;
        let (place, end) = {
            let state = shared.state.lock();
            (state.book.place_after(id.map(|id| id.index)), state.cursor)
        };
        match place {
            None => 0,
            Some(EntryPlace::At(lsn)) => lsn.distance_to(end),
            Some(EntryPlace::Sealed(seal, index)) => {
                let lsn = shared.sealed.lsn_of(&seal, index).unwrap_or(seal.first_lsn());
                lsn.distance_to(end)
            }
        }
    }

    /// The last entry that at least `bytes` of the stream follow. If it is sealed, this is an entry shortly before it.
    pub fn find_before_last(&self, bytes: u64) -> Option<EntryId> {
        let shared = &self.threads.shared;
        let (lsn, found) = {
            let state = shared.state.lock();
            let lsn = Lsn(state.cursor.0.checked_sub(bytes)?);
            (lsn, state.book.last_before(lsn)?)
        };
        let seal = match found {
            Ok(id) => return Some(id),
            Err(seal) => seal,
        };
        // Nothing is assumed about what cannot be read: all of it counts as what follows.
        let first = shared.sealed.find_first_before(&seal, lsn).ok()?.or(seal.first())?;
        let last = first.0.checked_sub(1).map(LogIndex)?;
        shared.state.lock().book.find_id(last)
    }
}
