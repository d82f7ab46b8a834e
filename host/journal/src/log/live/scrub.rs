//! Scrubbing: checks whether the sealed segments are still what was sealed, and whether their seals are there.
//!
//! A segment and a pace go in. The result is that it is whole, or the damage, which the log announces as if a reader
//! had found it. A damaged seal is written again. This file does not know when a scrub runs, or how often.

use std::sync::Arc;

use super::sealed::SealCheck;
use crate::ids::Lsn;
use crate::log::seal::{Point, Seal, seal_name};
use crate::log::{Log, LogError};

/// Whether to continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubPace {
    GoOn,
    Stop,
}

/// A segment that can be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedSegment {
    pub first_lsn: Lsn,
    /// The size of its file.
    pub size: u64,
}

impl Log {
    /// The segments that are sealed and not released, oldest first.
    pub fn sealed_segments(&self) -> Vec<SealedSegment> {
        let state = self.threads.shared.state.lock();
        state.seals.iter().map(|seal| SealedSegment { first_lsn: seal.first_lsn(), size: seal.size }).collect()
    }

    /// Reads a whole sealed segment. `pace` is asked before each piece, gets its size in bytes, and may block. Returns
    /// whether the scrub ran to the end.
    ///
    /// # Errors
    /// [`LogError::Corrupt`]: the segment is damaged; [`Log::watch_rot`] reports it from then on. [`LogError::Disk`]:
    /// the segment could not be checked.
    pub fn scrub(&self, segment: SealedSegment, pace: impl FnMut(u64) -> ScrubPace) -> Result<ScrubPace, LogError> {
        let shared = &self.threads.shared;
        let find = || shared.state.lock().seals.iter().find(|seal| seal.first_lsn() == segment.first_lsn).cloned();
        let Some(seal) = find() else { return Ok(ScrubPace::GoOn) };
        match shared.sealed.check(&seal, pace) {
            Ok(SealCheck::Stopped) => Ok(ScrubPace::Stop),
            Ok(SealCheck::Whole) => {
                if !seal.is_whole(&*shared.disk, &shared.dir) {
                    let points = shared.sealed.points_of(&seal)?;
                    self.reseal(seal, &points)?;
                }
                Ok(ScrubPace::GoOn)
            }
            Ok(SealCheck::Other(other, points)) => {
                self.reseal(other, &points)?;
                Ok(ScrubPace::GoOn)
            }
            // The segment was released meanwhile.
            Err(_) if find().is_none() => Ok(ScrubPace::GoOn),
            Err(error) => {
                shared.on_rot(segment.first_lsn, &error);
                Err(error)
            }
        }
    }

    /// Writes the seal of an intact segment again.
    pub(super) fn reseal(&self, seal: Arc<Seal>, points: &[Point]) -> Result<(), LogError> {
        let (shared, first_lsn) = (&self.threads.shared, seal.first_lsn());
        let written = seal.write(&*shared.disk, &shared.dir, points);
        written.map_err(|error| LogError::disk(seal_name(first_lsn), error))?;
        tracing::warn!(dir = %shared.dir.display(), %first_lsn, "a segment was sealed again");
        shared.state.lock().on_resealed(&seal);
        shared.sealed.forget(first_lsn);
        Ok(())
    }
}
