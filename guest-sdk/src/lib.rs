//! What the author of a module writes against: a module is a pure function from commands to events to rows.
//!
//! ```text
//! body ──plan──▶ steps (ops on entities) ──validate──▶ events ──apply──▶ rows ──query, render──▶ values
//! ```
//!
//! Implement [`Module`] under the attribute [`module`]; derive [`Body`], [`Commands`], [`Queries`] and [`Rejections`]
//! for the types that cross the API. There is no clock, file, socket, thread, chance or float here, and no partition:
//! the host owns all of those. `modules/counter` is a complete module on one screen.

mod module;
pub mod body;
mod declare;
mod uuid;
mod planner;
mod frame;
mod overlay;
mod reader;
mod facts;
mod hot;
mod cold;
pub mod native;
#[cfg(target_arch = "wasm32")]
pub mod wasm;

pub use body::{Body, BodyError, FieldValue, Rule};
pub use declare::{Commands, NoQueries, Queries, Rejections};
pub use facts::{Done, EventContext, Occurred, Violations};
pub use frame::{Events, Tx, View};
pub use module::{Module, Named};
pub use planner::{Caller, Planner, StepBuilder};
pub use reader::{QueryStop, Reader, ScanPage};
pub use statehouse_abi::cold::{CommandFacts, Phase, Refusal, Row};
pub use statehouse_abi::key::LOCAL;
pub use statehouse_abi::plan::{Coordination, TccRole};
pub use statehouse_abi::role;
pub use statehouse_abi::value::Value;
pub use statehouse_guest_macros::{Body, Commands, Queries, Rejections, module};
pub use uuid::Uuid;

pub use borsh;
pub use statehouse_abi as abi;
