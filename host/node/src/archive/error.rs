//! What can be wrong with an archive of journal segments.
//!
//! Each error says what to do, if there is anything to do. What can be wrong with the segments themselves is in the
//! crate of formats. This file knows nothing of who uploads.

use std::io;
use std::path::Path;

use crate::ids::{JournalIndex, PartitionId};
use crate::segments::SegmentsError;

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A folder of segments, here or as it was fetched.
    #[error(transparent)]
    Segments(#[from] SegmentsError),
    #[error("`{url}` is no archive: {reason}")]
    Url { url: String, reason: String },
    #[error("the archive {url}: {object}: {source}")]
    Store { url: String, object: String, source: object_store::Error },
    #[error("the archive {url}: {object} was uploaded, and reading it back gave other bytes; it is uploaded again")]
    NotKept { url: String, object: String },
    #[error("{url} has no owner file: it is empty, or it is not an archive; check the URL")]
    NoOwner { url: String },
    #[error(
        "{machine}/{partition}: entry {index} is another one in the archive {url}: \
         this cluster was restored to an earlier moment; archive to another URL"
    )]
    OtherHistory { url: String, machine: String, partition: PartitionId, index: JournalIndex },
}

impl ArchiveError {
    /// Whether the only fault is that the requested object does not exist.
    pub fn is_absence(&self) -> bool {
        match self {
            Self::Store { source, .. } => matches!(source, object_store::Error::NotFound { .. }),
            Self::Segments(error) => error.is_absence(),
            _ => false,
        }
    }

    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let to_segments = SegmentsError::io(path);
        move |source| to_segments(source).into()
    }
}
