//! The bounds of a log, and of reading again what was written long ago.
//!
//! As in `limits.rs`, each has its reason. It knows nothing of what happens beyond a limit.

use std::time::Duration;

/// Bytes of log that are accepted and not yet durable, for each partition.
pub const LOG_PENDING_BYTES_MAX: usize = 64 << 20;
/// Bytes of the newest entries of a log that are kept decoded in memory.
pub const LOG_TAIL_BYTES_MAX: usize = 64 << 20;
/// Bytes of log between two places that a sealed segment can be read from: the cost of reading one entry, against 48
/// bytes of the seal for each place.
pub const LOG_POINT_BYTES: u64 = 32 << 10;
/// Sealed segments of one log whose files are kept open, each with some 100 KiB of places.
pub const LOG_SEALED_OPEN_MAX: usize = 8;
/// The pause before a segment is sealed again after that failed on a full disk.
pub const LOG_SEAL_AGAIN: Duration = Duration::from_secs(5);
/// Bytes a second that scrubbing reads: 100 GB in some 3.5 hours, a small part of what any disk delivers.
pub const SCRUB_BYTES_PER_SECOND: u64 = 8 << 20;
/// The least time between the beginnings of two scrubbing rounds: disks do not lose data faster than that.
pub const SCRUB_ROUND_MIN: Duration = Duration::from_secs(3600);
