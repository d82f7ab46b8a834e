//! Which segments of a log need not be read when it opens: those with seals, from the oldest one that is needed up to the last sealed one.
//!
//! In: the headers of all segments. Out: seals in order, without a gap. Where one is missing or damaged and a later segment has one, its
//! segment is read here and sealed anew. Whatever does not fit together is not trusted, and read like the tail. It writes nothing.

use std::path::Path;
use std::sync::Arc;

use crate::disk::Disk;
use crate::log::recover::{FoundSegment, read_segment};
use crate::log::seal::{Point, Seal};
use crate::log::segment::Segment;

/// The first segments of those that were looked at.
#[derive(Default)]
pub(super) struct Trusted {
    pub seals: Vec<Arc<Seal>>,
    /// Those that are to be written, with their points.
    pub missing: Vec<(Arc<Seal>, Vec<Point>)>,
    /// Bytes of the seals that are there.
    pub size: u64,
}

/// Looks at the seals of the first `max` segments, the newest one aside.
pub(super) fn trust(disk: &dyn Disk, dir: &Path, found: &[FoundSegment], max: usize) -> Trusted {
    let mut seals: Vec<Option<(Seal, u64)>> = found
        .windows(2)
        .take(max)
        .map(|pair| Seal::find(disk, dir, &pair[0].header, pair[0].size, &pair[1].header))
        .collect();
    // All that is before a sealed segment was settled when that was sealed.
    seals.truncate(seals.iter().rposition(Option::is_some).map_or(0, |last| last + 1));
    let mut trusted = Trusted::default();
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

/// What the walk through the tail is going to say of a segment that is damaged is said there.
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
