//! The `[limits]` in force: one value, which is read at each use, and which SIGHUP replaces.
//!
//! In: a configuration's limits. Out: the newest of them. It knows nothing of what they bound.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::config::LimitsConfig;

pub struct LiveLimits(RwLock<LimitsConfig>);

impl LiveLimits {
    pub fn new(limits: LimitsConfig) -> Arc<Self> {
        Arc::new(Self(RwLock::new(limits)))
    }

    pub fn now(&self) -> LimitsConfig {
        self.0.read().clone()
    }

    /// Puts these limits in force. What is already beyond a lowered limit is not ended, but nothing more begins.
    pub fn replace(&self, limits: LimitsConfig) {
        *self.0.write() = limits;
    }
}
