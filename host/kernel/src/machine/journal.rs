//! The journal: which entries are effective, and the chain of hashes over them.
//!
//! In: entries in Raft's order. Out: whether each is effective, and where the journal stands after it. One rule makes
//! speculation safe: an entry that was computed on another head is void, now and for ever. It knows nothing of rows.

use crate::ids::{Head, JournalIndex, Micros, ModuleId, PartitionId, Position};
use crate::machine::entry::{Entry, EntryKind};

/// Where a partition's journal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Journal {
    pub index: JournalIndex,
    pub head: Head,
    /// Time of the last effective entry.
    pub time: Micros,
    /// The module that decides the next entry; [`ModuleId::ZERO`] before the first activation.
    pub module: ModuleId,
    pub schema: u32,
    /// Number of the last activation in `system`.
    pub activation: u64,
}

/// What an entry means for the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts. This is the journal after it.
    Effective(Journal),
    /// It was computed on another head: no effect, now or ever.
    Void,
}

impl Journal {
    /// The journal of a partition in which nothing has happened yet.
    pub fn genesis(cluster: &[u8; 16], machine: &str, partition: PartitionId) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"statehouse journal v1").update(cluster);
        hasher.update(&(machine.len() as u32).to_le_bytes()).update(machine.as_bytes());
        hasher.update(&partition.0.to_le_bytes());
        let head = Head(*hasher.finalize().as_bytes());
        let (index, time, module) = (JournalIndex(0), Micros(0), ModuleId::ZERO);
        Self { index, head, time, module, schema: 0, activation: 0 }
    }

    /// Judges an entry. If an entry with the right parent contradicts the journal in anything else, the leader that
    /// made it is at fault.
    pub fn judge(&self, entry: &Entry) -> Result<Verdict, JournalError> {
        let header = entry.header();
        if header.parent != self.head {
            return Ok(Verdict::Void);
        }
        let index = self.index.next();
        if header.index != index {
            return Err(JournalError::Index { expected: index, found: header.index });
        }
        if header.time <= self.time {
            return Err(JournalError::Time { index, before: self.time, found: header.time });
        }
        let mut after = Self { index, head: entry.head_after(), time: header.time, ..*self };
        match header.kind {
            EntryKind::Activate => {
                let activation = entry.activation().map_err(|_| JournalError::Activation { index })?;
                (after.module, after.schema, after.activation) =
                    (activation.module, activation.schema, activation.number);
            }
            EntryKind::Batch | EntryKind::Saga if header.decider != self.module => {
                return Err(JournalError::Decider { index, expected: self.module, found: header.decider });
            }
            EntryKind::Batch | EntryKind::Saga | EntryKind::Tick => {}
        }
        Ok(Verdict::Effective(after))
    }

    /// The position of the `n`-th event or rejection of the last effective entry.
    pub fn position(&self, partition: PartitionId, n: u32) -> Position {
        let [a, b, c, d, ..] = self.head.0;
        Position { partition, index: self.index, n, head8: [a, b, c, d] }
    }

    /// The time of the next entry, if the leader's clock shows `now`.
    pub fn next_time(&self, now: Micros) -> Micros {
        Micros(now.0.max(self.time.0 + 1))
    }
}

/// A moment of the past, up to which a journal is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// All entries with time ≤ this.
    Time(Micros),
    /// Up to and including this position's entry.
    Position(Position),
}

/// An entry with the right parent that contradicts the journal. It halts the partition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    #[error("entry says it is number {found}, but the journal is at {expected}")]
    Index { expected: JournalIndex, found: JournalIndex },
    #[error("entry {index} has time {}, which is not after {}", found.0, before.0)]
    Time { index: JournalIndex, before: Micros, found: Micros },
    #[error("entry {index} was decided by module {}, but {} is active", found.short(), expected.short())]
    Decider { index: JournalIndex, expected: ModuleId, found: ModuleId },
    #[error("entry {index} is a malformed activation")]
    Activation { index: JournalIndex },
}
