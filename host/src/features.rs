//! The feature level: which formats and rules all nodes of the cluster understand, and so may be written.
//!
//! In: what `system` has recorded. Out: whether something newer than the first release may be written now. Whoever decides asks it *before* it
//! writes; whoever reads never does, since what was written says by itself in which format it is. It does not know what a level means: that is
//! said where the format is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub use crate::ids::FeatureLevel;

/// What the first release writes.
pub const BASE: FeatureLevel = FeatureLevel(1);
/// The id of a call names home and fingerprint, and participants keep claims (`saga/status.rs`).
pub const CALL_IDENTITY: FeatureLevel = FeatureLevel(2);
/// An entry says which node vouched for a command's caller (`machine/entry.rs`).
pub const VOUCHED: FeatureLevel = FeatureLevel(3);
/// Commands in flight take orders: abort and settle (`saga/`).
pub const ORDERS: FeatureLevel = FeatureLevel(4);
/// A batch in which everything is rejected is applied without asking the module, so one whose `apply` fails on that has an outcome as
/// well (`sequencer/decide.rs`): before, replicas would halt at it.
pub const UNASKED: FeatureLevel = FeatureLevel(5);
/// A partition that a command needs at its confirm alone claims the command's id before the confirm is decided (`saga/status.rs`).
pub const CLAIMS_FIRST: FeatureLevel = FeatureLevel(6);
/// An entry says which node vouched for whoever gave an order (`saga/order.rs`).
pub const ORDERS_VOUCHED: FeatureLevel = CLAIMS_FIRST;
/// `system` keeps which modules were refused (`system/refused_row.rs`).
pub const REFUSALS: FeatureLevel = CLAIMS_FIRST;
/// A removal names the nodes that were asked whether they decide without the one that goes (`system/removal.rs`).
pub const REMOVALS: FeatureLevel = FeatureLevel(7);
/// Nodes tell each other what time it is in the journals they lead, and a submission says how long somebody waits (`router/timing.rs`). A time
/// that another partition has recorded is taken however far ahead it is.
pub const TIMELINES: FeatureLevel = FeatureLevel(8);
/// `system` keeps which losses operators have accepted (`system/loss_row.rs`), and nodes tell each other how far they have come since they were last
/// heard (`system/pulse.rs`).
pub const LOSSES: FeatureLevel = FeatureLevel(9);
/// The highest level that this program understands.
pub const HIGHEST: FeatureLevel = LOSSES;

/// The level that the cluster has reached, as far as this node knows. It only ever rises.
#[derive(Clone, Debug)]
pub struct Features(Arc<AtomicU32>);

impl Features {
    pub fn at(level: FeatureLevel) -> Self {
        Self(Arc::new(AtomicU32::new(level.0)))
    }

    pub fn level(&self) -> FeatureLevel {
        FeatureLevel(self.0.load(Ordering::Acquire))
    }

    /// Whether every node of the cluster understands what came with `level`.
    pub fn has(&self, level: FeatureLevel) -> bool {
        level <= self.level()
    }

    pub fn raise(&self, level: FeatureLevel) {
        self.0.fetch_max(level.0, Ordering::AcqRel);
    }
}
