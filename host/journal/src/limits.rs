//! The bounds of logs, journal segments and canonical snapshots.
//!
//! As in the host's `limits.rs`, which names these as well, each has its reason. It knows nothing of what happens
//! beyond a limit.

use std::time::Duration;

use crate::machine::limits::ENTRY_BYTES_MAX;

/// The first segment of a log. Segments double up to [`SEGMENT_BYTES_MAX`].
pub const SEGMENT_BYTES_MIN: u64 = 4 << 20;
pub const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// `journal.json` of an archive, and the manifest of a canonical snapshot: a quarter of a million segments.
pub const ARCHIVE_MANIFEST_BYTES_MAX: u64 = 64 << 20;
/// The average size of a journal segment: some minutes of a busy partition, and a good size for object stores.
pub const JOURNAL_SEGMENT_BYTES: u64 = 16 << 20;
/// Bytes of log that are accepted and not yet durable, for each partition.
pub const LOG_PENDING_BYTES_MAX: usize = 64 << 20;
/// Bytes of the newest entries of a log that are kept decoded in memory.
pub const LOG_TAIL_BYTES_MAX: usize = 64 << 20;
/// Bytes of log between two places that a sealed segment can be read from: the cost of reading one entry, against 48
/// bytes of the seal for each place.
pub const LOG_POINT_BYTES: u64 = 32 << 10;
/// Sealed segments of one log whose files are kept open, each with some 100 KiB of places, and the entries after one of
/// these places.
pub const LOG_SEALED_OPEN_MAX: usize = 8;
/// The pause before a segment is sealed again after that failed on a full disk.
pub const LOG_SEAL_AGAIN: Duration = Duration::from_secs(5);

const _: () = {
    assert!(SEGMENT_BYTES_MIN <= SEGMENT_BYTES_MAX);
    assert!(ENTRY_BYTES_MAX as u64 <= SEGMENT_BYTES_MAX / 2);
};
