//! Tests of a module without a host: text scenarios, played natively and as wasm with the same bytes from every call.
//!
//! ```text
//! scenario file ─▶ World (plan, execute, apply, render over rows in a map) ─▶ outcome text beneath each line
//!                    ├─▶ Engine: Native, Wasm, or Twin, which is both and compares
//!                    └─▶ ViewWorld (project, query), where the scenario is about a view of the module
//! ```
//!
//! `UPDATE_EXPECT=1` rewrites the expected part. It has no log, no partition, and no HTTP.

mod engine;
mod json;
mod world;
mod activation;
mod view;
mod scenario;

pub use engine::{
    Engine, EngineError, FUEL, MEMORY_BYTES_MAX, Native, OUTPUT_BYTES_MAX, TABLE_ELEMENTS_MAX, Twin, Wasm,
};
#[cfg(feature = "expect")]
pub use expect_test::{ExpectFile, expect_file};
pub use json::{from_json, to_json};
#[cfg(feature = "expect")]
pub use scenario::{check, check_view};
pub use scenario::{play, play_view};
pub use view::{NativeView, ViewEngine, ViewWorld};
pub use world::{Command, Outcome, Part, Played, World};
