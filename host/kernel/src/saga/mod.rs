//! Commands over several partitions: what is to be done, what has been done, and what follows from it.
//!
//! ```text
//!              Saga                                   Try-Confirm/Cancel
//!  first step ─▶ step ─▶ … ─▶ finished       tries, all at once ─▶ confirms, all at once ─▶ finished
//!                 │ refused                    │ one refused
//!                 ▼                            ▼
//!      undo of what is done, backwards       cancel of all others, all at once
//!                 ▼                            ▼
//!              aborted                        aborted
//! ```
//! In: a plan, and outcomes as they come. Out: the row of the phase status table, and the calls that it makes due.
//! Pure: the leader that coordinates, its followers, the audit and the model checker run the same function. It does not
//! know where partitions are, how calls get there, or when a call is repeated. Only a recorded refusal is a failure;
//! silence is not.

pub mod plan;
pub mod identity;
pub mod phase;
pub mod status;
pub mod record;
pub mod participant;
pub mod claim;
pub mod order;
#[cfg(test)]
mod tests;

pub use identity::{Derivation, Identity};
pub use order::{ABORTED, AwaitedAnswer, Order, OrderKind, OrderRefused, WaitsFor};
pub use phase::{Phase, PhaseMark, PhaseMoment};
pub use plan::{Branch, Coordination, Form, PlanFault, PlanStep, Role, SagaPlan};
pub use record::{CallProgress, Origin, Records, Start, read_records};
pub use status::{Advance, Call, CallKey, FinishedSaga, Outcome, Saga, StaleOutcome};
