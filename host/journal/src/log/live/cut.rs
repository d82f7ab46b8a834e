//! Cuts a log back to an entry whose successors an operator has given up, although they are committed and perhaps
//! sealed.
//!
//! ```text
//! hash of the last entry that stays ─▶ TRUNCATE in the stream ─▶ durable
//! (next start)                      ─▶ what follows is read, its seals dropped
//! ```
//! The record alone decides: before it is durable the log is the old one, afterwards the new one. A seal says what its
//! segment holds, which a cut does not change; the stream says which of that still counts. This file does not know who
//! may give entries up, and when.

use super::state::{Reserve, SMALL_FRAME_SIZE};
use crate::log::frame::Hash;
use crate::log::{EntryId, Log, LogError};

impl Log {
    /// Drops the entries after `last`, which must be in the log or be the last purged one. Nothing after it counts as
    /// committed any more. The cut is durable on return. After an error it may have happened or not; the log says which
    /// once it is opened again.
    ///
    /// Raft never does this. It is for a log with which nobody takes part in a group.
    ///
    /// # Errors
    /// [`LogError::NotThere`], [`LogError::Purged`], and [`LogError::Corrupt`] if the entry cannot be read. Nothing was
    /// changed.
    pub fn cut_after(&self, last: EntryId) -> Result<(), LogError> {
        let hash = self.hash_of(last)?;
        self.place_cut(last, hash)?;
        self.wait_until_durable()
    }

    fn place_cut(&self, last: EntryId, hash: Hash) -> Result<(), LogError> {
        let shared = &self.threads.shared;
        let mut state = shared.admit(&[SMALL_FRAME_SIZE], Reserve::Use)?;
        let purged = state.book.last_purged();
        if let Some(purged) = purged.filter(|purged| last.index < purged.index) {
            return Err(LogError::Purged { index: last.index, purged });
        }
        if state.book.find_id(last.index).or(purged.filter(|purged| purged.index == last.index)) != Some(last) {
            return Err(LogError::NotThere(last));
        }
        if state.book.last() != Some(last) {
            tracing::warn!(dir = %shared.dir.display(), %last, "the log is cut: what follows was given up");
            state.cut_after(last, hash);
            shared.announce_durable(&state);
            shared.on_placed(state);
        }
        Ok(())
    }
}
