//! The section `[scrub]`: how fast files are read that nobody asks for. It knows nothing of which ones.

use serde::Deserialize;

use crate::limits::SCRUB_BYTES_PER_SECOND;

/// `[scrub]`: a node reads old files again, to find what a disk has lost while other nodes still have it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScrubConfig {
    /// The number of bytes that are read each second: sealed segments of logs, the id index and canonical snapshots,
    /// one after the other, in rounds that begin at most once an hour. Default: 8388608, which is 100 GB in some 3.5
    /// hours. 0: nothing is read, and damage is found only when the data is needed.
    pub bytes_per_second: u64,
}

impl Default for ScrubConfig {
    fn default() -> Self {
        Self { bytes_per_second: SCRUB_BYTES_PER_SECOND }
    }
}
