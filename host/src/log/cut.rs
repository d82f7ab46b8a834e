//! Cutting a log back to an entry whose successors an operator has given up, although they are committed and perhaps sealed.
//!
//! ```text
//! hash of the last entry that stays ─▶ TRUNCATE in the stream ─▶ durable ─▶ (next start) what follows is read, its seals dropped
//! ```
//! The record alone decides: before it is durable the log is the old one, from then on the new one. A seal tells what its segment holds, which a
//! cut does not change; which of that still counts, the stream tells. Who may give entries up, and when, is not known here.

use super::frame::Hash;
use super::state::{Reserve, SMALL_FRAME_SIZE};
use super::{EntryId, Log, LogError};

impl Log {
    /// Drops the entries after `last`, which must be in the log, or purged last; nothing after it counts as committed any more. Durable on
    /// return. If an error is returned, it happened or not, as the log tells after it was opened again.
    ///
    /// Raft never does this: it is for a log that nobody takes part in a group with.
    ///
    /// # Errors
    /// [`LogError::NotThere`], [`LogError::Purged`], and [`LogError::Corrupt`] where the entry cannot be read: nothing was changed.
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
