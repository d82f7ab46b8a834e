//! Reads a log folder that may belong to a running node, a stopped one, or a copy. It writes nothing.
//!
//! It returns every entry that survived truncation, from the beginning of the journal, including purged ones. It knows
//! nothing of what entries mean. It needs about 80 bytes of memory an entry; payloads are read one at a time.

use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;

use crate::disk::Disk;
use crate::durable;
use crate::ids::{LogIndex, Lsn};
use crate::log::book::{Book, EntrySlot, PurgePolicy};
use crate::log::frame::{self, NO_HASH, Record, entry_hash};
use crate::log::recover::{Access, RecoveredLog, recover};
use crate::log::{Damage, EntryId, LogEntry, LogError, StreamId, Vote};

/// A walk through a log folder in its state when the scan was opened.
pub struct LogScan {
    found: Option<RecoveredLog>,
}

/// An entry and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScannedEntry {
    pub entry: LogEntry,
    /// The chain hash of this entry and everything before it. It is the same on every replica.
    pub hash: [u8; 32],
    /// The name of the segment's file.
    pub segment: String,
    /// Bytes from the start of the file to the entry's record.
    pub offset: u64,
    /// The entry is before the watermark. A later entry is complete, but the node may not have acknowledged it yet.
    pub is_durable: bool,
    /// The entry is not after the last id that is known to be committed. That id lags, because the stream learns it
    /// with later appends or when it is idle.
    pub is_committed: bool,
}

/// What follows the last valid frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTail {
    Clean,
    /// Bytes of a frame that was never acknowledged: a crash cut it off, or it is being written now.
    Torn {
        bytes: u64,
    },
}

impl LogScan {
    /// Reads all frames and checks their checksums and the hash chain. Returns [`LogError::Corrupt`] if acknowledged
    /// bytes are damaged.
    pub fn open(disk: &dyn Disk, dir: &Path) -> Result<Self, LogError> {
        Ok(Self { found: recover(disk, dir, Access::Read, PurgePolicy::Kept)? })
    }

    fn book(&self) -> Option<&Book> {
        self.found.as_ref().map(|found| &found.book)
    }

    /// The owner of the log; `None` if the folder holds no log.
    pub fn stream(&self) -> Option<&StreamId> {
        self.found.as_ref().map(|found| &found.stream)
    }

    /// Bytes of the stream that are certainly durable.
    pub fn watermark(&self) -> Lsn {
        self.found.as_ref().map_or(Lsn(0), |found| found.watermark)
    }

    /// Bytes of the stream that are valid.
    pub fn end(&self) -> Lsn {
        self.found.as_ref().map_or(Lsn(0), |found| found.end)
    }

    /// The last entry before the watermark.
    pub fn durable(&self) -> Option<EntryId> {
        let watermark = self.watermark();
        let durable = self.book()?.slots().rev().find(|slot| slot.lsn < watermark).map(|slot| slot.id);
        durable.into_iter().chain(self.last_purged()).max_by_key(|id| id.index)
    }

    pub fn last(&self) -> Option<EntryId> {
        self.book()?.last()
    }

    /// The last entry that is in the folder, not merely known to have been purged.
    pub fn last_found(&self) -> Option<EntryId> {
        self.book()?.slots().next_back().map(|slot| slot.id)
    }

    /// The hash that the next entry's record would carry.
    pub(super) fn last_hash(&self) -> [u8; 32] {
        self.book().map_or(NO_HASH, Book::last_hash)
    }

    pub fn last_purged(&self) -> Option<EntryId> {
        self.book()?.last_purged()
    }

    /// The last id that is known to be committed.
    pub fn committed(&self) -> Option<EntryId> {
        self.book()?.committed
    }

    pub fn vote(&self) -> Option<Vote> {
        self.book()?.vote
    }

    pub fn tail(&self) -> LogTail {
        let until = self.found.as_ref().and_then(|found| found.torn_until);
        until.map_or(LogTail::Clean, |until| LogTail::Torn { bytes: self.end().distance_to(until) })
    }

    /// The surviving entries in order. An index is missing only where a snapshot replaced entries that this node never
    /// had.
    pub fn entries(&self) -> impl Iterator<Item = Result<ScannedEntry, LogError>> {
        self.book().into_iter().flat_map(Book::slots).map(|slot| self.read(slot))
    }

    /// The entries in `range` that are there, in order, until their payloads exceed `bytes_max`. It returns at least
    /// one entry if there is any.
    ///
    /// # Errors
    /// The bytes differ from those that were there when the scan was opened.
    pub fn read_range(&self, range: Range<LogIndex>, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
        let mut bytes = 0;
        let slots = self.book().into_iter().flat_map(Book::slots);
        let wanted = slots.skip_while(|slot| slot.id.index < range.start).take_while(|slot| slot.id.index < range.end);
        let within = wanted.take_while(|slot| {
            let fits = bytes == 0 || bytes + slot.payload_size as usize <= bytes_max;
            bytes += slot.payload_size as usize + 1;
            fits
        });
        within.map(read_slot).collect()
    }

    fn read(&self, slot: &EntrySlot) -> Result<ScannedEntry, LogError> {
        let entry = read_slot(slot)?;
        assert_eq!(entry.id, slot.id);
        Ok(ScannedEntry {
            entry,
            hash: slot.hash,
            segment: slot.segment.name.clone(),
            offset: slot.segment.offset_of(slot.lsn),
            is_durable: slot.lsn < self.watermark(),
            is_committed: self.committed().is_some_and(|committed| slot.id.index <= committed.index),
        })
    }
}

/// Reads an entry and checks that it is the one that was appended.
pub(super) fn read_slot(slot: &EntrySlot) -> Result<LogEntry, LogError> {
    let offset = slot.segment.offset_of(slot.lsn);
    let (segment, index) = (slot.segment.name.clone(), slot.id.index);
    let corrupt = |damage| LogError::Corrupt { segment, offset, index, damage };
    let bytes = match slot.segment.read(offset, frame::ENTRY_OVERHEAD + slot.payload_size as usize) {
        Ok(bytes) => bytes,
        Err(error) if durable::is_passing(&error) => return Err(LogError::disk(&slot.segment.name, error)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(corrupt(Damage::Size)),
        Err(_) => return Err(corrupt(Damage::Unreadable)),
    };
    if let Some(Record::Entry { entry, before }) = Record::decode(&bytes) {
        let hash = entry_hash(&before, entry.id, &entry.payload, &blake3::hash(entry.payload.bytes()));
        if (entry.id, hash) == (slot.id, slot.hash) {
            return Ok(entry);
        }
    }
    Err(corrupt(Damage::Record))
}
