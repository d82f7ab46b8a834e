//! The bounds of an audit.
//!
//! As in the host's `limits.rs`, which names these as well, each has its reason. It knows nothing of what happens
//! beyond a limit.

/// Rounds of one query, in each of which it may ask for rows.
pub const QUERY_ROUNDS_MAX: usize = 8;
/// Bytes of journal that a replay decides between two saves of its progress: some seconds.
pub const REPLAY_SAVE_BYTES: u64 = 64 << 20;
