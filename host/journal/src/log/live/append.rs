//! Adding entries to a log. They are checked, grouped into frames, and given a place in the stream once there is room.
//!
//! Entries go in. Frames in the writer's queue come out, and entries that everybody can read. A caller may wait for
//! room with or without blocking its thread. This file knows nothing of what the writer does.

use parking_lot::MutexGuard;

use super::state::{
    HashedEntry, OnDurable, Reserve, SMALL_FRAME_SIZE, State, WriterWork, append_frame_size, entry_record_size,
};
use crate::log::{EntryId, Log, LogEntry, LogError};
use crate::machine::limits::ENTRY_BYTES_MAX;

/// The most bytes of entries that share a frame and its checksum. It bounds what is read at once, and what a torn write
/// can destroy.
const FRAME_BYTES_MAX: usize = 1 << 20;

impl Log {
    /// Adds entries. Every handle can read them on return. `on_durable` is called once, from the writer thread, when
    /// they are durable or never will be, in the order of the appends. It must not block.
    ///
    /// The indexes of the entries are consecutive. The first entry follows the last one in the log, or replaces an
    /// earlier one and all after it. The call waits only while more than `pending_bytes_max` are not yet durable, or
    /// while a segment that is large enough is being prepared. On an error nothing was added, and `on_durable` is
    /// dropped without a call.
    pub fn append(&self, entries: Vec<LogEntry>, on_durable: OnDurable) -> Result<(), LogError> {
        let Some(first) = entries.first().map(|entry| entry.id) else { return self.after_all(on_durable) };
        let (frames, sizes) = self.frames_of(first, entries)?;
        let state = self.threads.shared.admit(&sizes, Reserve::Keep)?;
        self.place_entries(state, first, frames, on_durable)
    }

    /// Like [`Log::append`], but does not block the thread while it waits. If the call is dropped, nothing was added.
    pub async fn append_in_turn(&self, entries: Vec<LogEntry>, on_durable: OnDurable) -> Result<(), LogError> {
        let Some(first) = entries.first().map(|entry| entry.id) else { return self.after_all(on_durable) };
        let (frames, sizes) = self.frames_of(first, entries)?;
        let state = self.threads.shared.admitted(&sizes, Reserve::Keep).await?;
        self.place_entries(state, first, frames, on_durable)
    }

    fn frames_of(
        &self,
        first: EntryId,
        entries: Vec<LogEntry>,
    ) -> Result<(Vec<Vec<HashedEntry>>, Vec<usize>), LogError> {
        check_entries(&entries)?;
        let frames = group_into_frames(entries);
        let mut sizes: Vec<_> = frames.iter().map(|entries| append_frame_size(entries)).collect();
        if self.last().is_some_and(|last| first.index <= last.index) {
            sizes.insert(0, SMALL_FRAME_SIZE);
        }
        Ok((frames, sizes))
    }

    fn place_entries(
        &self,
        mut state: MutexGuard<'_, State>,
        first: EntryId,
        frames: Vec<Vec<HashedEntry>>,
        on_durable: OnDurable,
    ) -> Result<(), LogError> {
        let shared = &self.threads.shared;
        state.check_next(first)?;
        state.append(frames);
        assert!(state.book.last().is_some_and(|last| first.index <= last.index));
        shared.announce_durable(&state);
        state.queue.push(WriterWork::Done(on_durable));
        shared.on_placed(state);
        Ok(())
    }

    /// Waits until there is room for a truncation or a purge, which is nearly always at once. The only writer of a log
    /// then finds that room and need not wait.
    pub async fn wait_for_room(&self) -> Result<(), LogError> {
        self.wait_for_bytes(SMALL_FRAME_SIZE + 32).await
    }

    pub(super) async fn wait_for_bytes(&self, size: usize) -> Result<(), LogError> {
        self.threads.shared.admitted(&[size], Reserve::Use).await.map(drop)
    }
}

fn check_entries(entries: &[LogEntry]) -> Result<(), LogError> {
    let max = ENTRY_BYTES_MAX;
    if let Some(entry) = entries.iter().find(|entry| max < entry.payload.size()) {
        return Err(LogError::EntryTooLarge { id: entry.id, size: entry.payload.size(), max });
    }
    match entries.windows(2).find(|pair| pair[0].id.index.next() != pair[1].id.index) {
        Some(pair) => Err(LogError::Gap { last: Some(pair[0].id.index), found: pair[1].id }),
        None => Ok(()),
    }
}

/// Splits the entries of an append into frames and hashes their payloads. No lock is held yet.
fn group_into_frames(entries: Vec<LogEntry>) -> Vec<Vec<HashedEntry>> {
    let mut frames: Vec<Vec<HashedEntry>> = Vec::new();
    let mut size = 0;
    for entry in entries {
        let record_size = entry_record_size(&entry);
        let hash = blake3::hash(entry.payload.bytes());
        match frames.last_mut().filter(|_| size + record_size <= FRAME_BYTES_MAX) {
            Some(frame) => {
                size += record_size;
                frame.push((entry, hash));
            }
            None => {
                size = record_size;
                frames.push(vec![(entry, hash)]);
            }
        }
    }
    assert!(frames.iter().all(|frame| !frame.is_empty()));
    frames
}
