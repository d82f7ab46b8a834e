//! What can stop a view.
//!
//! In: errors of what a view reads and writes. Out: words that say what to do, and which errors pass on their own. It
//! decides nothing.

use std::path::PathBuf;

use crate::ids::{JournalIndex, ModuleId, PartitionId};
use crate::partition::PartitionError;
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    #[error("its rows cannot be read or written: {0}")]
    Store(#[from] StoreError),
    #[error("{} cannot be {action}: {source}", path.display())]
    Folder { path: PathBuf, action: &'static str, source: std::io::Error },
    #[error("the journal cannot be read: {0}")]
    Partition(#[from] PartitionError),
    #[error("module {} is not here: {reason}", module.short())]
    Module { module: ModuleId, reason: String },
    #[error("the host could not call it: {0}")]
    Host(String),
    /// The view's own fault: the same input fails again.
    #[error(
        "it failed on the decision at {position}: {text}; create it again from a repaired module with `statehouse \
         view create`, or try the same module again with `statehouse view rebuild`; no log is kept for it meanwhile"
    )]
    Failed { position: String, text: String },
    #[error(
        "partition {partition}: entry {wanted} of the journal is needed, and is not on this node any more: it was \
         released, or replaced by a snapshot; ask another node, keep more with `[log] keep_bytes`, or configure an \
         `[archive]`, from which views are built, too"
    )]
    Released { partition: PartitionId, wanted: JournalIndex },
    /// A folder gets what this node has itself, and from the other nodes what lies between that and what the folder
    /// has.
    #[error(
        "partition {partition}: entry {wanted} of the journal is needed, and is neither on this node, which was sent \
         a later snapshot of the state or released it before it had an archive, nor in its archive {url}, a folder \
         of its own. Entries after the end of the archive are fetched from the other nodes while one of them has \
         them, and the view then continues; this node's log says why it does not. Entries that no node has any more \
         are not fetched: ask another node; or stop this one, and replace the partition in this folder by a copy \
         from the archive of a node that has the entry. Nodes that share one archive, `[archive] url = \"s3://…\"`, \
         from the beginning have no such gap"
    )]
    NotInOwn { partition: PartitionId, wanted: JournalIndex, url: String },
    /// A journal is archived in order.
    #[error(
        "partition {partition}: entry {wanted} of the journal is needed, and is not on this node any more; the \
         archive {url} begins with entry {next}, because the earlier entries were in no log when it was begun, so \
         the entry is not fetched automatically: ask a node that has it, or add it from an older archive"
    )]
    BeforeArchive { partition: PartitionId, wanted: JournalIndex, next: JournalIndex, url: String },
    /// What this node has released was archived before; what it never had is archived by other nodes soon.
    #[error(
        "partition {partition}: entry {wanted} of the journal is needed, and is neither on this node nor in the \
         archive yet; the view continues when it is there"
    )]
    NotArchived { partition: PartitionId, wanted: JournalIndex },
    /// The view was made from another history than the node has.
    #[error("partition {partition}: entry {index} is not the one that the view has followed")]
    OtherHistory { partition: PartitionId, index: JournalIndex },
    #[error("the cursor of partition {partition} is malformed")]
    Cursor { partition: PartitionId },
}

impl ViewError {
    /// Whether the view stays stopped until it is made again.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::Released { .. })
    }

    /// Whether it depends on the archive, which is not asked again at once.
    pub fn is_of_archive(&self) -> bool {
        matches!(
            self,
            Self::NotArchived { .. }
                | Self::NotInOwn { .. }
                | Self::BeforeArchive { .. }
                | Self::Partition(PartitionError::Archive(_))
        )
    }

    /// Whether the rows that were made so far are worthless.
    pub fn spoils_rows(&self) -> bool {
        match self {
            Self::OtherHistory { .. } | Self::Cursor { .. } => true,
            Self::Store(error) => error.is_damage(),
            _ => false,
        }
    }
}
