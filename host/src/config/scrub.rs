//! The section `[scrub]`: how fast files are read that nobody asks for. It knows nothing of which ones.

use serde::Deserialize;

use crate::limits::SCRUB_BYTES_PER_SECOND;

/// `[scrub]`: a node reads again what it has written long ago, to find what a disk has lost while others still have it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScrubConfig {
    /// Bytes that are read a second: sealed segments of logs, the id index and canonical snapshots, one after the other, again and again, a round
    /// an hour at most. Default 8388608: 100 GB in some 3.5 hours. 0: nothing is read, and damage is found by who meets it.
    pub bytes_per_second: u64,
}

impl Default for ScrubConfig {
    fn default() -> Self {
        Self { bytes_per_second: SCRUB_BYTES_PER_SECOND }
    }
}
