//! The feature level: the formats and rules that all nodes of the cluster understand, and that may therefore be
//! written.
//!
//! The level that `system` has recorded goes in. Whether something newer than the first release may be written now
//! comes out. Code that decides asks *before* it writes. Code that reads never asks, since written data states its own
//! format. This file does not know what a level means: the code of each format says that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub use crate::ids::FeatureLevel;

/// The level that the first release writes.
pub const BASE: FeatureLevel = FeatureLevel(1);
/// The id of a call names home and fingerprint, and participants keep claims (`saga/status.rs`).
pub const CALL_IDENTITY: FeatureLevel = FeatureLevel(2);
/// An entry says which node vouched for a command's caller (`machine/entry.rs`).
pub const VOUCHED: FeatureLevel = FeatureLevel(3);
/// Commands in flight take orders: abort and settle (`saga/`).
pub const ORDERS: FeatureLevel = FeatureLevel(4);
/// A batch in which everything is rejected is applied without the module. So it has an outcome even if the module's
/// `apply` fails on it (`machine/decide/mod.rs`); earlier, replicas would halt at it.
pub const UNASKED: FeatureLevel = FeatureLevel(5);
/// A partition that a command needs only at its confirm claims the command's id before the confirm is decided
/// (`saga/status.rs`).
pub const CLAIMS_FIRST: FeatureLevel = FeatureLevel(6);
/// An entry says which node vouched for the person who gave an order (`saga/order.rs`).
pub const ORDERS_VOUCHED: FeatureLevel = CLAIMS_FIRST;
/// `system` records the modules that were refused (`records/refused_row.rs`).
pub const REFUSALS: FeatureLevel = CLAIMS_FIRST;
/// A removal names the nodes that were asked whether they can decide without the removed one (`system/removal.rs`).
pub const REMOVALS: FeatureLevel = FeatureLevel(7);
/// Nodes tell each other the time in the journals that they lead, and a submission says how long its sender waits
/// (`router/timing.rs`). A time that another partition has recorded is accepted, however far ahead it is.
pub const TIMELINES: FeatureLevel = FeatureLevel(8);
/// `system` records the losses that operators have accepted (`records/loss_row.rs`). Nodes tell each other how far they
/// have advanced since they were last heard (`system/pulse.rs`).
pub const LOSSES: FeatureLevel = FeatureLevel(9);
/// The highest level that this program understands.
pub const HIGHEST: FeatureLevel = LOSSES;

/// The level that the cluster has reached, as far as this node knows. It never falls.
#[derive(Clone, Debug)]
pub struct Features(Arc<AtomicU32>);

impl Features {
    pub fn at(level: FeatureLevel) -> Self {
        Self(Arc::new(AtomicU32::new(level.0)))
    }

    pub fn level(&self) -> FeatureLevel {
        FeatureLevel(self.0.load(Ordering::Acquire))
    }

    /// Whether every node of the cluster understands what `level` introduced.
    pub fn has(&self, level: FeatureLevel) -> bool {
        level <= self.level()
    }

    pub fn raise(&self, level: FeatureLevel) {
        self.0.fetch_max(level.0, Ordering::AcqRel);
    }
}
