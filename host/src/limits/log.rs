//! The bounds of a log, and of reading again what was written long ago.
//!
//! As in `limits.rs`, each has its reason. It knows nothing of what happens beyond a limit.

use std::time::Duration;

/// Log bytes accepted and not yet durable, per partition.
pub const LOG_PENDING_BYTES_MAX: usize = 64 << 20;
/// Decoded entries kept in memory behind the log's end.
pub const LOG_TAIL_BYTES_MAX: usize = 64 << 20;
/// Log between two places that a sealed segment can be read from: what one entry that is read costs, against 48 bytes of its seal each.
pub const LOG_POINT_BYTES: u64 = 32 << 10;
/// Sealed segments of one log whose files are kept open, with some 100 KiB of places each.
pub const LOG_SEALED_OPEN_MAX: usize = 8;
/// Between two tries to seal a segment on a full disk.
pub const LOG_SEAL_AGAIN: Duration = Duration::from_secs(5);
/// What is read of files that nobody asks for: 100 GB in some 3.5 hours, a small part of what any disk gives.
pub const SCRUB_BYTES_PER_SECOND: u64 = 8 << 20;
/// Between the beginnings of two rounds: disks do not lose things faster than that.
pub const SCRUB_ROUND_MIN: Duration = Duration::from_secs(3600);
