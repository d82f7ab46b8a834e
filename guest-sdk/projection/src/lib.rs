//! What the author of a view writes against: a view is a pure function from recorded decisions to rows, and from rows to answers.
//!
//! ```text
//! decisions (rendered by the module that made them) ──read──▶ typed events ──project──▶ rows ──query──▶ values
//! ```
//!
//! Implement [`Projection`] and write `statehouse_projection::export!(MyView);` beside it. Events come as values, so a view does not depend
//! on how any version of a module encodes them. Each partition of the machine has rows of its own, and a decision sees only those of its
//! partition: so a view that is built again comes out the same, in whatever order the partitions were followed. There is no clock, file,
//! socket, thread, chance or float here. `modules/double_charges` is a complete view on a page.

pub mod abi;
mod projection;
mod tx;
mod reader;
mod decimal;
pub mod time;
mod time_key;
pub mod params;
pub mod native;
#[cfg(target_arch = "wasm32")]
pub mod wasm;

pub use abi::{Decision, Happened, Order, Part};
pub use decimal::Decimal;
pub use projection::{FromDecision, Projection};
pub use reader::{Range, Reader, ScanPage};
pub use time_key::TimeKey;
pub use tx::{Keys, Pending, ViewTx};

/// Writes the wasm exports of a view. Natively nothing is exported, so that several views can be linked into one test binary.
#[macro_export]
macro_rules! export {
    ($view:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::native::Export;

            #[unsafe(no_mangle)]
            extern "C" fn sh1_alloc(len: u32) -> u32 {
                $crate::wasm::alloc(len)
            }

            #[unsafe(no_mangle)]
            extern "C" fn sh1_describe() -> u64 {
                $crate::wasm::call::<$view>(Export::Describe, 0, 0)
            }

            #[unsafe(no_mangle)]
            extern "C" fn sh1_project(ptr: u32, len: u32) -> u64 {
                $crate::wasm::call::<$view>(Export::Project, ptr, len)
            }

            #[unsafe(no_mangle)]
            extern "C" fn sh1_query(ptr: u32, len: u32) -> u64 {
                $crate::wasm::call::<$view>(Export::Query, ptr, len)
            }

            #[unsafe(no_mangle)]
            extern "C" fn sh1_panic() -> u64 {
                $crate::wasm::panic_text()
            }
        };
    };
}
