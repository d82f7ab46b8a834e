//! What can be read again in a partition to check that it is as it was written: sealed segments of the log, the id
//! index, and canonical snapshots.
//!
//! In: one of these, and a pace. Out: whole, or a description of the damage. RocksDB checks each block of the state
//! when it reads it. It blocks. It repairs nothing, and does not know who would.

use crate::log::{ScrubPace, SealedSegment};
use crate::partition::error::PartitionError;
use crate::partition::handle::Partition;
use crate::snapshot::canonical::ListedFile;

/// Something that is checked as a whole.
#[derive(Clone, Debug)]
pub enum Checkable {
    Segment(SealedSegment),
    Ids,
    Canonical(Box<ListedFile>),
}

impl Checkable {
    /// The name is unique within a partition.
    pub fn name(&self) -> String {
        match self {
            Self::Segment(segment) => format!("the segment of the log that begins at {}", segment.first_lsn),
            Self::Ids => "the id index".to_owned(),
            Self::Canonical(listed) => format!("the canonical snapshot {}", listed.name),
        }
    }
}

impl Partition {
    /// What can be checked now.
    pub fn checkables(&self) -> Vec<Checkable> {
        let segments = self.parts.log.sealed_segments().into_iter().map(Checkable::Segment);
        let canonical = self.canonical_snapshots().into_iter().map(|listed| Checkable::Canonical(Box::new(listed)));
        segments.chain([Checkable::Ids]).chain(canonical).collect()
    }

    /// Reads it as a whole. `pace` is asked before each piece of so many bytes, and may block; for the id index it is
    /// asked once.
    ///
    /// # Errors
    /// It is damaged, or cannot be read. A damaged segment is repaired by the task that follows the log.
    pub fn check(&self, what: &Checkable, mut pace: impl FnMut(u64) -> ScrubPace) -> Result<ScrubPace, PartitionError> {
        match what {
            Checkable::Segment(segment) => Ok(self.parts.log.scrub(*segment, pace)?),
            Checkable::Ids => {
                if pace(self.parts.ids.stats().disk_bytes) == ScrubPace::Stop {
                    return Ok(ScrubPace::Stop);
                }
                self.parts.ids.verify()?;
                Ok(ScrubPace::GoOn)
            }
            Checkable::Canonical(listed) => self.check_canonical(listed, pace),
        }
    }

    fn check_canonical(
        &self,
        listed: &ListedFile,
        mut pace: impl FnMut(u64) -> ScrubPace,
    ) -> Result<ScrubPace, PartitionError> {
        let is_there = || self.canonical_snapshots().iter().any(|there| there.name == listed.name);
        if pace(listed.bytes) == ScrubPace::Stop {
            return Ok(ScrubPace::Stop);
        }
        match self.open_canonical(listed).and_then(|mut file| file.visit(|_, _| ())) {
            Ok(()) => Ok(ScrubPace::GoOn),
            // The snapshot was deleted meanwhile.
            Err(_) if !is_there() => Ok(ScrubPace::GoOn),
            Err(error) => Err(error.into()),
        }
    }
}
