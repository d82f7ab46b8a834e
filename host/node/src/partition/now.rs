//! What the executor knows of the world at one moment: the clocks, whether a majority answers, whether the log takes
//! entries, and which features may be written.
//!
//! In: the clock, the group, the log and the recorded feature level. Out: a [`Now`], which does not change. All that is
//! decided with one `Now` is decided for the same moment. This file does not know what is decided.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Clock;
use crate::consensus::Group;
use crate::features::Features;
use crate::ids::{FeatureLevel, Micros};
use crate::log::{Log, LogHealth};
use crate::partition::timeline::Timeline;

/// One moment.
pub(super) struct Now {
    pub wall: Micros,
    /// Since the machine booted.
    pub running: Duration,
    pub instant: Instant,
    pub features: FeatureLevel,
    /// Whether a majority answers. If not, this leader may be deposed and can promise nothing.
    pub is_heard: bool,
    pub log: LogHealth,
}

impl Now {
    /// The present time of a journal whose last entry has the time `journal`.
    pub fn present(&self, timeline: &Timeline, journal: Micros) -> Micros {
        timeline.present_at(journal, self.wall, self.running)
    }

    /// Whether every node of the cluster understands what `level` introduced.
    pub fn has(&self, level: FeatureLevel) -> bool {
        level <= self.features
    }

    pub fn takes_entries(&self) -> bool {
        self.log == LogHealth::Ok
    }
}

/// The world around an executor.
pub(super) struct Environment {
    pub clock: Arc<dyn Clock>,
    /// The features that may be written.
    pub features: Features,
    pub log: Log,
    /// The group starts soon after the executor; proposals go there.
    pub group: Option<Group>,
}

impl Environment {
    /// Looks everything up. A caller that has asked a disk or a module since then looks again.
    pub fn now(&self) -> Now {
        Now {
            wall: self.clock.now(),
            running: self.clock.running(),
            instant: Instant::now(),
            features: self.features.level(),
            is_heard: self.is_heard(),
            log: self.log.health(),
        }
    }

    /// Whether a majority answers at this very moment.
    pub fn is_heard(&self) -> bool {
        self.group.as_ref().is_some_and(Group::is_heard)
    }
}
