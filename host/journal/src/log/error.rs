//! The reasons why a log could not be opened, written or read.
//!
//! The errors are `Clone` because the first disk failure is kept, and every later caller gets it.

use std::io;
use std::sync::Arc;

use crate::ids::{LogIndex, Lsn};
use crate::log::EntryId;

#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// This is final: the log accepts nothing until it is opened again, which recovers from what the disk has.
    #[error("disk error at {file}")]
    Disk {
        file: String,
        #[source]
        source: Arc<io::Error>,
    },
    /// Acknowledged bytes are damaged. Nothing was truncated, and nothing is served.
    #[error("{segment} is damaged at offset {offset}, at or before the entry with index {index}: {damage}")]
    Corrupt {
        segment: String,
        /// Bytes from the start of the file to the damaged frame or header.
        offset: u64,
        /// The first entry that cannot be vouched for.
        index: LogIndex,
        damage: Damage,
    },
    #[error("no disk space for the next segment")]
    Full,
    #[error("entry {id} has {size} bytes, more than {max}")]
    EntryTooLarge { id: EntryId, size: usize, max: usize },
    #[error("entry {found} does not follow index {last:?}")]
    Gap { last: Option<LogIndex>, found: EntryId },
    #[error("index {index} is purged up to {purged}")]
    Purged { index: LogIndex, purged: EntryId },
    /// Committed entries stay. Nothing was changed.
    #[error(
        "entries up to {sealed} are committed and sealed, so nothing before that can be dropped \
         (asked for: all after {last:?})"
    )]
    Sealed { last: Option<LogIndex>, sealed: EntryId },
    /// Nothing was changed.
    #[error("entry {0} is not in the log, so the log cannot be cut after it")]
    NotThere(EntryId),
    #[error("{segment} belongs to {found}, not to {expected}")]
    ForeignStream { segment: String, expected: String, found: String },
    #[error("{segment} has format version {found}, this program knows {known}")]
    Version { segment: String, found: u32, known: u32 },
    #[error("machine name `{0}` is empty or too long for a log")]
    MachineName(String),
    /// The entries that were given for a repair are not the lost ones, or some are missing. Nothing was changed.
    #[error("the log cannot be repaired with the entries given: entry {index} {misfit}")]
    Misfit { index: LogIndex, misfit: Misfit },
    #[error(
        "{segment} is damaged at offset {offset} in a way that cannot be repaired while the log is open: stop the \
         node, remove the seal beside the segment, and start the node, which then repairs the log"
    )]
    Unmendable { segment: String, offset: u64 },
    #[error("log is closed")]
    Closed,
    /// One of the log's threads failed an assertion, which is our bug. This is final, like [`LogError::Disk`].
    #[error("a thread of the log panicked: {0}")]
    Panicked(String),
}

impl LogError {
    pub(crate) fn disk(file: impl Into<String>, source: io::Error) -> Self {
        Self::Disk { file: file.into(), source: Arc::new(source) }
    }

    /// The error and its cause in one line.
    pub fn reason(&self) -> String {
        match self {
            Self::Disk { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}

/// The kind of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("the segment's header is not what was written")]
    Header,
    #[error("the watermark is not what was written")]
    Watermark,
    #[error("no segment continues at {0}")]
    SegmentMissing(Lsn),
    #[error("a frame that was durable is not what was written")]
    Frame,
    #[error("a record is not of the format")]
    Record,
    #[error("the hash chain is broken")]
    Chain,
    #[error("the file does not have the size that it was sealed with")]
    Size,
    #[error("the disk cannot read it")]
    Unreadable,
}

/// Why an entry does not fit into the log that is being repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    #[error("is missing")]
    Missing,
    #[error("is given twice, or out of order")]
    Order,
    #[error("has a lower term than the one before it")]
    Term,
    #[error("is not the one that records after it name")]
    Id,
    #[error("does not have the content that records after it name")]
    Content,
    /// Lost bytes replaced entries before this one, so those must be given too.
    #[error("does not follow on the one before it")]
    Chain,
    #[error("is beyond the end of the log")]
    Beyond,
}
