//! State on disk: the rows of a partition below a hot table, and the index of command ids.
//!
//! ```text
//! apply ─▶ hot table (executor only)             record ─▶ recent table ─▶ runs ─▶ merged runs
//!       └▶ deltas (readers, writer) ─▶ RocksDB             (ids/, derived from the journal)
//! ```
//! Row writes of applied entries and ids of recorded commands go in. Rows, consistent views, and the answer to "was
//! this id seen" come out. `ordered.rs` keeps the rows of views, which no digest covers. Only this folder names
//! rocksdb. It does not know guests, HTTP, Raft or the place of the journal.

pub mod bench;
mod delta;
mod disk;
mod error;
mod faults;
mod hot;
pub mod ids;
mod keep;
mod meta;
mod ordered;
mod prefetch;
mod replace;
mod state;
mod tiers;
#[cfg(test)]
mod tests;
mod view;
mod writer;

pub use disk::StoreShared;
pub use error::StoreError;
pub use faults::StoreFaults;
pub use ids::{IdIndex, IdOptions, IdRecord, IdStats, OnIdsCopied};
pub use keep::{KeepWhat, OnCopied, open_kept};
pub use meta::{Meta, split_consensus};
pub use ordered::{OrderedRows, OrderedStore};
pub use replace::{RowsFile, WrittenRows};
pub use state::{Store, StoreOptions, StoreStats};
pub use view::{KeyRow, View};
