//! Reading what nobody asks for: whether the sealed segments are still what was sealed, and whether their seals are there.
//!
//! In: which segment, and a pace. Out: whole, or the damage, which the log makes known like one that a reader has met. A seal that is damaged
//! is written anew. It does not know when, or how often.

use std::sync::Arc;

use super::seal::{Point, Seal, seal_name};
use super::sealed::Checked;
use super::{Log, LogError};
use crate::ids::Lsn;

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    GoOn,
    Stop,
}

/// A segment that can be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedSegment {
    pub first_lsn: Lsn,
    /// Bytes of its file.
    pub size: u64,
}

impl Log {
    /// The segments that are sealed and not released, oldest first.
    pub fn sealed_segments(&self) -> Vec<SealedSegment> {
        let state = self.threads.shared.state.lock();
        state.seals.iter().map(|seal| SealedSegment { first_lsn: seal.first_lsn(), size: seal.size }).collect()
    }

    /// Reads a sealed segment as a whole; `pace` is asked before each piece of so many bytes, and may block. Whether it came to the end.
    ///
    /// # Errors
    /// [`LogError::Corrupt`]: it is damaged, which [`Log::watch_rot`] says from then on. [`LogError::Disk`]: it could not be looked at.
    pub fn scrub(&self, segment: SealedSegment, pace: impl FnMut(u64) -> Pace) -> Result<Pace, LogError> {
        let shared = &self.threads.shared;
        let find = || shared.state.lock().seals.iter().find(|seal| seal.first_lsn() == segment.first_lsn).cloned();
        let Some(seal) = find() else { return Ok(Pace::GoOn) };
        match shared.sealed.check(&seal, pace) {
            Ok(Checked::Stopped) => Ok(Pace::Stop),
            Ok(Checked::Whole) => {
                if !seal.is_whole(&*shared.disk, &shared.dir) {
                    let points = shared.sealed.points_of(&seal)?;
                    self.reseal(seal, &points)?;
                }
                Ok(Pace::GoOn)
            }
            Ok(Checked::Other(other, points)) => {
                self.reseal(other, &points)?;
                Ok(Pace::GoOn)
            }
            // Released meanwhile.
            Err(_) if find().is_none() => Ok(Pace::GoOn),
            Err(error) => {
                shared.on_rot(segment.first_lsn, &error);
                Err(error)
            }
        }
    }

    /// Writes the seal of a segment that is whole anew.
    pub(super) fn reseal(&self, seal: Arc<Seal>, points: &[Point]) -> Result<(), LogError> {
        let (shared, first_lsn) = (&self.threads.shared, seal.first_lsn());
        let written = seal.write(&*shared.disk, &shared.dir, points);
        written.map_err(|error| LogError::disk(seal_name(first_lsn), error))?;
        tracing::warn!(dir = %shared.dir.display(), %first_lsn, "a segment was sealed anew");
        shared.state.lock().on_resealed(&seal);
        shared.sealed.forget(first_lsn);
        Ok(())
    }
}
