//! Rehearsal: what a node does with a module that is a candidate before it becomes active, beside its own preparation.
//!
//! ```text
//! jobs: replays of the node's own history, on request ─▶ certificates ─▶ gate: may the module be activated?
//! shadow: the candidate decides live entries as well (live) ─▶ counts of differences
//! ```
//! In: candidates, and what the node has recorded. Out: reports, certificates, differences, a verdict. It changes no
//! state. It decides by the same code as the offline auditor, but with access to the running node, which the auditor
//! does not have. Preparation is in `system/prepare.rs`, because the task of `system` that wants modules prepared
//! starts it.

pub mod jobs;
pub mod gate;
pub mod shadow;
mod live;
