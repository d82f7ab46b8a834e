//! How far a view has followed one partition: a row beside the view's own rows, written with them atomically.
//!
//! | bytes | |
//! |---|---|
//! | 0 | format, 1 |
//! | 1 … 8 | Raft's index of the next entry to follow; 0 if not known: at first, and after the archive's entries |
//! | 9 … 16 | number in the journal of the last entry that was followed |
//! | 17 … 24 | its time |
//! | 25 … 56 | the journal's head after it |
//! | 57 … 60 | commands of the next entry that were followed already |
//!
//! Little-endian. It does not know what is made of entries.

use crate::ids::{Head, JournalIndex, LogIndex, Micros, PartitionId, Position};
use crate::machine::journal::Journal;
use crate::partition::tail::Place;
use crate::views::error::ViewError;

const FORMAT: u8 = 1;
const SIZE: usize = 61;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewCursor {
    /// Raft's index of the next entry to follow; 0 if it is not known.
    pub log_next: LogIndex,
    pub index: JournalIndex,
    pub time: Micros,
    pub head: Head,
    /// Commands of the next entry that were followed already.
    pub commands: u32,
}

impl ViewCursor {
    /// The cursor before the first entry.
    pub fn genesis(journal: &Journal) -> Self {
        let Journal { index, head, time, .. } = *journal;
        Self { log_next: LogIndex(0), index, time, head, commands: 0 }
    }

    pub fn position(&self, partition: PartitionId) -> Position {
        let [a, b, c, d, ..] = self.head.0;
        Position { partition, index: self.index, n: 0, head8: [a, b, c, d] }
    }

    /// Where to look for the next entries.
    pub fn place(&self) -> Place {
        Place::behind(self.index, self.head, Some(self.log_next).filter(|next| *next != LogIndex(0)))
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend(self.log_next.0.to_le_bytes());
        bytes.extend(self.index.0.to_le_bytes());
        bytes.extend(self.time.0.to_le_bytes());
        bytes.extend(self.head.0);
        bytes.extend(self.commands.to_le_bytes());
        assert!(bytes.len() == SIZE);
        bytes
    }

    pub fn decode(partition: PartitionId, bytes: &[u8]) -> Result<Self, ViewError> {
        let parse = || {
            let (format, rest) = bytes.split_first()?;
            let (log_next, rest) = rest.split_first_chunk()?;
            let (index, rest) = rest.split_first_chunk()?;
            let (time, rest) = rest.split_first_chunk()?;
            let (head, rest) = rest.split_first_chunk()?;
            (*format == FORMAT).then_some(Self {
                log_next: LogIndex(u64::from_le_bytes(*log_next)),
                index: JournalIndex(u64::from_le_bytes(*index)),
                time: Micros(i64::from_le_bytes(*time)),
                head: Head(*head),
                commands: u32::from_le_bytes(rest.try_into().ok()?),
            })
        };
        parse().ok_or(ViewError::Cursor { partition })
    }
}
