//! The segments of a log that need not be read when it opens: sealed ones, from the oldest needed one to the last
//! sealed one.
//!
//! The headers of all segments go in. Seals in order, without a gap, come out. If a seal is missing or damaged and a
//! later segment has one, the segment is read here and sealed again. Seals that do not fit together are not trusted,
//! and their segments are read like the tail. It writes nothing.

use std::path::Path;
use std::sync::Arc;

use crate::disk::Disk;
use crate::log::recover::{FoundSegment, read_segment};
use crate::log::seal::{Point, Seal};
use crate::log::segment::Segment;

/// The sealed segments at the start of those that were examined.
#[derive(Default)]
pub(super) struct TrustedSegments {
    pub seals: Vec<Arc<Seal>>,
    /// The seals that must be written, with their points.
    pub missing: Vec<(Arc<Seal>, Vec<Point>)>,
    /// The size of the seals that are on disk.
    pub size: u64,
}

/// Examines the seals of the first `max` segments, except for the newest segment.
pub(super) fn trust(disk: &dyn Disk, dir: &Path, found: &[FoundSegment], max: usize) -> TrustedSegments {
    let mut seals: Vec<Option<(Seal, u64)>> = found
        .windows(2)
        .take(max)
        .map(|pair| Seal::find(disk, dir, &pair[0].header, pair[0].size, &pair[1].header))
        .collect();
    // Everything before a sealed segment was settled when that segment was sealed.
    seals.truncate(seals.iter().rposition(Option::is_some).map_or(0, |last| last + 1));
    let mut trusted = TrustedSegments::default();
    for (position, seal) in seals.into_iter().enumerate() {
        match seal {
            Some((seal, size)) => {
                trusted.size += size;
                trusted.seals.push(Arc::new(seal));
            }
            None => {
                let Some((seal, points)) = seal_anew(disk, dir, &found[position], &found[position + 1]) else { break };
                trusted.missing.push((seal.clone(), points));
                trusted.seals.push(seal);
            }
        }
    }
    trusted
}

/// Returns `None` for a damaged segment: the walk through the tail then reports the damage.
fn seal_anew(
    disk: &dyn Disk,
    dir: &Path,
    found: &FoundSegment,
    next: &FoundSegment,
) -> Option<(Arc<Seal>, Vec<Point>)> {
    let file = disk.open_to_read(&dir.join(found.name())).ok()?;
    let bytes = read_segment(&Segment::new(&found.header, file, found.size)).ok()?;
    let (seal, points) = Seal::survey(&found.header, next.header.first_lsn, &bytes).ok()?;
    seal.fits(&next.header).then(|| (Arc::new(seal), points))
}
