//! The feature level: what this node understands, and what the cluster has reached as this node knows.
//!
//! In: levels that `system` has recorded. Out: a handle for code that decides by the level, or why this node must not
//! take part. A node that meets a level above its own would misread what the others write. It does not know what a
//! level means, nor how it rises.

use tokio::sync::watch;

use crate::features::{self, FeatureLevel, Features};
use crate::system::error::NodeError;

/// What this node understands, and what the cluster has reached.
pub struct Level {
    max: FeatureLevel,
    features: Features,
    /// The level that the cluster has reached, if this node does not understand it.
    refused: watch::Sender<Option<FeatureLevel>>,
}

impl Level {
    pub fn new(max: FeatureLevel, features: Features) -> Self {
        assert!(features::BASE <= max && max <= features::HIGHEST, "the configuration was checked");
        Self { max, features, refused: watch::Sender::default() }
    }

    /// The highest level that this node may say it understands.
    pub fn max(&self) -> FeatureLevel {
        self.max
    }

    /// Takes over the level that the cluster has reached.
    ///
    /// # Errors
    /// It is above what this node understands.
    pub fn take_over(&self, level: FeatureLevel) -> Result<(), NodeError> {
        if let Err(error) = check(level, self.max) {
            self.refused.send_replace(Some(level));
            return Err(error);
        }
        self.features.raise(level);
        metrics::gauge!("statehouse_feature_level").set(f64::from(level.0));
        Ok(())
    }

    /// Whether the cluster has reached a level that this node does not understand.
    pub fn is_refused(&self) -> bool {
        self.refused.borrow().is_some()
    }

    /// # Errors
    /// It has, so this node must not take part.
    pub fn check(&self) -> Result<(), NodeError> {
        let refused = *self.refused.borrow();
        refused.map_or(Ok(()), |level| check(level, self.max))
    }

    /// Waits until it has.
    pub async fn wait_until_refused(&self) {
        // The sender lives while `self` does, so this does not fail.
        drop(self.refused.subscribe().wait_for(Option::is_some).await);
    }
}

/// Checks whether a program that understands `supported` may continue a history that has reached `level`.
pub fn check(level: FeatureLevel, supported: FeatureLevel) -> Result<(), NodeError> {
    if level <= supported {
        return Ok(());
    }
    let advice = if features::HIGHEST < level {
        "run the version of Statehouse that wrote this data, or a later one"
    } else {
        "raise `feature_level_max` in `[node]` of its configuration, or leave it out"
    };
    Err(NodeError::FeatureLevel { level, supported, advice })
}
